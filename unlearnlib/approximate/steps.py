"""What gradient methods share: the dials of their optimiser, and streams of batches over retain and forget sets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import chain, repeat

import torch
from torch import Tensor, nn

from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.loop import Part
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied


@dataclass(frozen=True)
class Descent:
    """Hyper-parameters of every method that takes gradient steps; see `training.Recipe`."""

    epochs: int = 5  # passes over the retain set, or over the forget set where that alone is read
    lr: float = 0.01  # peak learning rate
    batch_size: int = 64  # examples a step
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # decoupled in adamw, part of the gradient in sgd and adam
    schedule: str = "constant"  # or "one-cycle", "cosine", "step-decay", "restarts"
    optimiser: str = "sgd"  # or "adam", "adamw"
    nesterov: bool = True  # of sgd; False: heavy ball
    milestones: tuple[int, ...] = ()  # of step-decay: the epochs after which the rate is multiplied by `factor`
    factor: float = 0.1  # of step-decay
    lowest: float = 0.0  # rate of restarts
    per_epoch: bool = False  # cosine and one-cycle move after each epoch, not after each step
    clip_norm: float | None = None  # largest norm of a step's gradient
    keep_last: bool = False  # the incomplete last batch of a pass is a step too

    def recipe(self) -> Recipe:
        return Recipe(**{f.name: getattr(self, f.name) for f in fields(Descent)})


@dataclass(frozen=True)
class Steps(Descent):
    """Those of a method that is one stream of batches, which also takes the parts of `dose` on board."""

    parts: tuple[Part, ...] = ()  # dose control on board


HEAVY_BALL = {"optimiser": "sgd", "momentum": 0.9, "nesterov": False, "keep_last": True}  # what most authors run


def passes(where: Tensor, labels: Tensor, config: Descent, rng: torch.Generator) -> tuple[Iterator[Batch], int]:
    """`config.epochs` shuffled passes over the positions `where`, labelled by labels [len(train)]; and their steps."""
    recipe = config.recipe()
    order = shuffled(where, config, rng)
    return (Batch(i, labels[i]) for i in order), steps_of(len(where), recipe)


def shuffled(where: Tensor, config: Descent, rng: torch.Generator) -> Iterator[Tensor]:
    """The positions `where` in the batches of `config.epochs` shuffled passes."""
    order = minibatches(len(where), config.batch_size, config.epochs, rng, keep_last=config.keep_last)
    return (where[i] for i in order)


def endless(where: Tensor, batch_size: int, rng: torch.Generator, *, keep_last: bool = False) -> Iterator[Tensor]:
    """Positions out of `where` in batches, pass after pass, for ever: to pair a small set with a large one."""
    one_pass = (minibatches(len(where), batch_size, 1, rng, keep_last=keep_last) for _ in repeat(None))
    return (where[i] for i in chain.from_iterable(one_pass))


def even(index: Tensor, total: float = 1.0) -> Tensor:
    """Equal weights [B] that sum to `total`."""
    return torch.full((len(index),), total / len(index), dtype=torch.float64)


Answer = Callable[[Tensor, Tensor], Tensor]  # a teacher's logits [B, C] and labels [B] -> what it teaches, [B, C]


def taught(teacher: nn.Module, split, where: Tensor, run, answer: Answer) -> Callable[[Tensor], object]:
    """positions [B] -> the `Batch.soft` of these examples: answer(logits of the teacher, labels).

    The teacher is in eval mode. Where pictures are not augmented it is asked once, about those at `where`, and a table
    serves every epoch; else it is asked in each step about the pictures that the student sees. Its forward passes are
    counted in the run's tally.
    """
    labels = split.train.labels
    if run.augment == "none":
        found = answer(predict(teacher, split.train[where], tally=run.tally), labels[where])
        table = torch.zeros(len(split.train), found.shape[1], dtype=found.dtype)
        table[where] = found
        return lambda index: table[index]
    frozen = copied(teacher).eval().requires_grad_(False)

    def asked(index: Tensor):
        @torch.no_grad()
        def soft(pixels: Tensor) -> Tensor:
            run.tally.count("forward", len(pixels))
            return answer(frozen(pixels), labels[index].to(pixels.device)).cpu()

        return soft

    return asked


def softened(temperature: float) -> Answer:
    """The teacher's own answer at a temperature: softmax(logits / T)."""
    return lambda logits, _labels: torch.softmax(logits / temperature, dim=1)


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


def whole_classes(split) -> bool:
    """Whether no class of the forget set is left in the retain set."""
    return not torch.isin(split.train.labels[split.forget_index], split.train.labels[split.retain_index]).any()


def only_whole_classes(name: str, split) -> None:
    """ValueError unless the forget set is made of whole classes; parts that the caller split are taken at his word."""
    if split.request != "given" and not whole_classes(split):
        raise ValueError(f"{name} forgets whole classes only: ask for class:<name>, not for {split.request}")


def no_whole_classes(name: str, split) -> None:
    """ValueError where a whole class is forgotten: then no picture of it is held out that retraining would know."""
    if not torch.isin(split.forget.labels, split.retain.labels).all():
        raise ValueError(f"{name} compares forgotten with unseen pictures of the same classes: not for whole classes")
