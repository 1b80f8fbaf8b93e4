"""Statistics of a node of the deletable forest: made, subtracted from, repaired, and the split that they choose."""

import numpy as np

from unlearnlib.exact._tree_draws import derive, draw_candidates, priority
from unlearnlib.exact._tree_memory import HIGHEST, RESAMPLED, njit


@njit(inline="always")
def below(values, code):
    """How many of the sorted, padded `values` are smaller than `code`."""
    position = 0
    step = (values.size + 1) >> 1
    while step > 0:
        if values[position + step - 1] < code:
            position += step
        step >>= 1
    return position


@njit(inline="always")
def is_random(tree, node, s):
    return tree.nodes[node].depth < s.random_depth


@njit(inline="always")
def wanted_in(tree, node, s):
    """Candidates per attribute; a random node needs only the first, unless small leaves may rule it out."""
    return 1 if is_random(tree, node, s) and s.min_leaf == 1 else s.n_thresholds


@njit(error_model="numpy")
def pack(tree, data, node, w):
    """Copy the living rows of `node` and their labels to scratch; returns how many."""
    n = 0
    for i in range(tree.nodes[node].start, tree.nodes[node].stop):
        row = tree.order[i]
        if data.alive[row]:
            w.rows[n] = row
            w.labels[n] = data.labels[row]
            n += 1
    return n


@njit(error_model="numpy")
def survey(tree, data, node, n, slot, s, w):
    """Fill `slot` with the statistics of `node`, whose living rows are in `w.rows[:n]`.

    Attributes are tried in an order drawn for the node (a Fisher-Yates shuffle whose draws are keyed by the node);
    constant ones are passed over. An attribute that a deletion makes constant is therefore replaced by the next one.
    """
    key = tree.nodes[node].key
    slots = 1 if is_random(tree, node, s) else s.max_features
    wanted = wanted_in(tree, node, s)
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
        found = draw_candidates(
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


@njit(error_model="numpy")
def choose(tree, node, n, slot, s, w):
    """The split of `node` from the statistics in `slot`: (attribute, threshold), attribute -1 if none is admissible.

    Greedy nodes minimise the Gini impurity, that is maximise sum_c L_c^2 / |L| + sum_c R_c^2 / |R|, and keep the first
    of equal candidates; random nodes take the admissible candidate of smallest priority.
    """
    random = is_random(tree, node, s)
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


@njit(error_model="numpy")
def subtract(tree, data, node, doomed, low, high, s, w):
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
                gap = below(tree.values[slot, q], code)
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


@njit(error_model="numpy")
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


@njit(error_model="numpy")
def repair(tree, data, node, n, s, w, counters):
    """Replace the invalid candidates of the attributes in `w.lost`.

    If the list held every value it only shrinks; otherwise the living values are ranked again and the next one by
    priority enters. An attribute without candidates is constant: the next attribute of the node's order enters.
    """
    pack(tree, data, node, w)
    slot = np.int64(tree.nodes[node].slot)
    wanted = wanted_in(tree, node, s)
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
                found = draw_candidates(data.codes[attribute], n, wanted, stream, values, equal, gaps, w)
            tree.found[slot, q] = found
            constant |= found == 0
    if constant:
        survey(tree, data, node, n, slot, s, w)
