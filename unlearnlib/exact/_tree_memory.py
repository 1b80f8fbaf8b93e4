"""The memory of the deletable forest: what a node holds, what all trees hold, and the scratch of one thread."""

from typing import NamedTuple

import numpy as np

from unlearnlib._extras import optional

njit = optional("numba").njit

HIGHEST = np.uint32(0xFFFFFFFF)  # pads lists of thresholds; no finite float32 has this code
COUNTERS = ("nodes_updated", "nodes_retrained", "examples_retrained", "thresholds_resampled", "trees_retrained")
UPDATED, RETRAINED, EXAMPLES, RESAMPLED, TREES = range(5)

NODE = np.dtype(
    [
        ("key", np.uint64),  # the random stream of the node: a hash of the tree's seed and the path to the node
        ("start", np.int32),
        ("stop", np.int32),
        ("child", np.int32),
        ("attribute", np.int32),
        ("threshold", np.uint32),
        ("slot", np.int32),
        ("depth", np.int32),
    ],
    align=True,
)


class Settings(NamedTuple):
    """Sizes and stopping rules. `cached_above`: nodes with more examples keep their split statistics."""

    max_depth: int
    random_depth: int
    max_features: int
    n_thresholds: int
    min_leaf: int
    cached_above: int


class Data(NamedTuple):
    """codes [features, n] uint32, labels [n] int32, alive [n] bool, member [trees, n] bool: who is in which tree."""

    codes: np.ndarray
    labels: np.ndarray
    alive: np.ndarray
    member: np.ndarray


class Trees(NamedTuple):
    """Arrays of all trees, first axis the tree (inside the kernels: of one tree, without it).

    A node owns `order[start:stop]`, rows that are in the tree; some of them may be dead. Children come in pairs
    (`child`, `child` + 1), `child` = -1 marks a leaf. Statistics live in slots: for every attribute that is
    considered, the sorted candidate thresholds, how many examples equal each (`equal`) and class counts in each gap
    between them (`gaps`; the last gap lies above all candidates). The last slot is scratch. The free lists hold their
    length in entry 0.
    """

    order: np.ndarray  # [n]
    nodes: np.ndarray  # [nodes] of NODE
    counts: np.ndarray  # [nodes, classes]
    free_nodes: np.ndarray
    free_slots: np.ndarray
    considered: np.ndarray  # [slots, max_features] attribute, -1 where none
    found: np.ndarray  # [slots, max_features] number of candidates
    values: np.ndarray  # [slots, max_features, 2^k - 1]
    equal: np.ndarray  # [slots, max_features, n_thresholds + 1]
    gaps: np.ndarray  # [slots, max_features, n_thresholds + 1, classes]


class Work(NamedTuple):
    """Scratch memory of one thread."""

    rows: np.ndarray  # int32 [n]
    labels: np.ndarray  # int32 [n]
    codes: np.ndarray  # uint32 [n]
    hashes: np.ndarray  # uint32 [n]
    gap: np.ndarray  # uint8 [n]
    best: np.ndarray  # uint64 [n_thresholds], priority and code
    permutation: np.ndarray  # int32 [features], the identity between calls
    swaps: np.ndarray  # int32 [features]
    lost: np.ndarray  # bool [max_features]
    stack: np.ndarray  # int32 [nodes + 2, 3]
    spare: np.ndarray  # int32 [nodes + 2]
    left: np.ndarray  # int64 [classes]


def allocate(member: np.ndarray, features: int, classes: int, s: Settings) -> tuple[Trees, Work]:
    """Empty forests; large arrays are not touched here, so only what is used takes memory."""
    trees, inside = len(member), member.sum(1)
    n = int(max(inside.max(), 1))
    nodes = min(2 ** (s.max_depth + 1) - 1, 2 * n - 1)
    slots = min(2**s.max_depth, 3 * n // s.cached_above + 8)
    gaps = s.n_thresholds + 1
    padded = 2 ** s.n_thresholds.bit_length() - 1

    def array(*shape, kind=np.int32):
        return np.empty((trees, *shape), kind)

    forest = Trees(
        order=np.ascontiguousarray(np.argsort(~member, axis=1, kind="stable")[:, :n], dtype=np.int32),
        nodes=array(nodes, kind=NODE),
        counts=array(nodes, classes),
        free_nodes=np.tile(np.r_[nodes // 2, np.arange(nodes - 2, 0, -2)].astype(np.int32), (trees, 1)),
        free_slots=np.tile(np.r_[slots, np.arange(slots - 1, -1, -1)].astype(np.int32), (trees, 1)),
        considered=array(slots + 1, s.max_features),
        found=array(slots + 1, s.max_features),
        values=array(slots + 1, s.max_features, padded, kind=np.uint32),
        equal=array(slots + 1, s.max_features, gaps),
        gaps=array(slots + 1, s.max_features, gaps, classes),
    )
    forest.nodes[:, 0] = np.array((0, 0, n, -1, -1, HIGHEST, -1, 0), dtype=NODE)
    forest.nodes["stop"][:, 0] = inside
    work = Work(
        rows=np.empty(n, np.int32),
        labels=np.empty(n, np.int32),
        codes=np.empty(n, np.uint32),
        hashes=np.empty(n, np.uint32),
        gap=np.empty(n, np.uint8),
        best=np.empty(s.n_thresholds, np.uint64),
        permutation=np.arange(features, dtype=np.int32),
        swaps=np.empty(features, np.int32),
        lost=np.empty(s.max_features, bool),
        stack=np.empty((nodes + 2, 3), np.int32),
        spare=np.empty(nodes + 2, np.int32),
        left=np.empty(classes, np.int64),
    )
    return forest, work
