"""SalUn: random labels, but only the weights that matter to the forget set may move.

    m = 1[ |grad L_F(theta_0)| is among the largest `fraction` of all weights ]
    theta = m * (theta_0 + Delta) + (1 - m) * theta_0,     Delta from random labels on F beside CE on R

Fan et al., ICLR 2024, arXiv 2310.12508. Limit: with fraction 1 it is `random_labels`. The gradient is that of the mean
loss over the whole forget set, so it does not depend on a batch size, and masked weights are bit-identical
to the original's whatever momentum and weight decay do (in released code weight decay moved them until 2026, see
the bug ledger). Ties, which weights without any gradient make, are broken by position, so the share is exact. The
defaults are ours.

`as_released` teaches as the authors' code does for CIFAR-10: each epoch is a pass over F with labels drawn anew, among
all classes, for every batch, then a pass over R. Deviation of the published row: the mask is read from a file that
another of their scripts writes, which adds up the gradients of augmented batches; here it is as above.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from unlearnlib.approximate.dose.bounds import bounded
from unlearnlib.approximate.dose.limits import salient
from unlearnlib.approximate.random_labels import random_labels
from unlearnlib.approximate.steps import HEAVY_BALL, Steps, shuffled
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, steps


@dataclass(frozen=True)
class SalUn(Steps):
    fraction: float = 0.5  # of the weights may change
    as_released: bool = False  # a pass over F, its labels drawn anew, before each pass over R


def _alternating(split, config: SalUn, run) -> Iterator[Batch]:
    labels, (order, forget, drawn) = split.train.labels, map(run.generator, ("order", "forget", "labels"))
    classes, once = int(labels.max()) + 1, replace(config, epochs=1)
    for _ in range(config.epochs):
        for i in shuffled(split.forget_index, once, forget):
            yield Batch(i, torch.randint(0, classes, (len(i),), generator=drawn))
        for i in shuffled(split.retain_index, once, order):
            yield Batch(i, labels[i])


@method(
    "salun",
    SalUn,
    family="saliency",
    reads="retain, forget",
    paper="fan2024",
    cost=(
        "gradient * F + gradient * epochs"
        " * (seen(F, batch_size) + seen(R, batch_size) if as_released else seen(F + R, batch_size))"
    ),
    fails="As random labels: the mask decides where the change goes, not what is taught.",
    published=HEAVY_BALL
    | {
        "epochs": 10,
        "lr": 0.013,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "augment": "flip-crop-zero",
        "fraction": 0.5,
        "as_released": True,
    },
    origin="the released command for a tenth of CIFAR-10",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "fraction": (0.1, 1.0)},
)
def salun(model, split, config: SalUn, run) -> Program:
    program = random_labels(model, split, config, run)
    if config.as_released:
        sizes = (len(split.forget_index), len(split.retain_index))
        count = config.epochs * sum(steps(n, config.batch_size, config.keep_last) for n in sizes)
        program = replace(program, batches=_alternating(split, config, run), steps=count)
    return bounded(program, free=salient(program, split, run, config.fraction))
