"""CF-k and EU-k: unlearn in the last k layers only.

    CF-k   fine-tune the last k layers on the retain set ("catastrophically forget")
    EU-k   draw the last k layers anew, then train them on the retain set ("exactly unlearn")

All layers before them stay bit-identical, their batch-norm statistics included: what they hold about the forget set
they keep. k counts convolutional and linear layers from the output, in the order in which data pass them; the norms
between them go along. Goel et al. 2022, arXiv 2201.06640. With k = all layers CF-k is fine-tuning and EU-k is
retraining with the fine-tuning recipe. The defaults are ours.

`as_released` are two habits of the authors' code, which the published rows have: the batch norms of the frozen part are
in train mode, so that their statistics drift, and EU-k draws weights by Kaiming's normal law, with biases at zero and
norms as they were. Deviations of the published rows: crops have black borders, theirs the mean grey of CIFAR; k is the
first of the authors' 1, 4, 7, 10; the rest is their script for small CIFAR-5.
"""

from dataclasses import dataclass

import torch
from torch import nn

from unlearnlib import seeding
from unlearnlib.approximate.steps import HEAVY_BALL, Steps, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models
from unlearnlib.training.loop import Part

_PUBLISHED = HEAVY_BALL | {
    "k": 1,
    "lr": 0.01,
    "weight_decay": 5e-5,
    "batch_size": 64,
    "schedule": "restarts",
    "lowest": 5e-4,
    "clip_norm": 10.0,
    "augment": "flip-crop-zero",
    "as_released": True,
}


@dataclass(frozen=True)
class LastLayers(Steps):
    k: int = 2  # convolutional and linear layers, counted from the output
    as_released: bool = False  # statistics of frozen norms drift, and EU-k draws by Kaiming's law


class _Held(Part):
    """Keeps weights where they are and leaves the norms beside them in train mode, which freezing does not."""

    def __init__(self, names: set[str]):
        self._names = names

    def after_gradient(self, model: nn.Module, step: int) -> None:
        for name, p in model.named_parameters():
            if name in self._names:
                p.grad = None


def _tail(model: nn.Module, split, config: LastLayers) -> tuple[set[str], tuple[Part, ...]]:
    """The modules of the last k layers, and a part that holds the others; where there is none they are frozen."""
    chosen = models.tail(model, split.train.pixels([0]), config.k)
    others = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in chosen}
    if config.as_released:
        return chosen, (_Held(others),)
    for name, p in model.named_parameters():
        p.requires_grad_(p.requires_grad and name not in others)
    return chosen, ()


@torch.no_grad()
def kaiming(model: nn.Module, seed: int, *, only: set[str]) -> nn.Module:
    """`model`, in place, with the linear and convolutional layers `only` drawn as the authors draw them."""
    with seeding.isolated(seed, "initialisation"):
        for name, module in model.named_modules():
            if name in only and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                for p in module.parameters(recurse=False):
                    if p.requires_grad:
                        nn.init.kaiming_normal_(p) if p.dim() > 1 else nn.init.zeros_(p)
    return model


def _program(model: nn.Module, split, config: LastLayers, run, parts: tuple[Part, ...]) -> Program:
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps, parts)


@method(
    "cf_k",
    LastLayers,
    family="gradient",
    reads="retain",
    paper="goel2022",
    cost="gradient * epochs * seen(R, batch_size)",
    fails=(
        "Where the layers before the last k hold what is to be forgotten: they stay bit-identical, and any probe "
        "of them finds it."
    ),
    published=_PUBLISHED | {"epochs": 30},
    origin="the authors' script for small CIFAR-5",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "k": (1, 2)},
)
def cf_k(model, split, config: LastLayers, run) -> Program:
    _, parts = _tail(model, split, config)
    return _program(model, split, config, run, parts)


@method(
    "eu_k",
    LastLayers,
    family="gradient",
    reads="retain",
    paper="goel2022",
    cost="gradient * epochs * seen(R, batch_size)",
    fails="As CF-k; and with too few epochs the new layers are worse than those they replace.",
    published=_PUBLISHED | {"epochs": 62},
    origin="the authors' script for small CIFAR-5",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "k": (1, 2)},
)
def eu_k(model, split, config: LastLayers, run) -> Program:
    chosen, parts = _tail(model, split, config)
    draw = kaiming if config.as_released else models.reinitialised
    return _program(draw(model, run.seed, only=chosen), split, config, run, parts)
