"""Keyed draws of the deletable forest: hashes, priorities of values, and the candidate thresholds of an attribute."""

import numpy as np

from unlearnlib.exact._tree_memory import HIGHEST, njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(inline="always")
def _mix64(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(inline="always")
def _mix32(x):
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x = np.uint32(x ^ (x >> np.uint32(13)))
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(inline="always")
def derive(key, label):
    """The random stream `label` below the stream `key`."""
    return _mix64(key + GOLDEN * (np.uint64(label) + np.uint64(1)))


@njit(inline="always")
def priority(code, key):
    """Keyed bijection of 32-bit codes: distinct values never tie, so the smallest few are a uniform sample."""
    mixed = _mix32(np.uint32(code ^ np.uint32(key & np.uint64(0xFFFFFFFF))))
    return _mix32(np.uint32(mixed ^ np.uint32(key >> np.uint64(32))))


@njit(error_model="numpy")
def draw_candidates(column, n, wanted, key, values, equal, gaps, w):
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
