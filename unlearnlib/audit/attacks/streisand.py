"""Side effects, read from scores that other audits already hold: who became more exposed, and who conspicuously less.

Scores are margins `s[model, example]`. Three effects: *residual* (forgotten examples still score like members), the
*onion* effect (retained examples, often neighbours of the forgotten, become more exposed), and the *Streisand* effect
(forgotten examples score below anything a retrained model gives, which betrays them as surely).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from unlearnlib.audit.statistics.intervals import Interval, difference, t_interval
from unlearnlib.audit.statistics.roc import as_array, finite
from unlearnlib.seeding import numpy_generator


def _scores(values, name: str) -> np.ndarray:
    s = as_array(values, np.float64)
    if s.ndim != 2 or np.isnan(s).any():
        raise ValueError(f"{name} must be a matrix [models, examples] without NaN")
    return s


@dataclass(frozen=True, eq=False)
class Tails:
    """Share of unlearned scores outside each example's band of retrained scores, and the same for unseen retrains."""

    below: float
    above: float
    null_below: float  # of the retrained models that did not make the band
    null_above: float
    per_example_below: np.ndarray  # [N]
    per_example_above: np.ndarray
    per_model_below: np.ndarray  # [M]: an interval over models counts what a run shifts for all examples at once
    per_model_above: np.ndarray
    null_per_model_below: np.ndarray  # [K / 2] oracles that did not make the band
    null_per_model_above: np.ndarray
    q: float  # expected share on either side under the null

    def excess(self, side: str, level: float = 0.95) -> Interval:
        """Mass on `side` ("below" or "above") less that of the held-out oracles, over models.

        Both sides share the band, so its error cancels; a training run that shifts all examples at once is counted.
        Each mass has Student's interval over its models on the logit scale, and `intervals.difference` joins the two.
        """
        return difference(self.interval(side, level), self._interval(f"null_per_model_{side}", level))

    def interval(self, side: str, level: float = 0.95) -> Interval:
        """Mass on `side` with Student's interval over the unlearned models, the band taken as given."""
        return self._interval(f"per_model_{side}", level)

    def _interval(self, name: str, level: float) -> Interval:
        return t_interval(getattr(self, name), level, bounds=(0.0, 1.0), count=len(self.per_example_below))


def tail_mass(unlearned, oracles, *, q: float = 0.05, seed: int) -> Tails:
    """Mass of `unlearned` [M, N] below the q-quantile, and above the (1-q)-quantile, of `oracles` [K, N], per example.

    A random half of the oracles makes the bands, the other half gives the null. With n models in the band, the mass
    below is that below the order statistics next to position q (n + 1), weighted so that a fresh draw of any
    continuous law falls below with probability q exactly. An interpolated sample quantile does not keep its level:
    with n = 32 the usual rule leaves .074 and Weibull's .044 on Gaussian scores. `below` over q is over-forgetting,
    `above` residual.

    Raises ValueError where half of the oracles are too few for the quantile (19 for q = .05).
    """
    u, o = _scores(unlearned, "unlearned"), _scores(oracles, "oracles")
    if u.shape[1] != o.shape[1]:
        raise ValueError(f"unlearned and oracles must score the same examples, not {u.shape[1]} and {o.shape[1]}")
    if not 0 < q < 0.5:
        raise ValueError(f"q must lie in (0, 1/2), not {q}")
    need = int(np.ceil(1 / q - 1e-9)) - 1
    if len(u) < 2 or len(o) // 2 < need:
        raise ValueError(f"a {q:g} quantile needs {2 * need} oracles and two unlearned models; got {len(o)}, {len(u)}")
    order = numpy_generator(seed, "tail-mass").permutation(len(o))
    band, fresh = o[order[: len(o) // 2]], o[order[len(o) // 2 :]]
    under, over = _below(u, band, q), _below(-u, -band, q)
    null_under, null_over = _below(fresh, band, q), _below(-fresh, -band, q)
    return Tails(
        below=float(under.mean()),
        above=float(over.mean()),
        null_below=float(null_under.mean()),
        null_above=float(null_over.mean()),
        per_example_below=under.mean(0),
        per_example_above=over.mean(0),
        per_model_below=under.mean(1),
        per_model_above=over.mean(1),
        null_per_model_below=null_under.mean(1),
        null_per_model_above=null_over.mean(1),
        q=q,
    )


def _below(scores: np.ndarray, band: np.ndarray, q: float) -> np.ndarray:
    """Is each score [M, N] below order statistic q (n + 1) of its column of `band`? Between two ranks a weight."""
    rank, part = divmod(q * (len(band) + 1) + 1e-9, 1)  # .05 * 20 must not fall below 1
    ordered = np.sort(band, axis=0)
    lower, upper = ordered[int(rank) - 1], ordered[int(rank)]
    return (1 - part) * (scores < lower) + part * (scores < upper)


def gaussian_advantage(d) -> np.ndarray | float:
    """2 Phi(|d|/2) - 1, the best threshold's TPR - FPR between N(d, 1) and N(0, 1)."""
    value = 2 * norm.cdf(np.abs(d) / 2) - 1
    return float(value) if np.ndim(value) == 0 else value


def _best_threshold(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per column: the threshold and direction (+1: members above) which maximise |TPR - FPR| on these scores."""
    scores = np.concatenate([inside, outside])
    order = scores.argsort(axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, 0)
    weight = np.concatenate([np.full(len(inside), 1 / len(inside)), np.full(len(outside), -1 / len(outside))])
    # TPR - FPR of "score above the k-th smallest" = minus the weights up to k, as all weights sum to 0
    gain = -np.cumsum(weight[order], axis=0)[:-1]
    gain = np.where(ranked[1:] > ranked[:-1], gain, 0.0)  # no threshold fits between equal scores
    best = np.abs(gain).argmax(0)[None]
    low, high = np.take_along_axis(ranked, best, 0)[0], np.take_along_axis(ranked, best + 1, 0)[0]
    return (low + high) / 2, np.sign(np.take_along_axis(gain, best, 0)[0])


def advantage(inside, outside) -> np.ndarray:
    """Cross-fit per-example advantage max_t (TPR_x - FPR_x) between `inside` [K, N] and `outside` [L, N], [N].

    Threshold and direction come from the odd models, the advantage from the even ones, and the other way round; the
    mean of both is returned, so that it is 0 in expectation under the null (single values may be negative) where the
    in-sample maximum is always positive. Equal-variance Gaussians d apart approach 2 Phi(d/2) - 1 from below. Rows
    must be independent models: siblings of one original in both halves would look like an advantage.
    """
    a, b = finite(_scores(inside, "inside"), _scores(outside, "outside"))
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 4:
        raise ValueError("advantage needs four models a side or more, on the same examples")

    def scored(fit: int) -> np.ndarray:
        threshold, direction = _best_threshold(a[fit::2], b[fit::2])
        a_out, b_out = a[1 - fit :: 2], b[1 - fit :: 2]
        return direction * ((a_out > threshold).mean(0) - (b_out > threshold).mean(0))

    return (scored(0) + scored(1)) / 2


@dataclass(frozen=True)
class GroupExposure:
    """Per-example advantage in one group of examples, before and after unlearning."""

    n: int
    median_before: float
    median_after: float
    p95_before: float
    p95_after: float
    max_before: float
    max_after: float
    share_risen: float  # share whose advantage rose by more than `rise`
    mean_rise: float


def onion(before, after, groups: Mapping[str, np.ndarray], *, rise: float = 0.1) -> dict[str, GroupExposure]:
    """Summary of per-example advantages `before` and `after` [N] in named groups of indices.

    Usual groups: forgotten, retained neighbours of the forgotten, other retained. A rise among the retained is the
    privacy onion effect (Carlini et al., arXiv 2206.10469): removing some examples exposes the next layer. Compare
    with the rise that retraining itself causes.
    """
    before, after = as_array(before, np.float64), as_array(after, np.float64)
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(f"before and after must be vectors of one length, not {before.shape} and {after.shape}")

    def summary(index) -> GroupExposure:
        b, a = before[index], after[index]
        if len(b) == 0:
            raise ValueError("a group is empty: leave it out")
        return GroupExposure(
            n=len(b),
            median_before=float(np.median(b)),
            median_after=float(np.median(a)),
            p95_before=float(np.quantile(b, 0.95)),
            p95_after=float(np.quantile(a, 0.95)),
            max_before=float(b.max()),
            max_after=float(a.max()),
            share_risen=float((a - b > rise).mean()),
            mean_rise=float((a - b).mean()),
        )

    return {name: summary(as_array(index)) for name, index in groups.items()}
