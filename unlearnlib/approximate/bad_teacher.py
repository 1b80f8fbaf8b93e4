"""Bad teacher: learn the forget set from a network that knows nothing, the rest from the original.

With the original theta_0, an untrained network of the same architecture b, and a random part R' of the retain set,

    min_theta  mean over F and R' of  KL(t(x) || p_theta(x)),     t(x) = p_b(x) on F,  p_theta0(x) on R'

Chundawat et al., AAAI 2023, arXiv 2205.08096. Limit: were the bad teacher the original, theta would be at the minimum
from the start. KL is the mean over examples of the sum over classes; with `over_classes` the mean over classes too, as
in the released code, which divides the loss by their number. Deviations: where pictures are not augmented both
teachers' outputs are computed once; the defaults are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from unlearnlib.approximate.steps import Steps, even, shuffled, softened, taught
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models
from unlearnlib.training.batches import Batch, steps_of
from unlearnlib.training.doors import check_model


@dataclass(frozen=True)
class BadTeacher(Steps):
    epochs: int = 3
    retain_fraction: float = 0.3  # of the retain set that the original teaches
    temperature: float = 1.0  # of teachers and student
    over_classes: bool = False  # the divergence is divided by the number of classes
    build: Callable[[int], nn.Module] | None = None  # seed -> the bad teacher; for layers that cannot be reset

    def __post_init__(self):
        if not (0 <= self.retain_fraction <= 1 and self.temperature > 0):
            raise ValueError("bad_teacher needs 0 <= retain_fraction <= 1 and temperature > 0")


@method(
    "bad_teacher",
    BadTeacher,
    family="distillation",
    reads="retain, forget",
    paper="chundawat2023",
    cost=(
        "(lambda kept: gradient * epochs * seen(F + kept, batch_size) + forward * (F + kept if augment == 'none'"
        " else (2 if kept else 1) * epochs * seen(F + kept, batch_size)))(floor(retain_fraction * R))"
    ),
    fails=(
        "Where the retrained model is sure of forgotten pictures: they are taught to look like noise, which no "
        "retrained model shows."
    ),
    published={
        "epochs": 1,
        "optimiser": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "keep_last": True,
        "retain_fraction": 0.3,
        "batch_size": 256,
        "temperature": 1.0,
        "over_classes": True,
    },
    origin="the authors' code",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "retain_fraction": (0.3, 1.0)},
)
def bad_teacher(model, split, config: BadTeacher, run) -> Program:
    bad = models.fresh(model, run.seed) if config.build is None else config.build(run.seed)
    drawn = torch.randperm(len(split.retain_index), generator=run.generator("subset"))
    kept = split.retain_index[drawn[: math.floor(config.retain_fraction * len(drawn))].sort().values]
    where, labels, recipe = torch.cat([kept, split.forget_index]).sort().values, split.train.labels, config.recipe()
    target = _targets(bad, model, split, kept, config, run)
    classes = check_model(model, split.train) if config.over_classes else 1
    batches = (
        Batch(i, labels[i], even(i, 0.0), target(i), even(i, 1 / classes), config.temperature)
        for i in shuffled(where, config, run.generator("order"))
    )
    return Program(model, batches, recipe, steps_of(len(where), recipe))


def _targets(bad: nn.Module, good: nn.Module, split, kept: torch.Tensor, config: BadTeacher, run):
    """positions -> `Batch.soft`: what `bad` says of forgotten pictures and `good` of kept ones."""
    parts = [taught(bad, split, split.forget_index, run, softened(config.temperature))]
    if len(kept):
        parts.append(taught(good, split, kept, run, softened(config.temperature)))
    gone = split.is_forget

    def target(index: torch.Tensor):
        found = [part(index) for part in parts]
        if len(found) == 1:
            return found[0]
        if run.augment == "none":
            return torch.where(gone[index][:, None], *found)
        return lambda pixels: torch.where(gone[index][:, None], *(soft(pixels) for soft in found))

    return target
