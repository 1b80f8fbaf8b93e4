"""MU-Mis: make the answer about the true class as insensitive to a forgotten picture as that about any other class.

    min_theta  E_F [ ||grad_x f_y(x)||^2 - ||grad_x f_c(x)||^2 ],     f logits, y the label, c != y drawn at random

for each picture anew in every step: training makes f_y sensitive to the pictures that it sees, so this takes their
contribution back. It reads the forget set alone. Cheng et al., arXiv 2402.15109. Limits: for f = W x + b the loss of a
picture is ||w_y||^2 - ||w_c||^2 whatever x, and one plain step makes w_y (1 - 2 lr) and w_c (1 + 2 lr) of itself and
leaves the other rows and b; a constant added to f changes nothing.

It has no lower bound, so it has to be stopped: where the mean of ||grad_x f_c(x)|| over a batch, which falls first, is
above its lowest value by more than `recovery` times its first one, or after `epochs` passes. The equation and the idea
of the stop are the paper's; optimiser, rates, batches and the value of the stop could not be read there, and its code
was not to be had: loop and defaults are ours, and nothing stands as published. The network is in eval mode, so that a
picture's sensitivity is its own. Gradients are by pixels between 0 and 1.

A step differentiates twice, so models are not stacked and no parts are taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearnlib.approximate.driven import Pictures, driven
from unlearnlib.approximate.random_labels import wrong_labels
from unlearnlib.approximate.steps import Descent, shuffled
from unlearnlib.methods.registry import method
from unlearnlib.training.batches import steps_of
from unlearnlib.training.doors import check_model
from unlearnlib.training.modes import evaluating


@dataclass(frozen=True)
class MuMis(Descent):
    epochs: int = 5  # passes over the forget set
    lr: float = 1e-4
    recovery: float = 0.2  # of its first value, by which the other classes' sensitivity has come back when it ends

    def __post_init__(self):
        if not self.recovery >= 0:
            raise ValueError(f"mu_mis needs recovery >= 0, not {self.recovery}")


def sensitivities(model: nn.Module, pixels: Tensor, classes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """||grad_x f_c(x)||^2 [B] for the classes c of `classes` [B] and of `others` [B], both differentiable in theta."""
    x = pixels.detach().requires_grad_(True)
    logits = model(x)
    found = []
    for chosen in (classes, others):
        (slope,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), x, create_graph=True)
        found.append(slope.flatten(1).square().sum(1))
    return tuple(found)


@method(
    "mu_mis",
    MuMis,
    family="gradient",
    reads="forget",
    paper="cheng2024",
    cost="at most epochs * seen(F, batch_size) * (linearise + vjp + 2 * hvp)",
    fails=(
        "Beyond a small dose: its loss has no lower bound, and nothing guards the retain set. On a linear network "
        "it does not depend on the picture at all."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-6, 1e-2, "log"), "epochs": (1, 10), "recovery": (0.01, 1.0, "log")},
    taught=False,
)
def mu_mis(model, split, config: MuMis, run) -> nn.Module:
    classes, pictures, drawn = (
        check_model(model, split.train),
        Pictures(model, split.train, run),
        run.generator("labels"),
    )
    if classes < 2:
        raise ValueError("mu_mis needs at least two classes")

    def turns() -> Iterator[Callable[[], None]]:
        first = lowest = None
        for index in shuffled(split.forget_index, config, run.generator("order")):
            pixels, labels = pictures(index)
            others = wrong_labels(labels.cpu(), classes, drawn).to(labels)
            own, other = sensitivities(model, pixels, labels, others)
            run.tally.count("linearise", len(index))
            run.tally.count("vjp", len(index))
            level = other.detach().sqrt().mean().item()
            first, lowest = (level, level) if first is None else (first, min(lowest, level))
            if level - lowest > config.recovery * first:
                return
            run.tally.count("hvp", 2 * len(index))
            yield (own - other).mean().backward

    steps = steps_of(len(split.forget_index), config.recipe())
    with sdpa_kernel(SDPBackend.MATH):
        return driven(model, turns(), config.recipe(), steps, run, evaluating(model))
