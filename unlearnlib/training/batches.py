"""What one step of training is given: examples, weights and targets; in which order, and how augmented."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """One step's examples and what is asked of them.

    loss = sum_i weights_i CE(z_i, labels_i) + sum_i soft_weights_i T^2 CE(softmax(z_i / T), soft_i)

    index    positions [B] in the examples that are trained on
    labels   [B] int64
    weights  [B]; None is the mean, 1 / B each
    soft     [B, classes] probabilities of a teacher at temperature T, None without one; then `soft_weights` [B] and
             `temperature` = T count. Up to a constant the second term is T^2 KL(soft || softmax(z / T)).
    """

    index: Tensor
    labels: Tensor
    weights: Tensor | None = None
    soft: Tensor | None = None
    soft_weights: Tensor | None = None
    temperature: float = 1.0


def minibatches(n: int, batch_size: int, epochs: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Positions [batch_size] of `epochs` shuffled passes over n examples; the incomplete last batch is dropped.

    Batches of equal size let models be stacked and keep batch norm from ever seeing a single example. A set
    smaller than one batch is one batch.
    """
    if n < 1:
        raise ValueError("no examples to train on: the set is empty")
    size = min(n, batch_size)
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def steps_of(n: int, recipe: Recipe) -> int:
    """The number of optimiser steps that `recipe` takes on n examples."""
    return recipe.epochs * (n // min(n, recipe.batch_size))


def augmented(pixels: Tensor, kind: str, draws: Tensor) -> Tensor:
    """Pixels [N, C, H, W] moved by `draws` [N, 3]: row and column offset of the crop, and whether to flip."""
    if kind == "none":
        return pixels
    height, width = pixels.shape[2:]
    rows, columns, flip = draws.to(pixels.device).unbind(1)
    pad = _padding(kind, height)
    if pad:
        padded = F.pad(pixels, (pad,) * 4, mode="constant" if kind == "shift" else "reflect")
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, row, column, H, W], a view
        pixels = windows[torch.arange(len(pixels), device=pixels.device), :, rows, columns]
    if "flip" in kind:
        pixels = torch.where(flip.bool()[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def _padding(kind: str, height: int) -> int:
    if kind == "shift":
        return 1
    return height // 8 if "crop" in kind else 0


def draws_for(n: int, kind: str, height: int, rng: torch.Generator) -> Tensor:
    offsets = torch.randint(0, 2 * _padding(kind, height) + 1, (n, 2), generator=rng)
    return torch.cat([offsets, torch.randint(0, 2, (n, 1), generator=rng)], dim=1)
