"""k nearest neighbours: the model is the data, so forgetting is striking rows out.

Squared distances are computed in fixed point (see `naive_bayes`), where they are exact integers. They depend neither on
how the examples are batched nor on which others are stored; equal distances are ordered by position. The votes after
any deletions are therefore bit-identical to those of a fresh fit.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from unlearnlib.exact._inputs import class_labels, rows_to_forget, to_logits
from unlearnlib.exact.naive_bayes import LIMIT, fixed_point
from unlearnlib.methods.records import Certificate, Cost, Receipt

EXACT = Certificate("exact", "a search among the remaining examples; the votes are bit-identical")
BLOCK = 512  # queries at a time


@dataclass
class NearestNeighbours:
    """Votes of the `k` nearest examples (all of them if fewer remain); logits log((votes / k + s) / (1 + s classes)).

    k          neighbours
    smoothing  s
    n_classes  fixed number of classes, by default the largest label + 1
    """

    k: int = 5
    smoothing: float = 1e-3
    n_classes: int | None = None

    def fit(self, examples) -> "NearestNeighbours":
        """Store `examples.images` and `examples.labels`."""
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "NearestNeighbours":
        """Store features `x` [n, ...] and class labels [n]."""
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        stored, self._unit = fixed_point(x)
        self._labels, self._classes = class_labels(labels, self.n_classes)
        if len(stored) != len(self._labels):
            raise ValueError(
                f"x must have one label for each row; got {len(stored)} rows and {len(self._labels)} labels"
            )
        self._x = _exact(stored)
        self._alive = np.ones(len(self._labels), dtype=bool)
        return self

    def forget(self, indices) -> Receipt:
        """Strike out the examples at `indices` (positions in what was fitted)."""
        started = time.perf_counter()
        rows = rows_to_forget(indices, self._alive)
        self._alive[rows] = False
        self._x[rows] = 0
        return Receipt(Cost(seconds=time.perf_counter() - started), {"rows": len(rows)}, EXACT)

    def neighbours(self, images) -> np.ndarray:
        """Positions of the nearest examples of each image, nearest first: int64 [n, k]."""
        queries = _exact(fixed_point(images, self._unit)[0])
        alive = np.flatnonzero(self._alive)
        stored = self._x[alive]
        norms = (stored**2).sum(1)
        k = min(self.k, len(alive))
        found = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), BLOCK):
            part = queries[start : start + BLOCK]
            distances = norms - 2 * (part @ stored.T)  # |x - z|^2 - |x|^2, an exact integer in float64
            cut = np.partition(distances, k - 1, axis=1)[:, k - 1]
            for i, row in enumerate(distances):
                near = np.flatnonzero(row <= cut[i])  # with ties, in order of position
                found[start + i] = near[np.argsort(row[near], kind="stable")[:k]]
        return alive[found]

    def logits(self, images) -> torch.Tensor:
        """float32 [n, classes]."""
        votes = np.eye(self._classes)[self._labels[self.neighbours(images)]].mean(1)
        return to_logits(np.log((votes + self.smoothing) / (1 + self.smoothing * self._classes)))


def _exact(codes: np.ndarray) -> np.ndarray:
    """Integer codes as float64, after checking that products of rows are exact."""
    if 4 * int(np.abs(codes).max(initial=0)) ** 2 * codes.shape[1] >= LIMIT:
        raise ValueError("features are too large for exact distances: scale them to about [-1, 1]")
    return codes.astype(np.float64)
