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

import scipy.linalg
import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.private.checks import check_positive
from unlearnlib.private.learner import Learner


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
    """Images [n, ...] as float64 rows [n, d], read as `doors.pixels` does, with a constant 1 if `bias`, ||x|| <= 1.

    Each row is divided by its own norm where that exceeds 1, so one row never depends on another.
    """
    x = doors.pixels(images).detach().cpu().double().flatten(1)
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

    Newton's method with conjugate gradients and halving. The gradient norm g bounds the distance to the exact minimiser
    by g/lam; callers add it to their sensitivities. Raises ArithmeticError if g stays above `tolerance`.
    """
    w = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype) if linear is None else torch.zeros_like(linear)
    g = gradient(loss, w, x, y, lam, linear)
    norm, passes = float(torch.linalg.vector_norm(g)), 1
    for _ in range(100):
        if norm <= tolerance:
            return w, norm, passes
        direction, products = _newton_direction(loss, w, x, lam, g, min(0.1, norm) * norm)
        before, scale, slope = value(loss, w, x, y, lam, linear), 1.0, float((g * direction).sum())
        # Halve until the value falls enough; near the optimum rounding hides the fall, and the full step is right.
        while scale > 1e-6 and slope > 1e-12 * (1 + abs(before)):
            if value(loss, w - scale * direction, x, y, lam, linear) <= before - 0.1 * scale * slope:
                break
            scale /= 2
        w = w - scale * direction
        g = gradient(loss, w, x, y, lam, linear)
        norm, passes = float(torch.linalg.vector_norm(g)), passes + products + 2
    raise ArithmeticError(f"the minimiser was not reached (gradient norm {norm:.1e}): raise lam or the tolerance")


def _newton_direction(loss: Loss, w: Tensor, x: Tensor, lam: float, g: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """Conjugate gradients on H v = g until the residual norm is at most `tolerance`; (v, Hessian products)."""
    scores = x @ w
    p = scores.softmax(1) if loss.name == "softmax" else scores.sigmoid()

    def product(v: Tensor) -> Tensor:
        u = x @ v
        u = p * (u - (p * u).sum(1, keepdim=True)) if loss.name == "softmax" else p * (1 - p) * u
        return x.T @ u / len(x) + lam * v

    v, r = torch.zeros_like(g), g.clone()
    direction, square = r, float(r.square().sum())
    for products in range(10 * g.numel()):
        if math.sqrt(square) <= tolerance:
            return v, products
        h = product(direction)
        step = square / float((direction * h).sum())
        v, r = v + step * direction, r - step * h
        square, before = float(r.square().sum()), square
        direction = r + square / before * direction
    return v, 10 * g.numel()


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
    """A learner whose published model is `state.published` [d, c], weights of a logistic regression.

    `copies` > 1 runs that many independent learners of one two-class problem as a single tensor program: column j of
    `state.published` is the j-th, with noise of its own. Audits need hundreds; everything else needs one.
    """

    lam: float = field(default=1e-2, kw_only=True)  # weight of the L2 penalty lam/2 ||W||^2 on the mean loss
    bias: bool = field(default=True, kw_only=True)  # a constant feature
    copies: int = field(default=1, kw_only=True)  # independent runs, one a column

    def __post_init__(self):
        super().__post_init__()
        check_positive(lam=self.lam, copies=self.copies)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32 of images [n, ...] under the published weights."""
        if self.copies > 1:
            raise ValueError(f"there are {self.copies} copies: take margins(images), or copies=1")
        return as_logits(self._fitted().published, self._rows(images))

    def margins(self, images: Tensor) -> Tensor:
        """Log-odds of class 1 against class 0 [n, copies], float64, of a two-class problem."""
        if self._fitted().classes != 2:
            raise ValueError("margins are those of two classes: take logits")
        return self._rows(images) @ self.state.published

    def _rows(self, images) -> Tensor:
        x, width = rows(images, self.bias), len(self._fitted().published)
        if x.shape[1] != width:
            raise ValueError(f"the learner was fitted to {width - self.bias} features, not {x.shape[1] - self.bias}")
        return x

    def _problem(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [n, d] and targets [n, c] of the examples marked by `keep`."""
        state = self.state
        if not hasattr(state, "x"):
            state.classes = max(int(state.examples.labels.max()) + 1, 2)
            state.x, state.y = rows(state.examples.images, self.bias), targets(state.examples.labels, state.classes)
            if self.copies > 1 and state.classes > 2:
                raise ValueError(f"copies are for two classes, not {state.classes}: fit them one by one")
        return state.x[keep], state.y[keep]

    def _columns(self, y: Tensor) -> int:
        """Columns of the weights: those of the targets y [n, c], or one a copy (against the same single target)."""
        return self.copies if self.copies > 1 else y.shape[1]
