"""What one step of training is given: examples, weights and targets; in which order, and how augmented."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """One step's examples and what is asked of them.

    loss = sum_i weights_i CE(z_i, labels_i) + sum_i soft_weights_i T^2 CE(softmax(z_i / T), soft_i)
           + sum_i target_weights_i 1/2 ||z_i - targets_i||^2

    index    positions [B] in the examples that are trained on
    labels   [B] int64
    weights  [B] of the cross-entropies
    soft     [B, classes] probabilities of a teacher at temperature T, None without one; then `soft_weights` [B] and
             `temperature` = T count. Up to a constant the second term is T^2 KL(soft || softmax(z / T)). A function
             of the step's pixels [B, C, H, W], as they are augmented, gives them where a teacher sees what is taught
    targets  [B, classes] logits to be matched, None without; then `target_weights` [B] count

    sections sizes of the parts of the batch that pass the network one after another, so that a batch norm sees each by
             itself; () is all together

    Weights that are None are 1 / B each.
    """

    index: Tensor
    labels: Tensor
    weights: Tensor | None = None
    soft: Tensor | Callable[[Tensor], Tensor] | None = None
    soft_weights: Tensor | None = None
    temperature: float = 1.0
    targets: Tensor | None = None
    target_weights: Tensor | None = None
    sections: tuple[int, ...] = ()


def minibatches(
    n: int, batch_size: int, epochs: int, rng: torch.Generator, *, keep_last: bool = False
) -> Iterator[Tensor]:
    """Positions [batch_size] of `epochs` shuffled passes over n examples.

    The incomplete last batch of a pass is dropped, unless `keep_last`: batches of equal size let models be stacked. A
    set smaller than one batch is one batch. What batch norm makes of a batch of one: see `training_mode`.
    """
    if n < 1:
        raise ValueError("no examples to train on: the set is empty")
    size = min(n, batch_size)
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)
        for start in range(0, n if keep_last else n - size + 1, size):
            yield order[start : start + size]


def steps(n: int, batch_size: int, keep_last: bool = False) -> int:
    """The number of batches in one pass over n examples."""
    size = min(n, batch_size)
    return 0 if not n else -(-n // size) if keep_last else n // size


def seen(n: int, batch_size: int, keep_last: bool = False) -> int:
    """The number of examples in the batches of one pass over n."""
    return n if keep_last else steps(n, batch_size) * min(n, batch_size)


def steps_of(n: int, recipe: Recipe) -> int:
    """The number of optimiser steps that `recipe` takes on n examples."""
    return recipe.epochs * steps(n, recipe.batch_size, recipe.keep_last)


def augmented(pixels: Tensor, kind: str, draws: Tensor) -> Tensor:
    """Pixels [N, C, H, W] moved by `draws` [N, 3]: row and column offset of the crop, and whether to flip."""
    if kind == "none":
        return pixels
    height, width = pixels.shape[2:]
    rows, columns, flip = draws.to(pixels.device).unbind(1)
    tall, wide = _padding(kind, height), _padding(kind, width)
    if tall or wide:
        padded = F.pad(
            pixels,
            (wide, wide, tall, tall),
            mode="reflect" if kind in ("crop", "flip-crop", "alternate") else "constant",
        )
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, row, column, H, W], a view
        pixels = windows[torch.arange(len(pixels), device=pixels.device), :, rows, columns]
    if "flip" in kind or kind == "alternate":
        pixels = torch.where(flip.bool()[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def _padding(kind: str, side: int) -> int:
    if kind == "shift":
        return 1
    if kind == "alternate":
        return side // 16
    return side // 8 if "crop" in kind else 0


def draws_for(n: int, kind: str, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """What `augmented` draws for n pictures of `size` (height, width): [n, 3]."""
    tall, wide = (_padding(kind, side) for side in size)
    if tall == wide:  # one draw for both, as ever: the bits of square pictures stay what they are
        offsets = torch.randint(0, 2 * tall + 1, (n, 2), generator=rng)
    else:
        offsets = torch.cat([torch.randint(0, 2 * pad + 1, (n, 1), generator=rng) for pad in (tall, wide)], dim=1)
    return torch.cat([offsets, torch.randint(0, 2, (n, 1), generator=rng)], dim=1)


class Draws:
    """The draws of one model's training: `draws_for` each batch, where flips alternate if the kind says so.

    n   how many examples there are

    With "alternate" the side on which an example is first seen is drawn, and each further turn shows the other one: in
    two passes a network sees both sides of every picture, not one of them twice (Jordan (2024, arXiv:2404.00498)).
    """

    def __init__(self, n: int, kind: str, size: tuple[int, int], rng: torch.Generator):
        self._kind, self._size, self._rng = kind, size, rng
        self._next = torch.full((n,), -1) if kind == "alternate" else None  # -1: not seen yet

    def __call__(self, index: Tensor) -> Tensor:
        """[B, 3] for the examples at positions `index` [B]."""
        draws = draws_for(len(index), self._kind, self._size, self._rng)
        if self._next is not None:
            due = self._next[index]
            draws[:, 2] = torch.where(due < 0, draws[:, 2], due)
            self._next[index] = 1 - draws[:, 2]
        return draws
