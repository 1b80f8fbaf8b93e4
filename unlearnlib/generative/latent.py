"""Where a diffusion sampler works: whitened principal components of pictures, or the pixels themselves.

    z = S^-1 W (x - m),    x = m + W^T S z,    W the first `rank` principal directions, S their standard deviations

Fit it on pictures that no sampler is taught and nobody asks to forget, such as the validation set: a latent space
that was made from forgotten pictures would keep part of them. It is then given, and the same for the retrained
sampler.
"""

import math

import torch
from torch import Tensor, nn

from unlearnlib.data.examples import Examples


class Latent(nn.Module):
    """Pictures [n, C, H, W] in 0..1 <-> latents [n, width]. Nothing in it is trained."""

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor, shape: tuple[int, int, int]):
        super().__init__()
        self.shape = tuple(shape)
        for name, value in (("mean", mean), ("basis", basis), ("scale", scale)):
            self.register_buffer(name, value.detach().clone())

    @property
    def width(self) -> int:
        return len(self.scale)

    def encode(self, pictures: Tensor) -> Tensor:
        return (pictures.flatten(1) - self.mean) @ self.basis.T / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels beyond 0..1 are cut off."""
        return ((latents * self.scale) @ self.basis + self.mean).clamp(0, 1).view(-1, *self.shape)

    @staticmethod
    def fit(examples: Examples, rank: int = 32) -> "Latent":
        """Whitened principal components of these pictures. Raises ValueError where they have fewer than `rank`."""
        pictures = examples.pixels().flatten(1).double()
        most = min(len(pictures) - 1, pictures.shape[1])
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
            raise ValueError(f"rank is a whole number from 1 to {most} for these pictures, not {rank!r}")
        mean = pictures.mean(0)
        _, sizes, directions = torch.linalg.svd(pictures - mean, full_matrices=False)
        scale = sizes[:rank] / math.sqrt(len(pictures) - 1)
        if scale[-1] <= 1e-6 * scale[0]:
            raise ValueError(f"these pictures do not vary in {rank} directions: lower rank=")
        # the sign of a principal direction is arbitrary, and differs between libraries
        directions = directions[:rank]
        signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
        return Latent(mean.float(), (directions * signs).float(), scale.float(), examples.shape)

    @staticmethod
    def pixels(shape: tuple[int, int, int]) -> "Latent":
        """The pixels themselves, 0..1 as -1..1."""
        d = math.prod(shape)
        return Latent(torch.full((d,), 0.5), torch.eye(d), torch.full((d,), 0.5), shape)
