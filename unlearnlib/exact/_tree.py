"""Compiled kernels of the deletable forest: deleting, and the three functions that are called from outside.

They are loops over single nodes and single examples, with branches that depend on the data: vectorised numpy
would spend its time on calls for a handful of elements, so they are compiled with numba. `_tree_memory` says what they
work on, `_tree_draws` what is drawn, `_tree_splits` what a node knows, `_tree_growth` how a subtree is built.
Loops have one exit and no slice is assigned to: then numba drops the reference counts of arrays, which would take most
of the time.

Features are stored as unsigned 32-bit codes in the order of their float32 values, so that comparing codes is
comparing values and hashing a code is hashing a value. All split statistics are integers.
"""

import hashlib
from pathlib import Path

import numpy as np

from unlearnlib.exact._tree_draws import derive
from unlearnlib.exact._tree_draws import priority as priority
from unlearnlib.exact._tree_growth import grow, is_terminal, make_leaf, push
from unlearnlib.exact._tree_memory import HIGHEST, RETRAINED, TREES, UPDATED, Trees, njit
from unlearnlib.exact._tree_splits import choose, pack, repair, subtract, survey

SOURCES = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("_tree*.py")))).hexdigest()


@njit(error_model="numpy")
def _delete(tree, data, doomed, s, w, counters):
    """Delete the rows `doomed` (reordered in place; already dead in `data`) in one pass from the root."""
    scratch = tree.considered.shape[0] - 1
    top = 0
    w.stack[0, 0], w.stack[0, 1], w.stack[0, 2] = 0, 0, doomed.size
    while top >= 0:
        node, low, high = np.int64(w.stack[top, 0]), w.stack[top, 1], w.stack[top, 2]
        top -= 1
        counters[UPDATED] += 1
        for i in range(low, high):
            tree.counts[node, data.labels[doomed[i]]] -= 1
        n = np.int64(0)  # typed: a literal would compile every callee twice
        for c in range(tree.counts.shape[1]):
            n += tree.counts[node, c]
        if is_terminal(tree, node, n, s):
            make_leaf(tree, node, w)
            continue
        slot = np.int64(tree.nodes[node].slot)
        if (slot >= 0) & (n <= s.cached_above):
            push(tree.free_slots, slot)
            tree.nodes[node].slot = -1
            slot = np.int64(-1)
        if slot >= 0:
            if subtract(tree, data, node, doomed, low, high, s, w):
                repair(tree, data, node, n, s, w, counters)
        else:
            slot = scratch
            pack(tree, data, node, w)
            survey(tree, data, node, n, slot, s, w)
        attribute, threshold = choose(tree, node, n, slot, s, w)
        if attribute != tree.nodes[node].attribute or threshold != tree.nodes[node].threshold:
            if attribute < 0:
                make_leaf(tree, node, w)
            else:
                if (slot == scratch) & (n > s.cached_above):  # was a large leaf: let it get a slot of its own
                    attribute = np.int64(-1)
                grow(tree, data, node, attribute, threshold, s, w, counters)
            continue
        if attribute < 0:
            continue
        middle = low
        for i in range(low, high):
            if data.codes[attribute, doomed[i]] <= threshold:
                doomed[i], doomed[middle] = doomed[middle], doomed[i]
                middle += 1
        for side in range(2):
            first = middle if side else low
            end = high if side else middle
            if end > first:
                top += 1
                w.stack[top, 0], w.stack[top, 1], w.stack[top, 2] = tree.nodes[node].child + side, first, end


@njit(error_model="numpy")
def _tree(f, t):
    return Trees(
        f.order[t], f.nodes[t], f.counts[t], f.free_nodes[t], f.free_slots[t],
        f.considered[t], f.found[t], f.values[t], f.equal[t], f.gaps[t],
    )  # fmt: skip


def _entries(sources: str):
    """The functions that are called from outside, the only ones in numba's cache on disk.

    That cache notices a change in the file of a function, but not in those of the functions that it calls. `sources`
    is free in each of them, and with that part of its key.
    """

    @njit(cache=True)
    def ranks(numbers, trees):
        """A hash [trees, n] of each number [n] and tree."""
        sources  # noqa: B018
        out = np.empty((trees, numbers.size), np.uint64)
        for t in range(trees):
            for i in range(numbers.size):
                out[t, i] = derive(numbers[i], t)
        return out

    @njit(cache=True, error_model="numpy")
    def update(forest, data, rows, fresh, s, w, counters):
        """Grow every tree from its root (`fresh`), or else delete `rows` from every tree.

        One entry point for both, because what is compiled for one would be compiled again for the other.
        """
        sources  # noqa: B018
        doomed = np.empty_like(rows)
        for i in range(rows.size):
            data.alive[rows[i]] = False
        for t in range(forest.order.shape[0]):
            before = counters[RETRAINED]
            if fresh:
                grow(_tree(forest, t), data, np.int64(0), np.int64(-1), HIGHEST, s, w, counters)
            else:
                inside = 0
                for i in range(rows.size):
                    if data.member[t, rows[i]]:
                        doomed[inside] = rows[i]
                        inside += 1
                if inside > 0:
                    _delete(_tree(forest, t), data, doomed[:inside], s, w, counters)
            counters[TREES] += counters[RETRAINED] > before

    @njit(cache=True, error_model="numpy")
    def predict(forest, codes):
        """Mean over trees of the class frequencies in the leaves that `codes` [m, features] fall into: [m, classes].

        Trees without examples have nothing to say; at least one has some.
        """
        sources  # noqa: B018
        trees, classes = forest.order.shape[0], forest.counts.shape[2]
        out = np.zeros((codes.shape[0], classes))
        asked = np.zeros(trees, np.bool_)
        for t in range(trees):
            for c in range(classes):
                asked[t] |= forest.counts[t, 0, c] > 0
        total = asked.sum()
        for i in range(codes.shape[0]):
            for t in range(trees):
                if not asked[t]:
                    continue
                node = 0
                while forest.nodes[t, node].child >= 0:
                    split = forest.nodes[t, node]
                    node = split.child + (codes[i, split.attribute] > split.threshold)
                n = 0
                for c in range(classes):
                    n += forest.counts[t, node, c]
                for c in range(classes):
                    out[i, c] += forest.counts[t, node, c] / (n * total)
        return out

    return ranks, update, predict


ranks, update, predict = _entries(SOURCES)
