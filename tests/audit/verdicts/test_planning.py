"""The planner: its sizes give the stated power in simulated audits, and half of them do not."""

import numpy as np
import pytest
from scipy import stats

from unlearnlib import audit
from unlearnlib.audit.distances.klom import klom
from unlearnlib.audit.statistics.against_null import against_null, detectable_gap
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.seeding import numpy_generator

REPEATS = 600
WITHIN = 4 * np.sqrt(0.8 * 0.2 / REPEATS)  # four standard errors of a simulated power of 80 %


def power(find, n: int) -> float:
    return float(np.mean([find(n, numpy_generator(i, "planned", str(n))) for i in range(REPEATS)]))


def check(find, n: int):
    assert power(find, n) == pytest.approx(0.8, abs=WITHIN)
    assert power(find, n // 2) < 0.7


def test_a_rank_attack():
    def find(n, rng):
        scores = np.concatenate([rng.normal(np.sqrt(2) * stats.norm.ppf(0.6), 1, n), rng.normal(size=n)])
        area = roc(scores, np.arange(2 * n) < n).auc
        return abs(area - 0.5) > stats.norm.ppf(0.975) * np.sqrt((2 * n + 1) / 12) / n

    plan = audit.plan("loss rank", effect=0.1)
    assert (plan.candidates, plan.retrained) == (1, 0) and audit.plan("RMIA", effect=0.1).retrained == 4
    check(find, plan.examples)
    assert audit.plan("loss rank", effect=0.05).examples == pytest.approx(4 * plan.examples, rel=0.1)


def test_one_number_a_model():
    plan = audit.plan("relearn time", effect=1.5)
    assert plan.candidates == plan.retrained == 9 and detectable_gap(9, 9) <= 1.5 < detectable_gap(8, 8)
    assert power(lambda n, rng: against_null(rng.normal(1.5, 1, n), rng.normal(size=n)).detected(), 9) > 0.8


def test_one_example_among_many_that_are_searched():
    def find(n, rng):
        return stats.ttest_ind(rng.normal(2, 1, n), rng.normal(size=n)).pvalue < 0.05 / 100

    check(find, audit.plan("U-LiRA", effect=2.0, examples=100).candidates)
    assert audit.plan("U-LiRA", effect=2.0).candidates < audit.plan("U-LiRA", effect=2.0, examples=100).candidates


def test_klom():
    plan = audit.plan("KLoM", effect=0.125, examples=10)
    rng = numpy_generator(1, "null")
    shape = (plan.candidates, 10)
    null = [klom(rng.normal(size=shape), rng.normal(size=shape), estimator="gaussian").mean for _ in range(REPEATS)]
    cut = np.quantile(null, 0.95)
    found = [klom(rng.normal(0.5, 1, shape), rng.normal(size=shape), estimator="gaussian").mean for _ in range(REPEATS)]
    assert np.mean(np.array(found) > cut) == pytest.approx(0.8, abs=0.1)  # both quantiles and powers are simulated


def test_one_run_is_exact():
    n = audit.plan("one-run", effect=0.1).examples
    for m in range(n, n + 20):
        cut = next(v for v in range(m + 1) if stats.binom.sf(v - 1, m, 0.5) <= 0.05)
        assert stats.binom.sf(cut - 1, m, 0.6) >= 0.8
    cut = next(v for v in range(n) if stats.binom.sf(v - 1, n - 1, 0.5) <= 0.05)
    assert stats.binom.sf(cut - 1, n - 1, 0.6) < 0.8


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"audit": "lira"}, "unknown audit"),
        ({"effect": 0}, "effect"),
        ({"effect": 0.6}, "between 0 and 0.5"),
        ({"level": 1}, "level"),
        ({"power": 0.01}, "power"),
        ({"examples": 0}, "examples"),
        ({"effect": 1e-9}, "larger"),
    ],
)
def test_errors_at_the_door(wrong, says):
    given = {"audit": "loss rank", "effect": 0.1} | wrong
    with pytest.raises(ValueError, match=says):
        audit.plan(given.pop("audit"), **given)
