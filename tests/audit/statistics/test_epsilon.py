"""Certified epsilon: published and exact values, dp-accounting, coverage over repetitions, and tightness."""

import dp_accounting
import numpy as np
import pytest
from scipy.stats import norm

from unlearnlib.audit.statistics.epsilon import (
    epsilon_from_scores,
    epsilon_lower_bound,
    gaussian_delta,
    gaussian_epsilon,
    max_certifiable,
    plug_in_epsilon,
)
from unlearnlib.audit.statistics.roc import clopper_pearson
from unlearnlib.seeding import numpy_generator


def test_plug_in_and_certified_bound_at_one_rule():
    assert plug_in_epsilon(51, 512, 51, 512) == pytest.approx(2.20156, abs=5e-6)
    assert epsilon_lower_bound(51, 512, 51, 512) == pytest.approx(1.91084, abs=5e-6)
    upper = clopper_pearson(0, 100, 0.95, sides=1)[1]
    assert upper == pytest.approx(0.0295130, abs=5e-8) == pytest.approx(1 - 0.05**0.01, abs=5e-8)


def test_what_n_models_can_certify_at_best():
    sizes = np.array([16, 32, 64, 128, 256, 512, 1024])
    expected = [1.35, 2.10, 2.82, 3.53, 4.23, 4.93, 5.62]
    np.testing.assert_allclose(max_certifiable(sizes), expected, atol=0.005)
    closed = np.log((1 - 1e-5 - (1 - 0.025 ** (1 / sizes))) / (1 - 0.025 ** (1 / sizes)))
    np.testing.assert_allclose(max_certifiable(sizes), closed, atol=1e-12)


def test_the_bound_is_zero_without_evidence_and_grows_with_it():
    assert epsilon_lower_bound(50, 100, 50, 100) == 0 == epsilon_lower_bound(100, 100, 0, 100)
    counts = epsilon_lower_bound(np.arange(0, 100), 100, 10, 100)
    assert (np.diff(counts) <= 0).all() and counts[0] > counts[60] > counts[-1] == 0
    assert epsilon_lower_bound(10, 100, 10, 100, 0.0) > epsilon_lower_bound(10, 100, 10, 100, 0.1)
    # the other order of the two laws: few false positives with many false negatives still tell
    assert epsilon_lower_bound(400, 1000, 0, 1000) == epsilon_lower_bound(0, 1000, 400, 1000) > 3


@pytest.mark.parametrize(
    "mu, delta, expected", [(1, 1e-5, 4.377178), (1, 0.1, 1.160334), (0.5, 1e-5, 1.993091), (1 / 3.730632, 1e-5, 1.0)]
)
def test_gaussian_epsilon(mu, delta, expected):
    assert gaussian_epsilon(mu, delta) == pytest.approx(expected, abs=1e-6)


def test_gaussian_epsilon_equals_dp_accounting_and_inverts_delta():
    for mu in (0.01, 0.1, 0.7, 3.0, 12.0):
        for delta in (1e-9, 1e-5, 1e-2):
            eps = gaussian_epsilon(mu, delta)
            assert eps == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, delta), abs=1e-6)
            if eps > 0:
                assert gaussian_delta(mu, eps) == pytest.approx(delta, rel=1e-6)
    assert gaussian_epsilon(0.0) == 0 == gaussian_epsilon(0.001, 0.1)
    assert gaussian_delta(1.0, 0.0) == pytest.approx(2 * norm.cdf(0.5) - 1)  # total variation
    assert np.shape(gaussian_delta(1.0, [0.0, 1.0])) == (2,)


def samples(rep, n, mu):
    rng = numpy_generator(rep, "epsilon-coverage", n)
    return rng.normal(mu, 1, n), rng.normal(0, 1, n)


@pytest.mark.parametrize("thresholds", ["ranks", "split", 0.5])
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_the_bound_exceeds_the_truth_no_more_often_than_stated(thresholds, mu):
    """delta = .1, where 100 models can reach the truth; under the null the truth is 0."""
    truth = gaussian_epsilon(mu, 0.1)
    bounds = [epsilon_from_scores(*samples(rep, 100, mu), 0.1, thresholds=thresholds, seed=rep) for rep in range(200)]
    assert np.mean(np.array(bounds) > truth) <= 0.095  # .05 allowed; P[more than 19 of 200] < .005


def test_searching_the_threshold_without_paying_is_a_bug_that_coverage_shows():
    n, unpaid, paid = 1000, 0, 0
    limit = clopper_pearson(np.arange(n + 1), n, 0.975, sides=1)[1]
    for rep in range(200):
        s, t = samples(rep, n, 0.0)
        cuts = np.sort(np.concatenate([s, t]))
        misses, alarms = np.searchsorted(np.sort(s), cuts), n - np.searchsorted(np.sort(t), cuts)
        rules = np.concatenate([[misses, alarms], [n - misses, n - alarms]], axis=1)
        unpaid += limit[rules].sum(0).min() < 1  # epsilon_lower_bound > 0 at delta = 0
        paid += epsilon_from_scores(s, t, 0.0) > 0
    assert unpaid > 19 >= paid  # 10 of 200 allowed; P[more than 19] < .005


def test_tight_with_many_models():
    n = 100_000
    z = norm.ppf((np.arange(n) + 0.5) / n)
    for mu in (1.0, 1.5):
        truth = gaussian_epsilon(mu, 0.1)
        for thresholds in ("ranks", "split"):
            assert 0.9 * truth < epsilon_from_scores(z + mu, z, 0.1, thresholds=thresholds) < truth


def test_over_forgetting_needs_the_reversed_rule():
    z = norm.ppf((np.arange(2000) + 0.5) / 2000)
    assert epsilon_from_scores(z - 2, z) > 2
    assert epsilon_from_scores(z - 2, z, two_sided=False) < 0.5
    assert epsilon_from_scores(z + 2, z, two_sided=False) > epsilon_from_scores(z + 2, z)


def test_ties_do_not_help():
    rng = numpy_generator(0, "epsilon-ties")
    assert epsilon_from_scores(np.zeros(50), np.zeros(50)) == 0
    s, t = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    assert epsilon_from_scores(s, t) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon_lower_bound(11, 10, 0, 10),
        lambda: epsilon_lower_bound(1, 10, 0, 10, delta=1.0),
        lambda: epsilon_lower_bound(1, 10, 0, 10, confidence=1.0),
        lambda: epsilon_from_scores([1.0], [0.0, 1.0]),
        lambda: epsilon_from_scores([1.0, np.nan], [0.0, 1.0]),
        lambda: epsilon_from_scores([1.0, 2.0], [0.0, 1.0], thresholds="hull"),
        lambda: epsilon_from_scores([1.0, 2.0], [0.0, 1.0], thresholds="split"),
        lambda: epsilon_from_scores([1.0, 2.0], [0.0, 1.0], thresholds=float("nan")),
        lambda: epsilon_lower_bound(float("nan"), 10, 0, 10),
        lambda: gaussian_epsilon(-1.0),
        lambda: gaussian_epsilon(1.0, 0.0),
        lambda: gaussian_delta(0.0, 1.0),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("thresholds", ["ranks", "split", 0.0])
def test_constant_tied_and_infinite_scores_certify_nothing(thresholds):
    for value in (0.0, -1.0, np.inf, -np.inf):
        same = np.full(400, value)
        assert epsilon_from_scores(same, same, thresholds=thresholds) == 0
    rng = numpy_generator(1, "infinite")
    s, t = (np.where(rng.random(400) < 0.2, np.inf, rng.normal(size=400)) for _ in range(2))
    assert epsilon_from_scores(s, t, thresholds=thresholds) < 0.5  # no more than any null
