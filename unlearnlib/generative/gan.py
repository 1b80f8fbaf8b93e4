"""A generative adversarial network without labels: a generator G against a discriminator D.

    D:  min  E softplus(-D(x)) + E softplus(D(G(z))) + (calm / 2) E || grad_x D(x) ||^2
    G:  min  E softplus(-D(G(z)))                                         z ~ N(0, I)

D(x) is a logit, above 0 for what it takes to be real. The non-saturating game of Goodfellow et al. (NeurIPS 2014),
with the gradient penalty of Mescheder et al. (ICML 2018), without which G loses whole kinds of pictures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import training_mode
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


class GAN(nn.Module):
    """A sampler without conditions: `sample(noise [n, width])` -> pictures [n, C, H, W]; labels are not read."""

    work_of_sampling = 1

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, width: int, shape: tuple[int, int, int], classes
    ):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.width, self.shape, self.classes = width, tuple(shape), classes

    @staticmethod
    def build(shape: tuple[int, int, int], classes: int, seed: int = 0, width: int = 4, hidden: int = 128) -> "GAN":
        """Two small networks; `classes` is how many kinds of pictures there are, for whoever judges them."""
        values = math.prod(shape)

        def layers(start: int, end: int) -> list[nn.Module]:
            middle = [nn.Linear(start, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
            return [*middle, nn.Linear(hidden, end)]

        with seeding.isolated(seed, "gan"):
            generator = nn.Sequential(*layers(width, values), nn.Unflatten(1, tuple(shape)))
            return GAN(generator, nn.Sequential(nn.Flatten(), *layers(values, 1)), width, shape, classes)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.width, generator=rng)

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(noise)


class Game:
    """The ordinary steps of a GAN: first D, then G, each by an Adam of its own."""

    def __init__(self, gan: GAN, lr: float, calm: float = 1.0):
        self.gan, self.calm = gan, calm
        self.optimisers = [
            torch.optim.Adam(part.parameters(), lr=lr, betas=(0.5, 0.99)) for part in (gan.discriminator, gan.generator)
        ]

    def descend(self, which: int, loss: Tensor) -> None:
        """One step of D (0) or G (1) on `loss`; the other stays."""
        self.gan.zero_grad()
        loss.backward()
        self.optimisers[which].step()

    def step(self, pictures: Tensor, rng: torch.Generator) -> None:
        gan, n = self.gan, len(pictures)
        made = gan.generator(gan.noise(n, rng)).detach()
        pictures = pictures.detach().requires_grad_(True)
        real, fake = gan.discriminator(pictures), gan.discriminator(made)
        (slope,) = torch.autograd.grad(real.sum(), pictures, create_graph=True)
        steep = slope.flatten(1).square().sum(1).mean()
        self.descend(0, F.softplus(-real).mean() + F.softplus(fake).mean() + self.calm / 2 * steep)
        self.descend(1, F.softplus(-gan.discriminator(gan.generator(gan.noise(n, rng)))).mean())


def fit_gan(gan: GAN, examples: Examples, steps: int = 1500, seed: int = 0, *, lr=1e-3, batch_size=128, tally=None):
    """Teach a GAN these pictures: a new one. In the second half the step size falls to 0: the game would never end."""
    taught, tally = copied(gan), tally if tally is not None else Tally()
    rng, game = seeding.generator(seed, "teaching"), Game(taught, lr)
    with training_mode(taught), seeding.isolated(seed, "teaching"):
        for k in range(steps):
            for optimiser in game.optimisers:
                optimiser.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - k / steps))
            index = torch.randint(len(examples), (batch_size,), generator=rng)
            game.step(examples.pixels(index), rng)
            tally.count("gradient", 2 * batch_size)
    taught.zero_grad(set_to_none=True)
    check_finite(taught)
    return taught
