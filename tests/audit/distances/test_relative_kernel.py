"""The relative kernel test: its estimator, its level on both boundaries, its power, and the harmless change it
allows."""

import numpy as np
import pytest

from unlearnlib.audit.distances.relative_kernel import _gram, _whitened, kernel_test
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.seeding import numpy_generator


def draws(name, *shifts, n=12, d=1):
    """For each of many repetitions, samples of models with these shifts: unlearned, retrained, control."""
    rng = numpy_generator(0, "kernel-draws", name)
    while True:
        yield [rng.normal(size=(n, d)) + shift for shift in shifts]


def rate(samples, repetitions=200, **options):
    return np.mean([kernel_test(*next(samples), permutations=199, **options).detected() for _ in range(repetitions)])


def test_estimate_is_the_unbiased_mmd():
    """Sums over pairs of different models, by hand, and 0 on average under the null where the plain one is positive."""
    u, r = next(draws("by-hand", 0.5, 0, n=5, d=2))
    k = _gram(np.concatenate([u, r]))
    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(k[i, j] + k[5 + i, 5 + j] for i, j in pairs if i != j) / 20
    expected = within - 2 * sum(k[i, 5 + j] for i, j in pairs) / 25
    assert kernel_test(u, r).statistic == pytest.approx(expected)
    null = [kernel_test(*s, permutations=19).statistic for s, _ in zip(draws("zero", 0, 0), range(200), strict=False)]
    assert np.mean(null) == pytest.approx(0, abs=4 * np.std(null) / np.sqrt(200))


def test_difference_is_that_of_two_distances():
    u, r, v = next(draws("two", 1, 0, 0.3, n=7, d=3))
    k = _gram(np.concatenate([u, v, r]))
    a, b, c = np.arange(7), np.arange(7, 14), np.arange(14, 21)

    def mmd(x, y):
        own = sum((k[np.ix_(i, i)].sum() - 7) / 42 for i in (x, y))
        return own - 2 * k[np.ix_(x, y)].mean()

    found = kernel_test(u, r, v)
    assert (found.distance, found.control_distance) == pytest.approx((mmd(a, c), mmd(b, c)))
    assert found.statistic == pytest.approx(mmd(a, c) - mmd(b, c)) and found.models == (7, 7, 7)


def test_whitened_kernel_in_coordinates():
    """With a linear kernel the operator is a matrix: <x, (C + lambda)^{-1} y>."""
    x = numpy_generator(1, "whitened").normal(size=(9, 3)) * [3, 1, 0.2]
    own = np.arange(4, 9)
    expected = x @ np.linalg.inv(np.cov(x[own].T, bias=True) + 0.3 * np.eye(3)) @ x.T
    np.testing.assert_allclose(_whitened(x @ x.T, own, 0.3), expected, atol=1e-10)


@pytest.mark.parametrize("divergence", ["mmd", "chi2"])
def test_keeps_its_level(divergence):
    """Where all laws are one, and where u and v are different and equally far from r; 5% and two standard errors."""
    assert rate(draws("absolute", 0, 0), divergence=divergence) <= 0.08
    assert rate(draws("equal", 0, 0, 0), divergence=divergence) <= 0.08
    assert rate(draws("mirrored", 1.5, 0, -1.5), divergence=divergence) <= 0.08


def test_permutation_alone_would_not():
    samples = draws("mirrored", 1.5, 0, -1.5)
    assert np.mean([kernel_test(*next(samples), permutations=199).p_permuted <= 0.05 for _ in range(100)]) > 0.15


def test_power_as_stated():
    assert rate(draws("one", 1, 0, n=24), 100) == pytest.approx(0.81, abs=0.1)
    assert rate(draws("two-deviations", 2, 0, 0, n=24), 100) > 0.9


def test_a_harmless_change_is_allowed_and_a_residual_is_not():
    """Both move all models, by 1: the absolute test fails both, the relative one fails what goes beyond the control."""
    samples = draws("harmless", 1, 0, 1, n=24)
    assert np.mean([kernel_test(*next(samples)[:2], permutations=199).detected() for _ in range(60)]) > 0.6
    assert rate(draws("harmless", 1, 0, 1, n=24), 100) <= 0.1
    assert rate(draws("residual", 4, 0, 1, n=24), 60) > 0.9


def test_chi2_sees_what_retraining_never_varies():
    """A shift of .6 in a direction in which models differ by .1, beside one in which they differ by 3."""
    rng = numpy_generator(2, "narrow")
    scale = np.array([3, 0.1])
    runs = [[rng.normal(size=(10, 2)) * scale + [0, s] for s in (0.6, 0)] for _ in range(40)]
    powers = [
        np.mean([kernel_test(*s, permutations=99, divergence=d, ridge=0.01).detected() for s in runs])
        for d in ("mmd", "chi2")
    ]
    assert powers[1] > powers[0] + 0.1


def test_recovers_the_phantom():
    """Power falls with the residual of the phantom, and is the level where nothing is left."""
    phantom, found = Phantom(), []
    for k in (0, 10, 1000):
        laws = [[phantom.weights(law, 16, k=k, seed=i) for law in ("unlearned", "retrained")] for i in range(40)]
        found.append(np.mean([kernel_test(*pair, permutations=99).detected() for pair in laws]))
    assert found[0] > 0.9 and found[0] > found[1] > found[2] and found[2] <= 0.15


def test_refused():
    x = np.arange(12.0).reshape(6, 2)
    for args, options, says in (
        ((x, x[:, :1]), {}, "widths"),
        ((x[:2], x), {}, "three models"),
        ((x, x * np.nan), {}, "finite"),
        ((x * 0, x * 0), {}, "equal to each other"),
        ((x, x), {"divergence": "kl"}, "one of mmd, chi2"),
        ((x, x), {"ridge": 0}, "positive ridge"),
    ):
        with pytest.raises(ValueError, match=says):
            kernel_test(*args, **options)
