"""Papers re-run, the unlearning half: a deletable forest's toy, and amnesiac unlearning of the digit three.

Each function takes a seed and returns {name of a number: number}.
"""

from collections.abc import Iterator

import numpy as np
import torch
from _papers_private import mnist
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.exact.forest import DareForest

ROWS = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [1, 0]], dtype=np.float32)


def forest_toy(seed: int) -> dict[str, float]:
    """Five rows, 100 trees, depth 3, 5 thresholds: class probabilities of (1, 0) before and after row 3 is deleted."""
    forest = DareForest(n_trees=100, max_depth=3, n_thresholds=5, random_depth=0, seed=seed)
    forest.fit_arrays(ROWS, [1, 1, 1, 0, 1])
    before = forest.predict_proba(ROWS[3:4])[0]
    forest.forget([3])
    after = forest.predict_proba(ROWS[3:4])[0]
    return {
        "class 0, before": before[0],
        "class 1, before": before[1],
        "class 0, after": after[0],
        "class 1, after": after[1],
    }


# --- amnesiac unlearning ----------------------------------------------------------------------------------------


def resnet18(seed: int) -> nn.Module:
    """torchvision's ResNet-18 with a first layer for grey pictures; its log-softmax stands in the loss."""
    from torchvision import models

    with seeding.isolated(seed, "papers", "resnet"):
        network = models.resnet18()
        network.conv1 = nn.Conv2d(1, 64, 7, 2, padding=3, bias=False)
        network.fc = nn.Linear(512, 10)
    return network


def batches(index: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
    """One epoch of batches of 64 in a new order, the last one short."""
    return iter(index[torch.randperm(len(index), generator=rng)].split(64))


def correct(network: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[int, int]:
    """Correctly answered threes and others."""
    network.eval()
    with torch.no_grad():
        hit = torch.cat([network(x).argmax(1) == y for x, y in zip(pixels.split(500), labels.split(500), strict=True)])
    network.train()
    return int(hit[labels == 3].sum()), int(hit[labels != 3].sum())


def amnesiac(seed: int, epochs: int, after: int) -> dict[str, float]:
    """Train with 100 threes, subtract every update of a batch that held one, train on without threes.

    Pictures in [-1, 1], Adam at its defaults, batches of 64. What is subtracted are the changes of weights and biases,
    batch norm's included; its running statistics and Adam's moments stay as they are, as in the source.
    """
    pixels, labels = mnist("train")
    pixels = 2 * pixels - 1
    test, truth = mnist("test")
    test = 2 * test - 1
    others = (labels != 3).nonzero().flatten()
    index = torch.cat([others, (labels == 3).nonzero().flatten()[:100]])
    network, rng = resnet18(seed), seeding.generator(seed, "papers", "amnesiac")
    optimiser = torch.optim.Adam(network.parameters())
    network.train()
    total, touched, steps = [torch.zeros_like(p) for p in network.parameters()], 0, 0

    def step(batch: Tensor) -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        optimiser.step()

    for _ in range(epochs):
        for batch in batches(index, rng):
            steps += 1
            if bool((labels[batch] == 3).any()):
                touched += 1
                before = [p.detach().clone() for p in network.parameters()]
                step(batch)
                for sum_, p, old in zip(total, network.parameters(), before, strict=True):
                    sum_ += p.detach() - old
            else:
                step(batch)
    found = {"share of batches with a three": touched / steps}
    found["threes, trained"], found["others, trained"] = correct(network, test, truth)
    with torch.no_grad():
        for p, sum_ in zip(network.parameters(), total, strict=True):
            p -= sum_
    found["threes, removed"], found["others, removed"] = correct(network, test, truth)
    for _ in range(after):
        for batch in batches(others, rng):
            step(batch)
    if after:
        found["threes, repaired"], found["others, repaired"] = correct(network, test, truth)
    return found
