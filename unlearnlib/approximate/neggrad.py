"""NegGrad and NegGrad+: climb the loss of the forget set.

    NegGrad    min_theta  -L_F(theta)
    NegGrad+   min_theta  alpha L_R(theta) - (1 - alpha) L_F(theta)

The forgetting loss has no upper bound, so both ruin the model when they run for long: the number of steps is the
dose. NegGrad: Golatkar et al. 2020; NegGrad+: Kurmanji et al. 2023. Limits: alpha = 1 is fine-tuning (but for the
statistics of batch norm, which see both sets). Deviations: none in substance; a step of NegGrad+ sends its retain
and its forget batch through the network together. The defaults are ours (alpha: 0.95 is the value of the largest
public comparison, cadet2024).
"""

from dataclasses import dataclass

import torch

from unlearnlib.approximate.steps import Steps, endless, mixed, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, steps_of


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
    cost="epochs * F",
    fails=(
        "Beyond a small dose: the loss that it climbs has no bound, so accuracy falls everywhere, the retain set "
        "included."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-5, 1e-2, "log"), "epochs": (1, 10)},
)
def neggrad(model, split, config: NegGrad, run) -> Program:
    descent, steps = passes(split.forget_index, split.train.labels, config, run.generator("order"))
    ascent = (Batch(b.index, b.labels, torch.full((len(b.index),), -1 / len(b.index))) for b in descent)
    return Program(model, ascent, config.recipe(), steps)


@dataclass(frozen=True)
class NegGradPlus(Steps):
    epochs: int = 5  # passes over the retain set
    alpha: float = 0.95  # weight of the retain loss; 1 - alpha is that of the forget loss

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"neggrad_plus needs 0 <= alpha <= 1, not {self.alpha}")


@method(
    "neggrad_plus",
    NegGradPlus,
    family="gradient",
    reads="retain, forget",
    paper="kurmanji2023",
    cost="2 * epochs * R",
    fails=(
        "Where alpha is small or the run long: the forgetting loss has no bound and wins in the end. One pass "
        "costs two, since every retain batch has a forget batch beside it."
    ),
    published={"epochs": 10, "lr": 0.01, "alpha": 0.95},
    origin="the comparison of cadet2024",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "alpha": (0.5, 1.0)},
)
def neggrad_plus(model, split, config: NegGradPlus, run) -> Program:
    labels = split.train.labels
    retain, _ = passes(split.retain_index, labels, config, run.generator("order"))
    forget = endless(split.forget_index, config.batch_size, run.generator("forget"))
    batches = (mixed(r.index, f, labels, config.alpha, config.alpha - 1) for r, f in zip(retain, forget, strict=False))
    return Program(model, batches, config.recipe(), steps_of(len(split.retain_index), config.recipe()))
