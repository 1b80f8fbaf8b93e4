"""Relearn time: how many steps bring the forget set back.

A model that truly never saw the forget set needs as many steps as a retrained one. Fewer betray a residual, more an
over-reaction (Streisand). The ratio is the anamnesis index

    AIN = rt(unlearned) / rt(retrained),

reported here as its logarithm, 0 at best, with a bound in place of a value where a run hit its cap. Chundawat et al.,
Zero-shot machine unlearning, arXiv 2201.05629.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from unlearnlib import seeding
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.batches import minibatches
from unlearnlib.training.doors import asked, check_finite_answer, check_labels, check_values
from unlearnlib.training.modes import device_of, evaluating, training_mode
from unlearnlib.training.renewal import workable


@dataclass(frozen=True, eq=False)
class Relearned:
    """When a run reached its target: after `steps`, or not within `steps` where `censored`."""

    steps: int
    censored: bool
    curve: np.ndarray  # the measure before the first step and after each; ends where the target is met


def steps_to(curve, target: float, *, falling: bool = True) -> Relearned:
    """First step t at which `curve[t]` is at or past `target`; curve[0] is the value before any step.

    `falling=True` for losses (at or below), False for accuracies (at or above). NaN never counts as reached.
    """
    values = as_array(curve, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError("curve must be a vector: the value before the first step, then after each")
    reached = np.flatnonzero(values <= target if falling else values >= target)
    if len(reached) == 0:
        return Relearned(len(values) - 1, True, values)
    return Relearned(int(reached[0]), False, values[: reached[0] + 1])


def relearn_time(
    model: torch.nn.Module,
    forget,
    target: float,
    *,
    lr: float,
    batch_size: int = 64,
    max_steps: int = 500,
    seed: int = 0,
    measure: str = "loss",
    objective: Callable = F.cross_entropy,
) -> Relearned:
    """SGD steps on the forget set until its mean loss falls to `target` (or its accuracy rises to it).

    Plain SGD at a fixed `lr`; batches in an order set by `seed` alone, so all models see the same ones. The measure is
    taken on the whole forget set in eval mode after every step. `forget` has `.pixels(index, device=...)` and
    `.labels`; `objective(outputs, labels)` is the mean loss of a batch. The model is copied, never changed.

    `target` should come from the retrained model, e.g. the loss it reaches after a fixed number of these steps:
    `relearn_curve(retrained, forget, steps)[-1]`. Raises ValueError for a rate that is not positive.
    """
    if measure not in ("loss", "accuracy"):
        raise ValueError(f'measure must be "loss" or "accuracy", not {measure!r}')
    falling, values = measure == "loss", []
    for value in _curve(model, forget, lr, batch_size, max_steps, seed, measure, objective):
        values.append(value)
        if value <= target if falling else value >= target:
            break
    return steps_to(values, target, falling=falling)


def relearn_curve(
    model: torch.nn.Module,
    forget,
    steps: int,
    *,
    lr: float,
    batch_size: int = 64,
    seed: int = 0,
    measure: str = "loss",
    objective: Callable = F.cross_entropy,
) -> np.ndarray:
    """The measure before and after each of `steps` relearning steps, [steps + 1]; settings as in `relearn_time`."""
    return np.array(list(_curve(model, forget, lr, batch_size, steps, seed, measure, objective)))


def _curve(model, forget, lr, batch_size, steps, seed, measure, objective):
    if lr <= 0:
        raise ValueError(f"lr must be positive, not {lr}")
    check_values(model)
    student, device = workable(model), device_of(model)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    images, labels = forget.pixels(device=device, dtype=next(student.parameters()).dtype), forget.labels.to(device)
    if objective is F.cross_entropy:
        with torch.no_grad(), evaluating(student):
            check_labels(asked(student, images[:2]).shape[1], labels)
    optimiser = torch.optim.SGD(student.parameters(), lr=lr)
    batches = minibatches(len(labels), batch_size, max(steps, 1), seeding.generator(seed, "relearn"))

    @torch.no_grad()
    def state() -> float:
        with evaluating(student):
            outputs = torch.cat([student(part) for part in images.split(1024)])
        check_finite_answer(outputs)
        if measure == "accuracy":
            return float((outputs.argmax(1) == labels).double().mean())
        return float(objective(outputs, labels))

    yield state()
    for step, index in zip(range(steps), batches, strict=False):
        with training_mode(student, images[:1]), seeding.isolated(seed, "relearn-dropout", step):
            index = index.to(device)
            loss = objective(student(images[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield state()


@dataclass(frozen=True)
class LogRatio:
    """log AIN; `kind` says how to read it: "exact", "at least", "at most", or "undetermined" (both runs capped)."""

    value: float
    kind: str

    @property
    def ain(self) -> float:
        return math.exp(self.value)


def log_ain(unlearned: Relearned, retrained: Relearned) -> LogRatio:
    """log(rt(unlearned) / rt(retrained)): negative for residual, positive for over-forgetting, 0 at best.

    A capped run took at least its steps, which bounds the ratio from one side. A run that began at its target took
    "less than one step": it enters as one half, so that the logarithm stays finite; two such runs give exactly 0.
    """
    if unlearned.censored and retrained.censored:
        return LogRatio(float("nan"), "undetermined")
    ours, theirs = (run.steps if run.steps > 0 else 0.5 for run in (unlearned, retrained))
    kind = "at least" if unlearned.censored else "at most" if retrained.censored else "exact"
    return LogRatio(math.log(ours / theirs), kind)
