"""Compiled kernels of the deletable forest: keyed draws, split statistics, growing, deleting, predicting.

They are loops over single nodes and single examples, with branches that depend on the data: vectorised numpy
would spend its time on calls for a handful of elements, so they are compiled with numba (cached on disk).

Features are stored as unsigned 32-bit codes in the order of their float32 values, so that comparing codes is
comparing values and hashing a code is hashing a value. All split statistics are integers.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

HIGHEST = np.uint32(0xFFFFFFFF)  # pads lists of thresholds; no finite float32 has this code
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
COUNTERS = ("nodes_updated", "nodes_retrained", "examples_retrained", "thresholds_resampled", "trees_retrained")
UPDATED, RETRAINED, EXAMPLES, RESAMPLED = 0, 1, 2, 3


class Settings(NamedTuple):
    """Sizes and stopping rules. `cached_above`: nodes with more examples keep their split statistics."""

    max_depth: int
    random_depth: int
    max_features: int
    n_thresholds: int
    min_leaf: int
    cached_above: int


class Data(NamedTuple):
    """codes [features, n] uint32, labels [n] int32, alive [n] bool."""

    codes: np.ndarray
    labels: np.ndarray
    alive: np.ndarray


class Trees(NamedTuple):
    """Arrays of all trees, first axis the tree (inside the kernels: of one tree, without it).

    A node owns `order[start:stop]`, which may still list dead examples; children come in pairs (`child`, `child` + 1),
    `child` = -1 marks a leaf. Statistics live in slots: for every attribute that is considered, the sorted candidate
    thresholds, how many examples equal each (`equal`) and class counts in each gap between them (`gaps`; the last
    gap lies above all candidates). The last slot is scratch. The free lists hold their length in entry 0.
    """

    order: np.ndarray  # [n]
    start: np.ndarray  # [nodes]
    stop: np.ndarray
    child: np.ndarray
    depth: np.ndarray
    attribute: np.ndarray
    threshold: np.ndarray
    key: np.ndarray  # uint64, the random stream of the node: a hash of the tree's seed and the path to the node
    counts: np.ndarray  # [nodes, classes]
    slot: np.ndarray
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
    stack: np.ndarray  # int32 [nodes + 2, 3]
    spare: np.ndarray  # int32 [nodes + 2]
    left: np.ndarray  # int64 [classes]


@njit(cache=True, inline="always")
def _mix64(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, inline="always")
def _mix32(x):
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x = np.uint32(x ^ (x >> np.uint32(13)))
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(cache=True, inline="always")
def derive(key, label):
    """The random stream `label` below the stream `key`."""
    return _mix64(key + GOLDEN * (np.uint64(label) + np.uint64(1)))


@njit(cache=True, inline="always")
def priority(code, key):
    """Keyed bijection of 32-bit codes: distinct values never tie, so the smallest few are a uniform sample."""
    mixed = _mix32(np.uint32(code ^ np.uint32(key & np.uint64(0xFFFFFFFF))))
    return _mix32(np.uint32(mixed ^ np.uint32(key >> np.uint64(32))))


@njit(cache=True, inline="always")
def _below(values, code):
    """How many of the sorted, padded `values` are smaller than `code`."""
    position = 0
    step = (values.size + 1) >> 1
    while step > 0:
        if values[position + step - 1] < code:
            position += step
        step >>= 1
    return position


@njit(cache=True, error_model="numpy")
def _draw(column, n, wanted, key, values, equal, gaps, w):
    """Candidate thresholds of one attribute: the `wanted` observed values of smallest priority, sorted by value.

    The largest value is no candidate, because `x <= value` would not split. Returns how many were found, 0 if the
    attribute is constant.
    """
    for i in range(n):
        w.codes[i] = column[w.rows[i]]
    low = high = w.codes[0]
    for i in range(n):
        low = min(low, w.codes[i])
        high = max(high, w.codes[i])
    if low == high:
        return 0
    for i in range(n):
        w.hashes[i] = priority(w.codes[i], key)
    found = 0
    limit = np.int64(1) << 32
    for i in range(n):
        if np.int64(w.hashes[i]) >= limit or w.codes[i] == high:
            continue
        item = (np.uint64(w.hashes[i]) << np.uint64(32)) | np.uint64(w.codes[i])
        place = found
        while place > 0 and w.best[place - 1] > item:
            place -= 1
        if place > 0 and w.best[place - 1] == item:
            continue  # the same value again
        if found < wanted:
            found += 1
        for j in range(found - 1, place, -1):
            w.best[j] = w.best[j - 1]
        w.best[place] = item
        if found == wanted:
            limit = np.int64(w.best[found - 1] >> np.uint64(32))
    for i in range(found):  # insertion sort by value
        code = np.uint32(w.best[i] & np.uint64(0xFFFFFFFF))
        place = i
        while place > 0 and values[place - 1] > code:
            values[place] = values[place - 1]
            place -= 1
        values[place] = code
    values[found:] = HIGHEST
    equal[: found + 1] = 0
    gaps[: found + 1] = 0
    w.gap[:n] = 0
    for j in range(found):  # no branches, so that the inner loop is vectorised
        value = values[j]
        for i in range(n):
            w.gap[i] += np.uint8(w.codes[i] > value)
    for i in range(n):
        gap = w.gap[i]
        gaps[gap, w.labels[i]] += 1
        equal[gap] += w.codes[i] == values[gap]
    return found


@njit(cache=True, inline="always")
def _random(tree, node, s):
    return tree.depth[node] < s.random_depth


@njit(cache=True, inline="always")
def _wanted(tree, node, s):
    """Candidates per attribute; a random node needs only the first, unless small leaves may rule it out."""
    return 1 if _random(tree, node, s) and s.min_leaf == 1 else s.n_thresholds


@njit(cache=True, error_model="numpy")
def _survey(tree, data, node, n, slot, s, w):
    """Fill `slot` with the statistics of `node`, whose living rows are in `w.rows[:n]`.

    Attributes are tried in an order drawn for the node (a Fisher-Yates shuffle whose draws are keyed by the node);
    constant ones are passed over. An attribute that a deletion makes constant is therefore replaced by the next one.
    """
    key = tree.key[node]
    slots = 1 if _random(tree, node, s) else s.max_features
    wanted = _wanted(tree, node, s)
    features = data.codes.shape[0]
    order_key = derive(key, 2)
    taken = 0
    tried = 0
    while taken < slots and tried < features:
        draw = derive(order_key, tried) >> np.uint64(32)
        pick = tried + np.int64((draw * np.uint64(features - tried)) >> np.uint64(32))
        attribute = w.permutation[pick]
        w.permutation[pick] = w.permutation[tried]
        w.permutation[tried] = attribute
        w.swaps[tried] = pick
        tried += 1
        found = _draw(
            data.codes[attribute],
            n,
            wanted,
            derive(key, 3 + attribute),
            tree.values[slot, taken],
            tree.equal[slot, taken],
            tree.gaps[slot, taken],
            w,
        )
        if found > 0:
            tree.considered[slot, taken] = attribute
            tree.found[slot, taken] = found
            taken += 1
    for i in range(tried - 1, -1, -1):
        j = w.swaps[i]
        w.permutation[i], w.permutation[j] = w.permutation[j], w.permutation[i]
    tree.considered[slot, taken:] = -1


@njit(cache=True, error_model="numpy")
def _choose(tree, node, n, slot, s, w):
    """The split of `node` from the statistics in `slot`: (attribute, threshold), attribute -1 if none is admissible.

    Greedy nodes minimise the Gini impurity, that is maximise sum_c L_c^2 / |L| + sum_c R_c^2 / |R|, and keep the first
    of equal candidates; random nodes take the admissible candidate of smallest priority.
    """
    random = _random(tree, node, s)
    counts = tree.counts[node]
    best = -1.0
    attribute = -1
    threshold = HIGHEST
    for q in range(s.max_features):
        if tree.considered[slot, q] < 0:
            break
        w.left[:] = 0
        n_left = 0
        stream = derive(tree.key[node], 3 + tree.considered[slot, q])
        for j in range(tree.found[slot, q]):
            square_left = square_right = 0
            n_left = 0
            for c in range(counts.size):
                w.left[c] += tree.gaps[slot, q, j, c]
                left = w.left[c]
                right = counts[c] - left
                n_left += left
                square_left += left * left
                square_right += right * right
            n_right = n - n_left
            if n_left < s.min_leaf or n_right < s.min_leaf:
                continue
            if random:
                score = 4294967296.0 - priority(tree.values[slot, q, j], stream)
            else:
                score = (square_left * n_right + square_right * n_left) / (n_left * n_right)
            if score > best:
                best = score
                attribute = tree.considered[slot, q]
                threshold = tree.values[slot, q, j]
    return attribute, threshold


@njit(cache=True, error_model="numpy")
def _pack(tree, data, node, w):
    """Copy the living rows of `node` and their labels to scratch; returns how many."""
    n = 0
    for i in range(tree.start[node], tree.stop[node]):
        row = tree.order[i]
        if data.alive[row]:
            w.rows[n] = row
            w.labels[n] = data.labels[row]
            n += 1
    return n


@njit(cache=True, error_model="numpy")
def _terminal(tree, node, n, s):
    return tree.depth[node] >= s.max_depth or n < 2 * s.min_leaf or tree.counts[node].max() == n


@njit(cache=True, inline="always")
def _push(free, item):
    free[0] += 1
    free[free[0]] = item


@njit(cache=True, inline="always")
def _pop(free):
    free[0] -= 1
    return free[free[0] + 1]


@njit(cache=True, error_model="numpy")
def _release(tree, node, w):
    """Make `node` a leaf without statistics; its descendants return to the free lists."""
    top = 0
    w.spare[top] = node
    while top >= 0:
        current = w.spare[top]
        top -= 1
        if tree.slot[current] >= 0:
            _push(tree.free_slots, tree.slot[current])
            tree.slot[current] = -1
        pair = tree.child[current]
        if pair >= 0:
            _push(tree.free_nodes, pair)
            tree.child[current] = -1
            w.spare[top + 1] = pair
            w.spare[top + 2] = pair + 1
            top += 2
    tree.attribute[node] = -1
    tree.threshold[node] = 0


@njit(cache=True, error_model="numpy")
def _grow(tree, data, node, s, w, counters):
    """Build the subtree of `node` from its living examples."""
    _release(tree, node, w)
    n = _pack(tree, data, node, w)
    start = tree.start[node]
    tree.stop[node] = start + n
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
        node = w.spare[top]
        top -= 1
        counters[RETRAINED] += 1
        start = tree.start[node]
        n = tree.stop[node] - start
        tree.counts[node] = 0
        for i in range(n):
            row = tree.order[start + i]
            w.rows[i] = row
            w.labels[i] = data.labels[row]
            tree.counts[node, w.labels[i]] += 1
        if _terminal(tree, node, n, s):
            continue
        slot = _pop(tree.free_slots) if n > s.cached_above and tree.free_slots[0] > 0 else scratch
        _survey(tree, data, node, n, slot, s, w)
        attribute, threshold = _choose(tree, node, n, slot, s, w)
        if attribute < 0:
            if slot != scratch:
                _push(tree.free_slots, slot)
            continue
        if slot != scratch:
            tree.slot[node] = slot
        tree.attribute[node] = attribute
        tree.threshold[node] = threshold
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
        pair = _pop(tree.free_nodes)
        tree.child[node] = pair
        for side in range(2):
            child = pair + side
            tree.start[child] = front if side else start
            tree.stop[child] = start + n if side else front
            tree.child[child] = -1
            tree.slot[child] = -1
            tree.attribute[child] = -1
            tree.threshold[child] = 0
            tree.depth[child] = tree.depth[node] + 1
            tree.key[child] = derive(tree.key[node], side)
            top += 1
            w.spare[top] = child


@njit(cache=True, error_model="numpy")
def _drop(values, equal, gaps, found):
    """Strike vanished values from a list that holds every value but the largest; returns how many are left."""
    keep = 0
    for j in range(found):
        if equal[j] > 0:
            values[keep] = values[j]
            equal[keep] = equal[j]
            gaps[keep] = gaps[j]
            keep += 1
    gaps[keep] = gaps[found]
    if keep > 0 and gaps[keep].sum() == 0:  # the largest value vanished: the largest candidate takes its place
        keep -= 1
    values[keep:found] = HIGHEST
    equal[keep : found + 1] = 0
    return keep


@njit(cache=True, error_model="numpy")
def _subtract(tree, data, node, n, doomed, s, w, counters):
    """Take the rows `doomed` out of the cached statistics of `node`, which has `n` examples left.

    A candidate is invalid once no example has its value, or once it is the largest value. If the list held every
    value it only shrinks; otherwise the living values are ranked again and the next one by priority enters. An
    attribute without candidates is constant, and then the next attribute of the node's order enters.
    """
    slot = tree.slot[node]
    wanted = _wanted(tree, node, s)
    packed = False
    for q in range(s.max_features):
        attribute = tree.considered[slot, q]
        if attribute < 0:
            break
        values = tree.values[slot, q]
        equal = tree.equal[slot, q]
        gaps = tree.gaps[slot, q]
        found = tree.found[slot, q]
        lost = False
        for i in range(doomed.size):
            code = data.codes[attribute, doomed[i]]
            gap = _below(values, code)
            gaps[gap, data.labels[doomed[i]]] -= 1
            if code == values[gap]:
                equal[gap] -= 1
                lost |= equal[gap] == 0
            elif gap == found:
                lost |= gaps[found].sum() == 0
        if not lost:
            continue
        if found < wanted:
            found = _drop(values, equal, gaps, found)
        else:
            counters[RESAMPLED] += 1
            if not packed:
                packed = _pack(tree, data, node, w) == n
            stream = derive(tree.key[node], 3 + attribute)
            found = _draw(data.codes[attribute], n, wanted, stream, values, equal, gaps, w)
        if found == 0:
            if not packed:
                _pack(tree, data, node, w)
            _survey(tree, data, node, n, slot, s, w)
            return
        tree.found[slot, q] = found


@njit(cache=True, error_model="numpy")
def _delete(tree, data, doomed, s, w, counters):
    """Delete the rows `doomed` (reordered in place; already dead in `data`) in one pass from the root."""
    scratch = tree.considered.shape[0] - 1
    top = 0
    w.stack[0, 0], w.stack[0, 1], w.stack[0, 2] = 0, 0, doomed.size
    while top >= 0:
        node, low, high = w.stack[top, 0], w.stack[top, 1], w.stack[top, 2]
        top -= 1
        counters[UPDATED] += 1
        for i in range(low, high):
            tree.counts[node, data.labels[doomed[i]]] -= 1
        n = tree.counts[node].sum()
        if _terminal(tree, node, n, s):
            _release(tree, node, w)
            continue
        slot = tree.slot[node]
        if slot >= 0 and n <= s.cached_above:
            _push(tree.free_slots, slot)
            slot = tree.slot[node] = -1
        if slot >= 0:
            _subtract(tree, data, node, n, doomed[low:high], s, w, counters)
        else:
            slot = scratch
            _pack(tree, data, node, w)
            _survey(tree, data, node, n, slot, s, w)
        attribute, threshold = _choose(tree, node, n, slot, s, w)
        if attribute != tree.attribute[node] or threshold != tree.threshold[node]:
            if attribute >= 0 or tree.attribute[node] >= 0:
                _grow(tree, data, node, s, w, counters)
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
                w.stack[top, 0], w.stack[top, 1], w.stack[top, 2] = tree.child[node] + side, first, end


@njit(cache=True, error_model="numpy")
def _tree(f, t):
    return Trees(
        f.order[t], f.start[t], f.stop[t], f.child[t], f.depth[t], f.attribute[t], f.threshold[t], f.key[t],
        f.counts[t], f.slot[t], f.free_nodes[t], f.free_slots[t], f.considered[t], f.found[t], f.values[t],
        f.equal[t], f.gaps[t],
    )  # fmt: skip


@njit(cache=True, error_model="numpy")
def grow(forest, data, s, w, counters):
    """Grow every tree from its root; the nodes must have been emptied."""
    for t in range(forest.order.shape[0]):
        _grow(_tree(forest, t), data, 0, s, w, counters)


@njit(cache=True, error_model="numpy")
def delete(forest, data, rows, s, w, counters):
    """Delete `rows` from every tree; `counters` are those of `COUNTERS`."""
    for row in rows:
        data.alive[row] = False
    doomed = rows.copy()
    for t in range(forest.order.shape[0]):
        before = counters[RETRAINED]
        _delete(_tree(forest, t), data, doomed, s, w, counters)
        counters[-1] += counters[RETRAINED] > before


@njit(cache=True, error_model="numpy")
def predict(forest, codes):
    """Mean over trees of the class frequencies in the leaves that `codes` [m, features] fall into: [m, classes]."""
    trees = forest.order.shape[0]
    out = np.zeros((codes.shape[0], forest.counts.shape[2]))
    for i in range(codes.shape[0]):
        for t in range(trees):
            node = 0
            while forest.child[t, node] >= 0:
                node = forest.child[t, node] + (codes[i, forest.attribute[t, node]] > forest.threshold[t, node])
            counts = forest.counts[t, node]
            out[i] += counts / counts.sum()
    return out / trees
