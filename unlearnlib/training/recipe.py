"""How a model is trained, as data: optimiser, learning rates, augmentation, precision."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

AUGMENTATIONS = ("none", "shift", "crop", "flip", "flip-crop")
OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Raises ValueError on a value out of range."""

    epochs: int = 10
    batch_size: int = 64
    optimiser: str = "adamw"  # "sgd" (Nesterov momentum) or "adamw"
    lr: float = 2e-3  # peak learning rate
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    schedule: str = "one-cycle"  # linear rise over the first 20 %, then linear fall to 0; "cosine"; "constant"
    label_smoothing: float = 0.0
    augment: str = "none"  # "shift" 1 pixel, "crop" (reflect-pad an eighth), "flip", "flip-crop"
    precision: str = "auto"  # "float32"; "bfloat16" (mixed); "auto": in the fast mode the faster one, else float32
    channels_last: bool = False  # memory layout of the weights; bfloat16 always takes it

    def __post_init__(self):
        for field, known in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"Recipe.{field} must be one of {', '.join(known)}, not {getattr(self, field)!r}")
        if self.epochs < 0 or self.batch_size < 1 or self.lr < 0 or self.weight_decay < 0:
            raise ValueError("Recipe needs epochs >= 0, batch_size >= 1, lr >= 0 and weight_decay >= 0")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 <= `step` < `steps`."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        peak = max(1, round(0.2 * steps))
        return self.lr * (step + 1) / peak if step < peak else self.lr * (steps - step) / (steps - peak + 1)


def optimiser_of(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser that `recipe` names, over `parameters`."""
    parameters = list(parameters)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)
