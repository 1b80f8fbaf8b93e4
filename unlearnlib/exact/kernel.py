"""Kernel ridge regression that forgets by inverting a block.

With M = (K + lam I)^-1 and alpha = M T for the kernel matrix K [n, n] and targets T [n, m], and the rows split into
deleted ones S and the rest R,

    M_new = M_RR - M_RS M_SS^-1 M_SR,        alpha_new = alpha_R - M_RS M_SS^-1 alpha_S,

in O(n^2 k) instead of O(n^3). The leave-one-out residual of row i is alpha_i / M_ii. `lam` is fixed, it does not depend
on n, and so is the kernel's width: one that was estimated from the data would itself have to forget. float64; the
error is measured after each deletion and the system is solved again before it passes a tolerance.
"""

import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.spatial.distance import cdist

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact._inputs import Fitted, coded, labelled, matrix, rows_to_forget, to_logits
from unlearnlib.methods.records import Certificate, Cost, Receipt

EXACT = Certificate("exact", "the solution for the remaining examples with the same lam and kernel")


@dataclass
class KernelRidge(Fitted):
    """f(x) = sum_i alpha_i k(x, x_i).

    lam        penalty, above 0
    kernel     "rbf", exp(-gamma |x - z|^2), or "linear", x'z
    gamma      of "rbf"; by default 1 / features
    targets    "onehot" (0 and 1) or "signed" (-1 and 1)
    tolerance  relative error of alpha above which the system is solved again
    n_classes  fixed number of classes, by default the largest label + 1
    """

    lam: float = 1.0
    kernel: str = "rbf"
    gamma: float | None = None
    targets: str = "onehot"
    tolerance: float = 1e-9
    n_classes: int | None = None

    def fit(self, examples) -> "KernelRidge":
        """Fit to flattened `examples.images` (uint8 divided by 255) and `examples.labels`."""
        examples = Examples.of(examples)
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "KernelRidge":
        """Fit to features `x` [n, d] and class labels [n]."""
        if not (doors.real(self.lam) and self.lam > 0):
            raise ValueError(f"lam must be a finite number above 0, not {self.lam!r}")
        if self.gamma is not None and not (doors.real(self.gamma) and self.gamma > 0):
            raise ValueError(f"gamma must be a finite number above 0, or None, not {self.gamma!r}")
        if self.kernel not in ("rbf", "linear"):
            raise ValueError(f'kernel must be "rbf" or "linear", not {self.kernel!r}')
        self._x, labels, classes = labelled(x, labels, self.n_classes)
        self._t = coded(labels, classes, self.targets)
        self._alive = np.ones(len(labels), dtype=bool)
        self._system = self._gram(self._x) + self.lam * np.eye(len(labels))
        self.refreshes = -1
        self._refresh()
        return self

    def forget(self, indices) -> Receipt:
        """Delete the rows at `indices` (positions in what was fitted)."""
        started, before = time.perf_counter(), self.refreshes
        rows = rows_to_forget(indices, self._alive)
        gone = np.isin(np.flatnonzero(self._alive), rows)
        self._alive[rows] = False
        self._x[rows] = self._t[rows] = 0
        self._system = self._system[~gone][:, ~gone]
        factor = scipy.linalg.cho_factor(self._inverse[gone][:, gone])
        across = scipy.linalg.cho_solve(factor, self._inverse[gone][:, ~gone])
        self.alpha = self.alpha[~gone] - across.T @ self.alpha[gone]
        self._inverse = self._inverse[~gone][:, ~gone] - self._inverse[~gone][:, gone] @ across
        self.drift = self._error()
        if self.drift > self.tolerance:
            self._refresh()
        touched = {"rows": len(rows), "refreshes": self.refreshes - before}
        return Receipt(Cost(seconds=time.perf_counter() - started), touched, EXACT)

    def logits(self, images) -> torch.Tensor:
        """f for flattened `images`: float32 [n, classes]."""
        return to_logits(self.predict(images))

    def predict(self, x) -> np.ndarray:
        """f(x) for features `x` [n, d]: float64 [n, classes]."""
        return self._gram(matrix(x, self._x.shape[1])) @ self.alpha

    def leave_one_out_residuals(self) -> np.ndarray:
        """alpha_i / M_ii [n, classes]: the error at row i of the model fitted without it; nan if it was forgotten."""
        out = np.full(self._t.shape, np.nan)
        out[self._alive] = self.alpha / np.diag(self._inverse)[:, None]
        return out

    def _gram(self, x: np.ndarray) -> np.ndarray:
        z = self._x[self._alive]
        if self.kernel == "linear":
            return x @ z.T
        return np.exp(-(1 / z.shape[1] if self.gamma is None else self.gamma) * cdist(x, z, "sqeuclidean"))

    def _refresh(self) -> None:
        self._inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(self._system), np.eye(len(self._system)))
        self.alpha = self._inverse @ self._t[self._alive]
        self.drift = self._error()
        self.refreshes += 1

    def _error(self) -> float:
        """|M (T - (K + lam I) alpha)| / |alpha|: the relative error of alpha, to first order."""
        correction = self._inverse @ (self._t[self._alive] - self._system @ self.alpha)
        return float(np.linalg.norm(correction) / max(np.linalg.norm(self.alpha), 1e-300))
