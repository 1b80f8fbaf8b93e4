"""The one-run audit: published and exact values, a linear program, coverage over repetitions, and what it can claim."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import logit
from scipy.stats import binom, norm

from unlearnlib.audit.attacks.one_run import (
    _least_mass,
    one_run,
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_run_p_value,
    unlearning_epsilon,
)
from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.seeding import numpy_generator


def test_exact_values():
    assert one_run_epsilon(100, 100, 100, 0) == pytest.approx(3.492965, abs=1e-6)
    assert one_run_epsilon(100, 100, 100, 0) == pytest.approx(logit(0.05**0.01), abs=1e-8)
    assert one_run_epsilon(128, 128, 96, 0) == pytest.approx(0.749734, abs=5e-6)
    assert one_run_epsilon(1000, 1000, 600, 1e-5) == pytest.approx(0.29723, abs=5e-6)
    assert one_run_epsilon(100, 100, 50) == 0


@pytest.mark.parametrize("guesses, wrong, epsilon, delta", [(10, 1, 0.5, 1e-3), (100, 10, 1.0, 1e-6), (7, 7, 0.0, 0.1)])
def test_p_value_equals_its_definition(guesses, wrong, epsilon, delta):
    q, v, m = 1 / (1 + np.exp(-epsilon)), guesses - wrong, 120
    beta = binom.sf(v - 1, guesses, q)
    between = [sum(binom.pmf(v - j, guesses, q) for j in range(1, i + 1)) / i for i in range(1, v + 1)]
    expected = min(1, beta + 2 * m * delta * max(between, default=0))
    assert one_run_p_value(m, guesses, v, epsilon, delta) == pytest.approx(expected, abs=1e-12)


def quantile_scores(shift, n=10_000):
    z = norm.ppf((np.arange(n) + 0.5) / n)
    return z + shift, z


def corners(inside, outside):
    """Vertices of the concave hull of the ROC as (guesses, right guesses), in exact integer arithmetic."""
    cuts = np.append(np.union1d(inside, outside), np.inf)
    points = np.stack([np.searchsorted(np.sort(side), cuts) for side in (inside, outside)], 1)
    while True:
        step = np.diff(points, axis=0)
        inner = step[:-1, 1] * step[1:, 0] - step[1:, 1] * step[:-1, 0] > 0
        if inner.all():
            right = len(inside) - points[:, 0]
            return right + len(outside) - points[:, 1], right
        points = points[np.concatenate([[True], inner, [True]])]


# 10,000 quantiles a side, 5% split between the corners of the ROC, delta 1e-6: the values of the jax_privacy tests,
# and the corner where each is reached. (That correction counts only corners that the coins themselves have picked.)
PUBLISHED = [
    (1, 386, 1.13346, (3376, 2807), 2.164749, (406, 379)),
    (2, 374, 2.311945, (4666, 4499), 4.7218075, (938, 934)),
    (4, 140, 4.395568, (8233, 8223), 9.133752, (5436, 5436)),
]


@pytest.mark.parametrize("shift, n_corners, epsilon, at, gaussian, gaussian_at", PUBLISHED)
def test_published_values(shift, n_corners, epsilon, at, gaussian, gaussian_at):
    guesses, right = corners(*quantile_scores(shift))
    assert len(guesses) == n_corners
    pairs = set(zip(guesses.tolist(), right.tolist(), strict=True))
    assert at in pairs and gaussian_at in pairs
    confidence = 1 - 0.05 / n_corners
    assert one_run_epsilon(20_000, *at, 1e-6, confidence) == pytest.approx(epsilon, rel=1e-5)
    assert one_run_gaussian_epsilon(20_000, *gaussian_at, 1e-6, confidence) == pytest.approx(gaussian, rel=1e-5)
    # and no corner refutes more
    assert all(one_run_p_value(20_000, g, v, epsilon, 1e-6) > 0.05 / n_corners for g, v in pairs - {at} if g)


@pytest.mark.parametrize("guesses, correct, mu", [(6, 6, 0.5), (12, 9, 0.3), (12, 11, 1.0), (20, 15, 0.8)])
def test_the_recursion_is_the_optimum_of_its_inequalities(guesses, correct, mu):
    """Least total mass with P[V >= v] >= alpha and R_i <= 1 - f(H_{i-1}), as a linear program over tangents of 1 - f.

    The recursion starts with all of alpha at V = v; nothing in the inequalities asks for that.
    """
    alpha, m = 0.05, guesses
    h = norm.cdf(np.linspace(-9, 3, 1500))
    value, slope = norm.cdf(norm.ppf(h) + mu), np.exp(-mu * norm.ppf(h) - mu**2 / 2)
    level = np.arange(guesses + 1)
    rows, bounds = [-(level >= correct).astype(float)], [-alpha]
    for i in range(1, guesses + 1):
        right, wrong = level * (level >= i) / m, (guesses - level) * (level >= i - 1) / m
        rows += list(right[None] - slope[:, None] * wrong[None])
        bounds += list(value - slope * h)
    solved = linprog(np.ones(guesses + 1), A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(0, None), method="highs")
    assert solved.status == 0
    assert _least_mass(m, guesses, correct, mu, alpha) == pytest.approx(solved.fun * guesses / m, rel=2e-3)


def canaries(rep, m, mu):
    rng = numpy_generator(rep, "one-run", m)
    b = rng.random(m) < 0.5
    return mu * b + rng.normal(size=m), b


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.5])
def test_bounds_exceed_the_truth_no_more_often_than_stated(mu):
    """Gaussian mechanisms: mu-private for one canary, mu sqrt(number included) for all of them."""
    over = np.zeros(3)
    for rep in range(200):
        s, b = canaries(rep, 100, mu)
        r = one_run(s, b, 1e-3, guesses=(100, 25))
        over[0] += r.epsilon > gaussian_epsilon(mu, 1e-3)
        over[1] += r.unlearning_epsilon > gaussian_epsilon(mu * np.sqrt(b.sum()), 1e-3)
        right = int(b[np.argsort(-s)[:20]].sum())
        over[2] += _least_mass(100, 20, right, mu, 0.05) > 20 / 100  # refutes the true mu
    assert (over / 200 <= 0.095).all()  # .05 allowed each; P[more than 19 of 200] < .005


def test_the_unlearning_bound_is_tight_for_the_worst_mechanism():
    """With probability p output the coins, else fair coins: epsilon = log(p 2^m + 1 - p) against fair coins alone."""
    m, p = 20, 0.05
    truth = np.log(p * 2**m + 1 - p)
    bound = unlearning_epsilon(m, m, 0.0)
    assert bound == pytest.approx(np.log(p * 2**m)) and 0.99 * truth < bound < truth


def test_the_unlearning_bound_is_never_below_half_of_the_other():
    for m in (10, 100, 1000):
        for share in (0.55, 0.65, 0.8, 0.95, 1.0):
            v = int(share * m)
            assert unlearning_epsilon(m, v, 0.0) >= one_run_epsilon(m, m, v, 0.0) / 2
    assert unlearning_epsilon(128, 96, 0.0) > 20 * one_run_epsilon(128, 128, 96, 0.0) / 2


def test_counts_of_guesses_and_their_price():
    s, b = canaries(0, 128, 2.0)
    r = one_run(s, b)
    assert r.tried == (128, 64, 32, 16, 8) and r.canaries == 128
    order = np.argsort(-s)
    right = b[order[:32]].sum() + (~b[order[-32:]]).sum()
    at = one_run(s, b, guesses=64)
    assert (at.guesses, at.correct) == (64, right)
    assert at.epsilon == one_run_epsilon(128, 64, right, 1e-5)
    assert r.epsilon >= one_run_epsilon(128, 64, right, 1e-5, 1 - 0.05 / 5)
    one_sided = one_run(s, b, guesses=20, two_sided=False)
    assert one_sided.correct == b[order[:20]].sum()
    assert one_run(-s, b).epsilon == 0


def test_memory_is_found_and_forgetting_is_not():
    s, b = canaries(1, 512, 3.0)
    assert one_run(s, b).epsilon > 1.5 and one_run(s, b).unlearning_epsilon > 100
    s, b = canaries(1, 512, 0.0)
    assert one_run(s, b).epsilon == 0 == one_run(s, b).unlearning_epsilon


@pytest.mark.parametrize(
    "call",
    [
        lambda: one_run([1.0, 2.0], [True]),
        lambda: one_run([1.0, np.nan], [True, False]),
        lambda: one_run([1.0, 2.0], [1, 3]),
        lambda: one_run([1.0, 2.0], [1, 0], guesses=3),
        lambda: one_run([1.0, 2.0], [1, 0], guesses=[]),
        lambda: one_run([1.0, 2.0], [1, 0], delta=1.0),
        lambda: one_run_epsilon(10, 5, 6),
        lambda: one_run_epsilon(10, 11, 6),
        lambda: one_run_gaussian_epsilon(10, 10, 9, 0.0),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError):
        call()


def test_ties_are_never_broken_by_position():
    included = np.arange(100) < 50  # the included first: positions know the coins
    for scores in (np.zeros(100), np.full(100, np.inf), np.full(100, -3.5)):
        for two_sided in (True, False):
            r = one_run(scores, included, two_sided=two_sided)
            assert (r.epsilon, r.unlearning_epsilon) == (0.0, 0.0)
        assert one_run(scores, included).correct == 0
    halves = np.repeat([1.0, 0.0], [60, 40])  # the ten too many are not told apart: their group is passed over
    assert one_run(halves, included, guesses=100).correct == 40
    told = np.repeat([np.inf, -np.inf], 50)
    assert one_run(told, included) == one_run(np.repeat([1.0, 0.0], 50), included)
    assert one_run(told, included, guesses=100).correct == 100
    for scores in (halves, told, np.round(numpy_generator(0, "ties").normal(size=100))):
        order = numpy_generator(1, "ties").permutation(100)
        assert one_run(scores[order], included[order]) == one_run(scores, included)


def test_tied_scores_hold_the_level():
    over = 0
    for rep in range(200):
        s, b = canaries(rep, 100, 0.5)
        over += one_run(np.round(s), b, 1e-3, guesses=(100, 25)).epsilon > gaussian_epsilon(0.5, 1e-3)
    assert over <= 19  # .05 allowed
