"""KDE: draw the first and the last layer anew, and distil the original back in.

    reset the first convolution and the head
    warm-up on held-out pictures V:      min KL(f0_T || f_T)
    on the retain set:                   min CE(f, y) + 2 KL(f0_T || f_T),          f_T = softmax(f / T)

One of the competition's published solutions (code: munl/unlearning/kgltop6.py of arXiv 2410.01276, after the notebook
that it names). The forget set is never read, and yet f0, the teacher, has learnt it. The released loss adds a soft
cross-entropy and a divergence whose gradients are one and the same, hence the factor 2; neither carries the factor
T^2. The warm-up read the competition's validation pictures. Here it reads a part of the retain set that is left out
of the second stage, so that no picture that is reported on is used. Each stage has an optimiser of its own; the rate
of the second falls by a cosine.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearnlib.approximate.steps import HEAVY_BALL, Descent, even, shuffled, softened, taught
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.batches import Batch, steps_of
from unlearnlib.training.loop import descend
from unlearnlib.training.renewal import copied


@dataclass(frozen=True)
class Kde(Descent):
    epochs: int = 3  # passes over the retain set in the second stage
    lr: float = 1e-3
    schedule: str = "cosine"
    per_epoch: bool = True
    warm_epochs: int = 3  # passes over the held-out part
    warm_lr: float = 9e-4  # of the warm-up
    held_out: float = 0.1  # share of the retain set that the warm-up reads
    temperature: float = 5.0  # T, of both answers

    def __post_init__(self):
        if not 0 < self.held_out < 1 or self.warm_epochs < 0 or self.temperature <= 0:
            raise ValueError(
                "kde needs 0 < held_out < 1, warm_epochs >= 0 and temperature > 0, not "
                f"{self.held_out}, {self.warm_epochs} and {self.temperature}"
            )


def parts_of(split, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions of the retain set for the warm-up (at least one) and for the second stage."""
    where = split.retain_index[torch.randperm(len(split.retain_index), generator=rng)]
    count = min(max(1, round(share * len(where))), len(where) - 1)
    if count < 1:
        raise ValueError(f"kde holds a part of the retain set out: {len(where)} examples are too few")
    return where[:count].sort().values, where[count:].sort().values


@method(
    "kde",
    Kde,
    family="distillation",
    reads="retain",
    paper="cadet2024",
    cost=(
        "(lambda v: gradient * (warm_epochs * seen(v, batch_size) + epochs * seen(R - v, batch_size)) + forward * R)"
        "(min(max(1, round(held_out * R)), R - 1))"
    ),
    fails="The teacher is the original: what its answers about retained pictures say of the forgotten ones comes back.",
    published=HEAVY_BALL
    | {
        "epochs": 3,
        "lr": 1e-3,
        "weight_decay": 5e-4,
        "batch_size": 64,
        "schedule": "cosine",
        "warm_epochs": 3,
        "warm_lr": 9e-4,
        "temperature": 5.0,
    },
    origin="the solution's own values, in the benchmark's code",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 5), "temperature": (1.0, 10.0)},
)
def kde(model, split, config: Kde, run) -> nn.Module:
    teacher, labels = copied(model), split.train.labels
    picture = split.train.pixels([0])
    ends = {models.layers(model, picture)[0], models.head_name(model, picture)}
    model = models.reinitialised(model, run.seed, only=ends)
    warm, rest = parts_of(split, config.held_out, run.generator("held out"))
    answer = softened(config.temperature)
    unscaled = config.temperature**-2  # a soft loss carries T^2, the solution's does not

    def stage(where: Tensor, chosen: Kde, own: float, matched: float, order: str, seed: int) -> nn.Module:
        soft = taught(teacher, split, where, run, answer)
        batches = (
            Batch(i, labels[i], even(i, own), soft(i), even(i, matched * unscaled), config.temperature)
            for i in shuffled(where, chosen, run.generator(order))
        )
        recipe = run.taught(chosen.recipe())
        steps = steps_of(len(where), recipe)
        return descend(model, split.train, batches, recipe, steps, seed=seed, tally=run.tally, progress=run.progress)

    warming = replace(config, epochs=config.warm_epochs, lr=config.warm_lr, schedule="constant")
    stage(warm, warming, 0.0, 1.0, "warm", run.seed)
    return stage(rest, config, 1.0, 2.0, "order", run.seed + 1)
