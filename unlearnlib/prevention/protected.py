"""Protected pictures, the budget that their noise keeps, and what a method is given to make it.

    P = x + delta,   |delta| <= eps,   published as  clamp(round(255 x + 255 delta), 255 x +- floor(255 eps), 0..255)

so that no published grey level is further than eps from the picture, after rounding too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.methods.records import Cost
from unlearnlib.training import models
from unlearnlib.training.doors import check_model
from unlearnlib.training.renewal import fresh
from unlearnlib.training.work import Tally

GREY = 1 / 255  # one grey level, in units of pixels
Noise = Callable[[Examples, Tally], Tensor]


@dataclass(frozen=True)
class Task:
    """What a method is given: pictures (uint8), the budget, and where its draws come from."""

    examples: Examples
    eps: float
    seed: int
    tally: Tally

    @property
    def classes(self) -> int:
        return int(self.examples.labels.max()) + 1

    def generator(self, *labels: str | int) -> torch.Generator:
        return seeding.generator(self.seed, "prevention", *labels)

    def surrogate(self, network: str | nn.Module) -> nn.Module:
        """An untrained network for these pictures, by name or with the architecture of one that is given.

        Its weights come from the seed, by a stream of their own: whoever trains with the same seed starts elsewhere.
        """
        drawn = int(torch.randint(1 << 31, (1,), generator=self.generator("surrogate")))
        if isinstance(network, nn.Module):
            check_model(network, self.examples)
            return fresh(network, drawn, self.examples.pixels([0]))
        names = tuple(map(str, range(self.classes)))
        return models.build(network, Dataset("pictures", self.examples, self.examples[:0], names, ""), seed=drawn)


@dataclass(frozen=True, eq=False)
class Protected:
    """What `protect` returns.

    examples   the pictures to publish, uint8, with the labels, groups and attributes of those given
    noise      delta [N, C, H, W] before it was rounded and clamped, in units of pixels (0..1)
    cost       work of making it, in passes of the network that the method trained; 0 where it trained none
    """

    examples: Examples
    noise: Tensor
    cost: Cost
    method: str
    config: object
    eps: float
    seed: int
    more: Noise | None = None  # the noise for further pictures, where the method can make it without starting anew


def check_pictures(examples: Examples, what: str = "examples") -> None:
    """ValueError where these are no uint8 pictures, or none."""
    if not isinstance(examples, Examples):
        raise ValueError(f"{what} must be Examples, not {type(examples).__name__}: see Examples.of")
    if examples.images.dtype != torch.uint8:
        raise ValueError(f"{what} must be uint8, as pictures are published, not {examples.images.dtype}")
    if not len(examples):
        raise ValueError(f"{what} are empty: there is no picture")


def check_known(examples: Examples, classes: int) -> None:
    """ValueError where further pictures have a label for which no noise was made."""
    if len(examples) and int(examples.labels.max()) >= classes:
        raise ValueError(f"the noise is made for the labels 0 to {classes - 1}, not for {int(examples.labels.max())}")


def check_budget(eps: float, name: str = "eps") -> float:
    """ValueError where `eps`, known to the caller as `name`, is nothing that 256 grey levels can use."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps <= 1:
        raise ValueError(f"{name} is a share of the pixel range, from 0 to 1, such as 8/255, not {eps!r:.60}")
    if 0 < eps and not _levels(eps):
        raise ValueError(f"{name}={eps:g} is below one grey level (1/255): no published picture could differ")
    return float(eps)


def _levels(eps: float) -> int:
    return math.floor(255 * eps + 1e-6)  # 8/255 is 8 levels, whatever the last bit of the quotient says


def published(examples: Examples, noise: Tensor, eps: float) -> Examples:
    """The pictures with their noise, as uint8: at most floor(255 eps) grey levels from where they were."""
    before, levels = examples.images.int(), _levels(check_budget(eps))
    moved = (255 * noise).round().int().clamp(-levels, levels)
    return replace(examples, images=(before + moved).clamp(0, 255).to(torch.uint8))
