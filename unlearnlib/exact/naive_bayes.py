"""Classifiers that are functions of sums, and forget by subtraction: Gaussian naive Bayes and nearest class mean.

For each class c the count n_c and, for each feature, S_c = sum x and Q_c = sum x^2 are kept; a deletion subtracts
its terms from them (the summation form of Cao & Yang 2015). Floating-point sums depend on their order, so that adding
and subtracting leaves a trace. Here each feature is an integer of 31 bits and a sign in fixed point, whose unit is a
power of two that follows the largest value of the feature among the examples that remain (`_fixed_point`). Integer
sums have no order, and the model after any deletions is *bit-identical* to a fresh fit.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact import _fixed_point
from unlearnlib.exact._inputs import Fitted, labelled, matrix, rows_to_forget, to_logits
from unlearnlib.methods.records import Certificate, Cost, Receipt

EXACT = Certificate("exact", "a fit to the remaining examples; the statistics are bit-identical")
BITS = 31  # a square has 62: it fits int64, and its halves can be added 2^31 times


@dataclass
class NearestMean(Fitted):
    """Logits -|x - mu_c|^2; a class without examples has logit -inf.

    n_classes: fixed number of classes, by default the largest label + 1.
    """

    n_classes: int | None = None

    def fit(self, examples) -> "NearestMean":
        """Add up `examples.images` by `examples.labels`."""
        examples = Examples.of(examples)
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "NearestMean":
        """Add up features `x` [n, ...] by class labels [n]."""
        self._x, self._labels, classes = labelled(x, labels, self.n_classes)
        n, features = self._x.shape
        self._alive = np.ones(n, dtype=bool)
        self.counts = np.bincount(self._labels, minlength=classes)
        self._sums = np.zeros((3, classes, features), dtype=np.int64)
        self._top, self._held = np.zeros((2, features), dtype=np.int64)
        self._measure(np.arange(features))
        return self

    def forget(self, indices) -> Receipt:
        """Subtract the examples at `indices` (positions in what was fitted)."""
        started = time.perf_counter()
        rows = rows_to_forget(indices, self._alive)
        counts = np.bincount(self._labels[rows], minlength=len(self.counts))
        self.counts = self.counts - counts
        self._sums -= self._added(rows, np.arange(self._x.shape[1]))
        self._held -= (_fixed_point.exponents(self._x[rows]) == self._top).sum(0)
        self._alive[rows] = False
        self._x[rows] = 0
        finer = np.flatnonzero(self._held == 0)  # the largest values of these features are gone
        if len(finer):
            self._measure(finer)
        touched = {"rows": len(rows), "classes": int((counts > 0).sum()), "features measured anew": len(finer)}
        return Receipt(Cost(seconds=time.perf_counter() - started), touched, EXACT)

    def means(self) -> np.ndarray:
        """mu_c [classes, features]; nan for a class without examples."""
        with np.errstate(invalid="ignore"):
            return self._sums[0] / self.counts[:, None] * self._units()

    def logits(self, images) -> torch.Tensor:
        """float32 [n, classes]."""
        return to_logits(self._score(matrix(images, self._x.shape[1]), self.means()))

    def _score(self, x: np.ndarray, means: np.ndarray) -> np.ndarray:
        out = np.full((len(x), len(means)), -np.inf)
        for c in np.flatnonzero(self.counts):
            out[:, c] = -((x - means[c]) ** 2).sum(1)
        return out

    def _units(self) -> np.ndarray:
        return np.ldexp(1.0, self._top - BITS)

    def _measure(self, features: np.ndarray) -> None:
        """Exponent and sums of these features, from the examples that remain."""
        rows = np.flatnonzero(self._alive)
        found = _fixed_point.exponents(self._x[np.ix_(rows, features)])
        self._top[features] = found.max(0)
        self._held[features] = (found == self._top[features]).sum(0)
        self._sums[:, :, features] = self._added(rows, features)

    def _added(self, rows: np.ndarray, features) -> np.ndarray:
        """What `rows` add to S, and to the high and the low 31 bits of Q: int64 [3, classes, features]."""
        out = np.zeros((3, len(self.counts), len(features)), dtype=np.int64)
        for c in np.unique(self._labels[rows]):
            members = self._x[np.ix_(rows[self._labels[rows] == c], features)]
            codes = _fixed_point.codes(members, self._top[features], BITS)
            squares = codes**2
            out[:, c] = codes.sum(0), (squares >> BITS).sum(0), (squares & (2**BITS - 1)).sum(0)
        return out


@dataclass
class NaiveBayes(NearestMean):
    """Gaussian naive Bayes: logits log(n_c / n) + sum_j log N(x_j; mu_cj, Q_cj / n_c - mu_cj^2 + floor).

    floor   added to every variance; None: `SHARE` of the largest variance that a feature has over all classes, which
            is taken from the same sums, and so forgets with them
    """

    floor: float | None = None

    SHARE = 0.005

    def __post_init__(self):
        if self.floor is not None and not (doors.real(self.floor) and self.floor > 0):
            raise ValueError(f"floor must be a finite number above 0, or None, not {self.floor!r}")

    def variances(self) -> np.ndarray:
        """[classes, features] with the floor; nan for a class without examples. Never below the floor."""
        within = self._spread(self.counts[:, None], self._sums)
        if self.floor is not None:
            return within + self.floor
        largest = self._spread(self.counts.sum(), self._sums.sum(1)).max()
        return within + (self.SHARE * largest or 1.0)  # all examples are equal: any floor will do

    def _spread(self, n, sums: np.ndarray) -> np.ndarray:
        """Q / n - (S / n)^2 from (n Q - S^2) / n^2 in Python's integers: exact, hence at least 0."""
        s, high, low = sums.astype(object)
        spread = (np.asarray(n).astype(object) * (high * 2**BITS + low) - s**2).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return spread / np.asarray(n, dtype=np.float64) ** 2 * self._units() ** 2

    def _score(self, x: np.ndarray, means: np.ndarray) -> np.ndarray:
        variances = self.variances()
        out = np.full((len(x), len(means)), -np.inf)
        for c in np.flatnonzero(self.counts):
            density = np.log(2 * np.pi * variances[c]) + (x - means[c]) ** 2 / variances[c]
            out[:, c] = np.log(self.counts[c] / self.counts.sum()) - density.sum(1) / 2
        return out
