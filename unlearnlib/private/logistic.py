"""L2-regularised logistic regression on rows of norm at most 1: the convex problem of the certified learners.

With rows x_i in R^d, ||x_i|| <= 1, weights W in R^{d x c} and z = W^T x:

    F(W) = (1/n) sum_i loss(W^T x_i, y_i) + lam/2 ||W||^2 + <B, W>/n

Two classes give one column and loss = log(1 + exp(-+z)); more give c = classes columns, with the softmax loss or,
where a method needs scalar losses, one logistic loss a column (one against the rest). `Loss` lists the constants:

    logistic   |loss'| <= 1         loss'' <= 1/4       per column
    softmax    ||p - e_y|| <= sqrt 2    Hessian <= 1/2 I    (the largest eigenvalue of diag(p) - p p^T)

All in float64: the guarantees compare distances of 1e-6 and less.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

from unlearnlib.private.learner import Learner, check_positive


@dataclass(frozen=True)
class Loss:
    """A loss of the scores z [n, c]: its name, Lipschitz constant and smoothness for ||x|| <= 1."""

    name: str
    lipschitz: float
    smoothness: float


def loss_for(classes: int, one_against_rest: bool = False) -> Loss:
    """Logistic for two classes; softmax for more, or `classes` logistic losses side by side."""
    if classes == 2:
        return Loss("logistic", 1.0, 0.25)
    if one_against_rest:
        return Loss("logistic", math.sqrt(classes), 0.25)
    return Loss("softmax", math.sqrt(2), 0.5)


def rows(images: Tensor, bias: bool = True) -> Tensor:
    """Images [n, ...] as float64 rows [n, d], uint8 divided by 255, with a constant 1 if `bias`, ||x|| <= 1.

    Each row is divided by its own norm where that exceeds 1, so one row never depends on another.
    """
    x = images.detach().cpu().double().flatten(1)
    x = x / 255 if images.dtype == torch.uint8 else x
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if bias else x
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1)


def targets(labels: Tensor, classes: int) -> Tensor:
    """[n, 1] in {0, 1} for two classes, one-hot [n, classes] for more; float64."""
    if classes < 2:
        raise ValueError("need at least two classes: labels must contain 0 and 1")
    if classes == 2:
        return labels.cpu().double()[:, None]
    return torch.nn.functional.one_hot(labels.cpu(), classes).double()


def errors(loss: Loss, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """p - y [n, c], the derivative of each loss with respect to its scores; gradient of the sum: x^T errors."""
    scores = x @ weights
    return (scores.softmax(1) if loss.name == "softmax" else scores.sigmoid()) - y


def gradient(loss: Loss, weights: Tensor, x: Tensor, y: Tensor, lam: float, linear: Tensor | None = None) -> Tensor:
    """Gradient [d, c] of F at `weights`; `linear` is B (zero if None)."""
    total = x.T @ errors(loss, weights, x, y)
    total = total if linear is None else total + linear
    return total / len(x) + lam * weights


def value(loss: Loss, weights: Tensor, x: Tensor, y: Tensor, lam: float, linear: Tensor | None = None) -> float:
    """F at `weights`."""
    scores = x @ weights
    if loss.name == "softmax":
        total = (scores.logsumexp(1) - (scores * y).sum(1)).sum()
    else:
        total = torch.nn.functional.softplus(scores).sum() - (scores * y).sum()
    total = total if linear is None else total + (linear * weights).sum()
    return float(total / len(x) + lam / 2 * weights.square().sum())


def hessian(weights: Tensor, x: Tensor, lam: float, column: int = 0) -> Tensor:
    """Hessian [d, d] of F in one column of the logistic loss: x^T diag(p(1-p)) x / n + lam I."""
    p = (x @ weights[:, column]).sigmoid()
    h = (x * (p * (1 - p))[:, None]).T @ x / len(x)
    h.diagonal().add_(lam)
    return h


def solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix^-1 vector for a positive definite matrix."""
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]


def minimise(
    loss: Loss, x: Tensor, y: Tensor, lam: float, linear: Tensor | None = None, tolerance: float = 1e-10
) -> tuple[Tensor, float, int]:
    """Minimiser of F. Returns (weights [d, c], norm of the gradient there, passes over the data).

    Newton's method with halving for the logistic loss, L-BFGS for the softmax loss. The gradient norm g bounds the
    distance to the exact minimiser by g/lam; callers add it to their sensitivities. Raises ArithmeticError if g ends
    above `tolerance`.
    """
    if loss.name == "softmax":
        weights, passes = _lbfgs(loss, x, y, lam, linear, tolerance)
    else:
        columns = [
            _newton(x, y[:, j], lam, None if linear is None else linear[:, j], tolerance / math.sqrt(y.shape[1]))
            for j in range(y.shape[1])
        ]
        weights, passes = torch.stack([w for w, _ in columns], 1), max(p for _, p in columns)
    norm = float(torch.linalg.vector_norm(gradient(loss, weights, x, y, lam, linear)))
    if norm > tolerance:
        raise ArithmeticError(f"the minimiser was not reached (gradient norm {norm:.1e}): raise lam or the tolerance")
    return weights, norm, passes + 1


def _newton(x: Tensor, y: Tensor, lam: float, linear: Tensor | None, tolerance: float) -> tuple[Tensor, int]:
    one = Loss("logistic", 1.0, 0.25)
    w = torch.zeros(x.shape[1], 1, dtype=x.dtype)
    y, linear = y[:, None], None if linear is None else linear[:, None]
    for step in range(100):
        g = gradient(one, w, x, y, lam, linear)
        if float(torch.linalg.vector_norm(g)) <= 0.1 * tolerance:
            break
        direction = solve(hessian(w, x, lam), g[:, 0])[:, None]
        before, scale, slope = value(one, w, x, y, lam, linear), 1.0, float((g * direction).sum())
        # Near the optimum rounding hides the decrease; the full step is right there.
        while scale > 1e-6 and value(one, w - scale * direction, x, y, lam, linear) > before - 0.1 * scale * slope:
            if slope < 1e-12 * (1 + abs(before)):
                break
            scale /= 2
        w = w - scale * direction
    return w[:, 0], 2 * (step + 1)


def _lbfgs(loss: Loss, x: Tensor, y: Tensor, lam: float, linear: Tensor | None, tolerance: float) -> tuple[Tensor, int]:
    shape = (x.shape[1], y.shape[1])

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(shape)
        return value(loss, w, x, y, lam, linear), gradient(loss, w, x, y, lam, linear).numpy().ravel()

    start, passes = np.zeros(shape[0] * shape[1]), 0
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 0.0, "gtol": 0.1 * tolerance / math.sqrt(len(start))}
    for _ in range(5):  # L-BFGS may stop on a failed line search; a fresh memory carries on
        found = scipy.optimize.minimize(both, start, jac=True, method="L-BFGS-B", options={**options, "maxcor": 30})
        start, passes = found.x, passes + found.nfev
        if np.linalg.norm(found.jac) <= tolerance:
            break
    return torch.from_numpy(start).view(shape), passes


def spectral_norm(gram: Tensor) -> float:
    """||X||_2 from the Gram matrix X^T X [d, d], by an exact symmetric eigenvalue solver.

    A few steps of power iteration would only bound it from below, which voids a certificate.
    """
    d = len(gram)
    top = scipy.linalg.eigvalsh(gram.numpy(), subset_by_index=[d - 1, d - 1])[0]
    return math.sqrt(max(float(top), 0.0))


def as_logits(weights: Tensor, x: Tensor) -> Tensor:
    """Scores as logits [n, classes] float32; one column z becomes (-z/2, z/2), whose softmax is sigmoid(z)."""
    z = x @ weights
    return (torch.cat([-z / 2, z / 2], 1) if z.shape[1] == 1 else z).float()


@dataclass(frozen=True, eq=False)
class LinearLearner(Learner):
    """A learner whose published model is `state.published` [d, c], weights of a logistic regression."""

    lam: float = field(default=1e-2, kw_only=True)  # weight of the L2 penalty lam/2 ||W||^2 on the mean loss
    bias: bool = field(default=True, kw_only=True)  # a constant feature

    def __post_init__(self):
        super().__post_init__()
        check_positive(lam=self.lam)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32 of images [n, ...] (uint8 or floating) under the published weights."""
        return as_logits(self._fitted().published, rows(images, self.bias)).to(images.device)

    def _problem(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [n, d] and targets [n, c] of the examples marked by `keep`."""
        state = self.state
        if not hasattr(state, "x"):
            state.classes = max(int(state.examples.labels.max()) + 1, 2)
            state.x, state.y = rows(state.examples.images, self.bias), targets(state.examples.labels, state.classes)
        return state.x[keep], state.y[keep]
