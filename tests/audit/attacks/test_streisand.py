"""Tail masses and per-example advantages: closed forms, exact level under the null, planted side effects."""

import numpy as np
import pytest
from scipy.stats import norm

from unlearnlib.audit.attacks.streisand import advantage, gaussian_advantage, onion, tail_mass
from unlearnlib.seeding import numpy_generator


def scores(seed, models, examples, shift=0.0):
    return numpy_generator(seed, "scores").normal(shift, 1, (models, examples))


# tails


@pytest.mark.parametrize("n_oracles", [38, 64, 200])
@pytest.mark.parametrize("law", [lambda s: s, np.exp])
def test_tail_masses_hold_their_level_for_any_law(n_oracles, law):
    # per-example offsets: a pooled band would be far too wide
    offset = 10 * scores(0, 1, 3000)
    t = tail_mass(offset + law(scores(1, 40, 3000)), offset + law(scores(2, n_oracles, 3000)), seed=0)
    # a band of n models has coverage Beta(1, n - 1) or narrower: SD up to .05 an example, .001 over 3000
    for share in (t.below, t.above, t.null_below, t.null_above):
        assert share == pytest.approx(0.05, abs=0.004)


def test_interpolated_quantiles_would_not_hold_it():
    band, fresh = scores(3, 32, 8000), scores(4, 40, 8000)
    assert (fresh < np.quantile(band, 0.05, axis=0)).mean() == pytest.approx(0.074, abs=0.004)
    assert (fresh < np.quantile(band, 0.05, axis=0, method="weibull")).mean() == pytest.approx(0.044, abs=0.003)


def test_null_tails_over_repetitions():
    below = [tail_mass(scores(100 + i, 20, 50), scores(400 + i, 40, 50), seed=i).below for i in range(200)]
    assert np.mean(below) == pytest.approx(0.05, abs=3 * np.std(below) / np.sqrt(200))


def test_excess_holds_its_level_where_runs_shift_all_examples_together():
    wrong = naive = 0
    for i in range(200):
        rng = numpy_generator(i, "common")
        u, o = (rng.normal(size=(n, 30)) + 0.5 * rng.normal(size=(n, 1)) for n in (20, 40))
        t = tail_mass(u, o, seed=i)
        wrong += t.excess("below").low > 0
        naive += t.below - 1.645 * np.sqrt(0.05 * 0.95 / u.size) > 0.05  # as if all scores were independent
    assert wrong / 200 < 0.025 + 0.03 and naive / 200 > 0.1


def test_bands_scored_on_their_own_oracles_would_look_calm():
    o = scores(5, 40, 1000)
    low = np.quantile(o, 0.05, axis=0, method="weibull")
    assert (o < low).mean() < 0.051


def test_directions():
    o = scores(6, 200, 300)
    over, residual = tail_mass(scores(7, 50, 300, -2), o, seed=0), tail_mass(scores(8, 50, 300, 2), o, seed=0)
    expected = norm.cdf(norm.ppf(0.05) + 2)
    assert over.below == pytest.approx(expected, abs=0.02) and over.above < 0.005
    assert residual.above == pytest.approx(expected, abs=0.02) and residual.below < 0.005
    assert over.per_example_below.shape == (300,)
    assert over.excess("below").low > 0.5 and residual.excess("below").high < 0


def test_a_spread_that_leaves_the_mean_alone_shows_on_both_sides():
    t = tail_mass(3 * scores(9, 60, 300), scores(10, 200, 300), seed=0)
    expected = norm.cdf(norm.ppf(0.05) / 3)
    assert t.below == pytest.approx(expected, abs=0.02) and t.above == pytest.approx(expected, abs=0.02)


def test_too_few_oracles_are_refused():
    with pytest.raises(ValueError, match="38 oracles"):
        tail_mass(scores(0, 5, 3), scores(1, 37, 3), seed=0)
    assert tail_mass(scores(0, 5, 3), scores(1, 38, 3), seed=0).null_below >= 0


# advantage


def test_gaussian_advantage_known_values():
    assert gaussian_advantage(1.0) == pytest.approx(0.382925, abs=5e-7)
    assert gaussian_advantage(2.0) == pytest.approx(0.682689, abs=5e-7)
    np.testing.assert_allclose(gaussian_advantage(np.array([0.0, -1.0])), [0.0, gaussian_advantage(1.0)])


@pytest.mark.parametrize("d", [1.0, 2.0])
def test_advantage_recovers_the_gaussian_value_in_both_directions(d):
    inside, outside = scores(11, 2000, 40, d), scores(12, 2000, 40)
    assert advantage(inside, outside).mean() == pytest.approx(gaussian_advantage(d), abs=0.01)
    assert advantage(outside, inside).mean() == pytest.approx(gaussian_advantage(d), abs=0.01)


def test_advantage_is_zero_under_the_null_where_the_in_sample_one_is_not():
    a, b = scores(13, 32, 3000), scores(14, 32, 3000)
    crossed = advantage(a, b)
    assert crossed.mean() == pytest.approx(0, abs=4 * crossed.std() / np.sqrt(3000))
    # in sample: the two-sample Kolmogorov-Smirnov statistic
    edges = np.sort(np.concatenate([a, b]), axis=0)
    in_sample = [
        np.abs((a[:, [i]] > edges[:, i]).mean(0) - (b[:, [i]] > edges[:, i]).mean(0)).max() for i in range(200)
    ]
    assert np.mean(in_sample) > 0.15


def test_advantage_of_separated_and_of_tied_scores():
    inside, outside = scores(15, 8, 5) + 100, scores(16, 8, 5)
    np.testing.assert_array_equal(advantage(inside, outside), 1.0)
    np.testing.assert_array_equal(advantage(np.ones((8, 5)), np.ones((8, 5))), 0.0)
    with pytest.raises(ValueError, match="four models"):
        advantage(inside[:3], outside)


def test_no_threshold_is_put_inside_a_tie():
    inside, outside = np.zeros((200, 4)), np.zeros((200, 4))
    for column in range(4):  # seven in ten scores tie at 0; three in ten tell the sides apart
        rng = numpy_generator(column, "tie")
        inside[rng.permutation(200)[:60], column], outside[rng.permutation(200)[:60], column] = 1.0, -1.0
    assert advantage(inside, outside).mean() == pytest.approx(0.3, abs=0.05)


def test_onion_reports_the_planted_rise_in_its_group():
    n = 300
    outside = scores(17, 400, n)
    before = advantage(scores(18, 400, n, 2.0), outside)
    shift = np.full(n, 2.0)
    shift[:100], shift[100:150] = 0.0, 4.0  # the forgotten are hidden; their neighbours come out
    after = advantage(scores(19, 400, n) + shift, outside)
    groups = {"forget": np.arange(100), "neighbours": np.arange(100, 150), "rest": np.arange(150, n)}
    result = onion(before, after, groups)
    assert result["forget"].median_after == pytest.approx(0, abs=0.03) and result["forget"].mean_rise < -0.6
    assert result["neighbours"].mean_rise == pytest.approx(gaussian_advantage(4) - gaussian_advantage(2), abs=0.02)
    assert result["neighbours"].share_risen == 1.0 and result["rest"].share_risen < 0.02
    assert abs(result["rest"].mean_rise) < 0.01 and result["rest"].n == 150
    with pytest.raises(ValueError, match="empty"):
        onion(before, after, {"none": np.arange(0)})
