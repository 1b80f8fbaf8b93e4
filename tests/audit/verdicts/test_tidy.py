"""The tidy table: null band, pairing by seed, and the summary's intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unlearnlib.audit.statistics.intervals import on_logit_scale, t_interval
from unlearnlib.audit.verdicts.tidy import COLUMNS, Estimate, row, summarise, table

SPEC = """study, rung, dataset, arch, method, config_hash, forget_set_id, forget_kind, mem_stratum, audit, game, subset,
statistic, value, ci_lo, ci_hi, ci_method, n_models, n_examples, n_pos, n_neg, null_value, null_lo, null_hi,
retrain_value, gap, z_null, direction, target, delta, alpha, shadow_k, variance_mode, threshold_source, tuned_trials,
cost_frac_retrain, valid_flag, reason, run_id, seed_eval"""


def estimate(value, **more):
    return Estimate("loss rank", "B", "forget", "AUC", value, **more)


def lines(values, retrained, method="m", **tags):
    return [
        row(estimate(v), retrained=[estimate(r)], tags={"method": method, "seed_train": i, **tags})
        for i, (v, r) in enumerate(zip(values, retrained, strict=True))
    ]


def test_all_columns_of_the_schema_are_there():
    assert set(SPEC.replace("\n", " ").replace(",", " ").split()) <= set(COLUMNS)
    assert list(table([]).columns) == list(COLUMNS)


def test_null_band_gap_and_z():
    null = [0.50, 0.52, 0.54]
    line = row(estimate(0.6), retrained=[estimate(v) for v in null], tags={})
    assert line["retrain_value"] == line["null_value"] == pytest.approx(0.52)
    assert line["gap"] == pytest.approx(0.08) and line["z_null"] == pytest.approx(0.08 / 0.02)
    half = stats.t.ppf(0.975, 2) * 0.02 * np.sqrt(4 / 3)
    band = on_logit_scale(0.52, half)  # of an area, so inside [0, 1]
    assert (line["null_lo"], line["null_hi"]) == pytest.approx(band)
    assert band == pytest.approx((0.52 - half, 0.52 + half), abs=3e-3)
    paired = row(estimate(0.6), retrained=[estimate(v) for v in null], paired=True, tags={})
    assert paired["gap"] == pytest.approx(0.1) and paired["z_null"] == line["z_null"]


def test_invalid_retrains_do_not_enter_and_one_gives_no_band():
    line = row(estimate(0.6), retrained=[estimate(0.5), estimate(0.9, valid=False, reason="flat")], tags={})
    assert line["retrain_value"] == 0.5 and np.isnan(line["null_lo"]) and np.isnan(line["z_null"])
    alone = row(estimate(0.6), tags={})
    assert np.isnan(alone["gap"]) and alone["valid_flag"] is True and alone["reason"] == ""
    with pytest.raises(ValueError, match="tags may be"):
        row(estimate(0.6), tags={"metod": "x"})


def test_summary_pairs_gaps_by_seed():
    retrained = np.array([0.5, 0.6, 0.7, 0.55])
    values = retrained + [0.05, 0.06, 0.05, 0.04]
    s = summarise(table(lines(values, retrained))).iloc[0]
    gap = t_interval(values - retrained)
    assert (s["gap"], s["gap_lo"], s["gap_hi"]) == pytest.approx((gap.value, gap.low, gap.high))
    assert s["gap_lo"] > 0  # unpaired, the seeds' common spread would hide it
    assert s["value_lo"] < retrained.mean() and s["n_seeds"] == 4


def test_forget_sets_of_one_seed_are_averaged_before_the_interval():
    rng = numpy_values = np.random.default_rng(0).normal(0.6, 0.01, (3, 20))
    rows = [
        row(estimate(v), tags={"method": "m", "seed_train": i, "forget_set_id": str(k)})
        for i, seed in enumerate(numpy_values)
        for k, v in enumerate(seed)
    ]
    s = summarise(table(rows)).iloc[0]
    expected = t_interval(rng.mean(1), bounds=(0, 1))
    assert s["n_seeds"] == 3 and s["n_rows"] == 60
    assert (s["value_lo"], s["value_hi"]) == pytest.approx((expected.low, expected.high))


def test_z_is_in_units_of_the_null_method():
    retrained = [0.5, 0.5, 0.5]
    null = table(lines([0.49, 0.51, 0.53], retrained, method="retrain, other seed"))
    method = table(lines([0.6, 0.6, 0.6], retrained))
    s = summarise(pd.concat([null, method])).set_index("method")
    assert s.loc["m", "null_sd"] == pytest.approx(0.02) and s.loc["m", "null_gap"] == pytest.approx(0.01)
    assert s.loc["m", "z"] == pytest.approx((0.1 - 0.01) / 0.02)
    assert s.loc["retrain, other seed", "z"] == pytest.approx(0.0)


def test_estimates_that_differ_in_their_settings_are_not_mixed():
    rows = [row(estimate(v, alpha=a), tags={"method": "m", "seed_train": 0}) for v, a in ((0.1, 0.01), (0.4, 0.1))]
    rows += [row(estimate(0.7), tags={"method": "m", "seed_train": 0, "dataset": d}) for d in ("a", "b")]
    assert len(summarise(table(rows))) == 4


def test_invalid_rows_are_kept_but_not_averaged():
    rows = lines([0.6, 0.7], [0.5, 0.5])
    rows.append(row(estimate(9.0, valid=False, reason="flat"), tags={"method": "m", "seed_train": 2}))
    s = summarise(table(rows)).iloc[0]
    assert s["value"] == pytest.approx(0.65) and (s["n_valid"], s["n_rows"]) == (2, 3)
    only = summarise(table(rows[2:])).iloc[0]
    assert not only["valid_flag"] and only["reason"] == "flat" and np.isnan(only["value"])


def test_seeds_are_required():
    with pytest.raises(ValueError, match="seed_train"):
        summarise(table([row(estimate(0.5), tags={})]))
    with pytest.raises(ValueError, match="lack the columns"):
        summarise(pd.DataFrame({"value": [1.0]}))


def test_an_audit_of_many_models_keeps_its_own_interval():
    many = estimate(0.7, n_models=60, low=0.65, high=0.75)
    control = estimate(0.5, n_models=60, low=0.44, high=0.58)
    line = row(many, retrained=[control], tags={"method": "m", "seed_train": 0})
    s = summarise(table([line])).iloc[0]
    assert (s["value_lo"], s["value_hi"]) == (0.65, 0.75) and s["n_models"] == 60
    gap = (0.2 - np.hypot(0.05, 0.08), 0.2 + np.hypot(0.05, 0.06))  # the retrained value has an error of its own
    assert (s["gap_lo"], s["gap_hi"]) == pytest.approx(gap)
    unknown = row(many, retrained=[estimate(0.5)], tags={"method": "m", "seed_train": 0})
    assert np.isnan(summarise(table([unknown])).iloc[0]["gap_lo"])  # its error is not known, so neither is the gap's
    one = row(estimate(0.7, low=0.65, high=0.75), retrained=[estimate(0.5)], tags={"method": "m", "seed_train": 0})
    assert np.isnan(summarise(table([one])).iloc[0]["value_lo"])  # one model says nothing of training noise


def accuracies(values, retrained, n=100):
    def one(v):
        return Estimate("accuracy", "util", "test", "TA", v, n_examples=n)

    pairs = zip(values, retrained, strict=True)
    return table([row(one(v), retrained=[one(r)], tags={"seed_train": i}) for i, (v, r) in enumerate(pairs)])


def test_shares_stay_inside_their_range():
    for values in ([0.984, 0.99, 0.95], [1.0, 1.0, 0.99], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0]):
        s = summarise(accuracies(values, values[::-1])).iloc[0]
        assert 0 <= s["value_lo"] < s["value_hi"] <= 1 and -1 <= s["gap_lo"] < s["gap_hi"] <= 1
        assert s["value_lo"] <= s["value"] <= s["value_hi"]
    line = row(
        Estimate("accuracy", "util", "test", "TA", 0.9, n_examples=100),
        retrained=[Estimate("accuracy", "util", "test", "TA", 1.0, n_examples=100)] * 3,
        tags={},
    )
    assert 0.9 < line["null_lo"] < 1 == line["null_hi"]


def test_equal_gaps_of_counted_shares_are_no_proof():
    s = summarise(accuracies([0.99] * 3, [1.0] * 3)).iloc[0]  # one of 100 pictures, three times
    assert s["gap"] == pytest.approx(-0.01) and s["gap_lo"] < -0.01 < 0 < s["gap_hi"]


def test_a_statistic_of_ones_own_may_leave_the_unit_interval():
    rows = [
        row(estimate(v), retrained=[estimate(v + 1)], tags={"seed_train": i}) for i, v in enumerate((1.5, 2.5, 2.0))
    ]
    s = summarise(table(rows)).iloc[0]
    assert s["value_hi"] > 2.5 and s["gap"] == -1 == s["gap_lo"]


def test_tables_from_before_the_gap_had_limits_can_be_read():
    rows = table(lines([0.6, 0.7, 0.65], [0.5, 0.5, 0.55]))
    old = summarise(rows.drop(columns=["gap_lo", "gap_hi"]))
    pd.testing.assert_frame_equal(old, summarise(rows))
