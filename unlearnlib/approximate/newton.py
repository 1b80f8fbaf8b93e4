"""Newton steps on the retain set, from the original: what is exact where the loss is quadratic.

    theta <- theta - (C_R(theta) + (l2 + damping) I)^-1 (grad L_R(theta) + l2 theta)          `steps` times

L_R is the mean cross-entropy of the retain set, l2/2 ||theta||^2 the penalty of the objective that the original
minimises, C_R the Gauss-Newton matrix (or the Hessian) of L_R. `damping` shortens the steps and does not move the
minimum: fixed points are those of L_R + l2/2 ||theta||^2, that is, retraining where that is convex. Limits: for a
quadratic loss one undamped step is retraining; for logistic regression each step about squares the error; F enters only
by where the first step starts. Sekhari et al. (sekhari2021) and Guo et al. (guo2020) bound that error and hide it by
noise: see `private.CertifiedNewton`. Defaults are ours.
"""

from dataclasses import dataclass

import torch
from torch import nn

from unlearnlib.approximate.gradients import flat, mean_gradient, moved, trainable
from unlearnlib.approximate.influence import SOLVING, Inverse
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class Newton(Inverse):
    steps: int = 1  # each with a curvature of its own
    l2: float = 0.0  # of the objective of training: l2/2 ||theta||^2 beside the mean loss

    def __post_init__(self):
        if self.steps < 1 or self.l2 < 0:
            raise ValueError("newton needs steps >= 1 and l2 >= 0")


@method(
    "newton",
    Newton,
    family="curvature",
    reads="retain",
    paper="sekhari2021",
    cost=f"at most steps * (gradient * R + {SOLVING}(R))",
    fails=(
        "In deep networks with little damping: away from a minimum a full step overshoots. It knows of the forget set "
        "only that it is missing from the loss, and stops near where it started."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log"), "steps": (1, 5)},
)
def newton(model, split, config: Newton, run) -> nn.Module:
    for _ in range(config.steps):
        slope = mean_gradient(model, split.retain, tally=run.tally)
        with torch.no_grad():
            slope = slope + config.l2 * flat(trainable(model).values())
        moved(model, -config.solved(model, slope, split.retain, run.tally, extra=config.l2))
    return model
