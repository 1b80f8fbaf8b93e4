"""Forgetting quality of the NeurIPS 2023 unlearning challenge: an estimated epsilon for each forgotten example.

For each x in S, over decision rules between unlearned and retrained models on the margin s(x),

    eps(x) = max over rules of max{ log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR },

leaving out rules for which exactly one rate is 0; a rule without errors has eps = infinity (reported as 50). Then

    H(x) = 2^-(n-1) for the n-th bin of width 1/2,  F = mean of H over S,  score = F * RA_U/RA_R * TA_U/TA_R.

Rules with one threshold call the sample with the larger median positive. Rules with two call everything between them
the sample with the smaller range; the thresholds lie within `BUFFER` of that range, as published. Here all rules of
either family are tried, by order statistics, instead of a grid of 100 thresholds a unit.

BUFFER is in units of the margin, so the rules with two thresholds are not invariant to its scale.

The maximum is biased upwards: two sets of 512 *retrained* models have a median eps of 1.6 and F = .18, not 1. Report F
beside `forgetting_quality_null`, at the same number of models. Nothing here is a certificate: see `epsilon`.

Triantafillou et al., arXiv 2406.09073.
"""

import math
from dataclasses import dataclass

import numpy as np

from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.seeding import numpy_generator

DELTA, CAP, WIDTH, BUFFER, PEAKY = 1e-5, 50.0, 0.5, 2.0, 0.01  # as published
SPLITS = 40  # of the retrained models, for the null


@dataclass(frozen=True, eq=False)
class ForgettingQuality:
    """`epsilon` and `points` H of each example, from `n` models a side; `quality` is F in [0, 1], higher is better."""

    epsilon: np.ndarray
    points: np.ndarray
    n: int

    @property
    def quality(self) -> float:
        return float(self.points.mean())


def forgetting_quality(unlearned, retrained, *, delta: float = DELTA, rules: str = "both") -> ForgettingQuality:
    """Estimate eps and H from margins [models, examples] of as many unlearned as retrained models.

    `rules` is "both", as published, or "single". An example whose narrower sample spans less than 1% of the range of
    the wider one gets eps = 50 without a search, as published. H is 0 beyond eps = ceil(log(models - 1)), which the
    sample cannot resolve. An example that leaves no rule at all (all margins tied) has eps = 0.

    Raises ValueError for shapes that differ, fewer than three models, margins that are not finite, unknown rules and
    delta outside [0, 1).
    """
    u, r = as_array(unlearned, np.float64), as_array(retrained, np.float64)
    if u.ndim != 2 or u.shape != r.shape or len(u) < 3:
        raise ValueError(f"margins must be two matrices [models, examples] of one shape, not {u.shape} and {r.shape}")
    if not (np.isfinite(u).all() and np.isfinite(r).all()):
        raise ValueError("margins must be finite: clip them first")
    if rules not in ("both", "single") or not 0 <= delta < 1:
        raise ValueError(f"rules is 'both' or 'single' and delta lies in [0, 1), not {rules!r} and {delta}")
    n = len(u)
    epsilon_of = _Rules(n, delta)
    larger = np.median(r, axis=0) > np.median(u, axis=0)
    best = _single(np.where(larger, r, u), np.where(larger, u, r), epsilon_of)
    wide_u, wide_r = np.ptp(u, axis=0), np.ptp(r, axis=0)
    if rules == "both":
        # on a tie of ranges the published code calls the second sample, the one with the smaller median, narrow
        narrow_r = np.where(larger, wide_r < wide_u, wide_r <= wide_u)
        best = np.maximum(best, _double(np.where(narrow_r, r, u), np.where(narrow_r, u, r), epsilon_of))
    peaky = np.minimum(wide_u, wide_r) < PEAKY * np.maximum(wide_u, wide_r)
    epsilon = np.where(peaky, CAP, np.clip(best, 0, CAP))
    return ForgettingQuality(epsilon, quality_points(epsilon, n), n)


def quality_points(epsilon, n: int) -> np.ndarray:
    """H = 2^-(bin - 1) with bins [0, 1/2), [1/2, 1), ...; 0 from eps = ceil(log(n - 1)) on."""
    eps = np.asarray(epsilon, float)
    return np.where(eps < math.ceil(math.log(n - 1)), 0.5 ** np.floor(eps / WIDTH), 0.0)


def challenge_score(quality: float, retain: tuple[float, float], test: tuple[float, float]) -> float:
    """F times the accuracies (unlearned, retrained) as ratios: F * RA_U / RA_R * TA_U / TA_R."""
    if min(retain[1], test[1]) <= 0:
        raise ValueError("the retrained models must have positive accuracy on retained and on test examples")
    return quality * retain[0] / retain[1] * test[0] / test[1]


def forgetting_quality_null(
    retrained, *, n: int | None = None, delta: float = DELTA, rules: str = "both", splits: int = SPLITS, seed: int = 0
) -> np.ndarray:
    """F of a perfect unlearner [splits]: retrained models against other retrained models, n and n at random.

    `n` defaults to half of `retrained` [models, examples]. F depends on n, so compare like with like. That the splits
    overlap hardly matters (their deviation is that of independent sets to 5%); that they are few does: with 5 of them
    17% of perfect unlearners lie beyond 1.96 of their standard deviations, with 40 about 6%.
    """
    r = as_array(retrained, np.float64)
    n = len(r) // 2 if n is None else n
    if r.ndim != 2 or n < 3 or 2 * n > len(r) or splits < 1:
        raise ValueError(f"a null of {n} against {n} models needs {max(2 * n, 6)} retrained models, not {len(r)}")
    rng = numpy_generator(seed, "forgetting-quality-null")
    orders = [rng.permutation(len(r)) for _ in range(splits)]
    halves = ((r[i[:n]], r[i[n : 2 * n]]) for i in orders)
    return np.array([forgetting_quality(a, b, delta=delta, rules=rules).quality for a, b in halves])


class _Rules:
    """eps of a rule by its counts of false negatives and false positives among n a side; -1 where it is left out."""

    def __init__(self, n: int, delta: float):
        rate = np.arange(n + 1) / n
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.log(1 - delta - rate)
            self.missed = np.concatenate([[np.inf], np.log(rate[1:])])  # a zero rate never makes the larger term
        self.kept = np.where(np.isnan(kept), -np.inf, kept)

    def __call__(self, fn: np.ndarray, fp: np.ndarray) -> np.ndarray:
        eps = np.maximum(self.kept[fp] - self.missed[fn], self.kept[fn] - self.missed[fp])
        eps = np.where((fn == 0) != (fp == 0), -1, np.maximum(eps, 0))
        return np.where((fn == 0) & (fp == 0), np.inf, eps)


def _sorted(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pooled sorted samples [2n, examples] and, after each cut [2n + 1, examples], how many of the first lie below."""
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, axis=0, kind="stable")
    below = np.concatenate([np.zeros((1, pooled.shape[1]), np.int64), np.cumsum(order < len(first), axis=0)])
    return np.take_along_axis(pooled, order, 0), below


def _single(positive: np.ndarray, negative: np.ndarray, epsilon_of: _Rules) -> np.ndarray:
    """Positive from a threshold upwards: the best rule of each example. Cuts inside a tie do not exist."""
    n = len(positive)
    x, fn = _sorted(positive, negative)
    fp = n - (np.arange(2 * n + 1)[:, None] - fn)
    real = np.concatenate([np.ones((1, x.shape[1]), bool), np.diff(x, axis=0) > 0, np.ones((1, x.shape[1]), bool)])
    return np.where(real, epsilon_of(fn, fp), -1).max(0)


def _double(narrow: np.ndarray, wide: np.ndarray, epsilon_of: _Rules) -> np.ndarray:
    """Narrow inside [left, right]: the best rule of each example with thresholds near the narrow sample's range.

    With w = max - min of the narrow sample, right lies within BUFFER of its max and left within BUFFER of right - w.
    A cut between two neighbours stands for all thresholds there, so it counts if any of them is allowed. For each
    right cut the left cuts that qualify are contiguous; they are tried together, for all examples at once.
    """
    n, examples = narrow.shape
    x, below = _sorted(narrow, wide)
    wide_below = np.arange(2 * n + 1)[:, None] - below
    edge = np.full((1, examples), np.inf)
    lower, upper = np.concatenate([-edge, x]), np.concatenate([x, edge])  # cut i lies in (lower[i], upper[i]]
    top, width = narrow.max(0), np.ptp(narrow, axis=0)
    best = np.full(examples, -1.0)
    real = upper > lower
    for j in np.flatnonzero(((upper >= top - BUFFER) & (lower <= top + BUFFER) & real).any(1)):
        least = np.maximum(lower[j], top - BUFFER)
        most = np.minimum(upper[j], top + BUFFER)
        allowed = real & (upper >= least - width - BUFFER) & (lower < most - width + BUFFER)
        allowed &= (least <= most) & real[j]
        rows = np.flatnonzero(allowed[: j + 1].any(1))
        if not len(rows):
            continue
        rows = slice(rows[0], rows[-1] + 1)
        fn = n - (below[j] - below[rows])
        fp = wide_below[j] - wide_below[rows]
        best = np.maximum(best, np.where(allowed[rows], epsilon_of(fn, fp), -1).max(0))
    return best
