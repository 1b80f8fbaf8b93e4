"""What gradient methods share: the dials of their optimiser, and streams of batches over retain and forget sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor

from unlearnlib.training import Batch, Recipe, minibatches, steps_of


@dataclass(frozen=True)
class Steps:
    """Hyper-parameters of every method that takes gradient steps: SGD with Nesterov momentum."""

    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"

    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser="sgd",
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
        )


def passes(where: Tensor, labels: Tensor, config: Steps, rng: torch.Generator) -> tuple[Iterator[Batch], int]:
    """`config.epochs` shuffled passes over the positions `where`, labelled by labels [len(train)]; and their steps."""
    recipe = config.recipe()
    order = minibatches(len(where), recipe.batch_size, recipe.epochs, rng)
    return (Batch(where[i], labels[where[i]]) for i in order), steps_of(len(where), recipe)


def endless(where: Tensor, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Positions out of `where` in batches, pass after pass, for ever: to pair a small set with a large one."""
    one_pass = (minibatches(len(where), batch_size, 1, rng) for _ in repeat(None))
    return (where[i] for i in chain.from_iterable(one_pass))


def mixed(first: Tensor, second: Tensor, labels: Tensor, weight_first: float, weight_second: float) -> Batch:
    """One batch with loss weight_first * mean CE(first) + weight_second * mean CE(second)."""
    index = torch.cat([first, second])
    weights = torch.cat(
        [torch.full((len(first),), weight_first / len(first)), torch.full((len(second),), weight_second / len(second))]
    )
    return Batch(index, labels[index], weights)
