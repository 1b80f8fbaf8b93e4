"""Classifiers that are functions of sums, and forget by subtraction: Gaussian naive Bayes and nearest class mean.

For each class c the count n_c and, for each feature, S_c = sum x and Q_c = sum x^2 are kept; a deletion subtracts
its terms from them (the summation form of Cao & Yang 2015). Floating-point sums depend on their order, so that adding
and subtracting leaves a trace. Here features are integers in fixed point: bytes as they are, floats rounded to
multiples of 2^-12. Integer sums have no order, and the model after any deletions is *bit-identical* to a fresh fit.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from unlearnlib.exact._inputs import class_labels, rows_to_forget, to_logits
from unlearnlib.methods.records import Certificate, Cost, Receipt

EXACT = Certificate("exact", "a fit to the remaining examples; the statistics are bit-identical")
LIMIT = 2**53  # sums of squares must stay exact in float64


def fixed_point(images, unit: float | None = None) -> tuple[np.ndarray, float]:
    """Flattened images [n, features] as int64 multiples of a unit: 1/255 for bytes, else 2^-12 unless given."""
    images = torch.as_tensor(getattr(images, "images", images)).detach().cpu()
    flat = images.reshape(len(images), -1).numpy()
    if images.dtype == torch.uint8 and unit in (None, 1 / 255):
        return flat.astype(np.int64), 1 / 255
    values = flat / 255.0 if images.dtype == torch.uint8 else flat.astype(np.float64)
    unit = 2.0**-12 if unit is None else unit
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 2**31 * unit:
        raise ValueError(f"features must be finite and at most {2**31 * unit:g}: scale them first")
    return np.rint(values / unit).astype(np.int64), unit


@dataclass
class NearestMean:
    """Logits -|x - mu_c|^2; a class without examples has logit -inf.

    n_classes: fixed number of classes, by default the largest label + 1.
    """

    n_classes: int | None = None

    def fit(self, examples) -> "NearestMean":
        """Add up `examples.images` by `examples.labels`."""
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "NearestMean":
        """Add up features `x` [n, ...] by class labels [n]."""
        self._x, self._unit = fixed_point(x)
        self._labels, classes = class_labels(labels, self.n_classes)
        if len(self._x) != len(self._labels):
            raise ValueError(
                f"x must have one label for each row; got {len(self._x)} rows and {len(self._labels)} labels"
            )
        bound = int(np.abs(self._x).max(initial=0)) ** 2 * len(self._x)
        if bound >= LIMIT:
            raise ValueError("features are too large for exact sums of squares: scale them to about [-1, 1]")
        self._alive = np.ones(len(self._labels), dtype=bool)
        self.counts, self.sums, self.squares = self._sums(np.arange(len(self._labels)), classes)
        return self

    def forget(self, indices) -> Receipt:
        """Subtract the examples at `indices` (positions in what was fitted)."""
        started = time.perf_counter()
        rows = rows_to_forget(indices, self._alive)
        counts, sums, squares = self._sums(rows, len(self.counts))
        self.counts, self.sums, self.squares = self.counts - counts, self.sums - sums, self.squares - squares
        self._alive[rows] = False
        self._x[rows] = 0
        touched = {"rows": len(rows), "classes": int((counts > 0).sum())}
        return Receipt(Cost(seconds=time.perf_counter() - started), touched, EXACT)

    def means(self) -> np.ndarray:
        """mu_c [classes, features]; nan for a class without examples."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts[:, None] * self._unit

    def logits(self, images) -> torch.Tensor:
        """float32 [n, classes]."""
        x = fixed_point(images, self._unit)[0] * self._unit
        return to_logits(self._score(x, self.means()))

    def _score(self, x: np.ndarray, means: np.ndarray) -> np.ndarray:
        out = np.full((len(x), len(means)), -np.inf)
        for c in np.flatnonzero(self.counts):
            out[:, c] = -((x - means[c]) ** 2).sum(1)
        return out

    def _sums(self, rows: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, labels = self._x[rows], self._labels[rows]
        members = [x[labels == c] for c in range(classes)]
        sums = np.stack([part.sum(0) for part in members])
        return np.bincount(labels, minlength=classes), sums, np.stack([(part**2).sum(0) for part in members])


@dataclass
class NaiveBayes(NearestMean):
    """Gaussian naive Bayes: logits log(n_c / n) + sum_j log N(x_j; mu_cj, Q_cj / n_c - mu_cj^2 + floor).

    `floor` is added to every variance. It is a constant, not a multiple of the data's largest variance, because that
    would have to forget as well.
    """

    floor: float = 1e-3

    def variances(self) -> np.ndarray:
        """[classes, features] with the floor; nan for a class without examples. Never below the floor."""
        n = self.counts[:, None].astype(object)  # n Q - S^2 in Python integers: exact, hence at least 0
        spread = (n * self.squares.astype(object) - self.sums.astype(object) ** 2).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return spread / self.counts[:, None].astype(np.float64) ** 2 * self._unit**2 + self.floor

    def _score(self, x: np.ndarray, means: np.ndarray) -> np.ndarray:
        variances = self.variances()
        out = np.full((len(x), len(means)), -np.inf)
        for c in np.flatnonzero(self.counts):
            density = np.log(2 * np.pi * variances[c]) + (x - means[c]) ** 2 / variances[c]
            out[:, c] = np.log(self.counts[c] / self.counts.sum()) - density.sum(1) / 2
        return out
