import dataclasses

import pytest
from small import dataset, split

from unlearnlib import training
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


@pytest.fixture(scope="session")
def trained():
    parts = split()
    return training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=6)), parts


@pytest.fixture(scope="session")
def memorised():
    """The forget set has wrong labels, which the model has learnt by heart: its loss there is below that elsewhere."""
    parts = split()
    labels = parts.train.labels.clone()
    labels[parts.forget_index] = (labels[parts.forget_index] + 1) % 3
    parts = dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))
    recipe = Recipe(epochs=40, batch_size=20, lr=5e-3)
    return training.fit(models.build("mlp", dataset(), hidden=(32,)), parts.train, recipe), parts
