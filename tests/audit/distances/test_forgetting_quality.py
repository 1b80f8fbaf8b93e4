"""Forgetting quality: the published grid, its biased null, closed forms in the limit, and the traps."""

import numpy as np
import pytest
from scipy.stats import norm

from unlearnlib.audit.distances.forgetting_quality import (
    CAP,
    DELTA,
    challenge_score,
    forgetting_quality,
    forgetting_quality_null,
    quality_points,
)
from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.seeding import numpy_generator


def normals(n, examples, *, mu=0.0, sd=1.0, seed=0):
    return mu + sd * numpy_generator(seed, "forgetting", n, examples).normal(size=(n, examples))


def published(u, r, double):
    """One example as the challenge's notes describe it: rules on a grid of 100 thresholds a unit."""
    pos, neg = (r, u) if np.median(r) > np.median(u) else (u, r)

    def tried(fnr, fpr):
        with np.errstate(all="ignore"):
            eps = np.fmax(np.log(1 - DELTA - fpr) - np.log(fnr), np.log(1 - DELTA - fnr) - np.log(fpr))
        eps[(fnr == 0) != (fpr == 0)] = 0
        eps[(fnr == 0) & (fpr == 0)] = np.inf
        return np.nanmax(eps, initial=0)

    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    cuts = np.linspace(low, high, int(np.ceil((high - low) * 100)))
    best = tried((pos[:, None] < cuts).mean(0), (neg[:, None] >= cuts).mean(0))
    if double:
        narrow, wide = (neg, pos) if np.ptp(pos) >= np.ptp(neg) else (pos, neg)
        w = np.ptp(narrow)
        for right in np.linspace(narrow.max() - 2, narrow.max() + 2, 400):
            left = right - w + np.linspace(-2, 2, 400)
            inside = [((x[:, None] >= left) & (x[:, None] <= right)).mean(0) for x in (narrow, wide)]
            best = max(best, tried(1 - inside[0], inside[1]))
    return min(best, CAP)


@pytest.mark.parametrize("mu, sd", [(0, 1), (1, 1), (0, 0.4), (2, 0.3)])
@pytest.mark.parametrize("rules", ["both", "single"])
def test_no_worse_than_the_published_grid_and_nearly_always_equal(mu, sd, rules):
    """All rules of a family include those on a grid; a finer look can only add the odd rule between grid points."""
    u, r = normals(16, 12, mu=mu, sd=sd, seed=1), normals(16, 12)
    got = forgetting_quality(u, r, rules=rules).epsilon
    grid = np.array([published(u[:, i], r[:, i], rules == "both") for i in range(12)])
    assert (got >= grid - 1e-9).all() and np.isclose(got, grid).mean() > 0.8


def test_retrained_models_do_not_score_one():
    """512 a side: median eps 1.6 and F = .178 +- .007; with single thresholds 1.1 and .36."""
    a, b = normals(512, 400, seed=1), normals(512, 400)
    both, single = forgetting_quality(a, b), forgetting_quality(a, b, rules="single")
    assert np.median(both.epsilon) == pytest.approx(1.6, abs=0.06)
    assert both.quality == pytest.approx(0.178, abs=4 * np.hypot(0.007, both.points.std() / 20))
    assert np.median(single.epsilon) == pytest.approx(1.1, abs=0.06)
    assert single.quality == pytest.approx(0.36, abs=4 * single.points.std() / 20)


def test_a_shift_scores_next_to_nothing():
    for mu, expected in ((1.0, 0.016), (2.0, 0.002)):
        found = forgetting_quality(normals(512, 100, mu=mu, seed=1), normals(512, 100))
        assert found.quality == pytest.approx(expected, abs=4 * found.points.std() / 10 + 5e-4)


def test_large_samples_reach_the_exact_epsilon():
    """The best threshold between two Gaussians is their (epsilon, delta) curve."""
    z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    for delta in (0.1, 0.02):
        found = forgetting_quality(z + 1, z, delta=delta, rules="single").epsilon[0]
        assert found == pytest.approx(gaussian_epsilon(1.0, delta), abs=0.01)


def test_null_of_held_out_halves_is_the_floor_that_a_perfect_unlearner_meets():
    """200 repetitions: a candidate that is retrained scores above the median split as often as below."""
    above = 0
    for rep in range(200):
        r = numpy_generator(rep, "forgetting-null").normal(size=(120, 15))
        null = forgetting_quality_null(r[40:], n=40, splits=5, seed=rep, rules="single")
        above += forgetting_quality(r[:40], r[40:80], rules="single").quality > np.median(null)
    assert 65 < above < 135  # 100 expected, sd 7; splits of one set of models add to it
    r = normals(128, 40)
    assert forgetting_quality(normals(64, 40, mu=1, seed=1), r[:64]).quality < 0.5 * forgetting_quality_null(r).min()
    np.testing.assert_array_equal(forgetting_quality_null(r, seed=3), forgetting_quality_null(r, seed=3))


def test_double_thresholds_see_more_of_a_change_of_variance():
    u, r = normals(256, 40, sd=0.25, seed=1), normals(256, 40)
    both, single = forgetting_quality(u, r), forgetting_quality(u, r, rules="single")
    assert (both.epsilon > single.epsilon).mean() > 0.9 and both.quality < 0.7 * single.quality


def test_traps():
    r = normals(64, 10)
    constant = forgetting_quality(np.full((64, 10), 0.3), r)
    assert (constant.epsilon == CAP).all() and constant.quality == 0  # peaky
    apart = forgetting_quality(normals(64, 10, mu=50, seed=1), r)
    assert (apart.epsilon == CAP).all()  # perfect separation
    tied = forgetting_quality(np.zeros((64, 10)), np.zeros((64, 10)))
    assert (tied.epsilon == 0).all() and tied.quality == 1
    same = forgetting_quality(r, r, rules="single")
    assert same.epsilon.max() < 1e-3 and same.quality == 1


def test_points_halve_with_every_half():
    n = 512  # ceil(log 511) = 7
    eps = np.array([0, 0.49, 0.5, 0.99, 1.0, 6.49, 6.5, 6.99, 7.0, CAP])
    expected = [1, 1, 0.5, 0.5, 0.25, 2.0**-12, 2.0**-13, 2.0**-13, 0, 0]
    np.testing.assert_array_equal(quality_points(eps, n), expected)


def test_challenge_score():
    assert challenge_score(0.1, (0.9, 0.9), (0.8, 0.8)) == pytest.approx(0.1)
    assert challenge_score(0.1, (0.45, 0.9), (0.6, 0.8)) == pytest.approx(0.1 * 0.5 * 0.75)
    with pytest.raises(ValueError):
        challenge_score(0.1, (0.9, 0.0), (0.8, 0.8))


@pytest.mark.parametrize(
    "call",
    [
        lambda: forgetting_quality(np.zeros((5, 2)), np.zeros((6, 2))),
        lambda: forgetting_quality(np.zeros((2, 2)), np.zeros((2, 2))),
        lambda: forgetting_quality(np.full((5, 2), np.inf), np.zeros((5, 2))),
        lambda: forgetting_quality(np.zeros((5, 2)), np.zeros((5, 2)), rules="double"),
        lambda: forgetting_quality(np.zeros((5, 2)), np.zeros((5, 2)), delta=1.0),
        lambda: forgetting_quality_null(np.zeros((5, 2))),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError):
        call()
