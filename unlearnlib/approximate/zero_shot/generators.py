"""Networks that make pictures out of noise, for `gkt`."""

import torch
from torch import Tensor, nn


class Shaped(nn.Module):
    """Rows of numbers as arrays of one shape."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


def perceptron(z: int, shape: tuple[int, int, int], width: int) -> nn.Module:
    """One hidden layer: [n, z] -> [n, *shape], with mean 0 and variance 1 in each channel, as the other."""
    layers = [nn.Linear(z, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
    return nn.Sequential(
        *layers, nn.Linear(width, shape[0] * shape[1] * shape[2]), Shaped(*shape), nn.BatchNorm2d(shape[0])
    )


def convolutional(z: int, shape: tuple[int, int, int], width: int) -> nn.Module:
    """Two doublings of a small map, and a norm at the end: [n, z] -> [n, *shape], pixels of mean 0 and variance 1.

    Its first map has a quarter of the picture's sides, rounded up to an even number; what the doublings give too much
    the last convolution cuts off. So 1 x 28 x 28 and 3 x 32 x 32 with width 128 are the networks of Chundawat et al.
    """
    channels, *sides = shape
    small = [2 * -(-side // 8) for side in sides]
    kernel = [4 * s + 3 - side for s, side in zip(small, sides, strict=True)]
    return nn.Sequential(
        nn.Linear(z, width * small[0] * small[1]),
        Shaped(width, *small),
        nn.BatchNorm2d(width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.BatchNorm2d(width // 2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, channels, tuple(kernel), padding=1),
        nn.BatchNorm2d(channels),
    )


def drawn(z: int, n: int, rng: torch.Generator, like: Tensor) -> Tensor:
    """n standard normal codes [n, z]."""
    return torch.randn(n, z, generator=rng).to(like)
