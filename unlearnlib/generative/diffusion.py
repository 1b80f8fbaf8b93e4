"""A diffusion sampler: noise is added to latents in T steps, and a network that knows the class takes it out again.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   e ~ N(0, I)          a_t falls from 1 to 0, the variance stays that of x_0
    v_t = sqrt(a_t) e - sqrt(1 - a_t) x_0                         what the network predicts, or e itself
    loss = || prediction - target ||^2, summed over the latent

Sampling is DDIM without noise (Song et al., ICLR 2021): from x_t and the prediction follow x_0 and e, and x_s =
sqrt(a_s) x_0 + sqrt(1 - a_s) e at the next, lower step. So a picture is a function of its first noise z and its
label, and two samplers can be asked for the picture of one z. v is from Salimans & Ho, ICLR 2022; the schedule of a_t
is the cosine of Nichol & Dhariwal, ICML 2021.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.generative.doors import check_numbers, check_pictures, kind_of
from unlearnlib.generative.latent import Latent
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import evaluating, training_mode
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


def cosine_levels(steps: int = 100, offset: float = 0.008) -> Tensor:
    """a_t for t = 1..T: cos^2 of a quarter turn, kept within 1e-4 of its ends."""
    f = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return (f[1:] / f[0]).clamp(1e-4, 1 - 1e-4).float()


class Denoiser(nn.Module):
    """Noised latents [n, d], steps [n], labels [n] -> prediction [n, d]: residual layers that both scale and shift."""

    def __init__(self, width: int, classes: int, steps: int, hidden: int = 192, layers: int = 3):
        super().__init__()
        self.steps, self.classes = steps, classes
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(100), 16)) * math.pi / 2)
        self.time, self.label = nn.Linear(32, 64), nn.Embedding(classes, 64)
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.told = nn.ModuleList(nn.Linear(64, 2 * hidden) for _ in range(layers))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        angle = (t.to(x) / self.steps)[:, None] * self.frequencies
        told = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(labels))
        h = self.first(x)
        for tell, layer in zip(self.told, self.layers, strict=True):
            scale, shift = tell(told).chunk(2, 1)
            h = h + layer(F.silu(h * (1 + scale) + shift))
        return self.last(F.silu(h))


class Noised(NamedTuple):
    """Noised latents x [n, d] at steps t [n], what they were [n, d], and the noise in them [n, d]."""

    x: Tensor
    t: Tensor
    start: Tensor
    noise: Tensor


class Diffusion(nn.Module):
    """A sampler: `sample(noise, labels)` -> pictures [n, C, H, W]; `loss(pictures, labels, rng)` -> [n].

    network    (x [n, d], t [n] from 0, labels [n]) -> [n, d]
    latent     pictures <-> latents
    levels     [T], a_t
    predicts   "v" or "noise": what the network predicts
    """

    def __init__(self, network: nn.Module, latent: Latent, levels: Tensor, classes: int, predicts: str = "v"):
        super().__init__()
        if predicts not in ("v", "noise"):
            raise ValueError(f'predicts is "v" or "noise", not {predicts!r}')
        if levels.ndim != 1 or not bool(((levels > 0) & (levels < 1)).all()) or bool((levels.diff() > 0).any()):
            raise ValueError("levels are T numbers between 0 and 1 that do not rise")
        self.network, self.latent, self.classes, self.predicts = network, latent, classes, predicts
        self.register_buffer("levels", levels.clone())

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.latent.shape

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """What `sample` starts from: [n, d]."""
        return torch.randn(n, self.latent.width, generator=rng, dtype=self.levels.dtype)

    def times(self, n: int, rng: torch.Generator) -> Tensor:
        """Steps [n] from 0 to T - 1, the second half mirrored from the first, which lowers the variance of a mean."""
        first = torch.randint(len(self.levels), (n // 2 + 1,), generator=rng)
        return torch.cat([first, len(self.levels) - 1 - first])[:n]

    def _roots(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.levels[t][:, None]
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, pictures: Tensor, rng: torch.Generator, t: Tensor | None = None) -> Noised:
        """Pictures at steps that are drawn, or given."""
        start = self.latent.encode(pictures)
        noise = torch.randn(start.shape, generator=rng, dtype=start.dtype).to(start.device)
        t = (self.times(len(start), rng) if t is None else t).to(start.device)
        signal, spread = self._roots(t)
        return Noised(signal * start + spread * noise, t, start, noise)

    def predict(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, t, labels)

    def parts(self, x: Tensor, t: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The latent x_0 and the noise e that a prediction says are in x: [n, d] each."""
        signal, spread = self._roots(t)
        if self.predicts == "v":
            return signal * x - spread * prediction, spread * x + signal * prediction
        return (x - spread * prediction) / signal, prediction

    def target(self, seen: Noised) -> Tensor:
        signal, spread = self._roots(seen.t)
        return signal * seen.noise - spread * seen.start if self.predicts == "v" else seen.noise

    def loss(self, pictures: Tensor, labels: Tensor, rng: torch.Generator, t: Tensor | None = None) -> Tensor:
        """|| prediction - target ||^2 of each picture [n], at steps that are drawn, or given."""
        seen = self.noised(pictures, rng, t)
        return (self.target(seen) - self.predict(seen.x, seen.t, labels)).square().sum(1)

    def bound(self, pictures: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """The loss summed over all T steps, as in the evidence bound: [n]."""
        T = len(self.levels)
        t = torch.arange(T).repeat(len(pictures))
        rows = self.loss(pictures.repeat_interleave(T, 0), labels.repeat_interleave(T), rng, t)
        return rows.view(len(pictures), T).sum(1)

    sampling_steps = 20
    farthest = 30.0  # where x_0 ends in sampling, so that a sampler that was broken still draws something finite

    @torch.no_grad()
    def latents(self, noise: Tensor, labels: Tensor) -> Tensor:
        """DDIM from noise [n, d] to latents [n, d]."""
        with evaluating(self):
            T = len(self.levels)
            x, path = noise, torch.linspace(T - 1, 0, min(self.sampling_steps, T)).round().long().tolist()
            for now, after in zip(path, [*path[1:], None], strict=True):
                t = torch.full((len(x),), now, device=x.device)
                start = self.parts(x, t, self.predict(x, t, labels))[0].clamp(-self.farthest, self.farthest)
                signal, spread = self._roots(t)
                left = (x - signal * start) / spread
                a = self.levels[after] if after is not None else torch.ones((), device=x.device)
                x = a.sqrt() * start + (1 - a).sqrt() * left
        return x

    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Pictures [n, C, H, W] of noise [n, d] and labels [n]: always the same for the same."""
        return self.latent.decode(self.latents(noise, labels))

    @property
    def work_of_sampling(self) -> int:
        """Forward passes of one sample."""
        return min(self.sampling_steps, len(self.levels))

    @property
    def work_of_bound(self) -> int:
        """Passes of one bound."""
        return len(self.levels)


@dataclass(frozen=True)
class Teaching:
    """How a sampler is taught: AdamW at one step size; what is kept is the running average of the weights."""

    steps: int = 1500
    batch_size: int = 256
    lr: float = 2e-3
    average: float = 0.99  # of the running average; 0 keeps the last weights

    def __post_init__(self):
        check_numbers(self, ("steps", "batch_size", "lr"))
        if self.average >= 1:
            raise ValueError(f"average is below 1, not {self.average!r}")


def build(latent: Latent, classes: int, seed: int = 0, steps: int = 100, hidden: int = 192, layers: int = 3):
    """An untrained diffusion sampler in this latent space."""
    with seeding.isolated(seed, "denoiser"):
        network = Denoiser(latent.width, classes, steps, hidden, layers)
    return Diffusion(network, latent, cosine_levels(steps), classes)


def fit(
    sampler: nn.Module, examples: Examples, teaching: Teaching | None = None, seed: int = 0, tally: Tally | None = None
):
    """Teach `sampler` (any with `loss`) these pictures: a new sampler. Raises ValueError, training.Diverged."""
    teaching, taught = teaching or Teaching(), copied(sampler)
    check_pictures(taught, examples)
    tally = tally if tally is not None else Tally()
    rng, kept = seeding.generator(seed, "teaching"), copied(taught)
    optimiser = torch.optim.AdamW(taught.parameters(), lr=teaching.lr)
    pairs = list(zip(kept.parameters(), taught.parameters(), strict=True))
    with training_mode(taught), seeding.isolated(seed, "teaching"):
        for _ in range(teaching.steps):
            index = torch.randint(len(examples), (teaching.batch_size,), generator=rng)
            loss = taught.loss(examples.pixels(index, *kind_of(taught)), examples.labels[index], rng).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tally.count("gradient", len(index))
            with torch.no_grad():
                for average, now in pairs:
                    average.lerp_(now, 1 - teaching.average)
    for average, now in zip(kept.buffers(), taught.buffers(), strict=True):  # of norms
        average.copy_(now)
    check_finite(kept)
    return kept
