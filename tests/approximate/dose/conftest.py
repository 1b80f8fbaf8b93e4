import dataclasses

import pytest
import torch
from small import dataset, examples, split
from torch import nn

from unlearnlib import training
from unlearnlib.data.examples import Split
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


@pytest.fixture(scope="session")
def trained():
    parts = split()
    return training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3)), parts


@pytest.fixture(scope="session")
def memorised():
    """The forget set has wrong labels, which the model has learnt by heart: its loss there is below that elsewhere."""
    parts = split()
    labels = parts.train.labels.clone()
    labels[parts.forget_index] = (labels[parts.forget_index] + 1) % 3
    parts = dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))
    recipe = Recipe(epochs=40, batch_size=20, lr=5e-3)
    return training.fit(models.build("mlp", dataset(), hidden=(32,)), parts.train, recipe), parts


@pytest.fixture(scope="session")
def tiny():
    """Pictures of four pixels and a linear network in float64: 15 parameters, everything can be solved exactly."""
    parts = [examples(n=n, side=2, seed=s) for n, s in ((60, 0), (12, 2), (12, 3))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    return model, Split.of(retain=parts[0], forget=parts[1], validation=parts[2])
