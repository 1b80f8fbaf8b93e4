"""The tidy table: null band, pairing by seed, and the summary's intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unlearnlib.audit.statistics.intervals import t_interval
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
    assert (line["null_lo"], line["null_hi"]) == pytest.approx((0.52 - half, 0.52 + half))
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
    expected = t_interval(rng.mean(1))
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
    line = row(many, retrained=[estimate(0.5)], tags={"method": "m", "seed_train": 0})
    s = summarise(table([line])).iloc[0]
    assert (s["value_lo"], s["value_hi"]) == (0.65, 0.75)
    assert (s["gap_lo"], s["gap_hi"]) == pytest.approx((0.15, 0.25)) and s["n_models"] == 60
    one = row(estimate(0.7, low=0.65, high=0.75), retrained=[estimate(0.5)], tags={"method": "m", "seed_train": 0})
    assert np.isnan(summarise(table([one])).iloc[0]["value_lo"])  # one model says nothing of training noise
