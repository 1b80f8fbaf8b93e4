"""Intervals: closed forms, and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from unlearnlib.audit.statistics.intervals import (
    Interval,
    cluster_bootstrap,
    difference,
    disjoint_effect,
    minimum_detectable_effect,
    on_logit_scale,
    paired_t_interval,
    prediction_interval,
    t_interval,
    two_way_variance,
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
    assert covered / 120 > 0.91  # .95 less 2 SE of 120 repetitions
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


def test_few_models_are_not_resampled():
    with pytest.raises(ValueError, match="5 models are too few"):
        cluster_bootstrap(np.mean, np.zeros((5, 3)))
    covered = 0
    for i in range(200):
        s = numpy_generator(i, "six").normal(size=(6, 1)) + np.zeros((6, 3))
        interval = cluster_bootstrap(np.mean, s, resamples=200, seed=i)
        covered += interval.low <= 0 <= interval.high
    assert covered >= 182  # the smallest and the largest of six miss their median with probability 1/32


# bounded quantities


@pytest.mark.parametrize(
    "seeds, examples, share, spread",
    [
        (3, 100, 0.99, 0.0),
        (3, 100, 0.984, 0.0),
        (3, 1000, 0.999, 0.0),
        (3, 1000, 0.984, 0.004),
        (5, 100, 0.99, 0.0),
        (5, 100, 0.02, 0.0),
        (5, 100, 0.95, 0.02),
        (8, 50, 0.5, 0.0),
        (2, 100, 0.99, 0.0),
    ],
)
def test_interval_of_a_share_stays_inside_and_covers(seeds, examples, share, spread):
    rng = numpy_generator(seeds, "share", examples, share)
    covered = 0
    for _ in range(300):
        each = np.clip(share + spread * rng.normal(size=seeds), 0, 1)
        interval = t_interval(rng.binomial(examples, each) / examples, bounds=(0, 1), count=examples)
        assert 0 <= interval.low < interval.high <= 1 and interval.low <= interval.value <= interval.high
        covered += interval.low <= share <= interval.high
    assert covered / 300 > 0.925  # .95 less 2 SE of 300 repetitions


def test_values_that_agree_leave_what_they_cannot_exclude():
    assert t_interval([1.0] * 3, bounds=(0, 1)).low == pytest.approx(0.025 ** (1 / 3))  # any law on [0, 1]
    assert t_interval([1.0] * 3, bounds=(0, 1), count=100).low == pytest.approx(0.025 ** (1 / 300))
    assert t_interval([0.0] * 3, bounds=(0, 1), count=100).high == pytest.approx(1 - 0.025 ** (1 / 300))
    inside = t_interval([0.7] * 5, bounds=(0, 1), count=50)
    assert inside.high - 0.7 == pytest.approx(0.7 - inside.low) == pytest.approx(1 - 0.025 ** (1 / 250))
    band = prediction_interval([1.0, 1.0, 1.0], bounds=(0, 1), count=100)
    assert band.high == 1.0 and 0.98 < band.low < 1.0
    assert np.isnan(t_interval([1.0], bounds=(0, 1)).low)
    for bad in ([1.1, 1.0], [np.inf, 0.0]):
        with pytest.raises(ValueError):
            t_interval(bad, bounds=(0, 1))


def test_two_seeds_are_wide_and_inside():
    for values in ([0.98, 1.0], [0.2, 0.9], [0.0, 1e-9], [0.999999, 1.0]):
        for interval in (t_interval(values, bounds=(0, 1)), prediction_interval(values, bounds=(0, 1))):
            assert 0 <= interval.low < interval.high <= 1


def test_the_logit_scale_is_the_plain_one_where_the_interval_is_small():
    assert on_logit_scale(0.4, 1e-5) == pytest.approx((0.4 - 1e-5, 0.4 + 1e-5), abs=1e-9)
    assert on_logit_scale(0.0, 0.5, (-1.0, 1.0)) == pytest.approx((-np.tanh(0.5), np.tanh(0.5)))
    with pytest.raises(ValueError, match="no logit"):
        on_logit_scale(1.0, 0.1)


def test_difference_counts_both_errors_and_stays_inside():
    plain = difference(Interval(0.6, 0.57, 0.63, 5, ""), Interval(0.5, 0.46, 0.54, 5, ""))
    assert (plain.value, plain.low, plain.high) == pytest.approx((0.1, 0.05, 0.15))
    ends = difference(Interval(0.99, 0.9, 1.0, 5, ""), Interval(0.01, 0.0, 0.1, 5, ""))
    assert -1 <= ends.low < ends.high <= 1
    covered = 0
    for i in range(300):
        rng = numpy_generator(i, "difference")
        a, b = (t_interval(rng.binomial(100, p, 6) / 100, bounds=(0, 1), count=100) for p in (0.97, 0.9))
        gap = difference(a, b)
        covered += gap.low <= 0.07 <= gap.high
    assert covered / 300 > 0.925


def test_two_way_variance_of_a_mean():
    rng = numpy_generator(0, "two-way")
    means, variances = [], []
    for _ in range(300):
        s = rng.normal(size=(20, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(20, 30))
        means.append(s.mean())
        variances.append(two_way_variance((s - s.mean()) / s.size, np.arange(20)))
    assert np.mean(variances) == pytest.approx(1 / 20 + 1 / 30 + 1 / 600, rel=0.1)
    assert np.var(means) == pytest.approx(np.mean(variances), rel=0.25)


@pytest.mark.parametrize("n", [4, 6, 20])
def test_disjoint_intervals_have_their_power(n):
    rng = numpy_generator(n, "disjoint")
    first, second = rng.normal(size=(4000, n)), rng.normal(0, 2, (4000, n))
    errors = [v.std(1, ddof=1) / np.sqrt(n) for v in (first, second)]
    reach = stats.t.ppf(0.975, n - 1) * (errors[0] + errors[1])
    usual = np.mean(errors, axis=1)  # what a study of this size finds on average, short of the truth by c_4
    stated = disjoint_effect(tuple(usual), (n, n))
    power = np.mean(first.mean(1) + stated - second.mean(1) > reach)
    assert power == pytest.approx(0.8, abs=0.02)  # 3 SE of 4,000 repetitions
    naive = minimum_detectable_effect(usual[0])  # as if one interval had to leave a known number
    assert np.mean(first.mean(1) + naive - second.mean(1) > reach) < 0.3


def test_disjoint_effect_against_a_known_number_is_the_plain_one():
    known = disjoint_effect((0.01, 0.0), (np.inf, np.inf))
    assert known == pytest.approx(minimum_detectable_effect(0.01), rel=1e-6)
    assert disjoint_effect((0.0, 0.0), (5, 5)) == 0 and disjoint_effect((np.inf, 0.0), (5, 5)) == np.inf
    with pytest.raises(ValueError):
        disjoint_effect((0.1, 0.1), (1, 5))


def test_ends_are_value_low_and_high():
    found = t_interval([1.0, 2.0, 4.0])
    assert found.ends == (found.value, found.low, found.high) and found.low < found.value < found.high
