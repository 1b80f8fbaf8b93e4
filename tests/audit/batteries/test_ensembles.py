"""Audits of many models: Gaussian margins with a known shift, their nulls, and an attack that fails its own null."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from unlearnlib.audit.attacks.streisand import gaussian_advantage
from unlearnlib.audit.batteries.ensembles import ensemble_audit, ensemble_estimates, shadow_audit
from unlearnlib.audit.statistics.state import FORGET, RETAIN, state_matrix
from unlearnlib.audit.verdicts.tidy import COLUMNS, Estimate, row, summarise, table
from unlearnlib.audit.verdicts.verdict import NOTHING_FOUND, OVER_FORGOTTEN, RESIDUAL, verdict_of
from unlearnlib.seeding import numpy_generator

EXAMPLES = 60
OFFSET = 10 * numpy_generator(0, "offset").normal(size=(1, EXAMPLES))


def margins(seed, models, shift=0.0):
    return OFFSET + numpy_generator(seed, "margins").normal(shift, 1, (models, EXAMPLES))


def value(rows, audit, statistic):
    hit = rows[(rows["audit"] == audit) & (rows["statistic"] == statistic)]
    assert len(hit) == 1
    return hit.iloc[0]


def test_one_more_set_of_retrains_looks_like_the_null():
    rows = ensemble_audit(margins(1, 32), margins(2, 64), tags={"method": "retrain"})
    assert list(rows.columns) == list(COLUMNS)
    for audit in ("KLoM (gaussian)", "KLoM (ks)"):
        for statistic in ("mean", "P95"):
            line = value(rows, audit, statistic)
            assert line["null_lo"] < line["value"] < line["null_hi"]
    assert not value(rows, "KLoM (binned)", "mean")["valid_flag"]  # 32 models: noise floor only
    assert value(rows, "per-example advantage", "share above null P95")["value"] == pytest.approx(0.05, abs=0.09)
    assert value(rows, "epsilon", "certified lower bound, max")["value"] == 0.0
    for statistic in ("mass below q05", "mass above q95"):
        line = value(rows, "Streisand", statistic)
        assert line["ci_lo"] < line["retrain_value"] < line["ci_hi"]
        assert line["value"] == pytest.approx(0.05, abs=0.02) and line["retrain_value"] == pytest.approx(0.05, abs=0.02)


def test_a_planted_shift_is_found_on_its_side():
    over = ensemble_audit(margins(3, 60, -3.0), margins(4, 120))
    residual = ensemble_audit(margins(5, 60, 3.0), margins(4, 120))
    tail = norm.cdf(norm.ppf(0.05) + 3)
    assert value(over, "Streisand", "mass below q05")["value"] == pytest.approx(tail, abs=0.04)
    assert value(residual, "Streisand", "mass above q95")["value"] == pytest.approx(tail, abs=0.04)
    assert value(residual, "Streisand", "mass below q05")["value"] < 0.005
    for rows in (over, residual):
        advantage = value(rows, "per-example advantage", "median")
        assert advantage["value"] == pytest.approx(gaussian_advantage(3.0), abs=0.03) and advantage["z_null"] > 5
        assert value(rows, "KLoM (gaussian)", "mean")["value"] == pytest.approx(4.5, abs=1.0)  # mu^2 / 2
        assert value(rows, "KLoM (binned)", "mean")["valid_flag"]
        quality = value(rows, "forgetting quality", "F")
        assert quality["value"] < 0.2 * quality["retrain_value"] and quality["direction"] == "higher"
        assert value(rows, "epsilon", "certified lower bound, max")["value"] > 0.5


def test_too_few_models_give_nothing():
    assert ensemble_estimates(margins(1, 7), margins(2, 64), subset="forget") == []
    assert ensemble_estimates(margins(1, 32), margins(2, 15), subset="forget") == []
    few = ensemble_audit(margins(1, 8), margins(2, 16))
    assert len(few) > 0 and "Streisand" not in set(few["audit"])  # bands need 38 oracles


def design(models=48, examples=150):
    return state_matrix(models, examples, seed=0)


def played(matrix, seed, forget=0.0, retain=2.0):
    shape = matrix.state.shape
    offset = 10 * numpy_generator(1, "offset").normal(size=(1, shape[1]))
    noise = numpy_generator(seed, "played").normal(size=shape)
    return offset + noise + forget * (matrix.state == FORGET) + retain * (matrix.state == RETAIN)


def game(rows, name, subset, statistic="AUC"):
    hit = rows[(rows["game"] == name) & (rows["subset"] == subset) & (rows["statistic"] == statistic)]
    assert len(hit) == 1
    return hit.iloc[0]


def test_shadow_audit_recovers_the_gaussian_leak_and_its_null():
    matrix = design()
    rows = shadow_audit(played(matrix, 0, forget=1.0), matrix, retrained=played(matrix, 1))
    b = game(rows, "B", "forget")
    assert b["value"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.03) and b["ci_lo"] > 0.5 and b["valid_flag"]
    assert b["retrain_value"] == pytest.approx(0.5, abs=0.03)
    assert game(rows, "A", "forget")["value"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.03)
    assert game(rows, "B", "retain")["value"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.03)
    assert (rows[rows["statistic"] == "TPR"]["alpha"] >= 10 / rows["n_neg"].max()).all()


def with_utility(rows, gaps, method="m"):
    """The rows and three seeds of test accuracy with these gaps to retraining."""

    def accuracy(v):
        return Estimate("accuracy", "util", "test", "TA", v)

    lines = [
        row(accuracy(0.9 + g), retrained=[accuracy(0.9)], tags={"method": method, "seed_train": i})
        for i, g in enumerate(gaps)
    ]
    return pd.concat([rows, table(lines)])


def test_the_verdict_rests_on_u_lira_where_it_was_run():
    matrix, tags = design(), {"method": "m", "seed_train": 0}
    for forget, label in ((1.0, RESIDUAL), (0.0, NOTHING_FOUND), (-1.0, OVER_FORGOTTEN)):
        rows = shadow_audit(played(matrix, 10, forget=forget), matrix, retrained=played(matrix, 11), tags=tags)
        got = verdict_of(summarise(with_utility(rows, [0.002, -0.003, 0.001])))
        # a likelihood ratio finds either, with an AUC above 1/2: the sign of the shift tells them apart
        assert got.label == label and game(rows, "B", "forget", "shift")["value"] == pytest.approx(forget, abs=0.1)
        assert "U-LiRA" in got.reasons[0] and 0 < got.mde < 0.1


def test_damage_counts_in_game_a_and_not_in_game_b():
    matrix = design()
    rows = shadow_audit(played(matrix, 2) - 2.0, matrix, retrained=played(matrix, 3))  # worse on every example alike
    b = game(rows, "B", "forget")
    assert b["ci_lo"] < 0.5 < b["ci_hi"]
    assert game(rows, "A", "forget")["value"] > 0.85


def test_an_attack_that_fails_its_null_is_flagged():
    matrix = design()
    leaky = played(matrix, 4, forget=1.0)  # "retrained" models which were not
    rows = shadow_audit(played(matrix, 5, forget=1.0), matrix, retrained=leaky)
    b = rows[(rows["game"] == "B") & (rows["subset"] == "forget")]
    b = b[b["statistic"] != "shift"]
    assert not b["valid_flag"].any() and b["reason"].str.contains("fails its null").all()
    assert rows[rows["subset"] == "retain"]["valid_flag"].all()
