"""Intervals over training seeds and over models, and the effect that an audit could have seen.

Examples scored by one model are not independent of each other, so an interval over examples alone is too narrow:
resample whole models, then examples.

Shares and areas are bounded. Their intervals are made on the logit scale of their range, so that they stay inside it by
construction, and have a width even where all values agree at an end of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import chi2, norm, t

from unlearnlib.seeding import numpy_generator


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low` and `high` are NaN where one value alone gives no spread."""

    value: float
    low: float
    high: float
    n: int
    method: str

    @property
    def ends(self) -> tuple[float, float, float]:
        """The estimate and its limits, as a row of a table takes them: (value, low, high)."""
        return self.value, self.low, self.high

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def _finite_vector(values) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("give a non-empty vector without NaN or infinity, one value for each training seed")
    return values


def t_interval(values, level: float = 0.95, *, bounds: tuple[float, float] | None = None, count: float = math.nan):
    """Student's interval of the mean over training seeds: mean +- t_{n-1} sd / sqrt(n).

    `bounds` of the values, (0, 1) for shares and areas, carry it to the logit scale (see `on_logit_scale`). `count`
    says of how many examples the values are shares. Where all n values agree no spread was seen; but events that befall
    an example at rate p stay unseen with probability (1 - p)^(n count), so shares up to
    1 - ((1 - level) / 2)^(1 / (n count)) away are not excluded. Without `count` it is taken as 1 at the ends of the
    range: of any law on [0, 1] with mean p, all n draws are 1 with probability p^n at most.
    """
    v = _finite_vector(values)
    spread = t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else np.nan
    return Interval(*_around(v, spread, level, bounds, count), len(v), "t" if bounds is None else "t, logit scale")


def prediction_interval(
    values, level: float = 0.95, *, bounds: tuple[float, float] | None = None, count: float = math.nan
):
    """Where one further draw of the same law falls: mean +- t_{n-1} sd sqrt(1 + 1/n). For the null band of retrains.

    `bounds` and `count` as in `t_interval`.
    """
    v = _finite_vector(values)
    spread = t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) * np.sqrt(1 + 1 / len(v)) if len(v) > 1 else np.nan
    return Interval(*_around(v, spread, level, bounds, count), len(v), "t prediction")


def paired_t_interval(values, others, level: float = 0.95) -> Interval:
    """Interval of the mean difference `values - others`, paired by training seed."""
    a, b = _finite_vector(values), _finite_vector(others)
    if a.shape != b.shape:
        raise ValueError(f"paired values need equal lengths, not {len(a)} and {len(b)}")
    paired = t_interval(a - b, level)
    return Interval(paired.value, paired.low, paired.high, paired.n, "paired t")


def on_logit_scale(value: float, half: float, bounds: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """`value` +- `half` carried to the logit scale of `bounds`, and back: it cannot leave them.

    With p the position of the value in its range and h = half / range, logit p +- h / (p (1 - p)) by the delta method;
    the same as value +- half where that is small.
    """
    low, high = bounds
    p, h = (value - low) / (high - low), half / (high - low)
    if not 0 < p < 1:
        raise ValueError(f"{value} does not lie inside {bounds}, so it has no logit")
    ends = expit(logit(p) + np.array([-h, h]) / (p * (1 - p)))
    return float(low + (high - low) * ends[0]), float(low + (high - low) * ends[1])


def difference(first: Interval, second: Interval) -> Interval:
    """Interval of `first - second` from the intervals of two independent estimates.

    Each limit moves by the distances of both to their own limits, in squares:

        low = d - sqrt((first - first.low)^2 + (second.high - second)^2),    high the other way round.

    Unlike a shift by `second` it counts both errors, and where both lie in [0, 1] it stays in [-1, 1]. Newcombe,
    Statistics in Medicine 1998 (method 10); Zou and Donner, Statistics in Medicine 2008.
    """
    d = first.value - second.value
    low = d - math.hypot(first.value - first.low, second.high - second.value)
    high = d + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(d, low, high, min(first.n, second.n), "difference of intervals")


def cluster_bootstrap(
    statistic: Callable[..., float],
    *arrays,
    resamples: int = 1000,
    level: float = 0.95,
    examples: bool = True,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `statistic(*arrays)`, models resampled first and examples within them second.

    Each array is [models, examples] and all share their axes (say the scores and the states of one matrix), so one
    draw of rows and columns serves them all: an original, its retrain and its unlearning stay together when they
    stand in one row. `examples=False` resamples models only.

    Percentiles of n models are too narrow by sqrt((n - 1) / n) and use z where t is due. So the percentiles are taken
    at Phi(-+ sqrt(n / (n - 1)) t_{n-1}), which is exact for a mean of Gaussians. Hesterberg, American Statistician
    2015. No resample leaves the range of n values, which holds their median with probability 1 - 2^(1 - n) only: where
    that is below `level` (5 models or fewer at 95%) the interval is refused, as are resamples where the statistic is
    NaN. Use `t_interval` over models there.
    """
    arrays = tuple(np.asarray(a) for a in arrays)
    if not arrays or any(a.ndim != 2 or a.shape != arrays[0].shape for a in arrays):
        raise ValueError("cluster_bootstrap takes matrices [models, examples] of one shape")
    n_models, n_examples = arrays[0].shape
    if 2.0 ** (1 - n_models) > 1 - level:
        raise ValueError(f"{n_models} models are too few to resample at level {level:g}: use t_interval over models")
    rng = numpy_generator(seed, "cluster-bootstrap")
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(0, n_models, n_models)
        columns = rng.integers(0, n_examples, n_examples) if examples else np.arange(n_examples)
        draws[i] = statistic(*(a[np.ix_(rows, columns)] for a in arrays))
    if np.isnan(draws).any():
        raise ValueError("the statistic is NaN on some resamples: resample fewer levels, or use more models")
    tail = norm.sf(math.sqrt(n_models / (n_models - 1)) * t.ppf(0.5 + level / 2, n_models - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(statistic(*arrays)), float(low), float(high), n_models, "cluster bootstrap")


def two_way_variance(influence: np.ndarray, clusters: np.ndarray) -> float:
    """Variance of a sum of `influence` [rows, examples] whose entries depend within `clusters` [rows] and columns.

    V = V_clusters + V_examples - V_entries, each with n / (n - 1), and never below V_entries, which independent entries
    would have. Cameron, Gelbach and Miller, JBES 2011.
    """
    parts = (np.bincount(clusters, influence.sum(1)), influence.sum(0))
    entries = float((influence**2).sum())
    together = sum(float((v**2).sum()) * len(v) / max(len(v) - 1, 1) for v in parts)
    return max(together - entries, entries)


def minimum_detectable_effect(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The effect that a two-sided test at 1 - `level` finds with probability `power`: (z + z') SE, or 2.80 SE.

    For an AUC the smallest detectable value is 1/2 plus this. Where the test asks for two disjoint intervals see
    `disjoint_effect`.
    """
    if standard_error < 0:
        raise ValueError(f"a standard error cannot be negative: {standard_error}")
    return float((norm.ppf(0.5 + level / 2) + norm.ppf(power)) * standard_error)


def disjoint_effect(
    errors: tuple[float, float], sizes: tuple[float, float], level: float = 0.95, power: float = 0.8
) -> float:
    """The difference at which two intervals of independent estimates are disjoint with probability `power`.

    `errors` are their standard errors, estimated from `sizes` values each; an error of 0 is a number known exactly,
    an infinite size an error known exactly. The intervals are disjoint where the difference D exceeds h_1 + h_2, with
    h_i = t_{n_i - 1} e_i sqrt(chi^2_{n_i - 1} / (n_i - 1)) as random as the estimates. So the effect is the root of

        E Phi((effect - h_1 - h_2) / sqrt(e_1^2 + e_2^2)) = power,

    about (t_1 e_1 + t_2 e_2) + .84 sqrt(e_1^2 + e_2^2). A sample deviation falls short of the true one by the factor
    c_4 on average, for which the errors are corrected here.
    """
    if min(errors) < 0 or min(sizes) < 2:
        raise ValueError(f"needs errors of 0 or more and sizes of two or more, not {errors} and {sizes}")
    both = math.hypot(*(e / _c4(n) for e, n in zip(errors, sizes, strict=True)))
    if both == 0:
        return 0.0
    if not math.isfinite(both):
        return math.inf
    first, second = (_half_widths(e / _c4(n), n, level) for e, n in zip(errors, sizes, strict=True))
    needed = (first[:, None] + second).ravel()
    reach = needed.max() + 10 * both
    return float(brentq(lambda d: norm.cdf((d - needed) / both).mean() - power, 0.0, reach))


def _half_widths(error: float, n: float, level: float) -> np.ndarray:
    """The half-width of an interval of n values at 64 evenly spaced quantiles of its law."""
    if error == 0 or not math.isfinite(n):
        return np.array([norm.ppf(0.5 + level / 2) * error])
    scale = np.sqrt(chi2.ppf((np.arange(64) + 0.5) / 64, n - 1) / (n - 1))
    return t.ppf(0.5 + level / 2, n - 1) * error * scale


def _c4(n: float) -> float:
    """Mean of a sample deviation of n Gaussian values over the true one."""
    if not math.isfinite(n):
        return 1.0
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))


def _around(v: np.ndarray, half: float, level: float, bounds, count: float) -> tuple[float, float, float]:
    """Mean, low and high: `half` to either side, on the logit scale of `bounds`, with what agreement cannot exclude."""
    low, high = bounds or (-math.inf, math.inf)
    if v.min() < low or v.max() > high:
        raise ValueError(f"values must lie in {low:g} to {high:g}; these reach from {v.min():g} to {v.max():g}")
    mean = float(v.mean())
    if math.isnan(half):
        return mean, math.nan, math.nan
    if np.ptp(v) > 0:
        return mean, *((mean - half, mean + half) if bounds is None else on_logit_scale(mean, half, bounds))
    mean = float(v[0])  # the mean of equal values is off by rounding
    seen = count if count == count else 1.0 if mean in (low, high) else math.inf
    away = 1 - ((1 - level) / 2) ** (1 / (len(v) * seen))
    return mean, max(mean - away, low), min(mean + away, high)
