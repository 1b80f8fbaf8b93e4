"""Ridge regression that forgets in closed form, also as the head of a frozen network.

With inputs X [n, d] (a column of ones is appended for the intercept), targets T [n, m] and D = diag(1, .., 1, 0), which
leaves the intercept alone,

    theta = argmin |X theta - T|^2 + lam tr(theta' D theta) = A^-1 X'T,        A = X'X + lam D.

`lam` is fixed: it does not grow or shrink with n, so a deletion leaves the penalty as it was. For a group S of k rows,
residuals e = T - X theta and leverages H = X_S A^-1 X_S' (Sherman, Morrison and Woodbury),

    theta_-S = theta - A^-1 X_S' (I - H)^-1 e_S,      A_-S^-1 = A^-1 + A^-1 X_S' (I - H)^-1 X_S A^-1,

in O(d^2 k) instead of O(n d^2). For one row, e_i / (1 - h_ii) is its leave-one-out residual. Everything is float64.
Rounding errors of many downdates add up, so they are measured, and the solution is computed afresh before the error
passes a tolerance. lam = 0 is ordinary least squares.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.blas import dgemm

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact._inputs import Fitted, coded, labelled, matrix, rows_to_forget, to_logits
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.training import models

EXACT = Certificate("exact", "the solution for the remaining examples with the same lam")
WORST_CONDITION = 1e12


@dataclass
class Ridge(Fitted):
    """Least squares on one-hot or signed class targets, or on any targets.

    lam        penalty, at least 0; 0 raises ValueError where the columns of X are dependent
    targets    "onehot" (0 and 1) or "signed" (-1 and 1)
    intercept  append a column of ones, which is not penalised
    tolerance  relative error of theta, as estimated in `drift`, above which it is solved for again
    n_classes  fixed number of classes, by default the largest label + 1
    """

    lam: float = 1.0
    targets: str = "onehot"
    intercept: bool = True
    tolerance: float = 1e-9
    n_classes: int | None = None

    def fit(self, examples) -> "Ridge":
        """Fit to flattened `examples.images` (uint8 divided by 255) and `examples.labels`."""
        examples = Examples.of(examples)
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "Ridge":
        """Fit to features `x` [n, d] and class labels [n]."""
        x, labels, classes = labelled(x, labels, self.n_classes)
        return self.fit_targets(x, coded(labels, classes, self.targets))

    def fit_targets(self, x, targets) -> "Ridge":
        """Fit to features `x` [n, d] and real targets [n] or [n, m]."""
        if not (doors.real(self.lam) and self.lam >= 0):
            raise ValueError(f"lam must be a finite number of at least 0, not {self.lam!r}")
        t = np.array(targets, dtype=np.float64)
        t = t[:, None] if t.ndim == 1 else t
        rows = self._extend(matrix(x))
        if t.ndim != 2 or len(rows) != len(t) or not len(t) or not np.isfinite(t).all():
            raise ValueError(
                f"give one label or finite target for each row; got {len(rows)} rows and targets {t.shape}"
            )
        self._x, self._t = rows, t
        self._alive = np.ones(len(self._t), dtype=bool)
        self.refreshes = -1
        self._install(*self._solve(self._alive))
        return self

    def forget(self, indices) -> Receipt:
        """Delete the rows at `indices` (positions in what was fitted).

        Raises ValueError, and changes nothing, if what remains does not determine theta.
        """
        started, before = time.perf_counter(), self.refreshes
        rows = rows_to_forget(indices, self._alive)
        alive = self._alive.copy()
        alive[rows] = False
        update = self._downdate(rows) if len(rows) < self._x.shape[1] else None
        if update is None or update[-1] > self.tolerance:
            self._install(*self._solve(alive))
        else:
            self.gram, self._moment, self._inverse, self.theta, self._subtracted, self.drift = update
        self._alive = alive
        self._x[rows] = self._t[rows] = 0
        touched = {"rows": len(rows), "refreshes": self.refreshes - before}
        return Receipt(Cost(seconds=time.perf_counter() - started), touched, EXACT)

    def logits(self, images) -> torch.Tensor:
        """x theta for flattened `images`: float32 [n, m]."""
        return to_logits(self.predict(images))

    def predict(self, x) -> np.ndarray:
        """x theta for features `x` [n, d]: float64 [n, m]."""
        return self._extend(matrix(x, self._x.shape[1] - self.intercept)) @ self.theta

    def hat(self, indices) -> np.ndarray:
        """H = X_S A^-1 X_S' [k, k] of the rows S at `indices`; its diagonal holds their leverages."""
        rows = doors.positions(indices, len(self._alive), distinct=False).numpy()
        if not self._alive[rows].all():
            raise ValueError("some of these rows were forgotten: ask for the others")
        return self._x[rows] @ self._inverse @ self._x[rows].T

    def leave_out(self, indices) -> np.ndarray:
        """theta without the rows at `indices`, by the formula; the learner does not change."""
        rows = rows_to_forget(indices, self._alive)
        return self.theta - self._step(rows)[0]

    def residuals(self) -> np.ndarray:
        """T - X theta [n, m]; rows that were forgotten are nan."""
        return np.where(self._alive[:, None], self._t - self._x @ self.theta, np.nan)

    def leverages(self) -> np.ndarray:
        """h_ii = x_i' A^-1 x_i [n]; rows that were forgotten are nan."""
        return np.where(self._alive, np.einsum("ij,jk,ik->i", self._x, self._inverse, self._x, optimize=True), np.nan)

    def leave_one_out_residuals(self) -> np.ndarray:
        """e_i / (1 - h_ii) [n, m]: the error at row i of the model fitted without it."""
        return self.residuals() / (1 - self.leverages()[:, None])

    def _extend(self, x: np.ndarray) -> np.ndarray:
        return np.column_stack([x, np.ones(len(x))]) if self.intercept else x.copy()

    def _solve(self, alive: np.ndarray) -> tuple:
        """(A, X'T, A^-1, theta) from the rows in `alive`; ValueError if A is singular to working precision."""
        x, t = self._x[alive], self._t[alive]
        penalty = np.full(x.shape[1], float(self.lam))
        penalty[-1] = 0 if self.intercept else self.lam
        gram = x.T @ x + np.diag(penalty)
        moment = x.T @ t
        try:
            inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), np.eye(len(gram)))
        except scipy.linalg.LinAlgError:
            inverse = np.full_like(gram, np.inf)
        condition = np.linalg.norm(gram, 1) * np.linalg.norm(inverse, 1)
        if not condition < WORST_CONDITION:
            raise ValueError(f"X'X + lam D has condition {condition:.1e}: raise lam, or drop dependent columns")
        inverse = (inverse + inverse.T) / 2
        theta = inverse @ moment
        return gram, moment, inverse, theta + inverse @ (moment - gram @ theta)  # one step of refinement

    def _install(self, gram, moment, inverse, theta) -> None:
        self.gram, self._moment, self._inverse, self.theta = gram, moment, inverse, theta
        self.drift = self._subtracted = 0.0
        self.refreshes += 1

    def _step(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """theta - theta_-S, and R with A_-S^-1 = A^-1 + R R'; ValueError if the deletion makes A singular."""
        x = self._x[rows]
        reach = self._inverse @ x.T
        values, vectors = np.linalg.eigh(np.eye(len(rows)) - x @ reach)
        if values[0] < 1 / WORST_CONDITION:
            raise ValueError("without these rows the solution is not determined: raise lam or keep one of them")
        root = (reach @ vectors) / np.sqrt(values)
        return root @ ((vectors / np.sqrt(values)).T @ (self._t[rows] - x @ self.theta)), root

    def _downdate(self, rows: np.ndarray) -> tuple:
        """The state without `rows`, and an estimate of the relative error of its theta.

        The estimate is the Newton correction |A^-1 (X'T - A theta)| / |theta| with the downdated A and X'T, plus a
        bound on what rounding in their own downdates can have done so far: eps |A^-1| (|A| |theta| + |X'T|) for each,
        with the norms of rows for |theta| and |X'T|, which is no smaller.
        """
        x, t = self._x[rows], self._t[rows]
        step, root = self._step(rows)
        lengths = np.linalg.norm(self.theta, axis=1), np.linalg.norm(self._moment, axis=1)
        rounding = np.abs(self._inverse) @ (np.abs(self.gram) @ lengths[0] + lengths[1])
        gram, moment = _plus(self.gram, x.T, -1.0), self._moment - x.T @ t
        inverse = _plus(self._inverse, root, 1.0)
        theta = self.theta - step
        size = max(np.linalg.norm(theta), 1e-300)
        subtracted = self._subtracted + np.finfo(float).eps * np.linalg.norm(rounding) / size
        correction = np.linalg.norm(inverse @ (moment - gram @ theta)) / size
        return gram, moment, inverse, theta, subtracted, correction + subtracted


def _plus(symmetric: np.ndarray, factor: np.ndarray, sign: float) -> np.ndarray:
    """symmetric + sign factor factor' as a new array, in one pass: numpy's own expression takes four."""
    return dgemm(sign, factor, factor, 1.0, np.array(symmetric.T, order="F"), trans_b=True, overwrite_c=True).T


class LinearHead:
    """Ridge regression on the penultimate features of a frozen network; forgetting is a downdate of the head.

    It is exact for the head alone. The features must not have been learnt from the examples that are to be forgotten:
    use a network that was trained on other data, or not trained at all. `extractor` is a network, or a function from
    pixels [n, C, H, W] to features [n, d]; `ridge` holds the hyper-parameters and afterwards the solution.
    """

    def __init__(self, extractor: torch.nn.Module | Callable, ridge: Ridge | None = None):
        self.extractor = extractor
        self.ridge = ridge or Ridge()
        self._shape: tuple[int, int, int] | None = None  # of the pictures that it was fitted to

    def features(self, images) -> np.ndarray:
        """Features [n, d], float64."""
        network = isinstance(self.extractor, torch.nn.Module)
        dtype = next((p.dtype for p in self.extractor.parameters()), None) if network else None
        images = doors.pixels(images, shape=self._shape, dtype=dtype)
        return matrix(models.features(self.extractor, images) if network else self.extractor(images))

    def fit(self, examples) -> "LinearHead":
        """Fit the head to the features of `examples`."""
        examples = Examples.of(examples)
        self._shape = examples.shape
        self.ridge.fit_arrays(self.features(examples.images), examples.labels)
        return self

    def forget(self, indices) -> Receipt:
        """As `Ridge.forget`."""
        return self.ridge.forget(indices)

    def logits(self, images) -> torch.Tensor:
        """The head's output: float32 [n, classes]."""
        return to_logits(self.ridge.predict(self.features(images)))
