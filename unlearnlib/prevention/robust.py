"""Robust error-minimising noise: easy even for a network that trains on the worst pictures near the published ones.

    min_theta min_(|delta_i| <= eps) max_(|rho_i| <= radius eps) sum_i CE(f_theta(t(x_i + delta_i) + rho_i), y_i)

The alternation of `error_minimising`, where every step, of theta and of delta, looks at t(x + delta) + rho: t a random
augmentation, and rho found by `ascend` signed steps up from 0.

Fu et al. (ICLR 2022, arXiv:2203.14533) take eps = 8/255, an adversary of half of it, 10 steps of each kind and 5 draws
of t a step. Deviations, for cost: one draw of t, fewer steps, and noise that is kept between rounds, where theirs is
made anew against the network at the end. With radius=0 and transform="none" it is `error_minimising`, bit for bit.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.prevention.error_minimising import ErrorMinimising, alternated, signed_steps
from unlearnlib.prevention.protected import Task
from unlearnlib.training.batches import augmented, draws_for
from unlearnlib.training.modes import evaluating
from unlearnlib.training.recipe import AUGMENTATIONS


@dataclass(frozen=True)
class Robust(ErrorMinimising):
    radius: float = 0.5  # of the adversary inside, in units of eps; 0: none
    ascend: int = 2  # steps of the adversary
    transform: str = "shift"  # the augmentation t, one of those of `training.Recipe`; "none": none


def robust(task: Task, config: Robust):
    """The noise that the alternation ends with; further pictures need it anew."""
    if config.transform not in AUGMENTATIONS:
        raise ValueError(f"transform is one of {', '.join(AUGMENTATIONS)}, not {config.transform!r}")
    rng, radius = task.generator("transforms"), config.radius * task.eps

    def hardened(model: nn.Module, x: Tensor, labels: Tensor, stage: str):
        draws = draws_for(len(x), config.transform, x.shape[2:], rng) if config.transform != "none" else None

        def moved(pixels: Tensor) -> Tensor:
            return pixels if draws is None else augmented(pixels, config.transform, draws)

        if not radius:
            return moved
        seen = moved(x)

        def loss(rho: Tensor) -> Tensor:
            return F.cross_entropy(model((seen + rho).clamp(0, 1)), labels, reduction="sum")

        with evaluating(model):
            size = radius / max(1, config.ascend - 1)  # reaches the border from 0, with a step to spare
            rho = signed_steps(loss, seen.new_zeros(seen.shape), radius, size, config.ascend, 1)
        task.tally.count("gradient", len(x) * config.ascend)
        return lambda pixels: (moved(pixels) + rho).clamp(0, 1)

    return alternated(task, config, hardened), None
