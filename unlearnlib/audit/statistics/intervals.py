"""Intervals over training seeds and over models, and the effect that an audit could have seen.

Examples scored by one model are not independent of each other, so an interval over examples alone is too narrow:
resample whole models, then examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

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
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError("give a non-empty vector without NaN, one value for each training seed")
    return values


def t_interval(values, level: float = 0.95) -> Interval:
    """Student's interval of the mean over training seeds: mean +- t_{n-1} sd / sqrt(n)."""
    v = _finite_vector(values)
    half = t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else np.nan
    return Interval(float(v.mean()), float(v.mean() - half), float(v.mean() + half), len(v), "t")


def prediction_interval(values, level: float = 0.95) -> Interval:
    """Where one further draw of the same law falls: mean +- t_{n-1} sd sqrt(1 + 1/n). For the null band of retrains."""
    v = _finite_vector(values)
    half = t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) * np.sqrt(1 + 1 / len(v)) if len(v) > 1 else np.nan
    return Interval(float(v.mean()), float(v.mean() - half), float(v.mean() + half), len(v), "t prediction")


def paired_t_interval(values, others, level: float = 0.95) -> Interval:
    """Interval of the mean difference `values - others`, paired by training seed."""
    a, b = _finite_vector(values), _finite_vector(others)
    if a.shape != b.shape:
        raise ValueError(f"paired values need equal lengths, not {len(a)} and {len(b)}")
    paired = t_interval(a - b, level)
    return Interval(paired.value, paired.low, paired.high, paired.n, "paired t")


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
    stand in one row. `examples=False` resamples models only. Resamples where the statistic is NaN are refused.

    With few models (under about ten) percentile intervals are too narrow; prefer `t_interval` over models there.
    """
    arrays = tuple(np.asarray(a) for a in arrays)
    if not arrays or any(a.ndim != 2 or a.shape != arrays[0].shape for a in arrays):
        raise ValueError("cluster_bootstrap takes matrices [models, examples] of one shape")
    rng = numpy_generator(seed, "cluster-bootstrap")
    n_models, n_examples = arrays[0].shape
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(0, n_models, n_models)
        columns = rng.integers(0, n_examples, n_examples) if examples else np.arange(n_examples)
        draws[i] = statistic(*(a[np.ix_(rows, columns)] for a in arrays))
    if np.isnan(draws).any():
        raise ValueError("the statistic is NaN on some resamples: resample fewer levels, or use more models")
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(statistic(*arrays)), float(low), float(high), n_models, "cluster bootstrap")


def minimum_detectable_effect(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The effect that a two-sided test at 1 - `level` finds with probability `power`: (z + z') SE, or 2.80 SE.

    For an AUC the smallest detectable value is 1/2 plus this.
    """
    if standard_error < 0:
        raise ValueError(f"a standard error cannot be negative: {standard_error}")
    return float((norm.ppf(0.5 + level / 2) + norm.ppf(power)) * standard_error)
