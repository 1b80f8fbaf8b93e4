"""k nearest neighbours: the model is the data, so forgetting is striking rows out.

Squared distances are computed in fixed point (see `_fixed_point`), where they are exact integers: they depend neither
on how the examples are batched nor on the order in which terms are added. The unit follows the largest value among the
remaining examples and the query; equal distances are ordered by position. The votes after any deletions are therefore
bit-identical to those of a fresh fit.
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

EXACT = Certificate("exact", "a search among the remaining examples; the votes are bit-identical")
BLOCK = 512  # queries at a time


@dataclass
class NearestNeighbours(Fitted):
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
        examples = Examples.of(examples)
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, labels) -> "NearestNeighbours":
        """Store features `x` [n, ...] and class labels [n]."""
        doors.whole(k=self.k)
        if not (doors.real(self.smoothing) and self.smoothing > 0):
            raise ValueError(f"smoothing must be a finite number above 0, not {self.smoothing!r}")
        self._x, self._labels, self._classes = labelled(x, labels, self.n_classes)
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
        queries = matrix(images, self._x.shape[1])
        alive = np.flatnonzero(self._alive)
        k = min(self.k, len(alive))
        found = np.empty((len(queries), k), dtype=np.int64)
        exponent = np.maximum(_fixed_point.exponents(queries).max(1), _fixed_point.exponents(self._x[alive]).max())
        bits = (50 - (queries.shape[1] - 1).bit_length()) // 2  # then distances stay below 2^53
        for e in np.unique(exponent):  # one, unless a query has larger values than all examples
            stored = _fixed_point.codes(self._x[alive], e, bits).astype(np.float64)
            norms = (stored**2).sum(1)
            asked = np.flatnonzero(exponent == e)
            for part in np.array_split(asked, -(-len(asked) // BLOCK)):
                coded = _fixed_point.codes(queries[part], e, bits).astype(np.float64)
                distances = norms - 2 * (coded @ stored.T)  # |x - z|^2 - |x|^2, an exact integer in float64
                cut = np.partition(distances, k - 1, axis=1)[:, k - 1]
                for i, row in enumerate(distances):
                    near = np.flatnonzero(row <= cut[i])  # with ties, in order of position
                    found[part[i]] = near[np.argsort(row[near], kind="stable")[:k]]
        return alive[found]

    def logits(self, images) -> torch.Tensor:
        """float32 [n, classes]."""
        votes = np.eye(self._classes)[self._labels[self.neighbours(images)]].mean(1)
        return to_logits(np.log((votes + self.smoothing) / (1 + self.smoothing * self._classes)))
