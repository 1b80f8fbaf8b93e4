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
fine-tuning on R'. Deviations: every noise picture is used once, and is labelled with the class that it was made for;
noise is made in eval mode; the defaults are ours, but for the authors' penalty 0.1, noise lr 0.1 and 40 noise steps.

`as_released` does as the authors' code: the noise of a class is made by the network in train mode, so that batch norm
reads it; of it three pictures (the loop runs to the number of channels) are used, `noise_copies` times; and all are
labelled 0, whatever class they were made for. Published is that code for CIFAR-10, whose R' are the first 1,000
pictures of each kept class (`per_class`).
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
from unlearnlib.training.modes import training_mode


@dataclass(frozen=True)
class Unsir(Descent):
    epochs: int = 1  # passes that impair
    lr: float = 0.02  # of impairing
    repair_epochs: int = 1  # passes that repair
    repair_lr: float = 0.01  # of repairing
    retain_fraction: float = 0.3  # of the retain set that is read
    per_class: int | None = None  # of each kept class, the first so many are read instead
    noise_images: int = 64  # for each forgotten class
    noise_copies: int = 1  # how often each is shown in a pass that impairs
    noise_steps: int = 40  # of Adam on the noise pictures
    noise_lr: float = 0.1  # of these steps
    penalty: float = 0.1  # of the squared norm of the noise
    whole_classes: bool = True  # refuse requests for anything else
    as_released: bool = False  # noise in train mode, three pictures of it, all labelled 0

    def __post_init__(self):
        counts = self.noise_images, self.noise_steps, self.noise_copies, self.repair_epochs, self.per_class or 1
        if not 0 < self.retain_fraction <= 1 or min(counts) < 0:
            raise ValueError("unsir needs 0 < retain_fraction <= 1 and counts of at least 0")


def _chunks(labels: Tensor, size: int = 256) -> Iterator[Tensor]:
    """Positions of at most `size` noise pictures of one class."""
    for c in labels.unique():
        yield from (labels == c).nonzero()[:, 0].split(size)


def error_maximising(
    model: nn.Module, labels: Tensor, mean: Tensor, std: Tensor, config: Unsir, rng: torch.Generator, tally
) -> Tensor:
    """Noise pictures [n, C, H, W], the i-th made to be as unlike class labels[i] as the network sees it.

    mean, std   of the pixels, [C, H, W] or whatever broadcasts to it; the shape of `mean` is that of a picture

    Adam on standard normal noise, class by class; the network is in eval mode and unchanged, or in train mode where
    `config.as_released`.
    """
    like = next(model.parameters())
    noise = torch.randn(len(labels), *mean.shape, generator=rng).to(like)
    mean, std, labels = mean.to(like), std.to(like), labels.to(like.device)
    mode = training_mode(model, mean[None]) if config.as_released else models.evaluating(model)
    with mode, torch.enable_grad():
        for where in _chunks(labels):
            part = noise[where].clone().requires_grad_(True)
            optimiser = torch.optim.Adam([part], lr=config.noise_lr)
            for _ in range(config.noise_steps):
                loss = -F.cross_entropy(model(mean + std * part), labels[where])
                loss = loss + config.penalty * part.square().flatten(1).sum(1).mean()
                part.grad = torch.autograd.grad(loss, part)[0]
                optimiser.step()
                tally.count("gradient", len(part))
            noise[where] = part.detach()
    return (mean + std * noise).cpu()


def impairing_set(model: nn.Module, split, kept: Tensor, config: Unsir, run) -> Examples:
    """The retained examples at positions `kept`, followed by the noise pictures of each forgotten class."""
    retained = split.train[kept]
    pixels = retained.pixels(dtype=next(model.parameters()).dtype)
    mean, std = models.pixel_statistics(retained)
    shape = split.train.shape
    labels = split.forget.labels.unique().repeat_interleave(config.noise_images)
    channel = [v[:, None, None].expand(shape) for v in (mean, std)]
    noise = error_maximising(model, labels, *channel, config, run.generator("noise"), run.tally)
    if config.as_released:
        first = torch.cat([(labels == c).nonzero()[:3, 0] for c in labels.unique()]) if len(labels) else labels
        noise, labels = noise[first], torch.zeros_like(labels[first])
    noise, labels = noise.repeat(config.noise_copies, 1, 1, 1), labels.repeat(config.noise_copies)
    return Examples(torch.cat([pixels, noise.to(pixels)]), torch.cat([retained.labels, labels]))


def _kept(split, config: Unsir, run) -> Tensor:
    """Positions of R'."""
    where = split.retain_index
    if config.per_class is not None:
        labels = split.train.labels[where]
        return where[torch.cat([(labels == c).nonzero()[: config.per_class, 0] for c in labels.unique()]).sort().values]
    drawn = torch.randperm(len(where), generator=run.generator("subset"))
    return where[drawn[: max(1, round(config.retain_fraction * len(drawn)))].sort().values]


@method(
    "unsir",
    Unsir,
    family="gradient",
    reads="retain",
    paper="tarun2023",
    cost=(
        "at most gradient * (epochs * (R + C * noise_copies * noise_images) + repair_epochs * R"
        " + C * noise_steps * noise_images)"
    ),
    fails=(
        "On anything but whole classes, which it refuses unless told otherwise: its noise knows classes, not examples. "
        "Where one pass of repair is not enough, the retain set stays damaged."
    ),
    published={
        "epochs": 1,
        "repair_epochs": 1,
        "optimiser": "adam",
        "lr": 0.02,
        "repair_lr": 0.01,
        "weight_decay": 0.0,
        "batch_size": 256,
        "keep_last": True,
        "per_class": 1000,
        "noise_images": 256,
        "noise_copies": 20,
        "noise_steps": 40,
        "noise_lr": 0.1,
        "penalty": 0.1,
        "as_released": True,
    },
    origin="the authors' code for CIFAR-10",
    search={"lr": (1e-3, 1e-1, "log"), "repair_lr": (1e-3, 1e-1, "log")},
)
def unsir(model, split, config: Unsir, run) -> nn.Module:
    if config.whole_classes:
        only_whole_classes("unsir", split)
    kept = _kept(split, config, run)
    both = impairing_set(model, split, kept, config, run)
    repair = replace(config, epochs=config.repair_epochs, lr=config.repair_lr)
    for name, count, phase in (("order", len(both), config), ("repair", len(kept), repair)):
        batches, steps = passes(torch.arange(count), both.labels, phase, run.generator(name))
        settings = {"seed": run.seed, "tally": run.tally, "progress": run.progress}
        model = descend(model, both, batches, run.taught(phase.recipe()), steps, **settings)
    return model
