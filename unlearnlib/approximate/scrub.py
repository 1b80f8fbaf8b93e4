"""SCRUB and SCRUB+R: alternate forgetting and repair against a frozen teacher, the original.

With teacher theta_0, student theta (which starts as theta_0) and p^T = softmax(logits / T), every epoch is

    theta climbs    E_F  T^2 KL(p^T_theta0 || p^T_theta)                       in the first `forget_epochs` epochs
    theta descends  E_R [gamma CE + alpha T^2 KL(p^T_theta0 || p^T_theta)]     in every epoch

SCRUB+R keeps the student of every epoch and, when all are done, rewinds to the one whose error on the forget set is
nearest the last student's error on validation examples of the same classes: high enough, and no higher.

Kurmanji et al., NeurIPS 2023, arXiv 2302.09880. Limits: without forgetting epochs and with alpha = 0, gamma = 1 it is
fine-tuning. At the start KL is at its minimum and has no gradient, so in a network without batch norm or dropout the
first forgetting pass moves nothing but by weight decay. Deviations: where pictures are not augmented the teacher's
outputs are computed once; classes weigh in the validation error as in the forget set; the original itself is not
rewound to (of the authors' notebooks one fails there and one takes the first epoch); the defaults are ours.

Published is, of SCRUB, the authors' notebook for small data: Adam, whose weight decay is part of the gradient, and a
rate that falls tenfold after epochs 5, 8 and 9; of SCRUB+R that on membership inference, for a hundred pictures of one
class of CIFAR-10, with SGD. That for a whole class has SGD, lr 5e-4, 3 epochs, 2 of them forgetting, alpha 0.001,
gamma 0.99, T 4 and batches of 512 and 256 (the 32 and 128 written there are not used).
The size of the forget batches sets the number of ascent steps: it is the dose.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.steps import Steps, even, matched_mean, softened, taught
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, minibatches, steps
from unlearnlib.training.loop import Part, Stage, Tally
from unlearnlib.training.prediction import predict

_PUBLISHED = {
    "epochs": 10,
    "forget_epochs": 3,
    "batch_size": 32,
    "forget_batch_size": 64,
    "optimiser": "adam",
    "lr": 5e-4,
    "weight_decay": 0.1,
    "schedule": "step-decay",
    "milestones": (5, 8, 9),
    "factor": 0.1,
    "keep_last": True,
    "alpha": 0.5,
    "gamma": 1.0,
    "temperature": 2.0,
}
_PUBLISHED_R = {
    "epochs": 5,
    "forget_epochs": 3,
    "batch_size": 32,
    "forget_batch_size": 16,
    "optimiser": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "lr": 5e-4,
    "weight_decay": 5e-4,
    "schedule": "step-decay",
    "milestones": (3, 5, 9),
    "factor": 0.1,
    "keep_last": True,
    "alpha": 0.5,
    "gamma": 1.0,
    "temperature": 4.0,
}
_SEARCH = {
    "lr": (1e-3, 1e-1, "log"),
    "epochs": (1, 5),
    "forget_epochs": (1, 5),
    "forget_batch_size": (16, 512, "log"),
    "alpha": (0.0, 1.0),
}
_COST = (
    "gradient * (min(epochs, forget_epochs) * seen(F, forget_batch_size) + epochs * seen(R, batch_size))"
    " + forward * (F + R if augment == 'none' else"
    " min(epochs, forget_epochs) * seen(F, forget_batch_size) + epochs * seen(R, batch_size))"
)


@dataclass(frozen=True)
class Scrub(Steps):
    epochs: int = 5
    forget_epochs: int = 3  # of the epochs, those that begin with a forgetting pass
    forget_batch_size: int = 64  # sets the number of ascent steps: the dose
    alpha: float = 0.5  # weight of the teacher on the retain set
    gamma: float = 1.0  # weight of the labels on the retain set
    temperature: float = 2.0  # T of both divergences

    def __post_init__(self):
        if not (self.temperature > 0 and self.forget_epochs >= 0 and self.forget_batch_size >= 1):
            raise ValueError("scrub needs temperature > 0, forget_epochs >= 0 and forget_batch_size >= 1")


def _batches(split, config: Scrub, run, teacher) -> Iterator[Batch]:
    """Forgetting pass and repair pass of each epoch; `teacher` as `steps.taught` makes it."""
    labels, order, forget_order = split.train.labels, run.generator("order"), run.generator("forget")

    def batch(index: Tensor, ce: float, kl: float) -> Batch:
        return Batch(index, labels[index], even(index, ce), teacher(index), even(index, kl), config.temperature)

    for epoch in range(config.epochs):
        if epoch < config.forget_epochs:
            size, last = config.forget_batch_size, config.keep_last
            for i in minibatches(len(split.forget_index), size, 1, forget_order, keep_last=last):
                yield batch(split.forget_index[i], 0.0, -1.0)
        for i in minibatches(len(split.retain_index), config.batch_size, 1, order, keep_last=config.keep_last):
            yield batch(split.retain_index[i], config.gamma, config.alpha)


def _ends(split, config: Scrub) -> tuple[int, ...]:
    """The number of steps done at the end of each epoch."""
    forget = steps(len(split.forget_index), config.forget_batch_size, config.keep_last)
    retain = steps(len(split.retain_index), config.batch_size, config.keep_last)
    return tuple((e + 1) * retain + min(e + 1, config.forget_epochs) * forget for e in range(config.epochs))


@method(
    "scrub",
    Scrub,
    family="distillation",
    reads="retain, forget",
    paper="kurmanji2023",
    cost=_COST,
    fails=(
        "Where forget batches are many or the rate is large, since the divergence that it climbs has no bound; "
        "and where they are few, nothing happens: the first pass has hardly a gradient."
    ),
    published=_PUBLISHED,
    origin="the authors' notebook for small data",
    search=_SEARCH,
)
def scrub(model, split, config: Scrub, run) -> Program:
    teacher = taught(model, split, torch.arange(len(split.train)), run, softened(config.temperature))
    return Program(model, _batches(split, config, run, teacher), config.recipe(), _ends(split, config))


class _Rewind(Part):
    """Keeps the student at the end of each epoch, and where it is stopped, with its error on the forget set; picks one.

    It is kept as all other parts leave it, so that what they bound is bounded in each.
    """

    stage = Stage.WATCH

    def __init__(self, split, ends: tuple[int, ...], tally: Tally):
        self._split, self._ends, self._tally = split, set(ends), tally
        self._kept: list[tuple[float, dict[str, Tensor]]] = []
        self._within = False  # an epoch that has begun

    def _wrong(self, model: nn.Module, examples) -> Tensor:
        return (predict(model, examples, tally=self._tally).argmax(1) != examples.labels).float()

    def after_step(self, model: nn.Module, step: int) -> bool:
        self._within = step + 1 not in self._ends
        if not self._within:
            self._keep(model)
        return False

    def _keep(self, model: nn.Module) -> None:
        error = self._wrong(model, self._split.forget).mean().item()
        self._kept.append((error, copy.deepcopy(model.state_dict())))

    def rewound(self, model: nn.Module) -> nn.Module:
        if self._within:
            self._keep(model)
        if not self._kept:
            return model
        held_out = self._split.validation
        wanted = matched_mean(self._wrong(model, held_out), held_out.labels, self._split.forget.labels)
        _, state = min(self._kept, key=lambda kept: abs(kept[0] - wanted))  # of two equally near the first
        model.load_state_dict(state)
        return model


@method(
    "scrub_r",
    Scrub,
    family="distillation",
    reads="retain, forget",
    paper="kurmanji2023",
    cost=f"{_COST} + forward * (epochs * F + (V if epochs else 0))",
    fails=(
        "As SCRUB; and where the validation set has too few examples of the forgotten classes to say what error "
        "to rewind to."
    ),
    published=_PUBLISHED_R,
    origin="the authors' notebook on membership inference, for a hundred pictures of a class of CIFAR-10",
    search=_SEARCH,
)
def scrub_r(model, split, config: Scrub, run) -> Program:
    program = scrub(model, split, config, run)
    if not torch.isin(split.validation.labels, split.forget.labels).any():
        raise ValueError("scrub_r needs validation examples of the forgotten classes: split with a validation part")
    rewind = _Rewind(split, _ends(split, config), run.tally)
    return Program(model, program.batches, program.recipe, program.steps, (rewind,), rewind.rewound)
