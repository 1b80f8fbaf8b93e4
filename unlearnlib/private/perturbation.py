"""Differentially private logistic regression: noise on the output, or noise in the objective.

Forgetting costs nothing: the model was already private for every example, so deleting k of them changes no weight and
is certified by group privacy. Both follow Chaudhuri et al. 2011 (key chaudhuri2011); F is that of `logistic`.

    output      w = argmin F + b       b Gaussian, or with density prop. to exp(-epsilon ||b||/Delta) where delta = 0
    objective   w = argmin F + Lambda/2 ||w||^2 + <b, w>/n    b with density prop. to exp(-epsilon' ||b||/2)

The noise of the output grows with d: its norm is d Delta/epsilon (gamma) or about sigma sqrt(d) (Gaussian).
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unlearnlib.methods.records import Certificate
from unlearnlib.private.accounting import gaussian_epsilon, gaussian_sigma
from unlearnlib.private.checks import check_positive
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import LinearLearner, loss_for, minimise
from unlearnlib.private.mechanisms import erm_sensitivity, gamma_norm, gaussian


@dataclass(frozen=True, eq=False)
class _DoNothing(LinearLearner):
    """A learner that is private from the start: forgetting k examples is certified by the group guarantee."""

    epsilon: float = field(default=1.0, kw_only=True)
    delta: float = field(default=1e-5, kw_only=True)
    max_epsilon: float = field(default=math.inf, kw_only=True)  # a group guarantee above it is BudgetExhausted

    def _group(self, size: int) -> float:
        """epsilon, at self.delta, for `size` examples forgotten since training."""
        raise NotImplementedError

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        size = self.state.trained_on - int(keep.sum())
        epsilon = self._group(size)
        if not epsilon <= self.max_epsilon:
            raise BudgetExhausted(
                f"{size} deletions cost epsilon {epsilon:.3g}, above max_epsilon {self.max_epsilon:g}: retrain"
            )
        return {"weights": 0}, 0, Certificate("approximate", self._reference, epsilon, self.delta)


@dataclass(frozen=True, eq=False)
class OutputPerturbation(_DoNothing):
    """argmin F plus noise for the distance that one deletion can move it, 2L/(n lam) (and what the solver left).

    delta = 0 draws noise of gamma-distributed norm (pure epsilon); delta > 0 Gaussian noise, calibrated analytically.
    After k deletions the sensitivity is 2kL/(n lam); the certificate follows from it exactly. The scale of the
    noise depends on n, which counts as public.
    """

    tolerance: float = field(default=1e-9, kw_only=True)  # gradient norm at which the solver stops

    _reference = "output perturbation on the retained examples with noise of the same scale"

    def __post_init__(self):
        super().__post_init__()
        check_positive(epsilon=self.epsilon)
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta must lie in [0, 1), not {self.delta!r}")
        if self.delta == 0 and self.copies > 1:
            raise ValueError("gamma noise is one draw for all columns: give delta > 0, or copies=1")

    def sensitivity(self, n: int, removed: int = 1) -> float:
        """Distance that `removed` deletions from `n` can move the computed minimiser."""
        lipschitz = loss_for(self.state.classes).lipschitz
        return erm_sensitivity(n, self.lam, lipschitz, "delete", removed) + 2 * self.tolerance / self.lam

    def _train(self, keep: Tensor) -> int:
        x, y = self._problem(keep)
        n, state = len(x), self.state
        weights, _, passes = minimise(loss_for(state.classes), x, y, self.lam, tolerance=self.tolerance)
        state.trained_on, state.minimiser = n, weights
        if self.delta == 0:
            state.scale = self.sensitivity(n) / self.epsilon
            state.published = gamma_norm(weights, state.scale, self._rng("noise"))
        else:
            state.scale = gaussian_sigma(self.epsilon, self.delta, self.sensitivity(n))
            state.published = gaussian(weights.expand(-1, self._columns(y)), state.scale, self._rng("noise"))
        return passes * n

    def reference(self, seed: int) -> "OutputPerturbation":
        """Output perturbation on the retained examples, with the noise of this learner's scale."""
        other = super().reference(seed)
        ours, theirs = other.state, self.state
        ours.published = ours.minimiser + (ours.published - ours.minimiser) * (theirs.scale / ours.scale)
        ours.scale = theirs.scale
        return other

    def _group(self, size: int) -> float:
        distance = self.sensitivity(self.state.trained_on, size)
        if self.delta == 0:
            return distance / self.state.scale
        return gaussian_epsilon(self.state.scale, self.delta, distance)


@dataclass(frozen=True, eq=False)
class ObjectivePerturbation(_DoNothing):
    """argmin of F with a random linear term; pure epsilon, for replacing one example.

    With c = 1/4 the smoothness of the logistic loss:

        epsilon' = epsilon - ln(1 + 2c/(n lam) + c^2/(n lam)^2), Lambda = 0                  if that is positive,
        epsilon' = epsilon/2, Lambda = c/(n (e^{epsilon/4} - 1)) - lam > 0                       otherwise.

    More than two classes are one problem each, at epsilon/classes. Replacing an example by the zero row, whose loss is
    constant, is the same as deleting it while the sum is still divided by n: that is what `forget` certifies, at
    k epsilon for k deletions. The proof is for the exact minimiser; the solver stops at a gradient norm of 1e-10.
    """

    delta: float = field(default=0.0, kw_only=True)

    _reference = "objective perturbation on the retained examples, their sum divided by the original n"

    def __post_init__(self):
        super().__post_init__()
        check_positive(epsilon=self.epsilon)
        if self.delta != 0:
            raise ValueError("objective perturbation is (epsilon, 0)-DP here: leave delta at 0")

    def noise(self, n: int, classes: int) -> tuple[float, float]:
        """(epsilon' of one column, added regularisation Lambda)."""
        each = self.epsilon / (1 if classes == 2 else classes)
        slack = each - 2 * math.log1p(0.25 / (n * self.lam))
        if slack > 0:
            return slack, 0.0
        return each / 2, 0.25 / (n * math.expm1(each / 4)) - self.lam

    def _train(self, keep: Tensor) -> int:
        x, y = self._problem(keep)
        n, state, rng = len(x), self.state, self._rng("noise")
        slack, extra = self.noise(n, state.classes)
        zero = torch.zeros(x.shape[1], dtype=x.dtype)
        linear = torch.stack([gamma_norm(zero, 2 / slack, rng) for _ in range(self._columns(y))], 1)
        loss = loss_for(state.classes, one_against_rest=True)
        state.published, _, passes = minimise(loss, x, y, self.lam + extra, linear)
        state.trained_on = n
        return passes * n

    def reference(self, seed: int) -> "ObjectivePerturbation":
        """Objective perturbation on the retained examples, their sum still divided by the original n."""
        kept = self.retained()
        return replace(self, lam=self.lam * self.state.trained_on / len(kept), seed=seed).fit(kept)

    def _group(self, size: int) -> float:
        return size * self.epsilon
