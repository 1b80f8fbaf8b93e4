"""A small U-Net: what takes noise out of pictures pixel by pixel, where `Denoiser` works on a few numbers a picture.

Squares of `patch` by `patch` pixels become the channels of one place, so that most convolutions see a quarter of the
places. Then two resolutions: down by a strided convolution, up by repeating, and the finer features are added to the
coarse ones on the way back. Each block is told step and label as `Denoiser` is: by a scale and a shift of its
channels. Ronneberger et al., MICCAI 2015, in the residual form of Ho et al., NeurIPS 2020, without their attention.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding


class Block(nn.Module):
    """Features [n, c, h, w] and what is told of step and label [n, k] -> features; untrained, it changes nothing."""

    def __init__(self, width: int, told: int):
        super().__init__()
        self.norm, self.again = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.first, self.last = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.tell = nn.Linear(told, 2 * width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, 1)
        h = self.again(self.first(F.silu(self.norm(x))))
        return x + self.last(F.silu(h * (1 + scale) + shift))


class UNet(nn.Module):
    """Noised pictures [n, C H W], steps [n], labels [n] -> prediction [n, C H W]: what a `Diffusion` in pixels asks.

    shape     (C, H, W); H and W are multiples of 2 `patch`
    width     channels at the finer resolution, twice as many at the coarser: a multiple of 8
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, steps: int = 100, width: int = 32, patch: int = 2):
        super().__init__()
        c, height, breadth = shape
        if height % (2 * patch) or breadth % (2 * patch):
            raise ValueError(f"pictures {tuple(shape)} must have sides that are multiples of {2 * patch}: pad them")
        if width < 8 or width % 8:
            raise ValueError(f"width is a multiple of 8, not {width!r}")
        self.shape, self.steps, self.classes, self.patch = tuple(shape), steps, classes, patch
        told, pixels = 2 * width, c * patch**2
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(100), 16)) * math.pi / 2)
        self.time, self.label = nn.Linear(32, told), nn.Embedding(classes, told)
        self.enter, self.leave = nn.Conv2d(pixels, width, 3, padding=1), nn.Conv2d(width, pixels, 3, padding=1)
        self.fine, self.fine_again = Block(width, told), Block(width, told)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(Block(2 * width, told) for _ in range(2))
        self.up, self.norm = nn.Conv2d(2 * width, width, 1), nn.GroupNorm(8, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @staticmethod
    def build(shape, classes: int, seed: int = 0, steps: int = 100, width: int = 32, patch: int = 2) -> "UNet":
        """An untrained one. Raises ValueError where the shape does not divide."""
        with seeding.isolated(seed, "unet"):
            return UNet(shape, classes, steps, width, patch)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        angle = (t.to(x) / self.steps)[:, None] * self.frequencies
        told = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(labels))
        h = self.enter(F.pixel_unshuffle(x.view(-1, *self.shape), self.patch))
        fine = self.fine(h, told)
        h = self.down(fine)
        for block in self.coarse:
            h = block(h, told)
        h = self.fine_again(fine + F.interpolate(self.up(h), scale_factor=2), told)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), self.patch).flatten(1)
