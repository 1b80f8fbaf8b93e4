"""KLoM: numpy's histogram, its limits, the defects of released code, the published null floor, and known distances."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm, wasserstein_distance

from unlearnlib.audit.distances.klom import ESTIMATORS, FLOOR, _shares, klom, klom_null
from unlearnlib.seeding import numpy_generator

CEILING = np.log(1e5)


def normals(n, examples, *, mu=0.0, sd=1.0, seed=0):
    return mu + sd * numpy_generator(seed, "klom", n, examples).normal(size=(n, examples))


def by_histogram(u, o):
    """The published definition, one example, with np.histogram."""
    u, o = np.clip(u, -100, 100), np.clip(o, -100, 100)
    low, high = min(u.min(), o.min()), max(u.max(), o.max())
    edges = np.linspace(low, high if high > low else low + 1, 21)
    p, q = (np.histogram(x, edges)[0] / len(x) for x in (u, o))
    return sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


def by_digitize(u, o):
    """The same as two public repositories code it: the largest sample falls out of the last bin."""
    low, high = min(u.min(), o.min()), max(u.max(), o.max())
    edges = np.linspace(low, high if high > low else low + 1, 21)
    p, q = (np.array([(np.digitize(x, edges) == i).sum() for i in range(1, 21)]) for x in (u, o))
    p, q = (x / x.sum() if x.sum() else x * 0.0 for x in (p, q))
    return sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


def test_equals_the_published_definition_also_on_ties_and_edges():
    rng = numpy_generator(0, "klom-definition")
    shapes = [rng.normal(size=(2, 37, 30)), rng.integers(0, 21, (2, 37, 30)) / 20, 300 * rng.normal(size=(2, 37, 30))]
    for u, o in shapes:
        expected = [by_histogram(u[:, i], o[:, i]) for i in range(30)]
        np.testing.assert_allclose(klom(u, o).values, expected, atol=1e-12)
    edges = np.linspace(np.zeros(30), np.ones(30), 21)
    counts = np.stack([np.histogram(shapes[1][0][:, i], edges[:, i])[0] for i in range(30)], 1)
    np.testing.assert_array_equal(_shares(shapes[1][0], edges) * 37, counts)


def test_limits():
    same = normals(50, 20)
    assert klom(same, same).values.max() == 0
    apart = klom(normals(400, 200), normals(400, 200, mu=50, seed=1))
    for i in range(200):  # disjoint: ln 1e5 - H(p in its bins)
        u, o = normals(400, 200)[:, i], normals(400, 200, mu=50, seed=1)[:, i]
        p = np.histogram(u, np.linspace(min(u.min(), o.min()), max(u.max(), o.max()), 21))[0] / 400
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        assert apart.values[i] == pytest.approx(CEILING - entropy, abs=1e-9)
    assert pytest.approx(11.512925, abs=1e-6) == CEILING == -np.log(FLOOR)


def test_constant_margins_are_as_far_as_can_be_and_released_code_calls_one_of_them_perfect():
    oracles = normals(100, 30)
    for constant in (-20.0, 20.0):
        np.testing.assert_allclose(klom(np.full((100, 30), constant), oracles).values, CEILING)
    assert by_digitize(np.full(100, 20.0), oracles[:, 0]) == 0  # the planted bug: a dropped top edge
    assert by_digitize(np.full(100, -20.0), oracles[:, 0]) == pytest.approx(CEILING)
    np.testing.assert_allclose(klom(np.zeros((9, 1)), np.ones((9, 1))).values, CEILING)  # 0 if shares are renormalised
    assert klom(np.full((9, 1), 3.0), np.full((9, 1), 3.0)).values == 0


# over 40,000 Gaussian examples; figures in circulation for 200 examples or so are up to 7% lower
FLOORS = [
    (16, 3.87, 6.02),
    (32, 1.68, 3.05),
    (50, 0.894, 1.71),
    (100, 0.353, 0.678),
    (200, 0.150, 0.284),
    (500, 0.0518, 0.0951),
]


@pytest.mark.parametrize("n, mean, p95", FLOORS)
def test_the_floor_between_two_sets_of_oracles(n, mean, p95):
    null = klom_null(normals(2 * n, 1000), n=n, splits=1)
    # four standard errors with 1,000 examples, at the worst n
    assert null.mean == pytest.approx(mean, rel=0.065) and null.p95 == pytest.approx(p95, rel=0.11)


def test_the_gaussian_estimator_has_a_far_lower_floor():
    null = klom_null(normals(64, 4000), estimator="gaussian", splits=4)
    assert null.n == 32
    assert null.mean == pytest.approx(0.068, abs=0.004) and null.p95 == pytest.approx(0.2085, abs=0.012)


def test_one_sd_apart():
    """True KL 1/2; the published estimator reads .637 at 500 models."""
    u, o = normals(500, 1000, mu=1.0, seed=1), normals(500, 1000)
    assert klom(u, o).mean == pytest.approx(0.637, abs=0.018)
    gaussian = klom(u, o, estimator="gaussian")
    assert gaussian.mean == pytest.approx(0.5, abs=0.01) and gaussian.n_unlearned == 500 == gaussian.n_oracles
    assert klom(u, o, estimator="wasserstein").mean == pytest.approx(1.0, abs=0.01)
    assert klom(u, o, estimator="ks").mean == pytest.approx(2 * norm.cdf(0.5) - 1, abs=0.03)


def test_gaussian_kl_of_known_moments():
    u, o = normals(20_000, 4, mu=1.0, sd=2.0, seed=1), normals(20_000, 4)
    assert klom(u, o, estimator="gaussian").mean == pytest.approx(-np.log(2) + (4 + 1) / 2 - 0.5, abs=0.05)
    # a constant has no density next to a Gaussian: far away, finite, and seen
    assert 5 < klom(np.zeros((50, 3)), normals(50, 3), estimator="gaussian").mean < np.inf


def test_distances_equal_scipy_with_unequal_sizes_and_ties():
    rng = numpy_generator(0, "klom-scipy")
    u, o = rng.integers(0, 6, (17, 40)).astype(float), rng.integers(1, 8, (23, 40)).astype(float)
    for i in range(40):
        w, k = (klom(u, o, estimator=e).values[i] for e in ("wasserstein", "ks"))
        assert w == pytest.approx(wasserstein_distance(u[:, i], o[:, i]))
        assert k == pytest.approx(ks_2samp(u[:, i], o[:, i]).statistic)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_independent_oracles_score_at_the_null(estimator):
    """The value of 200 null candidates lies among the splits of their oracles as often as it should."""
    below = 0
    for rep in range(200):
        o = numpy_generator(rep, "klom-null-level").normal(size=(60, 20))
        null = klom_null(o[20:], estimator=estimator, n=20, splits=9, seed=rep)
        below += klom(o[:20], o[20:40], estimator=estimator).mean <= np.median(null.means)
    assert 70 < below < 130  # 100 expected, sd 7; splits of one set of oracles add to it


def test_null_is_reproducible_and_its_size_is_said():
    o = normals(40, 50)
    a, b, c = (klom_null(o, splits=3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.means, b.means)
    assert (a.means != c.means).any() and a.n == 20 and len(a.p95s) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: klom(np.zeros((3, 2)), np.zeros((3, 1))),
        lambda: klom(np.zeros((1, 2)), np.zeros((3, 2))),
        lambda: klom(np.full((3, 2), np.nan), np.zeros((3, 2))),
        lambda: klom(np.zeros((3, 2)), np.zeros((3, 2)), estimator="kde"),
        lambda: klom_null(np.zeros((3, 2))),
        lambda: klom_null(np.zeros((30, 2)), n=16),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError):
        call()
