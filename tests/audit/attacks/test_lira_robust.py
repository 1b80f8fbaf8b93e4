"""LiRA on normal scores: heavy tails, infinite margins, and what it loses on Gaussian ones."""

import numpy as np
import pytest
from lira_game import TWO, attack

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.statistics.state import FORGET, state_matrix
from unlearnlib.seeding import numpy_generator


@pytest.mark.parametrize("k, gaussian, robust", [(8, 0.631, 0.660), (16, 0.655, 0.681)])
def test_heavy_tails_want_the_robust_mode(k, gaussian, robust):
    design = state_matrix(2 * k, 4000, states=TWO, seed=1)
    rng = numpy_generator(k, "student")
    noise = rng.standard_t(2, size=design.state.shape)
    s = 3 * rng.normal(size=4000) + noise + (design.state == FORGET)
    assert lira(s, design, game="B").auc == pytest.approx(gaussian, abs=0.012)  # four standard errors
    assert lira(s, design, game="B", variance="robust").auc == pytest.approx(robust, abs=0.012)
    null = lira(3 * rng.normal(size=4000) + noise, design, game="B", variance="robust")
    assert abs(null.auc - 0.5) < 0.012


def test_the_robust_mode_loses_little_on_gaussian_margins_and_ignores_any_monotone_map():
    flat, robust = attack(32, 2000, seed=0, gain=1.0), attack(32, 2000, seed=0, gain=1.0, variance="robust")
    assert 0 <= flat.auc - robust.auc + 0.002 < 0.008
    design = state_matrix(16, 30, states=TWO, seed=0)
    s = numpy_generator(0, "monotone").normal(size=(16, 30))
    one, other = (lira(x, design, game="B", variance="robust") for x in (s, np.exp(3 * s)))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)


def test_infinite_margins_rank_in_the_robust_mode():
    design = state_matrix(16, 30, states=TWO, seed=0)
    s = numpy_generator(0, "infinite").normal(size=(16, 30))
    top, bottom = s.copy(), s.copy()
    top[np.argmax(s, 0), np.arange(30)], bottom[np.argmin(s, 0), np.arange(30)] = np.inf, -np.inf
    known = lira(s, design, game="B", variance="robust")
    for x in (top, bottom):
        np.testing.assert_allclose(lira(x, design, game="B", variance="robust").scores, known.scores, atol=1e-9)
    many = np.where(s > 1, np.inf, s)  # ties at the top share their ranks
    assert np.isfinite(lira(many, design, game="B", variance="robust").auc)
    with pytest.raises(ValueError, match="not finite"):
        lira(np.where(s > 1, np.nan, s), design, game="B", variance="robust")
