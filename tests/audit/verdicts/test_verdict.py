"""The verdict rule: each label from its own evidence, and its power and level by simulation."""

import numpy as np
import pytest
from scipy import stats

from unlearnlib.audit.statistics.intervals import Interval, t_interval
from unlearnlib.audit.verdicts.verdict import (
    DAMAGED,
    LABELS,
    NOTHING_FOUND,
    OVER_FORGOTTEN,
    RESIDUAL,
    UNDECIDED,
    verdict,
)
from unlearnlib.seeding import numpy_generator


def about(value, half, n=5):
    return Interval(value, value - half, value + half, n, "t")


FINE = about(0.0, 0.01)


def judge(leakage=None, null=(0.47, 0.53), utility=FINE, **more):
    return verdict(leakage or about(0.5, 0.02), null, utility, standard_error=0.01, **more)


def test_each_label():
    assert judge().label == NOTHING_FOUND
    assert judge(about(0.6, 0.05)).label == RESIDUAL
    assert judge(about(0.4, 0.05)).label == OVER_FORGOTTEN
    assert judge(utility=about(-0.05, 0.02)).label == DAMAGED
    assert judge(utility=about(0.05, 0.02)).label == NOTHING_FOUND  # better than retraining is no damage
    assert judge(about(0.55, 0.05)).label == NOTHING_FOUND  # overlaps the null
    assert not any("forgotten" == label for label in LABELS)


def test_several_findings_are_all_reported_and_the_leak_leads():
    both = judge(about(0.6, 0.05), utility=about(-0.05, 0.02))
    assert both.labels == (RESIDUAL, DAMAGED) and both.label == RESIDUAL and len(both.reasons) == 2


def test_streisand_tail_alone_is_enough():
    assert judge(tail_below=about(0.3, 0.05)).label == OVER_FORGOTTEN
    assert judge(tail_below=about(0.06, 0.02)).label == NOTHING_FOUND
    assert judge(about(0.6, 0.05), tail_below=about(0.3, 0.05)).labels == (RESIDUAL, OVER_FORGOTTEN)


def test_an_attack_without_a_sign_is_read_with_the_shift():
    assert judge(about(0.6, 0.05), shift=-0.4).labels == (OVER_FORGOTTEN,)
    assert judge(about(0.6, 0.05), shift=0.4).labels == (RESIDUAL,)
    assert judge(shift=-0.4).label == NOTHING_FOUND  # a sign alone is no finding


def test_a_positive_claim_needs_two_other_kinds_of_audit():
    assert judge(distributional=True, construction=True).supported
    for distributional, construction in ((None, True), (True, None), (False, True), (None, None)):
        got = judge(distributional=distributional, construction=construction)
        assert not got.supported and got.label == NOTHING_FOUND and len(got.reasons) > 1
    assert not judge(about(0.6, 0.05), distributional=True, construction=True).supported


def test_smallest_detectable_effect_is_stated():
    plain = 0.02 + 0.03 + 0.8416 * np.hypot(0.01, 0.015)  # both half-widths, and .84 errors of the difference
    assert judge().mde == pytest.approx(plain, rel=0.02) and f"{judge().mde:.3f}" in judge().reasons[0]
    known = verdict(about(0.5, 0.0196), (0.5, 0.5), FINE, standard_error=0.01)
    assert known.mde == pytest.approx(0.028, abs=1e-4)  # nothing but the attack's own error


def test_an_effect_of_the_stated_size_is_found_in_four_of_five_audits():
    """Six seeds of the method and six of the null, as `verdict_of` judges them."""

    def audit(i, effect):
        rng = numpy_generator(i, "power")
        leak, null = t_interval(rng.normal(effect, 0.02, 6)), t_interval(rng.normal(0, 0.02, 6))
        error = leak.half_width / stats.t.ppf(0.975, 5)
        return verdict(leak, (null.low, null.high), FINE, standard_error=error)

    stated = np.mean([audit(i, 0.0).mde for i in range(300)])
    found = np.mean([RESIDUAL in audit(1000 + i, stated).labels for i in range(600)])
    assert found == pytest.approx(0.8, abs=0.05)  # 3 SE of 600 repetitions


def test_an_attack_that_failed_its_null_leaves_the_leakage_undecided():
    alone = verdict(None, (0.0, 0.0), FINE, standard_error=0.0, distributional=True, construction=True)
    assert alone.label == UNDECIDED and alone.mde == np.inf and not alone.supported
    damaged = verdict(None, (0.0, 0.0), about(-0.05, 0.02), standard_error=0.0)
    assert damaged.labels == (DAMAGED,) and damaged.mde == np.inf
    assert UNDECIDED in LABELS


def test_no_verdict_without_an_interval():
    nan = float("nan")
    with pytest.raises(ValueError, match="three training seeds"):
        judge(Interval(0.5, nan, nan, 1, "t"))


def test_the_rule_holds_its_level_over_seeds():
    labels = []
    for i in range(200):
        rng = numpy_generator(i, "level")
        leak, useful, null = rng.normal(0, 0.02, 6), rng.normal(0, 0.02, 6), t_interval(rng.normal(0, 0.02, 6))
        gap = t_interval(leak)
        se = leak.std(ddof=1) / np.sqrt(6)
        labels.append(verdict(gap, (null.low, null.high), t_interval(useful), standard_error=se).labels)
    flagged = np.mean([RESIDUAL in part or OVER_FORGOTTEN in part for part in labels])
    assert flagged < 0.05 and np.mean([DAMAGED in part for part in labels]) < 0.05 + 0.03
