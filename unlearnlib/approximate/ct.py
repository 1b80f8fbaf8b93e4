"""CT: transpose every kernel, then fine-tune on the retain set.

    W[o, i, h, w] <- W[o, i, w, h]        for every two-dimensional convolution

One of the competition's published solutions ("convolution transpose"; code: munl/unlearning/kgltop5.py of arXiv
2410.01276). The transposed network answers transposed pictures as the original answers them upright, where strides
and paddings are square and the last map is pooled: a damage that is the same for every picture, and nothing in it
depends on the forget set. Its authors used it for half of their 512 networks, beside another method. Transposing
twice is the identity; kernels of one by one, and symmetric ones, stay. Networks without convolutions, and kernels
that are not square, are refused.
"""

from dataclasses import dataclass

import torch

from unlearnlib.approximate.competition import convolutions
from unlearnlib.approximate.steps import HEAVY_BALL, Steps, passes
from unlearnlib.methods.registry import Program, method


@dataclass(frozen=True)
class Ct(Steps):
    epochs: int = 3  # passes over the retain set
    lr: float = 1e-3
    schedule: str = "cosine"
    per_epoch: bool = True


@method(
    "ct",
    Ct,
    family="gradient",
    reads="retain",
    paper="cadet2024",
    cost="gradient * epochs * seen(R, batch_size)",
    fails=(
        "Where a kernel is nearly symmetric, or the pictures are, nothing is damaged and it is fine-tuning; what "
        "is not repaired in a few passes is lost for retained pictures too."
    ),
    published=HEAVY_BALL | {"epochs": 3, "lr": 1e-3, "weight_decay": 5e-4, "batch_size": 64, "schedule": "cosine"},
    origin="the solution's own values, in the benchmark's code",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 5)},
)
def ct(model, split, config: Ct, run) -> Program:
    for name, layer in convolutions("ct", model, split.train.pixels([0]), or_linear=False).items():
        height, width = layer.kernel_size
        if height != width:
            raise ValueError(f"ct transposes square kernels: {name} has {height} by {width}")
        with torch.no_grad():
            layer.weight.copy_(layer.weight.transpose(2, 3).clone())
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)
