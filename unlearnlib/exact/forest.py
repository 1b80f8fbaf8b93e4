"""DaRE forest: a random forest that forgets examples exactly, for any number of classes.

At a node with the examples D each of p attributes, drawn at random, offers k thresholds v, drawn at random among its
values in D; the split x_a <= v with the smallest Gini impurity

    sum over sides S of (|S| / |D|) (1 - sum_c (|S_c| / |S|)^2)

is taken, except in the upper `random_depth` layers, where attribute and threshold are drawn without looking at the
labels. Every node keeps the class counts that its candidates need. A deletion subtracts the example along its path;
a subtree is built anew only where the best candidate changes. Trees see all examples (no bootstrap), or each example is
in a share q of the trees: then a deletion visits only those.
Brophy & Lowd, "Machine Unlearning for Random Forests", ICML 2021 (brophy2021); the share q: Wang et al. 2025
(wang2025dynfrs).

Deviations. (1) The paper's updated forest equals a retrained one in distribution. Here every draw is a hash of the
tree's seed, the path to the node, the attribute and the value: attributes come in a keyed order in which constant
ones are passed over, thresholds are the k observed values of smallest keyed priority (a bottom-k sample, uniform
without replacement). What is drawn is thus a function of the remaining examples alone, and the forest after any
deletions is *bit-identical* to `fit` on what remains with the same seed. (2) A threshold is an observed value, not the
middle between two; any value but the largest is valid, whether or not the labels beside it differ. (3) Random nodes
draw uniformly from the observed values, not from an interval, whose ends a deletion would move.
(4) Nodes with few examples recompute their statistics instead of storing them. (5) Features are rounded to float32.
(6) The trees that an example is in are drawn by a hash of its features and label, so that they do not depend on which
others are there; equal examples are in the same trees.
"""

import copy
import hashlib
import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact import _tree
from unlearnlib.exact._inputs import Fitted, labelled, matrix, rows_to_forget, to_logits
from unlearnlib.exact._tree_memory import COUNTERS, Data, Settings, allocate
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.seeding import numpy_generator

EXACT = Certificate("exact", "fit on the remaining examples with the same seed; the trees are bit-identical")


@dataclass
class DareForest(Fitted):
    """A deletable forest.

    n_trees, max_depth: as in any forest (depth at most 24); n_thresholds: candidates k per attribute and node, at most
    255: with few of them the best one changes less often, and deletions are cheaper (see benchmarks/forest.py);
    random_depth: number of upper layers with random splits, `max_depth` gives extremely randomised trees;
    max_features: attributes p per node, a count, a fraction or "sqrt"; min_leaf: examples that a leaf needs;
    occurrence: the share q of the trees that each example is in, q n_trees rounded up; n_classes: fixed number of
    classes, by default the largest label + 1; smoothing: added to class probabilities before the logarithm in `logits`.
    """

    n_trees: int = 100
    max_depth: int = 10
    n_thresholds: int = 3
    random_depth: int = 0
    max_features: int | float | str = "sqrt"
    min_leaf: int = 1
    seed: int = 0
    n_classes: int | None = None
    smoothing: float = 1e-3
    occurrence: float = 1.0

    def __post_init__(self):
        doors.whole(n_trees=self.n_trees, min_leaf=self.min_leaf)
        doors.whole(1, 255, n_thresholds=self.n_thresholds)
        doors.whole(0, 24, max_depth=self.max_depth)
        doors.whole(0, self.max_depth, random_depth=self.random_depth)
        for name in ("occurrence", "smoothing"):
            value = getattr(self, name)
            if not (doors.real(value) and 0 < value <= 1):
                raise ValueError(f"{name} must be a number above 0 and at most 1, not {value!r}")

    def fit(self, examples) -> "DareForest":
        """Grow the forest on `examples.images` (flattened) and `examples.labels`."""
        examples = Examples.of(examples)
        return self.fit_arrays(examples.images, examples.labels)

    def fit_arrays(self, x, y) -> "DareForest":
        """Grow the forest on features `x` [n, features], finite, and labels `y` [n]."""
        x, labels, classes = labelled(x, y, self.n_classes)
        codes, self._classes = encode(x), classes
        n, features = codes.shape
        member = _members(codes, labels, self.n_trees, math.ceil(self.occurrence * self.n_trees), self.seed)
        columns = np.ascontiguousarray(codes.T)
        self._alive = np.ones(n, dtype=bool)
        self._data = Data(columns, labels.astype(np.int32), self._alive, member)
        self._settings = Settings(
            self.max_depth,
            self.random_depth,
            _attributes(self.max_features, features),
            self.n_thresholds,
            self.min_leaf,
            max(64, self.n_thresholds * self._classes),
        )
        self._trees, self._work = allocate(member, features, self._classes, self._settings)
        streams = [numpy_generator(self.seed, "dare", t).integers(2**64, dtype=np.uint64) for t in range(self.n_trees)]
        self._trees.nodes["key"][:, 0] = streams
        self._update(np.empty(0, np.int32), fresh=True)
        return self

    def _update(self, rows: np.ndarray, fresh: bool) -> dict[str, int]:
        counters = np.zeros(len(COUNTERS), np.int64)
        _tree.update(self._trees, self._data, rows, fresh, self._settings, self._work, counters)
        return dict(zip(COUNTERS, counters.tolist(), strict=True))

    def forget(self, indices) -> Receipt:
        """Delete the examples at `indices` (positions in what was fitted) from every tree in one pass.

        `touched` counts nodes whose statistics were updated, nodes and examples in rebuilt subtrees, threshold lists
        that were drawn again, and trees in which something was rebuilt.
        """
        started = time.perf_counter()
        rows = rows_to_forget(indices, self._alive)
        touched = self._update(rows.astype(np.int32), fresh=False)
        self._data.codes[:, rows] = 0
        self._data.labels[rows] = 0
        return Receipt(Cost(seconds=time.perf_counter() - started), touched, EXACT)

    def predict_proba(self, x) -> np.ndarray:
        """Mean over trees of the class frequencies in the leaf of each row of `x` [m, features]: [m, classes]."""
        codes = encode(matrix(x, self._data.codes.shape[0]))
        return _tree.predict(self._trees, codes)

    def logits(self, images) -> torch.Tensor:
        """log((p + s) / (1 + s * classes)) with p from `predict_proba` and s the smoothing: float32 [n, classes]."""
        p = self.predict_proba(images)
        return to_logits(np.log((p + self.smoothing) / (1 + self.smoothing * p.shape[1])))

    def nodes(self) -> pd.DataFrame:
        """Every node in preorder: tree, depth, attribute (-1 in leaves), threshold, n and a count for each class."""
        f, rows = self._trees, []
        for t in range(self.n_trees):
            pending = [0]
            while pending:
                node = pending.pop()
                split, counts = f.nodes[t, node], f.counts[t, node]
                rows.append((t, split["depth"], split["attribute"], split["threshold"], counts.sum(), *counts))
                if split["child"] >= 0:
                    pending += [split["child"] + 1, split["child"]]
        table = pd.DataFrame(rows, columns=["tree", "depth", "attribute", "threshold", "n", *range(self._classes)])
        values = decode(table["threshold"].to_numpy(np.uint32))
        return table.assign(threshold=np.where(table["attribute"] < 0, np.nan, values))

    def flow(self, indices) -> pd.DataFrame:
        """How the deletion of `indices` would flow through the trees; the forest does not change.

        One row a node of the updated trees, in preorder: tree, path (from the root, L and R), depth, attribute,
        threshold, n, and state: "untouched", "updated" (class counts and split statistics were subtracted from) or
        "rebuilt" (its own best split, or that of a node above it, is another one now).
        """
        after = copy.deepcopy(self)
        after.forget(indices)
        old, new = _paths(self.nodes()), _paths(after.nodes())
        before = old.set_index(["tree", "path"])[["attribute", "threshold", "n"]].to_dict("index")
        states: dict[tuple[int, str], str] = {}
        for node in new.itertuples():
            was = before.get((node.tree, node.path))
            same = was is not None and (was["attribute"], was["threshold"]) == (node.attribute, node.threshold)
            if states.get((node.tree, node.path[:-1])) == "rebuilt" or (node.attribute >= 0 and not same):
                state = "rebuilt"
            else:
                state = "untouched" if was is not None and was["n"] == node.n else "updated"
            states[node.tree, node.path] = state
        columns = ["tree", "path", "depth", "attribute", "threshold", "n"]
        return new[columns].assign(state=list(states.values()))

    def fingerprint(self) -> str:
        """SHA-256 of `nodes()`: equal for bit-identical forests."""
        return hashlib.sha256(np.ascontiguousarray(self.nodes().to_numpy(np.float64)).tobytes()).hexdigest()


def _paths(nodes: pd.DataFrame) -> pd.DataFrame:
    """`nodes` in preorder with the path of each from its root: "" for the root, then L and R."""
    paths: list[str] = []
    pending: list[str] = []
    for depth, attribute in zip(nodes["depth"], nodes["attribute"], strict=True):
        path = pending.pop() if depth else ""
        paths.append(path)
        if attribute >= 0:
            pending += [path + "R", path + "L"]
    return nodes.assign(path=paths)


def encode(x) -> np.ndarray:
    """Floats as uint32 codes of their float32 values, in the same order (finite values only)."""
    x = np.asarray(x.detach().cpu() if torch.is_tensor(x) else x).astype(np.float32) + np.float32(0)  # -0 becomes 0
    if not np.isfinite(x).all():
        raise ValueError("features must be finite in float32; impute or clip them first")
    bits = np.ascontiguousarray(x).view(np.uint32)
    return np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))


def decode(codes: np.ndarray) -> np.ndarray:
    """The float32 values of `encode`."""
    return np.where(codes >> 31 == 1, codes & np.uint32(0x7FFFFFFF), ~codes).astype(np.uint32).view(np.float32)


def _attributes(max_features, features: int) -> int:
    if max_features == "sqrt":
        count = int(math.sqrt(features))
    elif isinstance(max_features, float) and 0 < max_features <= 1:
        count = int(max_features * features)
    elif isinstance(max_features, int) and not isinstance(max_features, bool) and max_features >= 1:
        count = max_features
    else:
        raise ValueError(f'max_features must be "sqrt", a fraction in (0, 1] or a positive count, not {max_features!r}')
    return min(max(count, 1), features)


def _members(codes: np.ndarray, labels: np.ndarray, trees: int, each: int, seed: int) -> np.ndarray:
    """bool [trees, n]: the `each` trees of smallest keyed hash of every example; all trees if there are no more."""
    n = len(codes)
    if each == trees:
        return np.ones((trees, n), dtype=bool)
    key = str(int(seed)).encode()[:64]
    rows = np.ascontiguousarray(np.column_stack([codes, labels.astype(np.uint32)]))
    number = [int.from_bytes(hashlib.blake2b(r.tobytes(), digest_size=8, key=key).digest(), "little") for r in rows]
    ranks = _tree.ranks(np.array(number, dtype=np.uint64), trees)
    chosen = np.argpartition(ranks, each - 1, axis=0)[:each]
    member = np.zeros((trees, n), dtype=bool)
    np.put_along_axis(member, chosen, True, axis=0)
    return member
