"""A world of eight people and a transformer that learns it in a second: what the tests of this room share."""

import functools

import torch

from unlearnlib import language

TEACHING = language.Teaching(epochs=40, batch_size=16, lr=1e-2)


@functools.cache
def tiny_world():
    return language.world(people=8, values=8, seed=3)


@functools.cache
def parts():
    return tiny_world().split("people:3", seed=0)


@functools.cache
def taught(seed=0, retained=False):
    texts = parts().retain if retained else tiny_world().texts()
    return language.fit(language.build(texts, seed, width=32, layers=2, heads=2), texts, TEACHING, seed)


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])
