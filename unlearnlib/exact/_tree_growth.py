"""Subtrees of the deletable forest: built from their living examples, and given back."""

import numpy as np

from unlearnlib.exact._tree_draws import derive
from unlearnlib.exact._tree_memory import EXAMPLES, HIGHEST, RETRAINED, njit
from unlearnlib.exact._tree_splits import choose, pack, survey


@njit(error_model="numpy")
def is_terminal(tree, node, n, s):
    pure = False
    for c in range(tree.counts.shape[1]):
        pure |= tree.counts[node, c] == n
    return pure | (tree.nodes[node].depth >= s.max_depth) | (n < 2 * s.min_leaf)


@njit(inline="always")
def push(free, item):
    free[0] += 1
    free[free[0]] = item


@njit(inline="always")
def pop(free):
    free[0] -= 1
    return free[free[0] + 1]


@njit(error_model="numpy")
def prune(tree, node, w):
    """Return the descendants of `node` to the free lists."""
    top = -1
    pair = tree.nodes[node].child
    tree.nodes[node].child = -1
    if pair >= 0:
        push(tree.free_nodes, pair)
        w.spare[0] = pair
        w.spare[1] = pair + 1
        top = 1
    while top >= 0:
        current = w.spare[top]
        top -= 1
        if tree.nodes[current].slot >= 0:
            push(tree.free_slots, tree.nodes[current].slot)
            tree.nodes[current].slot = -1
        pair = tree.nodes[current].child
        if pair >= 0:
            push(tree.free_nodes, pair)
            tree.nodes[current].child = -1
            w.spare[top + 1] = pair
            w.spare[top + 2] = pair + 1
            top += 2


@njit(error_model="numpy")
def make_leaf(tree, node, w):
    prune(tree, node, w)
    if tree.nodes[node].slot >= 0:
        push(tree.free_slots, tree.nodes[node].slot)
        tree.nodes[node].slot = -1
    tree.nodes[node].attribute = -1
    tree.nodes[node].threshold = HIGHEST  # what `_choose` answers where there is no split


@njit(error_model="numpy")
def grow(tree, data, node, attribute, threshold, s, w, counters):
    """Build the subtree of `node` from its living examples; its split is given unless `attribute` is negative."""
    known = attribute >= 0
    prune(tree, node, w)
    n = pack(tree, data, node, w)
    start = tree.nodes[node].start
    tree.nodes[node].stop = start + n
    last = n
    for i in range(start, start + n):  # the dead rows move behind the segment, where only ancestors see them
        if not data.alive[tree.order[i]]:
            while not data.alive[tree.order[start + last]]:
                last += 1
            tree.order[i], tree.order[start + last] = tree.order[start + last], tree.order[i]
    scratch = tree.considered.shape[0] - 1
    counters[EXAMPLES] += n
    top = 0
    w.spare[0] = node
    while top >= 0:
        node = np.int64(w.spare[top])
        top -= 1
        counters[RETRAINED] += 1
        start = tree.nodes[node].start
        n = tree.nodes[node].stop - start
        for c in range(tree.counts.shape[1]):
            tree.counts[node, c] = 0
        for i in range(n):
            row = tree.order[start + i]
            w.rows[i] = row
            w.labels[i] = data.labels[row]
            tree.counts[node, w.labels[i]] += 1
        if not known:
            if is_terminal(tree, node, n, s):
                continue
            slot = scratch
            if (n > s.cached_above) & (tree.free_slots[0] > 0):
                slot = np.int64(pop(tree.free_slots))
                tree.nodes[node].slot = slot
            survey(tree, data, node, n, slot, s, w)
            attribute, threshold = choose(tree, node, n, slot, s, w)
            if attribute < 0:
                make_leaf(tree, node, w)
                continue
        known = False
        tree.nodes[node].attribute = attribute
        tree.nodes[node].threshold = threshold
        column = data.codes[attribute]
        front = start
        back = start + n
        for i in range(n):
            if column[w.rows[i]] <= threshold:
                tree.order[front] = w.rows[i]
                front += 1
            else:
                back -= 1
                tree.order[back] = w.rows[i]
        pair = pop(tree.free_nodes)
        tree.nodes[node].child = pair
        for side in range(2):
            child = pair + side
            tree.nodes[child].start = front if side else start
            tree.nodes[child].stop = start + n if side else front
            tree.nodes[child].child = -1
            tree.nodes[child].slot = -1
            tree.nodes[child].depth = tree.nodes[node].depth + 1
            tree.nodes[child].attribute = -1
            tree.nodes[child].threshold = HIGHEST
            tree.nodes[child].key = derive(tree.nodes[node].key, side)
            top += 1
            w.spare[top] = child
