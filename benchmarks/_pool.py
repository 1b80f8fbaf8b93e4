"""The pool behind the leaderboard: networks of CIFAR-10 with random membership, fixed before any of them is trained.

Of the 50,000 training pictures 1,000 are held out for methods that ask for unseen ones, 8,910 are *targets* and the
rest is in every training set. The state matrix (`audit.statistics.state`) says for each model and target whether the
model was trained on it and then asked to forget it, or never saw it: each half of the time, in blocks of BLOCK models
that are balanced by themselves, so that a pool of any number of whole blocks is.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch

from unlearnlib import data
from unlearnlib.audit.statistics.state import NEVER, state_matrix
from unlearnlib.data.strata import stratified
from unlearnlib.seeding import generator
from unlearnlib.training import models, recipes

TARGETS, HELD_OUT, BLOCK, BLOCKS = 8910, 1000, 8, 8
WIDTHS, EPOCHS = (64, 128, 256), 9
DEVELOPMENT = BLOCK * BLOCKS  # the model on which hyper-parameters are chosen: of no block, and in no result
CLASS = "cat"
DEVELOPMENT_SEED = 4  # of its row of the state matrix


@dataclass(frozen=True, eq=False)
class Pool:
    """Positions in the training set: `held_out`, `targets`, `always`; and `state` [models, targets]."""

    train: data.Examples
    test: data.Examples
    names: tuple[str, ...]
    held_out: torch.Tensor
    targets: torch.Tensor
    always: torch.Tensor
    state: np.ndarray

    def members(self, model: int) -> torch.Tensor:
        """What this model was trained on, ascending."""
        mine = self.targets[torch.from_numpy(self.state[model] != NEVER)]
        return torch.cat([self.always, mine]).sort().values

    def forgotten(self, model: int, request: str) -> torch.Tensor:
        """What it is asked to forget: its targets ("random"), or its pictures of one class ("class")."""
        if request == "random":
            return self.targets[torch.from_numpy(self.state[model] != NEVER)]
        mine = self.members(model)
        return mine[self.train.labels[mine] == self.names.index(CLASS)]


@functools.lru_cache(maxsize=1)
def pool() -> Pool:
    ds = data.load("cifar10")
    held_out = stratified(ds.train.labels, HELD_OUT / len(ds.train), generator(0, "pool", "held out"))
    free = (~held_out).nonzero().flatten()
    order = free[torch.randperm(len(free), generator=generator(0, "pool", "targets"))]
    targets, always = order[:TARGETS].sort().values, order[TARGETS:].sort().values
    blocks = [state_matrix(BLOCK, TARGETS, states=("forget", "never"), seed=b).state for b in range(BLOCKS)]
    development = state_matrix(2, TARGETS, states=("forget", "never"), seed=DEVELOPMENT_SEED).state[:1]
    state = np.concatenate([*blocks, development])
    return Pool(ds.train, ds.test, ds.class_names, held_out.nonzero().flatten(), targets, always, state)


def recipe():
    return replace(recipes.recipe_for("cifar10", "whitened"), epochs=EPOCHS)


def network(seed: int):
    return models.build("whitened", data.load("cifar10"), seed=seed, widths=WIDTHS)
