"""Langevin unlearning: noisy gradient descent to learn, more of the same on what remains to unlearn.

    w <- w - eta (mean grad loss + lam w) + sqrt(2 eta sigma^2) xi,    xi ~ N(0, I),  w_0 ~ N(0, 2 sigma^2/lam I)

F is m = lam strongly convex, L smooth, its losses M-Lipschitz, eta <= 1/L. Learning on data that differ in S of n
examples is Renyi-close, and every further step on the same data brings the two laws closer (Renyi order a):

    learned      D_a <= 4 a S^2 M^2/(m sigma^2 n^2)
    K steps on   D_a <= exp(-K m eta/a) * that
    epsilon      min_a D_a + ln(1/delta)/(a-1)                       (Mironov's conversion, as in the paper)

The mean runs over what remains, whose gradient differs by at most 2SM/n. A second request starts from a law that is
close to learning on D_1, not equal to it; by the weak triangle inequality, with D' the bound so far,

    D_a <= (a-1/2)/(a-1) D'_{2a} + D_{2a-1}(learning on D_1 against D_2), or with the two orders exchanged, then decay.

Chien et al. 2024, key chien2024. Deviations: full gradients without projection (the losses are Lipschitz by
themselves), and the last iterate is what is published.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from unlearnlib.methods.records import Certificate
from unlearnlib.private.checks import check_budget, check_positive
from unlearnlib.private.descent import Constants
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import LinearLearner, gradient, loss_for

Curve = Callable[[np.ndarray], np.ndarray]  # Renyi order -> bound on the divergence
_ORDERS = 1 + np.logspace(-2, 6, 8001)


def learning_curve(constants: Constants, sigma: float, removed: int) -> Curve:
    """a -> 4 a S^2 M^2/(m sigma^2 n^2), S = `removed`: between learning with and without S of n examples."""
    c = constants
    slope = 4 * (removed * c.lipschitz / (sigma * c.n)) ** 2 / c.strong_convexity
    return lambda orders: slope * orders


def after_steps(curve: Curve, constants: Constants, steps: int, step_size: float) -> Curve:
    """The curve after K = `steps` steps of both chains on the same data: exp(-K m eta/a) times it."""
    rate = steps * constants.strong_convexity * step_size
    return lambda orders: np.exp(-rate / orders) * curve(orders)


def chained(before: Curve, change: Curve) -> Curve:
    """Bound both ways between P and Q, given P against R (`before`) and R against Q (`change`)."""

    def curve(orders: np.ndarray) -> np.ndarray:
        weight = (orders - 0.5) / (orders - 1)
        forward = weight * before(2 * orders) + change(2 * orders - 1)
        backward = weight * change(2 * orders) + before(2 * orders - 1)
        return np.maximum(forward, backward)

    return curve


def renyi_epsilon(curve: Curve, delta: float) -> float:
    """min over orders a of curve(a) + ln(1/delta)/(a-1)."""
    return float(np.min(curve(_ORDERS) + math.log(1 / delta) / (_ORDERS - 1)))


def langevin_steps(
    curve: Curve, constants: Constants, step_size: float, epsilon: float, delta: float, most: int = 10**9
) -> int:
    """Fewest steps K >= 1 after which `curve` certifies (epsilon, delta); BudgetExhausted if more than `most`."""
    check_budget(epsilon, delta)

    def short(steps: int) -> bool:
        return not renyi_epsilon(after_steps(curve, constants, steps, step_size), delta) <= epsilon

    high = 1
    while high < most and short(high):
        high = min(2 * high, most)
    if short(high):
        raise BudgetExhausted(f"epsilon {epsilon:g} needs more than {most} Langevin steps: raise max_steps or sigma")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if short(middle) else (low, middle)
    return high


def langevin_sigma(
    constants: Constants, steps: int, step_size: float, epsilon: float, delta: float, removed=1
) -> float:
    """Smallest sigma for which K = `steps` steps certify (epsilon, delta) after `removed` deletions at once."""
    check_budget(epsilon, delta)

    def excess(log_sigma: float) -> float:
        curve = after_steps(learning_curve(constants, math.exp(log_sigma), removed), constants, steps, step_size)
        return renyi_epsilon(curve, delta) - epsilon

    return math.exp(brentq(excess, -20.0, 10.0, xtol=1e-12))


@dataclass(frozen=True, eq=False)
class Langevin(LinearLearner):
    """Langevin learning and unlearning of logistic (two classes) or softmax regression.

    `forget` takes as few steps as the certificate allows. Exhausted when that is more than `max_steps`. The std of the
    published weights is stationary at about sigma/sqrt(lam) a coordinate.
    """

    sigma: float = 0.03
    epsilon: float = 1.0
    delta: float | None = None  # None: 1/n
    burn_in: int = 1000  # learning steps; the guarantee holds for any number
    step_size: float | None = None  # None: 1/L
    max_steps: int = 10_000
    lam: float = field(default=1e-2, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        check_budget(self.epsilon, 0.5 if self.delta is None else self.delta)
        check_positive(sigma=self.sigma, burn_in=self.burn_in, max_steps=self.max_steps)

    def _train(self, keep: Tensor) -> int:
        x, y = self._problem(keep)
        state = self.state
        loss = loss_for(state.classes)
        state.smoothness, state.lipschitz = self.lam + loss.smoothness, loss.lipschitz
        state.step_size = 1 / state.smoothness if self.step_size is None else self.step_size
        if not 0 < state.step_size <= 1 / state.smoothness:
            raise ValueError(f"step_size must lie in (0, 1/L = {1 / state.smoothness:.4g}], not {state.step_size!r}")
        state.delta = 1 / len(x) if self.delta is None else self.delta
        state.curve, state.steps = None, self.burn_in
        rng = self._rng("learn")
        start = torch.randn(x.shape[1], self._columns(y), generator=rng, dtype=x.dtype)
        state.published = math.sqrt(2 / self.lam) * self.sigma * start
        self._descend(x, y, self.burn_in, rng)
        return self.burn_in * len(x)

    def reference(self, seed: int) -> "Langevin":
        """Langevin learning on the retained examples from the start, with as many steps as were taken in all."""
        options = dict(burn_in=self.state.steps, step_size=self.state.step_size, delta=self.state.delta)
        return replace(self, seed=seed, **options).fit(self.retained())

    def _descend(self, x: Tensor, y: Tensor, steps: int, rng: torch.Generator) -> None:
        loss, eta, w = loss_for(self.state.classes), self.state.step_size, self.state.published
        spread = math.sqrt(2 * eta) * self.sigma
        for _ in range(steps):
            noise = torch.randn(w.shape, generator=rng, dtype=w.dtype)
            w = w - eta * gradient(loss, w, x, y, self.lam) + spread * noise
        self.state.published = w

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        state = self.state
        constants = Constants(int(keep.sum()) + len(index), self.lam, state.smoothness, state.lipschitz)
        change = learning_curve(constants, self.sigma, len(index))
        curve = change if state.curve is None else chained(state.curve, change)
        steps = langevin_steps(curve, constants, state.step_size, self.epsilon, state.delta, self.max_steps)
        state.curve = after_steps(curve, constants, steps, state.step_size)
        state.steps += steps
        self._descend(*self._problem(keep), steps, self._rng("unlearn"))
        reference = f"Langevin learning on the retained examples from the start ({state.steps} steps)"
        certificate = Certificate("approximate", reference, renyi_epsilon(state.curve, state.delta), state.delta)
        return {"langevin steps": steps}, steps * (constants.n - len(index)), certificate
