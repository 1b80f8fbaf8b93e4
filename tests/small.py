"""Small inputs that several test files share: two-blob pictures, a split of them, and a stranger's network."""

from dataclasses import replace

import torch
from torch import nn

from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.data.examples import Dataset, Examples, Split


def examples(n: int = 120, classes: int = 3, side: int = 8, channels: int = 1, seed: int = 0) -> Examples:
    """Class k lights quadrant k of the picture; noise makes it learnable but not trivial."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = torch.rand(n, channels, side, side, generator=rng) * 0.5
    half = side // 2
    for k in range(classes):
        row, column = half * (k // 2), half * (k % 2)
        images[labels == k, :, row : row + half, column : column + half] += 0.4
    return Examples((images.clamp(0, 1) * 255).to(torch.uint8), labels)


def dataset(**options) -> Dataset:
    return Dataset("quadrants", examples(**options), examples(**{**options, "seed": 1}), ("a", "b", "c"), "tests")


def split(n: int = 120, forget: int = 20, **options) -> Split:
    parts = [examples(n=m, seed=s, **options) for m, s in ((n - forget, 0), (forget, 2), (24, 3), (60, 1))]
    return Split.of(retain=parts[0], forget=parts[1], validation=parts[2], test=parts[3])


BY_CLASS = ("noise", "inversion", "recall", "gkt")  # they forget whole classes, and take nobody's word for it


CONVOLVES = ("ct",)  # what they change is a convolution


def asked(name: str, parts: Split) -> Split:
    """`parts`, for a method that forgets whole classes with labels that make the forget set class 0."""
    if name not in BY_CLASS:
        return parts
    labels = torch.where(parts.is_forget, 0, parts.train.labels.clamp(min=1))
    return replace(parts, train=replace(parts.train, labels=labels))


def ingredients(name: str, parts: Split, classes: int = 3) -> dict:
    """What a method cannot do without and `parts` alone cannot give: arbitrary effects for datamodel matching."""
    if name != "datamodel_matching":
        return {}
    n, rng = len(parts.train), torch.Generator().manual_seed(0)
    weights = torch.randn(n, n, classes, generator=rng) / n**0.5
    return {"datamodel": Datamodel(weights, torch.zeros(n, classes), "drawn", 3, parts.train.checksum())}


class Stranger(nn.Module):
    """A network that this library did not make: batch norm, dropout, tied weights, a frozen first layer."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.first = nn.Linear(8 * 16, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.third.weight = self.second.weight
        self.head = nn.Linear(16, classes)
        for p in self.stem.parameters():
            p.requires_grad_(False)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.norm(self.stem(x))), 2).flatten(1)
        x = self.drop(torch.relu(self.first(x)))
        x = torch.relu(self.third(torch.relu(self.second(x))))
        return self.head(x)


def stranger(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Stranger()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
