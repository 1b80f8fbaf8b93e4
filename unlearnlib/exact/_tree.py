"""Compiled kernels of the deletable forest: keyed draws, split statistics, growing, deleting, predicting.

They are loops over single nodes and single examples, with branches that depend on the data: vectorised numpy
would spend its time on calls for a handful of elements, so they are compiled with numba. They share one file, because
numba's cache on disk notices changes in the file of a function, but not in those of the functions that it calls.
Loops have one exit and no slice is assigned to: then numba drops the reference counts of arrays, which would take most
of the time.

Features are stored as unsigned 32-bit codes in the order of their float32 values, so that comparing codes is
comparing values and hashing a code is hashing a value. All split statistics are integers.
"""

from typing import NamedTuple

import numpy as np

from unlearnlib._extras import optional

njit = optional("numba").njit

HIGHEST = np.uint32(0xFFFFFFFF)  # pads lists of thresholds; no finite float32 has this code
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
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


@njit(cache=True)
def ranks(numbers, trees):
    """A hash [trees, n] of each number [n] and tree."""
    out = np.empty((trees, numbers.size), np.uint64)
    for t in range(trees):
        for i in range(numbers.size):
            out[t, i] = derive(numbers[i], t)
    return out


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
    return tree.nodes[node].depth < s.random_depth


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
    key = tree.nodes[node].key
    slots = 1 if _random(tree, node, s) else s.max_features
    wanted = _wanted(tree, node, s)
    features = data.codes.shape[0]
    order_key = derive(key, 2)
    taken = 0
    tried = 0
    while (taken < slots) & (tried < features):
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
    for q in range(taken, s.max_features):
        tree.considered[slot, q] = -1
        tree.found[slot, q] = 0


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
        for c in range(counts.size):
            w.left[c] = 0
        stream = derive(tree.nodes[node].key, 3 + tree.considered[slot, q])
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
    for i in range(tree.nodes[node].start, tree.nodes[node].stop):
        row = tree.order[i]
        if data.alive[row]:
            w.rows[n] = row
            w.labels[n] = data.labels[row]
            n += 1
    return n


@njit(cache=True, error_model="numpy")
def _terminal(tree, node, n, s):
    pure = False
    for c in range(tree.counts.shape[1]):
        pure |= tree.counts[node, c] == n
    return pure | (tree.nodes[node].depth >= s.max_depth) | (n < 2 * s.min_leaf)


@njit(cache=True, inline="always")
def _push(free, item):
    free[0] += 1
    free[free[0]] = item


@njit(cache=True, inline="always")
def _pop(free):
    free[0] -= 1
    return free[free[0] + 1]


@njit(cache=True, error_model="numpy")
def _prune(tree, node, w):
    """Return the descendants of `node` to the free lists."""
    top = -1
    pair = tree.nodes[node].child
    tree.nodes[node].child = -1
    if pair >= 0:
        _push(tree.free_nodes, pair)
        w.spare[0] = pair
        w.spare[1] = pair + 1
        top = 1
    while top >= 0:
        current = w.spare[top]
        top -= 1
        if tree.nodes[current].slot >= 0:
            _push(tree.free_slots, tree.nodes[current].slot)
            tree.nodes[current].slot = -1
        pair = tree.nodes[current].child
        if pair >= 0:
            _push(tree.free_nodes, pair)
            tree.nodes[current].child = -1
            w.spare[top + 1] = pair
            w.spare[top + 2] = pair + 1
            top += 2


@njit(cache=True, error_model="numpy")
def _make_leaf(tree, node, w):
    _prune(tree, node, w)
    if tree.nodes[node].slot >= 0:
        _push(tree.free_slots, tree.nodes[node].slot)
        tree.nodes[node].slot = -1
    tree.nodes[node].attribute = -1
    tree.nodes[node].threshold = HIGHEST  # what `_choose` answers where there is no split


@njit(cache=True, error_model="numpy")
def _grow(tree, data, node, attribute, threshold, s, w, counters):
    """Build the subtree of `node` from its living examples; its split is given unless `attribute` is negative."""
    known = attribute >= 0
    _prune(tree, node, w)
    n = _pack(tree, data, node, w)
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
            if _terminal(tree, node, n, s):
                continue
            slot = scratch
            if (n > s.cached_above) & (tree.free_slots[0] > 0):
                slot = np.int64(_pop(tree.free_slots))
                tree.nodes[node].slot = slot
            _survey(tree, data, node, n, slot, s, w)
            attribute, threshold = _choose(tree, node, n, slot, s, w)
            if attribute < 0:
                _make_leaf(tree, node, w)
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
        pair = _pop(tree.free_nodes)
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


@njit(cache=True, error_model="numpy")
def _strike(values, equal, gaps, found):
    """Strike vanished values from a list that holds every value but the largest; returns how many are left."""
    classes = gaps.shape[1]
    keep = 0
    for j in range(found):
        if equal[j] > 0:
            values[keep] = values[j]
            equal[keep] = equal[j]
            for c in range(classes):
                gaps[keep, c] = gaps[j, c]
            keep += 1
    above = 0
    for c in range(classes):
        gaps[keep, c] = gaps[found, c]
        above += gaps[keep, c]
    keep -= (keep > 0) & (above == 0)  # the largest value vanished: the largest candidate takes its place
    for j in range(keep, found):
        values[j] = HIGHEST
        equal[j] = 0
    return keep


@njit(cache=True, error_model="numpy")
def _subtract(tree, data, node, doomed, low, high, s, w):
    """Take the rows `doomed[low:high]` out of the cached statistics of `node`.

    Returns whether a candidate became invalid: no example has its value any more, or none lies above it. `w.lost`
    marks the attributes concerned.
    """
    slot = tree.nodes[node].slot
    any_lost = False
    for q in range(s.max_features):
        found = tree.found[slot, q]
        lost = False
        if found > 0:
            attribute = tree.considered[slot, q]
            for i in range(low, high):
                code = data.codes[attribute, doomed[i]]
                gap = _below(tree.values[slot, q], code)
                tree.gaps[slot, q, gap, data.labels[doomed[i]]] -= 1
                if code == tree.values[slot, q, gap]:
                    tree.equal[slot, q, gap] -= 1
                    lost |= tree.equal[slot, q, gap] == 0
            above = 0
            for c in range(tree.counts.shape[1]):
                above += tree.gaps[slot, q, found, c]
            lost |= above == 0
        w.lost[q] = lost
        any_lost |= lost
    return any_lost


@njit(cache=True, error_model="numpy")
def _repair(tree, data, node, n, s, w, counters):
    """Replace the invalid candidates of the attributes in `w.lost`.

    If the list held every value it only shrinks; otherwise the living values are ranked again and the next one by
    priority enters. An attribute without candidates is constant: the next attribute of the node's order enters.
    """
    _pack(tree, data, node, w)
    slot = np.int64(tree.nodes[node].slot)
    wanted = _wanted(tree, node, s)
    constant = False
    for q in range(s.max_features):
        if w.lost[q]:
            found = tree.found[slot, q]
            values, equal, gaps = tree.values[slot, q], tree.equal[slot, q], tree.gaps[slot, q]
            if found < wanted:
                found = _strike(values, equal, gaps, found)
            else:
                counters[RESAMPLED] += 1
                attribute = tree.considered[slot, q]
                stream = derive(tree.nodes[node].key, 3 + attribute)
                found = _draw(data.codes[attribute], n, wanted, stream, values, equal, gaps, w)
            tree.found[slot, q] = found
            constant |= found == 0
    if constant:
        _survey(tree, data, node, n, slot, s, w)


@njit(cache=True, error_model="numpy")
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
        if _terminal(tree, node, n, s):
            _make_leaf(tree, node, w)
            continue
        slot = np.int64(tree.nodes[node].slot)
        if (slot >= 0) & (n <= s.cached_above):
            _push(tree.free_slots, slot)
            tree.nodes[node].slot = -1
            slot = np.int64(-1)
        if slot >= 0:
            if _subtract(tree, data, node, doomed, low, high, s, w):
                _repair(tree, data, node, n, s, w, counters)
        else:
            slot = scratch
            _pack(tree, data, node, w)
            _survey(tree, data, node, n, slot, s, w)
        attribute, threshold = _choose(tree, node, n, slot, s, w)
        if attribute != tree.nodes[node].attribute or threshold != tree.nodes[node].threshold:
            if attribute < 0:
                _make_leaf(tree, node, w)
            else:
                if (slot == scratch) & (n > s.cached_above):  # was a large leaf: let it get a slot of its own
                    attribute = np.int64(-1)
                _grow(tree, data, node, attribute, threshold, s, w, counters)
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


@njit(cache=True, error_model="numpy")
def _tree(f, t):
    return Trees(
        f.order[t], f.nodes[t], f.counts[t], f.free_nodes[t], f.free_slots[t],
        f.considered[t], f.found[t], f.values[t], f.equal[t], f.gaps[t],
    )  # fmt: skip


@njit(cache=True, error_model="numpy")
def update(forest, data, rows, fresh, s, w, counters):
    """Grow every tree from its root (`fresh`), or else delete `rows` from every tree.

    One entry point for both, because what is compiled for one would be compiled again for the other.
    """
    doomed = np.empty_like(rows)
    for i in range(rows.size):
        data.alive[rows[i]] = False
    for t in range(forest.order.shape[0]):
        before = counters[RETRAINED]
        if fresh:
            _grow(_tree(forest, t), data, np.int64(0), np.int64(-1), HIGHEST, s, w, counters)
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
