"""Controls: noise of the same size that does not know the label, and none at all.

    delta_i = eps * s_i,   s_i in {-1, 1} drawn for each picture by itself, on squares of `patch` x `patch` pixels

What a method gains over these is gained by its noise. What random noise takes away is the price of a spoilt picture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnlib.prevention.protected import Task


@dataclass(frozen=True)
class Nothing:
    """No hyper-parameters."""


@dataclass(frozen=True)
class Random:
    patch: int = 4  # side of the squares that share a sign; 1: each pixel by itself


def signs(n: int, shape: tuple[int, int, int], patch: int, rng: torch.Generator) -> Tensor:
    """n patterns [n, C, H, W] of -1 and 1, constant on squares; cut at the border where the sides do not divide."""
    channels, height, width = shape
    drawn = torch.randint(0, 2, (n, channels, -(-height // patch), -(-width // patch)), generator=rng)
    whole = (2.0 * drawn - 1).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return whole[:, :, :height, :width]


def nothing(task: Task, config: Nothing):
    """The pictures as they are."""
    return torch.zeros(len(task.examples), *task.examples.shape), None


def random(task: Task, config: Random):
    """Signs that are drawn for each picture."""
    rng = task.generator("random")

    def noise(examples, tally) -> Tensor:
        return task.eps * signs(len(examples), examples.shape, config.patch, rng)

    return noise(task.examples, task.tally), noise
