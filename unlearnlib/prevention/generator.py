"""A generator with side information: trained once, it protects any picture by one pass.

    delta = eps tanh(G(x, y)),     min_G min_theta E CE(f_theta(D(x + delta)), y)

with the label y as side information, which is the same wherever the picture goes, and a distortion D, here a blur of
every other batch, so that the noise outlives it.

**A reconstruction** of the idea of Segue (Zhang et al., ICASSP 2025, arXiv:2310.16061), of which the abstract was read
and no code was found. That a generator, labels and a distortion layer are used is theirs; the networks, the loss, the
blur and all numbers are ours. Theirs also takes pseudo-labels in place of labels; this one does not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.prevention.defences import box
from unlearnlib.prevention.protected import Task, check_known
from unlearnlib.training.batches import minibatches
from unlearnlib.training.modes import training_mode
from unlearnlib.training.work import multiplications

SEES = ("both", "label", "picture")


@dataclass(frozen=True)
class Generator:
    steps: int = 200  # of the generator and the network, together
    batch_size: int = 64
    lr: float = 2e-3  # of both, by Adam
    sees: str = "both"  # "both"; "label": one pattern a class; "picture": no side information
    width: int = 16  # channels inside the generator
    blur: int = 3  # side of the box that D averages over, on every other batch; 1: no distortion
    network: str | nn.Module = "cnn"  # what the noise is made against: a name, or a network whose architecture is taken


class Pattern(nn.Module):
    """G: pixels [B, C, H, W] and labels [B] -> [B, C, H, W].

    At half the size, a coarse pattern of the label meets what a convolution sees in the picture.
    """

    SIDE = 8  # of the grid that a label's pattern is drawn on

    def __init__(self, channels: int, classes: int, width: int, sees: str):
        super().__init__()
        self.sees, self.width = sees, width
        self.picture = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.side = nn.Embedding(classes, width * self.SIDE**2)
        self.mix, self.out = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        half = [-(-side // 2) for side in x.shape[2:]]
        grid = torch.zeros(len(x), self.width, *half)
        if self.sees != "picture":
            told = self.side(labels).view(len(x), self.width, self.SIDE, self.SIDE)
            grid = grid + F.interpolate(told, size=half, mode="nearest")
        if self.sees != "label":
            grid = grid + self.picture(x)
        mixed = torch.relu(self.mix(torch.relu(grid)))
        return self.out(F.interpolate(mixed, size=x.shape[2:], mode="nearest"))


def generator(task: Task, config: Generator):
    """The noise of a generator that was trained on these pictures, and that generator for further ones."""
    if config.sees not in SEES:
        raise ValueError(f"sees is one of {', '.join(SEES)}, not {config.sees!r}")
    examples, eps = task.examples, task.eps
    model = task.surrogate(config.network)
    with seeding.isolated(task.seed, "prevention", "generator"):
        pattern = Pattern(examples.shape[0], task.classes, config.width, config.sees)
    optimiser = torch.optim.Adam([*pattern.parameters(), *model.parameters()], lr=config.lr)
    labels, rng = examples.labels, task.generator("order")
    with torch.no_grad():
        passes = _multiplications(pattern, examples)
    done = 0
    with training_mode(model, examples.pixels([0])):
        while done < config.steps:
            for index in minibatches(len(labels), config.batch_size, 1, rng):
                if done == config.steps:
                    break
                x = examples.pixels(index)
                x = (x + eps * torch.tanh(pattern(x, labels[index]))).clamp(0, 1)
                loss = F.cross_entropy(model(box(x, config.blur) if done % 2 else x), labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                done += 1
                task.tally.count("gradient", len(index))
                task.tally.algebra(3 * passes * len(index), model, examples)  # forward and backward of the generator

    @torch.no_grad()
    def noise(more, tally) -> Tensor:
        if config.sees != "picture":
            check_known(more, task.classes)
        tally.algebra(passes * len(more), model, examples)
        parts = torch.arange(len(more)).split(config.batch_size)
        made = [torch.tanh(pattern(more.pixels(index), more.labels[index])) for index in parts]
        return eps * torch.cat(made)

    return noise(examples, task.tally), noise


def _multiplications(pattern: Pattern, examples) -> float:
    """Those of one picture, counted as `training.work` counts a classifier's."""

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = pattern

        def forward(self, x):
            return self.inside(x, torch.zeros(len(x), dtype=torch.int64))

    return multiplications(Alone(), examples)
