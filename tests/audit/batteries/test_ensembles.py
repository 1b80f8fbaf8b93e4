"""Audits of many models: Gaussian margins with a known shift, their nulls, and an attack that fails its own null."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from unlearnlib.audit.attacks.streisand import gaussian_advantage
from unlearnlib.audit.batteries.ensembles import ensemble_audit, ensemble_estimates, shadow_audit
from unlearnlib.audit.statistics.state import FORGET, RETAIN, state_matrix
from unlearnlib.audit.verdicts.tidy import COLUMNS, Estimate, row, summarise, table
from unlearnlib.audit.verdicts.verdict import DAMAGED, NOTHING_FOUND, OVER_FORGOTTEN, RESIDUAL, UNDECIDED, verdict_of
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
    rows = ensemble_audit(margins(1, 32), margins(2, 64), parents=np.arange(32), tags={"method": "retrain"})
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
        assert line["gap_lo"] < 0 < line["gap_hi"] and 0 <= line["ci_lo"] < line["value"] < line["ci_hi"] <= 1
        assert line["value"] == pytest.approx(0.05, abs=0.02) and line["retrain_value"] == pytest.approx(0.05, abs=0.02)


def test_a_planted_shift_is_found_on_its_side():
    over = ensemble_audit(margins(3, 60, -3.0), margins(4, 120), parents=np.arange(60))
    residual = ensemble_audit(margins(5, 60, 3.0), margins(4, 120), parents=np.arange(60))
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


BOUND = ("epsilon", "certified lower bound, max")


def of_one_law(seed, originals, each):
    """Unlearned and retrained models with equal marginal laws; unlearnings of one original stay close to it."""
    rng = numpy_generator(seed, "family")
    family = np.repeat(rng.normal(size=(originals, EXAMPLES)), each, axis=0)
    unlearned = np.sqrt(0.99) * family + 0.1 * rng.normal(size=family.shape)
    return unlearned, rng.normal(size=(2 * len(unlearned), EXAMPLES)), np.repeat(np.arange(originals), each)


def test_unlearnings_of_one_original_certify_nothing():
    for seed in range(4):
        unlearned, oracles, parents = of_one_law(seed, 1, 64)
        line = value(ensemble_audit(unlearned, oracles), *BOUND)
        assert not line["valid_flag"] and np.isnan(line["value"]) and "parents" in line["reason"]
        assert len(ensemble_audit(unlearned, oracles, parents=parents)) == 0  # one independent model
        taken_for_many = value(ensemble_audit(unlearned, oracles, parents=np.arange(64)), *BOUND)
        assert taken_for_many["value"] > 0.5  # the fault that parents guard against
        unlearned, oracles, parents = of_one_law(seed, 64, 2)
        honest = value(ensemble_audit(unlearned, oracles, parents=parents), *BOUND)
        assert honest["valid_flag"] and honest["value"] == 0 and honest["n_models"] == 64
    with pytest.raises(ValueError, match="parents must name"):
        ensemble_audit(unlearned, oracles, parents=parents[1:])


def test_constant_infinite_and_nan_margins():
    rows = ensemble_audit(np.full((32, 5), 2.0), np.full((64, 5), 2.0), parents=np.arange(32))
    assert value(rows, *BOUND)["value"] == 0 and value(rows, "KLoM (ks)", "mean")["value"] == 0
    infinite = np.full((32, 5), np.inf)
    rows = ensemble_audit(infinite, np.full((64, 5), np.inf), parents=np.arange(32))
    assert value(rows, *BOUND)["value"] == 0 and value(rows, "per-example advantage", "max")["value"] == 0
    far = ensemble_audit(infinite, margins(1, 64)[:, :5], parents=np.arange(32))
    assert value(far, *BOUND)["value"] > 1 and np.isfinite(value(far, "KLoM (gaussian)", "mean")["value"])
    with pytest.raises(ValueError, match="NaN"):
        ensemble_audit(np.full((32, 5), np.nan), np.ones((64, 5)))


def test_a_perfect_unlearner_lies_beyond_its_null_as_often_as_stated():
    """|z| > 1.96 in 5%; with five splits of the oracles it was 17%."""
    z = []
    for seed in range(200):
        rng = numpy_generator(seed, "z-null")
        found = ensemble_estimates(rng.normal(size=(8, 12)), rng.normal(size=(16, 12)), subset="forget", seed=seed)
        lines = [row(e, retrained=null, tags={}) for e, null in found if e.audit == "forgetting quality"]
        z.append(lines[0]["z_null"])
    assert np.mean(np.abs(z) > 1.96) < 0.11  # .06 expected; P[more than 21 of 200] < .003


def test_gap_of_a_many_model_audit_covers():
    """Games B of unlearned and of retrained models, with no leak in either: the gap is 0."""
    covered = shifted = 0
    for seed in range(120):
        matrix = state_matrix(18, 40, seed=seed)
        unlearned, retrained = (
            played(matrix, 10 * seed + k, retain=0.0) + 0.5 * numpy_generator(10 * seed + k, "run").normal(size=(18, 1))
            for k in (0, 1)
        )
        rows = shadow_audit(unlearned, matrix, retrained=retrained, tags={"method": "m", "seed_train": 0})
        rows = rows[(rows["game"] == "B") & (rows["subset"] == "forget") & (rows["statistic"] == "AUC")]
        line = summarise(rows.assign(valid_flag=True)).iloc[0]
        covered += line["gap_lo"] <= 0 <= line["gap_hi"]
        shifted += line["value_lo"] <= line["retrain_value"] <= line["value_hi"]
    assert covered >= 107  # 114 of 120 expected; P[fewer than 107] < .01
    assert shifted < covered  # as if the retrained value were exact


def test_shift_counts_what_a_run_does_to_all_examples():
    covered = 0
    for seed in range(150):
        matrix = state_matrix(18, 60, seed=seed)
        s = played(matrix, seed, retain=0.0) + numpy_generator(seed, "run").normal(size=(18, 1))
        line = game(shadow_audit(s, matrix), "B", "forget", "shift")
        covered += line["ci_lo"] <= 0 <= line["ci_hi"]
    assert covered >= 134  # 142.5 of 150 expected; P[fewer than 134] < .005


def test_the_verdict_says_that_an_attack_failed_its_null():
    matrix, tags = design(), {"method": "m", "seed_train": 0}
    leaky = played(matrix, 4, forget=1.0)
    rows = shadow_audit(played(matrix, 5), matrix, retrained=leaky, tags=tags)
    got = verdict_of(summarise(with_utility(rows, [0.002, -0.003, 0.001])))
    assert got.label == UNDECIDED and got.mde == np.inf and not got.supported
    assert "U-LiRA" in got.reasons[0] and "fails its null" in got.reasons[0]
    damaged = verdict_of(summarise(with_utility(rows, [-0.2, -0.21, -0.2])))
    assert damaged.label == DAMAGED and "fails its null" in damaged.reasons[0]
    assert got.audit == "" and not any("U-LiRA" in s for s in got.stronger)  # it was run
    with pytest.raises(ValueError, match="needs an attack"):
        verdict_of(summarise(with_utility(rows[rows["game"] == "A"], [0.0, 0.0, 0.01])))
