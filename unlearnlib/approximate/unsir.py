"""UNSIR: unlearn a class with noise that the network takes for its opposite, then repair.

    noise    N = argmin_N  -CE(f_theta0(N), c) + penalty ||N||^2       for each forgotten class c, theta_0 fixed
    impair   one pass of descent on CE over the noise (labelled c) and a part R' of the retain set
    repair   one pass over R' alone

The forgotten pictures themselves are never read, only their classes: it is for whole classes, and other requests are
refused. `whole_classes=False` takes them: then c are the classes that occur in the forget set. So it serves as a
baseline for forgetting people (Choi and Na, arXiv 2311.02240); their code pairs noise with labels that it was not made
for, here each keeps its own. Who is to be forgotten has no part in it but through these classes.

Tarun et al., IEEE TNNLS 2023, arXiv 2111.08947. N is in units of the pixels' standard deviation about their mean (over
R'), ||.||^2 is summed over a picture's pixels, the loss is a mean over pictures. Limit: without noise and repair it is
fine-tuning on R'.
Deviations: every noise picture is used once (the authors mean to repeat one batch 20 times, and their code repeats 3
pictures); each noise picture is labelled with the class that it was made for; the defaults are ours, but for the
authors' penalty 0.1, noise lr 0.1, 40 noise steps, impair lr 0.02, repair lr 0.01.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.steps import Descent, only_whole_classes, passes
from unlearnlib.data.examples import Examples
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.loop import descend


@dataclass(frozen=True)
class Unsir(Descent):
    epochs: int = 1  # passes that impair
    lr: float = 0.02  # of impairing
    repair_epochs: int = 1  # passes that repair
    repair_lr: float = 0.01  # of repairing
    retain_fraction: float = 0.3  # of the retain set that is read
    noise_images: int = 64  # for each forgotten class
    noise_steps: int = 40  # of Adam on the noise pictures
    noise_lr: float = 0.1  # of these steps
    penalty: float = 0.1  # of the squared norm of the noise
    whole_classes: bool = True  # refuse requests for anything else

    def __post_init__(self):
        if not 0 < self.retain_fraction <= 1 or self.noise_images < 0 or self.noise_steps < 0:
            raise ValueError("unsir needs 0 < retain_fraction <= 1, noise_images >= 0 and noise_steps >= 0")


def _chunks(n: int, size: int = 256) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def error_maximising(
    model: nn.Module, labels: Tensor, mean: Tensor, std: Tensor, config: Unsir, rng: torch.Generator, tally
) -> Tensor:
    """Noise pictures [n, C, H, W], the i-th made to be as unlike class labels[i] as the network sees it.

    mean, std   of the pixels, [C, H, W] or whatever broadcasts to it; the shape of `mean` is that of a picture

    Adam on standard normal noise; the network is in eval mode and unchanged.
    """
    device = models.device_of(model)
    noise = torch.randn(len(labels), *mean.shape, generator=rng).to(device)
    mean, std, labels = mean.to(device), std.to(device), labels.to(device)
    with models.evaluating(model), torch.enable_grad():
        for where in _chunks(len(labels)):
            part = noise[where].clone().requires_grad_(True)
            optimiser = torch.optim.Adam([part], lr=config.noise_lr)
            for _ in range(config.noise_steps):
                loss = -F.cross_entropy(model(mean + std * part), labels[where])
                loss = loss + config.penalty * part.square().flatten(1).sum(1).mean()
                part.grad = torch.autograd.grad(loss, part)[0]
                optimiser.step()
                tally.gradient_evaluations += len(part)
            noise[where] = part.detach()
    return (mean + std * noise).cpu()


def impairing_set(model: nn.Module, split, kept: Tensor, config: Unsir, run) -> Examples:
    """The retained examples at positions `kept`, followed by `noise_images` noise pictures of each forgotten class."""
    retained = split.train[kept]
    pixels = retained.pixels()
    mean, std = models.pixel_statistics(retained)
    shape = split.train.shape
    labels = split.forget.labels.unique().repeat_interleave(config.noise_images)
    channel = [v[:, None, None].expand(shape) for v in (mean, std)]
    noise = error_maximising(model, labels, *channel, config, run.generator("noise"), run.tally)
    return Examples(torch.cat([pixels, noise.to(pixels)]), torch.cat([retained.labels, labels]))


@method(
    "unsir",
    Unsir,
    family="gradient",
    reads="retain",
    paper="tarun2023",
    cost="(epochs + repair_epochs) * retain_fraction * R + (epochs + noise_steps) * noise_images",
    fails=(
        "On anything but whole classes, which it refuses unless told otherwise: its noise knows classes, not examples. "
        "Where one pass of repair is not enough, the retain set stays damaged."
    ),
    published={"lr": 0.02, "repair_lr": 0.01, "noise_lr": 0.1, "noise_steps": 40, "penalty": 0.1},
    origin="the authors' values; the number of noise pictures is ours",
    search={"lr": (1e-3, 1e-1, "log"), "repair_lr": (1e-3, 1e-1, "log")},
)
def unsir(model, split, config: Unsir, run) -> nn.Module:
    if config.whole_classes:
        only_whole_classes("unsir", split)
    drawn = torch.randperm(len(split.retain_index), generator=run.generator("subset"))
    kept = split.retain_index[drawn[: max(1, round(config.retain_fraction * len(drawn)))].sort().values]
    both = impairing_set(model, split, kept, config, run)
    repair = replace(config, epochs=config.repair_epochs, lr=config.repair_lr)
    for name, count, phase in (("order", len(both), config), ("repair", len(kept), repair)):
        batches, steps = passes(torch.arange(count), both.labels, phase, run.generator(name))
        settings = {"seed": run.seed, "tally": run.tally, "progress": run.progress}
        model = descend(model, both, batches, run.taught(phase.recipe()), steps, **settings)
    return model
