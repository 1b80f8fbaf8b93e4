"""Bad teacher: learn the forget set from a network that knows nothing, the rest from the original.

With the original theta_0, an untrained network of the same architecture b, and a random part R' of the retain set,

    min_theta  mean over F and R' of  KL(t(x) || p_theta(x)),     t(x) = p_b(x) on F,  p_theta0(x) on R'

Chundawat et al., AAAI 2023, arXiv 2205.08096. Limit: were the bad teacher the original, theta would be at the minimum
from the start. Deviations: both teachers' outputs are computed once, in eval mode; KL is the mean over examples of the
sum over classes (a mean over classes too would divide the loss by their number); the defaults are ours. The authors use
Adam with lr 1e-4, one epoch, 30 % of the retain set, batches of 256 and temperature 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from unlearnlib.approximate.steps import Steps, even, targets_of
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models
from unlearnlib.training.batches import Batch, minibatches, steps_of


@dataclass(frozen=True)
class BadTeacher(Steps):
    epochs: int = 3
    retain_fraction: float = 0.3  # of the retain set that the original teaches
    temperature: float = 1.0  # of teachers and student
    build: Callable[[int], nn.Module] | None = None  # seed -> the bad teacher; for layers that cannot be reset

    def __post_init__(self):
        if not 0 <= self.retain_fraction <= 1 or self.temperature <= 0:
            raise ValueError("bad_teacher needs 0 <= retain_fraction <= 1 and temperature > 0")


@method(
    "bad_teacher",
    BadTeacher,
    family="distillation",
    reads="retain, forget",
    paper="chundawat2023",
    cost="epochs * (F + retain_fraction * R)",
    fails=(
        "Where the retrained model is sure of forgotten pictures: they are taught to look like noise, which no "
        "retrained model shows."
    ),
    published={
        "epochs": 1,
        "optimiser": "adamw",
        "lr": 1e-4,
        "retain_fraction": 0.3,
        "batch_size": 256,
        "temperature": 1.0,
    },
    origin="the authors' code",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "retain_fraction": (0.3, 1.0)},
)
def bad_teacher(model, split, config: BadTeacher, run) -> Program:
    bad = models.fresh(model, run.seed) if config.build is None else config.build(run.seed)
    drawn = torch.randperm(len(split.retain_index), generator=run.generator("subset"))
    kept = split.retain_index[drawn[: round(config.retain_fraction * len(drawn))].sort().values]
    targets = targets_of(bad, split, split.forget_index, run, config.temperature)
    if len(kept):
        targets += targets_of(model, split, kept, run, config.temperature)
    where, labels, recipe = torch.cat([kept, split.forget_index]).sort().values, split.train.labels, config.recipe()
    chosen = (where[i] for i in minibatches(len(where), recipe.batch_size, recipe.epochs, run.generator("order")))
    batches = (Batch(i, labels[i], even(i, 0.0), targets[i], even(i), config.temperature) for i in chosen)
    return Program(model, batches, recipe, steps_of(len(where), recipe))
