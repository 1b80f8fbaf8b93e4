"""One table of networks, shapes and devices that every method, audit and learner is tried on.

A case says how a network is made, on what pictures, and what is expected of it. `takes` is "all" where every method
must work, "some" where a method may refuse in one line (its layers have no curvature block, say), "none" where it must.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from small import dataset, split, stranger
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from unlearnlib.training import models


@dataclass(frozen=True)
class Case:
    """`build(shape, classes)` gives an untrained network; it is trained on `small.split(**options)`."""

    name: str
    build: Callable[[tuple[int, int, int], int], nn.Module]
    takes: str = "all"
    channels: int = 1
    side: int = 8
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build((self.channels, self.side, self.side), 3).to(device=self.device, dtype=self.dtype)

    def split(self, **options):
        return split(side=self.side, channels=self.channels, **{"n": 60, "forget": 12, **options})


def named(name: str, **options) -> Callable:
    """A network of our own or of torchvision."""

    def build(shape, classes):
        return models.build(name, dataset(side=shape[1], channels=shape[0]), **options)

    return build


class Normed(nn.Module):
    """Two convolutions and a head, with a norm of any kind behind the first."""

    def __init__(self, shape, classes, norm):
        super().__init__()
        self.first = nn.Conv2d(shape[0], 4, 3, padding=1)
        self.norm = norm(shape)
        self.second = nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4 * (shape[1] // 2) * (shape[2] // 2), classes)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))).flatten(1))


class Residual(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 4, 3, padding=1)
        self.inside = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head((x + F.relu(self.inside(x))).mean((2, 3)))


class Recurrent(nn.Module):
    """Reads a picture row by row."""

    def __init__(self, shape, classes):
        super().__init__()
        self.lstm = nn.LSTM(shape[0] * shape[2], 8, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(1, 2).flatten(2))[0][:, -1])


class SmallViT(nn.Module):
    """Patches of 4 pixels, one attention layer, mean pooling."""

    def __init__(self, shape, classes):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], 8, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(1, (shape[1] // 4) * (shape[2] // 4), 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.block(self.patches(x).flatten(2).transpose(1, 2) + self.place).mean(1))


class Answering(nn.Module):
    """A network whose answer is no tensor of logits, or a wrong one."""

    def __init__(self, shape, classes, answer: Callable[[Tensor], object]):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
        self.answer = answer

    def forward(self, x):
        return self.answer(self.body(x))


def _mlp(shape, classes):
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))


def _frozen(shape, classes):
    net = _mlp(shape, classes)
    net[1].requires_grad_(False)
    return net


def _weight_normed(shape, classes):
    net = _mlp(shape, classes)
    parametrizations.weight_norm(net[1])
    return net


def _old_weight_normed(shape, classes):
    net = _mlp(shape, classes)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net[1])
    return net


def _spectral(shape, classes):
    net = _mlp(shape, classes)
    parametrizations.spectral_norm(net[1])
    return net


def _pruned(shape, classes):
    net = _mlp(shape, classes)
    prune.l1_unstructured(net[1], "weight", amount=0.5)
    return net


def _tied(shape, classes):
    return stranger()


def norm(make: Callable) -> Callable:
    return lambda shape, classes: Normed(shape, classes, make)


def answer(change: Callable) -> Callable:
    return lambda shape, classes: Answering(shape, classes, change)


CASES = (
    # plain networks: all must work
    Case("mlp", _mlp),
    Case("cnn", named("cnn", width=4, hidden=8)),
    Case("batch norm", norm(lambda _: nn.BatchNorm2d(4))),
    Case("group norm", norm(lambda _: nn.GroupNorm(2, 4))),
    Case("layer norm", norm(lambda s: nn.LayerNorm([4, *s[1:]]))),
    Case("residual", Residual),
    Case("frozen", _frozen),
    Case("double", _mlp, dtype=torch.float64),
    Case("half", _mlp, dtype=torch.bfloat16),
    Case("colour", named("cnn", width=4, hidden=8), channels=3, side=12),
    Case("whitened", named("whitened", widths=(8, 8)), channels=3, side=12),
    # layers whose blocks some curvature methods do not know
    Case("tied, frozen, dropout", _tied, takes="some"),
    Case("batch norm without parameters", norm(lambda _: nn.BatchNorm2d(4, affine=False)), takes="some"),
    Case("PReLU", lambda s, k: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.PReLU(), nn.Linear(8, k)), "some"),
    Case("weight norm", _weight_normed, takes="some"),
    Case("old weight norm", _old_weight_normed, takes="some"),
    Case("spectral norm", _spectral, takes="some"),
    Case("pruned", _pruned, takes="some"),
    Case("LSTM", Recurrent, takes="some"),
    Case("ViT", SmallViT, takes="some"),
    Case("torchvision", named("squeezenet1_1"), takes="some", channels=3, side=32),
    # no classifiers: all must refuse, before anything is trained
    Case("dict", answer(lambda z: {"logits": z}), takes="none"),
    Case("tuple", answer(lambda z: (z, z)), takes="none"),
    Case("object", answer(lambda z: SimpleNamespace(logits=z)), takes="none"),
    Case("too few outputs", answer(lambda z: z[:, :2]), takes="none"),
    Case("one output too little in shape", answer(lambda z: z[0]), takes="none"),
    Case("not finite", answer(lambda z: z * float("nan")), takes="none"),
)


def devices(case: Case) -> list[Case]:
    """The case on the CPU, and on an accelerator where there is one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return [case] + (
        [replace(case, name=f"{case.name}, {accelerator}", device=str(accelerator))] if accelerator else []
    )


ALL = [each for case in CASES for each in devices(case)]
IDS = [case.name for case in ALL]


def refused(error: BaseException) -> None:
    """A refusal is one line that says something."""
    text = str(error)
    assert isinstance(error, (ValueError, ArithmeticError)), f"{type(error).__name__}: {text}"
    assert 10 < len(text) < 400 and "\n" not in text, text
