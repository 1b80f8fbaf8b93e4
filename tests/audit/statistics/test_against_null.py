"""One number a model against retrained models: scipy, coverage, power as planned, and what is refused."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from unlearnlib.audit.statistics.against_null import against_null, detectable_gap
from unlearnlib.seeding import numpy_generator


def test_equals_welch_of_scipy():
    rng = numpy_generator(0, "welch")
    v, r = rng.normal(1, 2, 7), rng.normal(0, 1, 12)
    ours, theirs = against_null(v, r), ttest_ind(v, r, equal_var=False)
    ends = theirs.confidence_interval(0.95)
    assert (ours.p_value, ours.low, ours.high) == pytest.approx((theirs.pvalue, ends.low, ends.high))
    assert ours.z == pytest.approx((v.mean() - r.mean()) / r.std(ddof=1))
    assert ours.detected() == (ours.p_value <= 0.05)


def test_one_candidate_is_a_draw_of_the_null():
    """t of a single new value: x = mean + c sd sqrt(1 + 1/K) has the p-value of c."""
    r = np.array([0.0, 1, 2, 3])
    edge = r.mean() + 3.182446 * r.std(ddof=1) * np.sqrt(1.25)
    assert against_null(edge, r).p_value == pytest.approx(0.05, abs=1e-6)
    assert against_null(edge, r).low == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("m, k", [(1, 3), (1, 8), (6, 8)])
def test_level_and_planned_power(m, k):
    rng, repetitions = numpy_generator(1, "level", m, k), 2000
    gap = detectable_gap(m, k)
    false = np.mean([against_null(rng.normal(size=m), rng.normal(size=k)).detected() for _ in range(repetitions)])
    found = np.mean([against_null(gap + rng.normal(size=m), rng.normal(size=k)).detected() for _ in range(repetitions)])
    assert false == pytest.approx(0.05, abs=0.02)
    assert found == pytest.approx(0.8, abs=0.04)


def test_numbers_without_spread_are_left_to_ranks():
    assert against_null(0.5, [0.5, 0.5, 0.5]).p_value == 1
    ours = against_null([0.9, 0.9], [0.5] * 4)
    assert ours.p_value == pytest.approx(2 / 15) and np.isnan([ours.low, ours.high, ours.z]).all()


def test_refused():
    for values, null, says in (([], [0, 1], "one candidate"), (1, [1], "two retrained"), (np.nan, [0, 1], "finite")):
        with pytest.raises(ValueError, match=says):
            against_null(values, null)
    with pytest.raises(ValueError, match="level"):
        against_null(1, [0, 1], 95)
    with pytest.raises(ValueError, match="power"):
        detectable_gap(1, 8, power=0.01)
