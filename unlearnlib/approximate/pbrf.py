"""The proximal Bregman response: what the influence function of a network approximates, computed by descent.

    theta' = argmin_theta  (1/n) sum_D KL(p_s(x_i) || p_theta(x_i))  -  (1/n) sum_F CE(f_theta(x_i), y_i)
                           +  (damping / 2) ||theta - theta_s||^2

theta_s is the original, p_s its answers: keep what the model says on the training set and keep the weights near, while
the forgotten examples are weighed down by as much as removing them would. The KL is the Bregman divergence of the
cross-entropy. Its derivative in the weight of F at theta_s is -(G + damping I)^-1 grad l, the influence function with
the Gauss-Newton matrix, whether or not theta_s is a minimum of anything. Bae et al. 2022, key bae2022.

Computed by L-BFGS with a line search, on all examples and in float64. Deviation: the authors run a stochastic
optimiser. Defaults are ours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.gradients import copies, flat, pixel_batches, set_gradient, trainable
from unlearnlib.methods.registry import method
from unlearnlib.training.models import device_of, evaluating

BATCH = 512  # examples differentiated at once


@dataclass(frozen=True)
class PBRF:
    damping: float = 1e-2  # weight of the pull to the start
    steps: int = 100  # evaluations of objective and gradient, about
    enough: float = 1e-3  # stop where the largest entry of the gradient has fallen to this part of the first one

    def __post_init__(self):
        if self.steps < 1 or self.damping <= 0:
            raise ValueError("pbrf needs steps >= 1 and damping > 0")


@method(
    "pbrf",
    PBRF,
    family="curvature",
    reads="retain, forget",
    paper="bae2022",
    cost="at most (steps + 30) * (R + F)",
    fails=(
        "As a replacement of retraining: it answers another question, and keeps by design what the original says of "
        "the retain set, what it learnt from the forget set included."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log")},
)
def pbrf(model, split, config: PBRF, run) -> nn.Module:
    model = model.double()
    objective = Response(model, split, config.damping, run.tally)
    smallest = config.enough * float(objective(model)[1].abs().max())
    options = {"max_iter": config.steps, "max_eval": config.steps, "history_size": 30}
    optimiser = torch.optim.LBFGS(
        trainable(model).values(),
        **options,
        tolerance_grad=smallest,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, slope = objective(model)
        set_gradient(model, slope)
        return value

    optimiser.step(closure)
    return model


class Response:
    """The objective of which theta' is the minimum: model -> (value, gradient [P])."""

    def __init__(self, model: nn.Module, split, damping: float, tally=None):
        self._examples, self._damping, self._tally = split.train, damping, tally
        self._forgotten = split.is_forget.to(device_of(model)).split(BATCH)
        self._start = copies(model)
        with torch.no_grad(), evaluating(model):
            batches = pixel_batches(model, self._examples, BATCH)
            self._answers = [torch.log_softmax(model(pixels), 1) for pixels, _ in batches]

    def __call__(self, model: nn.Module) -> tuple[float, Tensor]:
        parameters = trainable(model)
        weights, value, slope = list(parameters.values()), 0.0, 0
        batches = pixel_batches(model, self._examples, BATCH)
        for (pixels, labels), answers, gone in zip(batches, self._answers, self._forgotten, strict=True):
            with evaluating(model), torch.enable_grad():
                found = torch.log_softmax(model(pixels), 1)
                kept = F.kl_div(found, answers, reduction="sum", log_target=True)
                loss = (kept - F.nll_loss(found[gone], labels[gone], reduction="sum")) / len(self._examples)
                slope = slope + flat(torch.autograd.grad(loss, weights, materialize_grads=True))
            value += loss.item()
        away = flat(p.detach() - self._start[name] for name, p in parameters.items())
        if self._tally is not None:
            self._tally.gradient_evaluations += len(self._examples)
        return value + self._damping / 2 * float(away @ away), slope + self._damping * away
