"""NegGrad and NegGrad+: climb the loss of the forget set.

    NegGrad    min_theta  -L_F(theta)
    NegGrad+   min_theta  alpha L_R(theta) - (1 - alpha) L_F(theta)

The forgetting loss has no upper bound, so both ruin the model when they run for long: the number of steps is the
dose. NegGrad: Golatkar et al. 2020, who publish no values; NegGrad+: Kurmanji et al. 2023. A step of NegGrad+ sends its
retain batch through the network and then its forget batch, so batch norm sees each by itself; the forget set is
shuffled once an epoch and its batches come round in that order. Limits: alpha = 1 is fine-tuning (but for the
statistics of batch norm, which see both sets). Deviations: none; the defaults are ours. Published is the authors'
notebook for membership inference on CIFAR-10; that for small data instead runs in eval mode with a pull to the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from unlearnlib.approximate.steps import HEAVY_BALL, Steps, even, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, minibatches, steps_of


@dataclass(frozen=True)
class NegGrad(Steps):
    epochs: int = 3  # passes over the forget set
    lr: float = 1e-3


@method(
    "neggrad",
    NegGrad,
    family="gradient",
    reads="forget",
    paper="golatkar2020",
    cost="gradient * epochs * seen(F, batch_size)",
    fails=(
        "Beyond a small dose: the loss that it climbs has no bound, so accuracy falls everywhere, the retain set "
        "included."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-5, 1e-2, "log"), "epochs": (1, 10)},
)
def neggrad(model, split, config: NegGrad, run) -> Program:
    descent, steps = passes(split.forget_index, split.train.labels, config, run.generator("order"))
    ascent = (Batch(b.index, b.labels, even(b.index, -1.0)) for b in descent)
    return Program(model, ascent, config.recipe(), steps)


@dataclass(frozen=True)
class NegGradPlus(Steps):
    epochs: int = 5  # passes over the retain set
    alpha: float = 0.95  # weight of the retain loss; 1 - alpha is that of the forget loss
    forget_batch_size: int | None = None  # None: batch_size

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"neggrad_plus needs 0 <= alpha <= 1, not {self.alpha}")
        if self.forget_batch_size is not None and self.forget_batch_size < 1:
            raise ValueError(f"neggrad_plus needs forget_batch_size >= 1 or None, not {self.forget_batch_size}")


def pairs(split, config: NegGradPlus, run) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of the retain and the forget batch of each step."""
    order, forget_order, last = run.generator("order"), run.generator("forget"), config.keep_last
    size = config.forget_batch_size or config.batch_size
    for _ in range(config.epochs):
        beside = cycle(list(minibatches(len(split.forget_index), size, 1, forget_order, keep_last=last)))
        for i in minibatches(len(split.retain_index), config.batch_size, 1, order, keep_last=last):
            yield split.retain_index[i], split.forget_index[next(beside)]


def mixed(first: Tensor, second: Tensor, labels: Tensor, weight_first: float, weight_second: float) -> Batch:
    """One batch with loss weight_first * mean CE(first) + weight_second * mean CE(second), forward one by one."""
    index = torch.cat([first, second])
    weights = torch.cat([even(first, weight_first), even(second, weight_second)])
    return Batch(index, labels[index], weights, sections=(len(first), len(second)))


@method(
    "neggrad_plus",
    NegGradPlus,
    family="gradient",
    reads="retain, forget",
    paper="kurmanji2023",
    cost=(
        "(lambda n, b: gradient * epochs * (seen(R, batch_size)"
        " + n // max(1, steps(F, b)) * seen(F, b) + n % max(1, steps(F, b)) * min(F, b)))"
        "(steps(R, batch_size), forget_batch_size or batch_size)"
    ),
    fails=(
        "Where alpha is small or the run long: the forgetting loss has no bound and wins in the end. One pass "
        "costs up to two, since every retain batch has a forget batch beside it."
    ),
    published=HEAVY_BALL
    | {
        "epochs": 5,
        "lr": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "alpha": 0.9999,
        "batch_size": 32,
        "forget_batch_size": 16,
    },
    origin="the authors' notebook for membership inference on CIFAR-10",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "alpha": (0.5, 1.0)},
)
def neggrad_plus(model, split, config: NegGradPlus, run) -> Program:
    labels, recipe = split.train.labels, config.recipe()
    batches = (mixed(*pair, labels, config.alpha, config.alpha - 1) for pair in pairs(split, config, run))
    return Program(model, batches, recipe, steps_of(len(split.retain_index), recipe))
