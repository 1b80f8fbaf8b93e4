"""Examples at risk: the gap it estimates, the phantom, a planted minority, its level, and an average that hides it."""

import numpy as np
import pytest

from unlearnlib.audit.attacks.gaps import standardised_gaps
from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.state import FORGET, NEVER, state_matrix
from unlearnlib.audit.verdicts.at_risk import at_risk
from unlearnlib.seeding import numpy_generator


def made(seed, mu, *, models=48, examples=100, share=0.2, common=0.7):
    """Margins of unlearned models in which a share of the examples is left mu deviations too high; `common` moves a
    whole model, as training does."""
    design, rng = state_matrix(models, examples, seed=seed), numpy_generator(seed, "at-risk-models")
    x = rng.normal(size=(models, examples)) + 3 * rng.normal(size=examples) + common * rng.normal(size=(models, 1))
    return x + mu * (np.arange(examples) < share * examples) * (design.state == FORGET), design


def test_standardised_gap_by_hand():
    x = np.array([[1.0, 5], [3, 5], [0, 5], [0, 5], [9, 9]])
    first, second = (np.isin(np.arange(5), rows)[:, None] & np.ones((1, 2), bool) for rows in ((0, 1), (2, 3)))
    (gap,), pooled = standardised_gaps(x[:, :1], first[:, :1], second[:, :1]), np.sqrt(2 / 2)
    assert gap == pytest.approx(2 / pooled)
    assert standardised_gaps(x, first, second)[1] == 0
    assert np.isnan(standardised_gaps(x, first, np.zeros_like(second))).all()


def test_odds_and_threshold():
    found = at_risk(*made(0, 2.0), odds=10, draws=20)
    assert found.threshold == pytest.approx(2.671, abs=1e-3)
    assert at_risk(*made(0, 2.0), draws=20).threshold == pytest.approx(0.8615, abs=1e-4)
    at = np.abs(found.mu) > found.threshold
    assert (found.odds_of_each[at] > 10).all() and (found.odds_of_each[~at] <= 10).all() and at.mean() == found.share


@pytest.mark.parametrize("k", [0, 5, 40])
def test_recovers_the_phantom(k):
    phantom, design = Phantom(), state_matrix(96, 150, seed=k)
    unlearned, retrained = phantom.margins(design, k=k, seed=k)
    found = at_risk(unlearned, design, retrained=retrained, draws=40)
    assert found.mu.mean() == pytest.approx(phantom.mu(k), abs=0.08)
    assert found.retrained.mean() == pytest.approx(0, abs=0.08)
    assert np.sqrt(np.mean(found.retrained**2)) == pytest.approx(np.sqrt(np.mean(found.oracle**2)), rel=0.1)


def test_keeps_its_level():
    """200 designs of retrained models with a shift common to all margins of a model: p-value and the lower limit."""
    found = [at_risk(*made(i, 0.0, models=24, examples=60, common=1.5), draws=60, seed=i) for i in range(200)]
    assert np.mean([f.p_value <= 0.05 for f in found]) <= 0.08
    assert np.mean([f.at_least > 0 for f in found]) <= 0.08


def test_a_minority_is_counted_and_never_overcounted():
    found = [at_risk(*made(i, 2.0), draws=60, seed=i) for i in range(20)]
    assert all(f.p_value < 0.05 for f in found)
    assert 0.07 < np.mean([f.at_least for f in found]) and np.mean([f.at_least > 0.2 for f in found]) <= 0.1
    assert np.mean([f.excess for f in found]) == pytest.approx(0.2, abs=0.03)


def test_one_average_two_truths():
    """The planted difference: a tenth laid bare or everybody a little. The mean attack can hardly tell, this can."""
    few, all_of_them = made(1, 2.5, share=0.1, models=96), made(1, 0.4, share=1.0, models=96)
    aucs = [lira(x, d, game="B").auc for x, d in (few, all_of_them)]
    shares = [at_risk(x, d, draws=40).share for x, d in (few, all_of_them)]
    assert abs(aucs[0] - aucs[1]) < 0.03 and min(aucs) > 0.52
    assert shares[0] == pytest.approx(0.1, abs=0.02) and shares[1] < 0.06


def test_over_forgetting_is_negative_and_at_risk():
    found = at_risk(*made(2, -2.0), draws=40)
    assert found.mu[:20].mean() < -1 and found.share > 0.15


def test_siblings_count_once():
    x, design = made(3, 2.0)
    doubled = state_matrix(96, 100, siblings=2, seed=0)
    y = numpy_generator(4, "siblings").normal(size=(96, 100))
    first = np.unique(doubled.parents, return_index=True)[1]
    alone = at_risk(y[first], doubled.state[first], draws=20)
    np.testing.assert_array_equal(at_risk(y, doubled, draws=20).mu, alone.mu)
    assert at_risk(x, design, draws=20).models == 16


def test_refused():
    x, design = made(5, 0.0)
    for args, options, says in (
        ((x[:-1], design), {}, "finite margins"),
        ((x * np.inf, design), {}, "finite margins"),
        ((x, design), {"odds": 1.0}, "blind guess"),
        ((x, design), {"draws": 5}, "draws"),
        ((x[:3], design.state[:3] * 0 + NEVER), {}, "two originals"),
    ):
        with pytest.raises(ValueError, match=says):
            at_risk(*args, **options)
