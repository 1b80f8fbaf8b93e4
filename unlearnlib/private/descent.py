"""Descent-to-delete: a few gradient steps on what remains, and Gaussian noise on whatever is published.

F is the L2-regularised logistic loss: m = lam strongly convex, L = lam + 1/4 smooth (1/2 for softmax), its losses
M-Lipschitz. Gradient descent with step 2/(L+m) contracts by g = (L-m)/(L+m).

    train     theta from 0, enough steps to be within e of the minimiser
    delete    I more steps on the retained examples, from the kept, noiseless theta
    publish   theta + N(0, sigma^2 I), fresh noise each time

One deletion moves the minimiser by at most S = 4M/(mn) while n/2 examples remain, so e = g^I S/(1-g^I) is kept up:
g^I (e + S) = e. The unlearned and the retrained theta are within 2e, and

    sigma = 4 sqrt2 M g^I/(m n (1-g^I) (sqrt(ln(1/delta) + epsilon) - sqrt(ln(1/delta))))

is the Gaussian noise for twice that distance by the conversion of concentrated DP: 2e = 8 M g^I/(m n (1-g^I)).
A batch of k takes the steps that bring e + kS back to e, fewer than k I.

Neel, Roth & Sharifi-Malvajerdi 2021, key neel2021. The noiseless theta must stay secret, and the guarantee is for one
published model at a time, not for the sequence of them.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unlearnlib.methods.records import Certificate
from unlearnlib.private.checks import check_budget, check_positive
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import LinearLearner, gradient, loss_for
from unlearnlib.private.mechanisms import gaussian


@dataclass(frozen=True)
class Constants:
    """What the analysis needs: examples n, strong convexity m, smoothness L, Lipschitz constant M of one loss."""

    n: int
    strong_convexity: float
    smoothness: float
    lipschitz: float = 1.0

    @property
    def contraction(self) -> float:
        """g = (L-m)/(L+m), per gradient step of length 2/(L+m)."""
        return (self.smoothness - self.strong_convexity) / (self.smoothness + self.strong_convexity)

    @property
    def shift(self) -> float:
        """S = 4M/(mn): how far one deletion moves the minimiser while at least n/2 examples remain."""
        return 4 * self.lipschitz / (self.strong_convexity * self.n)

    def error(self, iterations: int) -> float:
        """e = g^I S/(1-g^I): the distance to the minimiser that I steps a deletion keep up."""
        shrink = self.contraction**iterations
        return shrink * self.shift / (1 - shrink)

    def steps(self, iterations: int, removed: int) -> int:
        """Steps that bring e + kS back to e; I for one deletion."""
        error = self.error(iterations)
        exact = math.log(error / (error + removed * self.shift)) / math.log(self.contraction)
        return math.ceil(exact - 1e-9)

    def training_steps(self, iterations: int) -> int:
        """Steps from 0 to within e: the minimiser has norm at most M/m."""
        far = self.lipschitz / self.strong_convexity
        return iterations + max(0, math.ceil(math.log(self.error(iterations) / far) / math.log(self.contraction)))


def descent_sigma(constants: Constants, iterations: int, epsilon: float, delta: float) -> float:
    """Std of the publication noise for `iterations` steps a deletion (formula above, key neel2021)."""
    check_budget(epsilon, delta)
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations!r}")
    log = math.log(1 / delta)
    distance = 2 * constants.error(iterations)
    return distance / (math.sqrt(2) * (math.sqrt(log + epsilon) - math.sqrt(log)))


@dataclass(frozen=True, eq=False)
class DescentToDelete(LinearLearner):
    """Descent-to-delete for L2-regularised logistic (two classes) or softmax regression.

    Exhausted when fewer than half of the fitted examples would remain.
    """

    iterations: int = 5  # gradient steps per deletion, I
    epsilon: float = 1.0
    delta: float | None = None  # None: 1/n
    lam: float = field(default=1e-2, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        check_budget(self.epsilon, 0.5 if self.delta is None else self.delta)
        check_positive(iterations=self.iterations)

    def _train(self, keep: Tensor) -> int:
        x, y = self._problem(keep)
        state = self.state
        loss = loss_for(state.classes)
        state.constants = Constants(len(x), self.lam, self.lam + loss.smoothness, loss.lipschitz)
        state.delta = 1 / len(x) if self.delta is None else self.delta
        state.sigma = descent_sigma(state.constants, self.iterations, self.epsilon, state.delta)
        state.theta = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype)
        return self._descend(x, y, state.constants.training_steps(self.iterations))

    def reference(self, seed: int) -> "DescentToDelete":
        """Gradient descent from 0 on the retained examples, with this learner's number of steps and noise."""
        other = super().reference(seed)
        other.state.constants, other.state.sigma, other.state.delta = (
            self.state.constants,
            self.state.sigma,
            self.state.delta,
        )
        other.state.theta = torch.zeros_like(other.state.theta)
        other._descend(*other._problem(other.state.alive), self.state.constants.training_steps(self.iterations))
        return other

    def _descend(self, x: Tensor, y: Tensor, steps: int) -> int:
        """Gradient steps on the secret theta, then publish; returns gradient evaluations."""
        state, c = self.state, self.state.constants
        loss, theta = loss_for(state.classes), state.theta
        for _ in range(steps):
            theta = theta - 2 / (c.smoothness + c.strong_convexity) * gradient(loss, theta, x, y, self.lam)
        state.theta = theta
        state.published = gaussian(theta.expand(-1, self._columns(y)), state.sigma, self._rng("publish"))
        return steps * len(x)

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        state = self.state
        if 2 * int(keep.sum()) < state.constants.n:
            raise BudgetExhausted(
                "fewer than half of the examples would remain, where the noise stops to hold: retrain"
            )
        steps = state.constants.steps(self.iterations, len(index))
        gradients = self._descend(*self._problem(keep), steps)
        reference = (
            f"gradient descent from 0 on the retained examples ({state.constants.training_steps(self.iterations)} "
            "steps), published once with the same noise; theta before the noise stays secret"
        )
        certificate = Certificate("approximate", reference, self.epsilon, state.delta)
        return {"gradient steps": steps}, gradients, certificate
