"""Memorisation: exact counts, unbiasedness, its error, and the winner's curse."""

import numpy as np
import pytest

from unlearnlib.audit.attacks.memorisation import memorisation, model_halves, strata
from unlearnlib.seeding import numpy_generator


def simulate(n_models, p_in, p_out, seed):
    rng = numpy_generator(seed, "memorisation")
    inside = rng.random((n_models, len(p_in))).argsort(axis=0) < n_models // 2  # balanced per example
    return rng.random(inside.shape) < np.where(inside, p_in, p_out), inside


def test_counts_by_hand():
    inside = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    correct = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
    m = memorisation(correct, inside)
    np.testing.assert_array_equal(m.estimate, [1 - 0.5, 1 - 0.5])
    np.testing.assert_array_equal(m.n_in, [2, 2])
    np.testing.assert_allclose(m.standard_error, np.sqrt(0.25 / 2))


def test_unbiased_with_the_stated_error():
    p_in, p_out = np.full(4000, 0.95), np.full(4000, 0.4)
    m = memorisation(*simulate(64, p_in, p_out, seed=0))
    expected = np.sqrt(0.95 * 0.05 / 32 + 0.4 * 0.6 / 32)
    assert m.estimate.mean() == pytest.approx(0.55, abs=4 * expected / np.sqrt(4000))
    assert m.estimate.std() == pytest.approx(expected, rel=0.04)
    assert np.sqrt((m.standard_error**2).mean()) == pytest.approx(expected, rel=0.04)


def test_swapping_in_and_out_flips_the_sign():
    correct, inside = simulate(32, np.full(50, 0.9), np.full(50, 0.3), seed=1)
    np.testing.assert_allclose(memorisation(correct, ~inside).estimate, -memorisation(correct, inside).estimate)
    assert memorisation(correct, inside).estimate.mean() > 0.5


def test_worst_case_error():
    for models, published in ((32, 0.177), (64, 0.125), (128, 0.088), (256, 0.062), (512, 0.044)):
        inside = np.arange(models)[:, None] < models // 2
        m = memorisation(np.arange(models)[:, None] % 2 == 0, inside)  # right half the time, in and out
        assert m.worst_case_error[0] == pytest.approx(published, abs=6e-4)
        assert m.standard_error[0] == pytest.approx(m.worst_case_error[0])


def test_an_example_never_left_out_has_no_estimate():
    m = memorisation(np.ones((4, 1), bool), np.ones((4, 1), bool))
    assert np.isnan(m.estimate[0]) and m.worst_case_error[0] == np.inf
    with pytest.raises(ValueError, match="boolean"):
        memorisation(np.ones((4, 1), bool), np.ones((4, 1)))


def test_winners_curse_and_its_cure():
    p = np.full(3000, 0.5)  # nothing is memorised
    correct, inside = simulate(64, p, p, seed=2)
    one, two = model_halves(64, seed=0)
    assert len(np.intersect1d(one, two)) == 0 and len(one) == len(two) == 32
    chosen = strata(memorisation(correct[one], inside[one]).estimate, 100)["high"]
    assert memorisation(correct[one], inside[one]).estimate[chosen].mean() > 0.3
    assert abs(memorisation(correct[two], inside[two]).estimate[chosen].mean()) < 0.08  # 4 SE of .18/sqrt(100)


def test_strata_are_disjoint_and_ordered():
    values = np.concatenate([np.linspace(0, 1, 30), [np.nan] * 5])
    groups = strata(values, 8)
    assert len(np.unique(np.concatenate(list(groups.values())))) == 24
    low, mid, high = (values[groups[k]] for k in ("low", "mid", "high"))
    assert low.max() < mid.min() and mid.max() < high.min() and high.max() == 1.0
    with pytest.raises(ValueError, match="do not fit"):
        strata(values, 11)
