"""A conditional variational autoencoder: two layers in, a small code, two layers out, the label beside both.

    loss(x, c) = BCE(x, decode(z, c)) + KL(N(mu, sigma^2) || N(0, I)),    z = mu + sigma e,   mu, sigma = encode(x, c)

the negative evidence bound of a picture whose pixels are read as probabilities. The network is that of Selective
Amnesia's released program (Heng & Soh, NeurIPS 2023): 512 and 256 units, a code of 8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding


class CVAE(nn.Module):
    """`sample(noise [n, code], labels [n])` -> pictures [n, C, H, W]; `loss(pictures, labels, rng)` -> [n]."""

    work_of_sampling = work_of_bound = 1

    def __init__(self, shape: tuple[int, int, int], classes: int, hidden=(512, 256), code: int = 8):
        super().__init__()
        pixels, (wide, narrow) = math.prod(shape), hidden
        self.shape, self.classes, self.code = tuple(shape), classes, code
        self.encoder = nn.Sequential(
            *(nn.Linear(pixels + classes, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU()),
            nn.Linear(narrow, 2 * code),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(code + classes, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.ReLU()),
            nn.Linear(wide, pixels),
        )

    @staticmethod
    def build(shape: tuple[int, int, int], classes: int, seed: int = 0, hidden=(512, 256), code: int = 8) -> "CVAE":
        """An untrained one; `fit` of `diffusion` teaches any sampler."""
        with seeding.isolated(seed, "cvae"):
            return CVAE(shape, classes, hidden, code)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.code, generator=rng, dtype=self.decoder[0].weight.dtype)

    def _with(self, values: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([values, F.one_hot(labels, self.classes).to(values)], 1)

    def loss(self, pictures: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        x = pictures.flatten(1)
        mean, log_variance = self.encoder(self._with(x, labels)).chunk(2, 1)
        e = torch.randn(mean.shape, generator=rng, dtype=mean.dtype).to(mean.device)
        logits = self.decoder(self._with(mean + e * (log_variance / 2).exp(), labels))
        told = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        return told - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)

    bound = loss

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.decoder(self._with(noise, labels)).sigmoid().view(-1, *self.shape)
