"""Certified removal: a Newton step per deletion, masked by noise in the objective, until a residual budget is spent.

    train     w = argmin sum_i loss(w^T x_i, y_i) + lam n/2 ||w||^2 + b^T w        b ~ N(0, sigma^2 I), ||x_i|| <= 1
    remove    w <- w + H^{-1} Delta,  Delta = sum_F (lam w + grad loss),  H the Hessian on what remains

The step leaves a gradient residual r on the retained data, b included. With s = H^{-1} Delta, X the retained rows and
c = `residual_constant`,

    ||r_new - r_old|| <= c ||X||_2 ||s|| ||X s||,

so the bounds add up over removals. Weights with residual r are the exact minimiser for the noise b - r; comparing the
Gaussian densities of b and b - r certifies (epsilon, delta) while

    beta = sum of bounds + residual of the solver <= sigma epsilon/sqrt(2 ln(1.5/delta)).

Guo et al. 2020, key guo2020.

On the constants. (1) sqrt(2 ln(1.5/delta)) is the Gaussian mechanism's classic calibration with 1.5 where 1.25 is
enough; it is conservative for small epsilon and false for large (about epsilon > 6 at delta = 1e-5). `budget` checks
it against the exact Gaussian delta and refuses where it fails. (2) The paper's c = 1/4 is the smoothness of the loss
taken as the Lipschitz constant of its second derivative. That constant is 1/(6 sqrt 3), and integrating along the step
halves it: any c >= 1/(12 sqrt 3) = 0.0481 is proven, with ||x|| <= 1. (3) The comparison of densities treats r as a
fixed vector, although it depends on b; the tests compute the exact law in one dimension and find the claim to hold.

Defects of released code that are not repeated: ||X||_2 is exact and not a few power iterations, which bound it from
below; accuracy is that of the weights after the removal; the true residual includes b.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unlearnlib.methods.records import Certificate
from unlearnlib.private.accounting import gaussian_delta
from unlearnlib.private.checks import check_budget, check_positive
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import LinearLearner, errors, gradient, hessian, loss_for, minimise, solve
from unlearnlib.private.logistic import spectral_norm as spectral

SMALLEST_CONSTANT = 1 / (12 * math.sqrt(3))


def budget(sigma: float, epsilon: float, delta: float) -> float:
    """Largest residual norm that noise of std `sigma` hides: sigma epsilon/sqrt(2 ln(1.5/delta)).

    ValueError where this formula promises more than the Gaussian mechanism gives.
    """
    check_budget(epsilon, delta)
    check_positive(sigma=sigma)
    bound = sigma * epsilon / math.sqrt(2 * math.log(1.5 / delta))
    if not gaussian_delta(epsilon, sigma, bound) <= delta:
        raise ValueError(f"sqrt(2 ln(1.5/delta)) does not hold at epsilon {epsilon}, delta {delta}: lower epsilon")
    return bound


@dataclass(frozen=True, eq=False)
class CertifiedNewton(LinearLearner):
    """Certified removal for L2-regularised logistic regression; one column against the rest for more classes.

    Columns share one budget: their residuals are stacked, as their noise is. `state.beta` [c] is the certified
    residual of each column, `state.residual_history` the norm of beta after each removal.
    """

    lam: float = field(default=1e-3, kw_only=True)
    sigma: float = 10.0  # std of the objective noise b, on the scale of the summed loss
    epsilon: float = 1.0
    delta: float = 1e-4
    residual_constant: float = 0.25  # guo2020; at least 0.0482

    def __post_init__(self):
        super().__post_init__()
        budget(self.sigma, self.epsilon, self.delta)
        if not self.residual_constant >= SMALLEST_CONSTANT:
            raise ValueError(f"residual_constant must be at least {SMALLEST_CONSTANT:.4f}: below it nothing is proven")

    def residual(self) -> float:
        """True ||gradient of the noised objective|| at the published weights on the retained data, b included."""
        x, y = self._problem(self._fitted().alive)
        loss = loss_for(self.state.classes, one_against_rest=True)
        g = gradient(loss, self.state.published, x, y, self.lam, self.state.linear)
        return float(torch.linalg.vector_norm(g)) * len(x)

    def certified_residual(self) -> float:
        """Bound on `residual`, from the removals so far; with several copies, that of the worst."""
        return self._total(self._fitted().beta)

    def _total(self, beta: Tensor) -> float:
        """One number for the residual of all columns: their joint norm, or of copies the largest."""
        return float(beta.max() if self.copies > 1 else torch.linalg.vector_norm(beta))

    def _train(self, keep: Tensor) -> int:
        x, y = self._problem(keep)
        state, n = self.state, len(x)
        shape = (x.shape[1], self._columns(y))
        state.linear = self.sigma * torch.randn(shape, generator=self._rng("noise"), dtype=torch.float64)
        loss = loss_for(state.classes, one_against_rest=True)
        state.published, _, passes = minimise(loss, x, y, self.lam, state.linear)
        solver = gradient(loss, state.published, x, y, self.lam, state.linear)
        state.beta = torch.linalg.vector_norm(solver, dim=0) * n
        state.gram, state.residual_history = x.T @ x, [self.certified_residual()]
        return passes * n

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        state = self.state
        x, _ = self._problem(keep)
        gone_x, gone_y = self._problem(index)
        loss, n, k = loss_for(state.classes, one_against_rest=True), len(x), len(index)
        gram = state.gram - gone_x.T @ gone_x
        norm = spectral(gram)
        delta = k * self.lam * state.published + gone_x.T @ errors(loss, state.published, gone_x, gone_y)
        step = torch.stack(
            [solve(hessian(state.published, x, self.lam, j), delta[:, j]) / n for j in range(delta.shape[1])], 1
        )
        lengths, moved = torch.linalg.vector_norm(step, dim=0), torch.linalg.vector_norm(x @ step, dim=0)
        beta = state.beta + self.residual_constant * norm * lengths * moved
        total, allowed = self._total(beta), budget(self.sigma, self.epsilon, self.delta)
        if not total <= allowed:  # nor if it is no number
            raise BudgetExhausted(
                f"removal would raise the certified residual to {total:.3g}, above the budget {allowed:.3g}: retrain"
            )
        state.published, state.beta, state.gram = state.published + step, beta, gram
        state.residual_history.append(total)
        reference = "the exact minimiser on the retained examples, with objective noise of the same law"
        certificate = Certificate("approximate", reference, self.epsilon, self.delta)
        return {"newton steps": 1, "weights": step.numel()}, n + k, certificate
