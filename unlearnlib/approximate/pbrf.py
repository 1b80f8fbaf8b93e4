"""The proximal Bregman response: what the influence function of a network approximates, computed by descent.

    theta' = argmin_theta  (1/n) sum_D KL(p_s(x_i) || p_theta(x_i))  -  <(1/n) sum_F grad l_i(theta_s), theta - theta_s>
                           +  (damping / 2) ||theta - theta_s||^2

theta_s is the original, p_s its answers: keep what the model says on the training set and keep the weights near, while
the forgotten examples are weighed down by as much as removing them would. The KL is the Bregman divergence of the
cross-entropy. Its derivative in the weight of F at theta_s is -(G + damping I)^-1 grad l, the influence function with
the Gauss-Newton matrix, whether or not theta_s is a minimum of anything. Bae et al. 2022, key bae2022.

The loss of F enters by its slope at theta_s, as in the derivation of the influence function, and not as -CE: that grows
with the norm of the weights to the power of the depth and beats every quadratic pull, so the minimum would not exist.
As written the objective is at least -||(1/n) sum_F grad l||^2 / (2 damping), and ||theta' - theta_s|| at most twice
||(1/n) sum_F grad l|| / damping. To first order in the weight of F nothing changes.

The KL holds the answers on F as well, so examples that are fitted stay fitted: it answers how weights respond, not how
to forget. In flat directions L-BFGS takes many more steps than the default to come to rest: of two
networks on the digits the largest entry of the gradient is after 100 evaluations .5 and .9 of the first, after 300 .3
and .01, after 1,000 .01; with a tenth of the damping it is after 1,000 still 1 and 6 times the first. What is returned
then lies on the way.

Computed by L-BFGS with a line search, on all examples and in float64. Deviations: the linear forget term; the authors
run a stochastic optimiser. Defaults are ours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.gradients import (
    copies,
    flat,
    mean_gradient,
    pixel_batches,
    set_gradient,
    trainable,
)
from unlearnlib.methods.registry import method
from unlearnlib.training.loop import Diverged
from unlearnlib.training.models import evaluating

BATCH = 512  # examples differentiated at once


@dataclass(frozen=True)
class PBRF:
    damping: float = 1e-2  # weight of the pull to the start
    steps: int = 100  # evaluations of objective and gradient, about
    enough: float = 1e-3  # stop where the largest entry of the gradient has fallen to this part of the first one

    def __post_init__(self):
        if not (self.steps >= 1 and self.damping > 0):
            raise ValueError("pbrf needs steps >= 1 and damping > 0")


@method(
    "pbrf",
    PBRF,
    family="curvature",
    reads="retain, forget",
    paper="bae2022",
    cost="at most gradient * (F + (steps + 30) * (R + F)) + forward * (R + F)",
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
    first = float(objective.push.abs().max())
    options = {"max_iter": config.steps, "max_eval": config.steps, "history_size": 30}
    optimiser = torch.optim.LBFGS(
        trainable(model).values(),
        **options,
        tolerance_grad=config.enough * first,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, slope = objective(model)
        set_gradient(model, slope)
        return value

    optimiser.step(closure)
    if not objective.away(model).norm() <= objective.farthest * (1 + 1e-6):
        raise Diverged("pbrf has not come near a minimum: raise damping, or steps")
    return model


class Response:
    """The objective of which theta' is the minimum: model -> (value, gradient [P]).

    push       (1/n) sum_F grad l_i(theta_s) [P], minus the gradient at theta_s
    farthest   a bound on ||theta - theta_s|| wherever the objective is not above its value at theta_s
    """

    def __init__(self, model: nn.Module, split, damping: float, tally=None):
        self._examples, self._damping, self._tally = split.train, damping, tally
        share = len(split.forget_index) / len(split.train)
        self.push = share * mean_gradient(model, split.forget, tally=tally)
        self.farthest = 2 * float(self.push.norm()) / damping
        self._start = copies(model)
        with torch.no_grad(), evaluating(model):
            batches = pixel_batches(model, self._examples, BATCH)
            self._answers = [torch.log_softmax(model(pixels), 1) for pixels, _ in batches]
        if tally is not None:
            tally.count("forward", len(self._examples))

    def away(self, model: nn.Module) -> Tensor:
        """theta - theta_s [P]."""
        return flat(p.detach() - self._start[name] for name, p in trainable(model).items())

    def __call__(self, model: nn.Module) -> tuple[float, Tensor]:
        weights, value, slope = list(trainable(model).values()), 0.0, 0
        batches = pixel_batches(model, self._examples, BATCH)
        for (pixels, _), answers in zip(batches, self._answers, strict=True):
            with evaluating(model), torch.enable_grad():
                found = torch.log_softmax(model(pixels), 1)
                kept = F.kl_div(found, answers, reduction="sum", log_target=True) / len(self._examples)
                slope = slope + flat(torch.autograd.grad(kept, weights, materialize_grads=True))
            value += kept.item()
        away = self.away(model)
        if self._tally is not None:
            self._tally.count("gradient", len(self._examples))
        value += self._damping / 2 * float(away @ away) - float(self.push @ away)
        return value, slope + self._damping * away - self.push
