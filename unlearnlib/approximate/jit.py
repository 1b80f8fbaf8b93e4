"""JiT: make the network flat around the forgotten pictures, without any other data.

    min_theta  E_F (1/N) sum_j ||f(z) - f(z + xi_j)|| / ||xi_j||,     xi_j ~ N(0, sigma^2 I),   j = 1 .. N

z are the pictures in units of the standard deviation of their pixels, channel by channel, about the mean. Foster et
al., TMLR 2025, arXiv 2402.01401. Limits: for a linear f = Wz + b the loss is at most the largest singular value of W
and b has no gradient; a constant f is the minimum. Deviations: the mean and standard deviation are those of the
forgotten pictures, the only ones that are read; the loss is a mean over the pictures of a batch, gradients are cleared
before every step and flow through both terms, the noise is not clamped, f is the network in eval mode, as deployed; the
defaults are ours.

`as_released` is the authors' loop instead: the loss is summed over a batch (so the rate scales with its size), the
noisy pictures are clamped to the range of their batch and their answers take no gradient, gradients are never cleared
(step k moves by the sum of all k), and the network is in train mode, dropout included. Batches come in order. The
published values are for a class on a VGG-11; for random pictures and for sub-classes the authors take sigma 0.01.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.steps import HEAVY_BALL, Descent
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.batches import minibatches, steps_of
from unlearnlib.training.modes import training_mode
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.recipe import clip, optimiser_of, set_rate


@dataclass(frozen=True)
class JiT(Descent):
    epochs: int = 1
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    samples: int = 25  # N
    sigma: float = 0.5  # in units of the pixels' standard deviation
    as_released: bool = False  # the authors' loop, with its accumulating gradients

    def __post_init__(self):
        if not (self.samples >= 1 and self.sigma > 0):
            raise ValueError("jit needs samples >= 1 and sigma > 0")


def steepness(f, z: Tensor, noise: Tensor) -> Tensor:
    """mean_ij ||f(z_i) - f(z_i + xi_ij)|| / ||xi_ij||: z [B, C, H, W], noise [B, N, C, H, W] -> scalar."""
    moved = f((z[:, None] + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
    change = torch.linalg.vector_norm(f(z)[:, None] - moved, dim=2)
    return (change / torch.linalg.vector_norm(noise, dim=(2, 3, 4))).mean()


def released_steepness(f, z: Tensor, noise: Tensor) -> Tensor:
    """sum_i mean_j ||f(z_i) - f(z_ij)|| / ||z_i - z_ij|| with z_ij = z_i + xi_ij clamped to the range of z."""
    clean, total = f(z), 0.0
    for xi in noise.unbind(1):
        moved = (z + xi).clamp(z.min(), z.max())
        with torch.no_grad():
            noisy = f(moved)
        change = torch.linalg.vector_norm(clean - noisy, dim=1)
        total = total + (change / torch.linalg.vector_norm((z - moved).flatten(1), dim=1)).sum()
    return total / noise.shape[1]


@method(
    "jit",
    JiT,
    family="gradient",
    reads="forget",
    paper="foster2025",
    cost=("epochs * seen(F, batch_size) * (gradient + samples * forward if as_released else gradient * (samples + 1))"),
    fails=(
        "Where rate or sigma are not chosen anew for network and request: it flattens the function, and so its "
        "answers, everywhere near the forgotten pictures."
    ),
    published=HEAVY_BALL
    | {
        "epochs": 1,
        "batch_size": 128,
        "lr": 3e-4,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "sigma": 0.5,
        "samples": 25,
        "as_released": True,
    },
    origin="the released values for a class on a VGG-11",
    search={"lr": (1e-3, 1.0, "log"), "sigma": (0.05, 2.0, "log")},
    taught=False,
)
def jit(model, split, config: JiT, run) -> nn.Module:
    recipe, forget = config.recipe(), split.forget
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    like = next(model.parameters())
    mean, std = (v.reshape(1, -1, 1, 1).to(like) for v in models.pixel_statistics(forget))
    optimiser, rng, steps = optimiser_of(parameters, recipe), run.generator("noise"), steps_of(len(forget), recipe)
    loss_of = released_steepness if config.as_released else steepness

    def f(z: Tensor) -> Tensor:
        return model(z * std + mean)

    mode = training_mode(model, forget.pixels([0])) if config.as_released else models.evaluating(model)
    with mode, torch.enable_grad(), progress_bar(steps, run.progress) as bar:
        for step, index in enumerate(_order(len(forget), config, run)):
            z = (forget.pixels(index, device=like.device, dtype=like.dtype) - mean) / std
            noise = config.sigma * torch.randn(len(index), config.samples, *forget.shape, generator=rng).to(z)
            set_rate(optimiser, recipe.rate(step, steps))
            if not config.as_released:
                optimiser.zero_grad()
            loss_of(f, z, noise).backward()
            clip(parameters, recipe)
            optimiser.step()
            noisy = len(index) * config.samples
            run.tally.count("gradient", len(index))
            run.tally.count("forward" if config.as_released else "gradient", noisy)
            bar.update()
    return model


def _order(n: int, config: JiT, run):
    """Batches of positions: shuffled, or in order as released."""
    if not config.as_released:
        return minibatches(n, config.batch_size, config.epochs, run.generator("order"), keep_last=config.keep_last)
    size = min(n, config.batch_size)
    batches = [b for b in torch.arange(n).split(size) if config.keep_last or len(b) == size]
    return batches * config.epochs
