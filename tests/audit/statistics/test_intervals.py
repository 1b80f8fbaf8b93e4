"""Intervals: closed forms, and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from unlearnlib.audit.statistics.intervals import (
    cluster_bootstrap,
    minimum_detectable_effect,
    paired_t_interval,
    prediction_interval,
    t_interval,
)
from unlearnlib.seeding import numpy_generator


def test_t_interval_equals_scipy_and_one_value_has_none():
    v = [0.2, 0.5, 0.4, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(v), stats.sem(v))
    got = t_interval(v)
    assert (got.low, got.high, got.value) == pytest.approx((low, high, 0.5))
    assert np.isnan(t_interval([0.3]).low) and t_interval([0.3]).value == 0.3
    with pytest.raises(ValueError, match="NaN"):
        t_interval([0.1, np.nan])


def test_pairing_removes_what_the_seeds_share():
    rng = numpy_generator(0, "paired")
    seed_effect = rng.normal(0, 10, 6)
    a, b = seed_effect + 1 + rng.normal(0, 0.1, 6), seed_effect + rng.normal(0, 0.1, 6)
    paired = paired_t_interval(a, b)
    assert paired.low < 1 < paired.high and paired.half_width < 0.3
    assert t_interval(a).half_width > 5


def test_t_and_prediction_intervals_cover():
    draws = numpy_generator(1, "t").normal(size=(2000, 6))
    mean = [t_interval(d[:5]) for d in draws]
    assert np.mean([i.low <= 0 <= i.high for i in mean]) == pytest.approx(0.95, abs=0.015)
    following = [prediction_interval(d[:5]) for d in draws]
    assert np.mean([i.low <= d[5] <= i.high for i, d in zip(following, draws, strict=True)]) == pytest.approx(
        0.95, abs=0.015
    )


def test_resampling_models_sees_what_resampling_examples_cannot():
    def matrix(i):  # a shift common to all scores of a model, as a training seed gives
        rng = numpy_generator(i, "clusters")
        return rng.normal(0, 1, (30, 1)) + rng.normal(0, 1, (30, 50))

    covered = narrow = 0
    for i in range(120):
        s = matrix(i)
        both = cluster_bootstrap(np.mean, s, resamples=300, seed=i)
        covered += both.low <= 0 <= both.high
        narrow += abs(s.mean()) <= 1.96 * s.std() / np.sqrt(s.size)  # as if all 1500 scores were independent
    assert covered / 120 > 0.87  # .95 less 2 SE of 120 repetitions and the percentile bootstrap's known shortfall
    assert narrow / 120 < 0.5


def test_cluster_bootstrap_keeps_rows_together_and_is_seeded():
    s = numpy_generator(3, "rows").normal(size=(12, 8))
    same = cluster_bootstrap(lambda a, b: float((a - b).mean()), s, s + 0.25, resamples=50, seed=1)
    assert (same.low, same.high) == pytest.approx((-0.25, -0.25))
    assert cluster_bootstrap(np.mean, s, resamples=50, seed=1) == cluster_bootstrap(np.mean, s, resamples=50, seed=1)
    assert cluster_bootstrap(np.mean, s, resamples=50, seed=2).low != cluster_bootstrap(np.mean, s, resamples=50).low
    with pytest.raises(ValueError, match="one shape"):
        cluster_bootstrap(np.mean, s[0])


def test_minimum_detectable_effect_has_its_power():
    assert minimum_detectable_effect(0.01) == pytest.approx(0.0280, abs=5e-5)
    effect = minimum_detectable_effect(1.0)
    z = effect + numpy_generator(4, "mde").normal(size=20_000)
    assert np.mean(np.abs(z) > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.01)


def test_ends_are_value_low_and_high():
    found = t_interval([1.0, 2.0, 4.0])
    assert found.ends == (found.value, found.low, found.high) and found.low < found.value < found.high
