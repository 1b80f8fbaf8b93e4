"""What gradient methods share: the dials of their optimiser, and streams of batches over retain and forget sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor

from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.loop import Part
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class Descent:
    """Hyper-parameters of every method that takes gradient steps: SGD with Nesterov momentum, or AdamW."""

    epochs: int = 5  # passes over the retain set, or over the forget set where that alone is read
    lr: float = 0.01  # peak learning rate
    batch_size: int = 64  # examples a step
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # decoupled in adamw, part of the gradient in sgd
    schedule: str = "constant"  # "one-cycle", "cosine" or "constant"
    optimiser: str = "sgd"  # "sgd" (Nesterov momentum) or "adamw"

    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser=self.optimiser,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
        )


@dataclass(frozen=True)
class Steps(Descent):
    """Those of a method that is one stream of batches, which also takes the parts of `dose` on board."""

    parts: tuple[Part, ...] = ()  # dose control on board


def passes(where: Tensor, labels: Tensor, config: Descent, rng: torch.Generator) -> tuple[Iterator[Batch], int]:
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
    weights = torch.cat([even(first, weight_first), even(second, weight_second)])
    return Batch(index, labels[index], weights)


def even(index: Tensor, total: float = 1.0) -> Tensor:
    """Equal weights [B] that sum to `total`."""
    return torch.full((len(index),), total / len(index))


def targets_of(teacher, split, where: Tensor, run, temperature: float = 1.0) -> Tensor:
    """softmax(teacher's logits / T) at the positions `where` of `split.train`, elsewhere zero: [len(train), classes].

    One forward pass in eval mode, counted in the run's tally. The pictures of a method are fixed, so it serves
    every epoch.
    """
    probabilities = torch.softmax(predict(teacher, split.train[where], tally=run.tally) / temperature, dim=1)
    table = torch.zeros(len(split.train), probabilities.shape[1])
    table[where] = probabilities
    return table


def matched_mean(values: Tensor, labels: Tensor, forget_labels: Tensor) -> float:
    """The mean of `values` [n] of examples with `labels` [n], with the classes weighted as in the forget set.

    Stands for the value that unseen examples like the forgotten ones would have. Classes without an example are
    left out; ValueError where none is left.
    """
    shares = torch.bincount(forget_labels, minlength=int(labels.max()) + 1 if len(labels) else 1).double()
    counts = torch.bincount(labels, minlength=len(shares)).double()
    sums = torch.bincount(labels, weights=values.double(), minlength=len(shares))
    known = (counts > 0) & (shares > 0)
    if not known.any():
        raise ValueError("the validation set has no example of a forgotten class: split with a larger validation part")
    return float((shares[known] * sums[known] / counts[known]).sum() / shares[known].sum())


def only_whole_classes(name: str, split) -> None:
    """ValueError unless the forget set is made of whole classes; parts that the caller split are taken at his word."""
    shared = torch.isin(split.train.labels[split.forget_index], split.train.labels[split.retain_index])
    if split.request != "given" and shared.any():
        raise ValueError(f"{name} forgets whole classes only: ask for class:<name>, not for {split.request}")


def no_whole_classes(name: str, split) -> None:
    """ValueError where a whole class is forgotten: then no picture of it is held out that retraining would know."""
    if not torch.isin(split.forget.labels, split.retain.labels).all():
        raise ValueError(f"{name} compares forgotten with unseen pictures of the same classes: not for whole classes")
