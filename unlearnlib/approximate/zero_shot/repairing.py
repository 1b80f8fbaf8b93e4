"""Teach a model to answer pictures as its teacher does, but for the classes that are gone.

    min_theta  mean_x CE(q(x), f_theta(x)),     q(x)_c = p(x)_c / sum_{d kept} p(x)_d  for a kept class c, else 0

p = softmax(f_teacher). With the teacher a trained model and the student a copy that has been damaged, this is a repair;
with both the same, it is forgetting. Which of the two it is, and how well it goes, is a matter of the pictures. Limits:
with no class gone and student = teacher the gradient is 0 and nothing moves; with all of a picture's answer on a class
that is gone, the rest of the answer counts as if that class had not been asked for.

Repair on pictures that are not data is what generators and inversion are for in distillation without data; a few
pictures that were distilled before the data went are our reconstruction of an idea of Liu et al., arXiv 2005.08551,
who train on such pictures and repair nothing. Batch norms keep their statistics throughout: those of such pictures are
not those of data.
"""

import math
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.steps import endless, only_whole_classes
from unlearnlib.data.examples import Examples
from unlearnlib.seeding import generator
from unlearnlib.training.batches import Batch
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import descend
from unlearnlib.training.modes import norms_frozen
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Repair:
    """How a model is taught on pictures."""

    steps: int = 200  # of teaching
    lr: float = 0.05  # of teaching
    momentum: float = 0.9  # of teaching
    batch_size: int = 64  # pictures a step
    hard: bool = False  # teach the likeliest kept class alone, not the whole answer

    def __post_init__(self):
        counts("steps", self.steps, 0)
        counts("batch_size", self.batch_size, 1)
        if not isinstance(self.hard, bool):
            raise ValueError(f"hard is True or False, not {self.hard!r}")
        self._recipe()

    def _recipe(self) -> Recipe:
        return Recipe(lr=self.lr, momentum=self.momentum, batch_size=self.batch_size, weight_decay=0.0, **_PLAIN)


_PLAIN = {"optimiser": "sgd", "schedule": "constant"}


def counts(name: str, value: object, least: int) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is a whole number of at least {least}, not {value!r}")


def numbers(config: object, *names: str, above: float | None = None) -> None:
    """ValueError unless the fields `names` are finite and at least 0, or more than `above`."""
    for name in names:
        value = getattr(config, name)
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not known or value < 0 or (above is not None and value <= above):
            raise ValueError(
                f"{name} is a number {'of at least 0' if above is None else f'above {above:g}'}, not {value!r}"
            )


def without(logits: Tensor, gone: Tensor) -> Tensor:
    """Probabilities [B, C] of logits [B, C] given that none of the classes `gone` is the answer; they sum to 1.

    Raises ValueError where no class is left, or a class is not among the C.
    """
    gone = torch.as_tensor(gone, dtype=torch.int64, device=logits.device).reshape(-1)
    classes = logits.shape[1]
    if len(gone) and not 0 <= int(gone.min()) <= int(gone.max()) < classes:
        raise ValueError(f"classes run from 0 to {classes - 1}, not {gone.tolist()}")
    if len(gone.unique()) == classes:
        raise ValueError("every class is to be forgotten: nothing is left to answer")
    return torch.softmax(logits.index_fill(1, gone, -torch.inf), dim=1)


def forgotten(name: str, split) -> Tensor:
    """The classes that are asked to be forgotten; ValueError unless they are whole, or where none would be kept."""
    only_whole_classes(name, split)
    gone = split.forget.labels.unique()
    if torch.isin(split.retain.labels, gone).all():
        raise ValueError(f"{name} forgets classes, and no other class is left: retrain instead")
    return gone


def repair(
    model: nn.Module,
    teacher: nn.Module,
    pictures: Tensor,
    gone=(),
    config: Repair | None = None,
    *,
    seed: int,
    tally: Tally | None = None,
) -> nn.Module:
    """A copy of `model` taught on `pictures` [n, C, H, W] to answer as `teacher`, less the classes `gone`.

    The teacher is asked once, in eval mode. Costs n forward passes and at most steps * batch_size gradients. Raises
    ValueError on pictures that are not finite or not such as the models take, and training.Diverged.
    """
    config, tally = config or Repair(), tally if tally is not None else Tally()
    examples = Examples(pictures.detach().cpu(), torch.zeros(len(pictures), dtype=torch.int64))
    if not len(examples):
        raise ValueError("there are no pictures to teach on: give at least one")
    for network in (model, teacher):
        check_model(network, examples)
    targets = without(predict(teacher, examples, tally=tally), torch.as_tensor(gone, dtype=torch.int64))
    if config.hard:
        targets = F.one_hot(targets.argmax(1), targets.shape[1]).to(targets)
    order = endless(torch.arange(len(examples)), config.batch_size, generator(seed, "order"))
    labels, silent = examples.labels, torch.zeros(min(len(examples), config.batch_size), dtype=torch.float64)
    batches = (Batch(i, labels[i], silent, soft=targets[i]) for i in islice(order, config.steps))
    with norms_frozen():
        return descend(copied(model), examples, batches, config._recipe(), config.steps, seed=seed, tally=tally)
