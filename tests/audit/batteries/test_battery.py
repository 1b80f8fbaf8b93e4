"""The battery on simulated models whose truth is known, and on small real modules; every trap gets its verdict."""

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnlib.audit.batteries.battery import audit_logits
from unlearnlib.audit.batteries.rungs import Logits, Truth
from unlearnlib.audit.distances.outputs import js_divergence, softmax
from unlearnlib.audit.verdicts.tidy import COLUMNS, NULL_METHOD, SHARES, row, summarise, table
from unlearnlib.audit.verdicts.verdict import DAMAGED, NOTHING_FOUND, OVER_FORGOTTEN, RESIDUAL, verdict_of
from unlearnlib.seeding import numpy_generator

SIZES, CLASSES = {"forget": 150, "retain": 400, "test": 300}, 5


def world(seed=0):
    """Labels, and for each part how hard its examples are: what all models share."""
    rng = numpy_generator(seed, "world")
    truth = Truth(**{part: rng.integers(0, CLASSES, n) for part, n in SIZES.items()})
    return truth, {part: rng.normal(1.0, 1.0, (n, 1)) for part, n in SIZES.items()}


TRUTH, EASE = world()


def simulate(seed, *, forget=0.0, retain=3.0, test=0.0, scale=1.0):
    """A model: the labelled class leads by its ease, by a boost for what was trained on, and by the run's own noise."""
    parts = {}
    for part, boost in (("forget", forget), ("retain", retain), ("test", test)):
        rng = numpy_generator(seed, "model", part)
        z = rng.normal(0, 0.5, (SIZES[part], CLASSES))
        z[np.arange(SIZES[part]), getattr(TRUTH, part)] += scale * EASE[part][:, 0] + boost
        parts[part] = z.astype(np.float32)
    return Logits(**parts)


def edited(model, forget):
    return Logits(forget.astype(np.float32), model.retain, model.test)


def constant_margin(value):
    z = np.zeros((SIZES["forget"], CLASSES))
    z[np.arange(len(z)), TRUTH.forget] = value + np.log(CLASSES - 1)
    return z


ORACLES = [simulate(1000 + i) for i in range(5)]


def frame(candidates, method, **tags):
    lines = [
        row(e, retrained=r, null=n, tags={"method": method, "seed_train": i, **tags})
        for i, candidate in enumerate(candidates)
        for e, r, n in audit_logits(candidate, TRUTH, oracles=ORACLES, originals=[simulate(7, forget=3.0)], seed=i)
    ]
    return table(lines)


def pick(rows, audit, statistic, subset="forget"):
    hit = rows[(rows["audit"] == audit) & (rows["statistic"] == statistic) & (rows["subset"] == subset)]
    assert len(hit) == 1
    return hit.iloc[0]


TRAPS = {
    "identity": (lambda i: simulate(i, forget=3.0), RESIDUAL),
    NULL_METHOD: (lambda i: simulate(50 + i), NOTHING_FOUND),
    "random": (lambda i: simulate(i, retain=0.0, scale=0.0), DAMAGED),
    "constant high": (lambda i: edited(simulate(i), constant_margin(9.0)), RESIDUAL),
    "constant low": (lambda i: edited(simulate(i), constant_margin(-9.0)), OVER_FORGOTTEN),
    "filter": (lambda i: edited(simulate(i), np.zeros((SIZES["forget"], CLASSES))), OVER_FORGOTTEN),
    "weak residual": (lambda i: simulate(i, forget=0.7), RESIDUAL),
}


@pytest.fixture(scope="module")
def traps():
    return pd.concat([frame([make(i) for i in range(4)], name) for name, (make, _) in TRAPS.items()], ignore_index=True)


@pytest.fixture(scope="module")
def summary(traps):
    return summarise(traps)


def test_every_trap_gets_its_verdict(summary):
    found = {name: verdict_of(summary[summary["method"] == name]).label for name in TRAPS}
    assert found == {name: label for name, (_, label) in TRAPS.items()}


def test_no_leakage_is_never_called_supported_without_the_two_other_kinds_of_audit(summary):
    null = summary[summary["method"] == NULL_METHOD]
    assert not verdict_of(null).supported and "no construction audit was run" in verdict_of(null).reasons
    assert verdict_of(null, distributional=True, construction=True).supported
    assert not verdict_of(null, distributional=True, construction=False).supported
    assert 0 < verdict_of(null).mde < 0.15


def test_the_verdict_names_the_strongest_audit_that_was_affordable(summary):
    one = summary[summary["method"] == summary["method"].iloc[0]]
    best = verdict_of(one)
    assert best.audit.startswith("RMIA AUC") and [s.partition(":")[0] for s in best.stronger] == ["U-LiRA"]
    assert any("state matrix" in reason for reason in best.reasons)
    cheap = verdict_of(one[~one["audit"].isin(["RMIA", "calibrated margin"])])
    assert cheap.audit.startswith("loss rank") and len(cheap.stronger) == 3


def test_the_schema_is_complete_and_types_hold(traps):
    assert list(traps.columns) == list(COLUMNS)
    assert traps["valid_flag"].map(type).eq(bool).all()
    assert set(traps["game"]) <= {"A", "B", "util"} and set(traps["direction"]) <= {"lower", "higher", "target"}
    assert not traps.duplicated(["method", "seed_train", "audit", "subset", "statistic", "alpha"]).any()
    inside = traps.dropna(subset=["ci_lo"])
    assert ((inside["ci_lo"] <= inside["value"] + 1e-12) & (inside["value"] <= inside["ci_hi"] + 1e-12)).all()


def test_values_are_those_of_the_audits_themselves(traps):
    rows = traps[(traps["method"] == "identity") & (traps["seed_train"] == 0)]
    candidate = TRAPS["identity"][0](0)
    p = softmax(candidate.forget)
    expected = np.mean([js_divergence(p, softmax(o.forget)) for o in ORACLES])
    js = pick(rows, "output distance", "JS")
    assert js["value"] == pytest.approx(expected) and js["z_null"] > 10
    pairs = [js_divergence(softmax(a.forget), softmax(b.forget)) for i, a in enumerate(ORACLES) for b in ORACLES[:i]]
    assert js["retrain_value"] == pytest.approx(np.mean(pairs))
    assert pick(rows, "output distance", "JS / oracle JS")["value"] == pytest.approx(expected / np.mean(pairs))
    ua = pick(rows, "accuracy", "UA")
    assert ua["value"] == pytest.approx((candidate.forget.argmax(1) != TRUTH.forget).mean())
    assert ua["gap"] == pytest.approx(ua["value"] - ua["retrain_value"]) and ua["gap"] < -0.1


def test_retrain_as_candidate_sits_inside_its_null_band():
    z = []
    for i in range(30):
        compared = audit_logits(simulate(200 + i), TRUTH, oracles=ORACLES, rungs=("utility", "calibrated"), seed=i)
        z.append([row(e, retrained=r, null=n, tags={}) for e, r, n in compared])
    lines = table([line for part in z for line in part])
    inside = (lines["null_lo"] <= lines["value"]) & (lines["value"] <= lines["null_hi"])
    assert inside[lines["audit"] == "RMIA"].mean() > 0.85
    auc = lines[(lines["audit"] == "calibrated margin") & (lines["statistic"] == "AUC")]
    assert ((auc["ci_lo"] <= 0.5) & (0.5 <= auc["ci_hi"])).mean() > 0.85  # 30 repetitions, one world, shared oracles
    assert auc["value"].mean() == pytest.approx(0.5, abs=0.03)


def test_calibration_removes_what_makes_forget_and_unseen_differ():
    def shifted(seed):
        m = simulate(seed)
        return edited(m, m.forget + 2.0 * np.eye(CLASSES)[TRUTH.forget])  # easy pictures, not remembered ones

    rows = table(
        [
            row(e, retrained=r, null=n, tags={})
            for e, r, n in audit_logits(shifted(3), TRUTH, oracles=[shifted(1000 + i) for i in range(6)])
        ]
    )
    plain, calibrated = pick(rows, "loss rank", "AUC"), pick(rows, "calibrated margin", "AUC")
    assert plain["value"] > 0.8 and plain["ci_lo"] > 0.5  # a leak, if 1/2 were the target
    assert abs(plain["z_null"]) < 3  # none, beside the retrained models
    assert calibrated["ci_lo"] < 0.5 < calibrated["ci_hi"]


def test_the_population_attack_is_balanced_and_class_matched():
    labels = np.repeat([0, 1, 2], 100)
    truth = Truth(np.zeros(40, int), labels, labels)
    rng = numpy_generator(0, "class")
    parts = {k: rng.normal(0, 1, (len(getattr(truth, k)), 3)).astype(np.float32) for k in ("forget", "retain", "test")}
    parts["test"][labels != 0] += 50 * np.eye(3)[labels[labels != 0]]  # other classes: very small losses
    rows = table([row(e, tags={}) for e, _, _ in audit_logits(Logits(**parts), truth)])
    attack = pick(rows, "loss attack", "accuracy")
    assert attack["n_pos"] == attack["n_neg"] == 40 and pick(rows, "loss attack", "majority accuracy")["value"] == 0.5
    matched = pick(rows, "loss rank", "AUC")
    assert matched["n_neg"] == 100 and matched["ci_lo"] < 0.5 < matched["ci_hi"]
    everything = Truth(np.arange(40) % 3, labels, labels)
    assert everything.matched.all()


def test_what_means_nothing_is_flagged():
    rows = table([row(e, tags={}) for e, _, _ in audit_logits(edited(simulate(0), constant_margin(0.0)), TRUTH)])
    assert pick(rows, "loss rank", "AUC")["valid_flag"]
    flat = Logits(constant_margin(1.0), simulate(0).retain, np.zeros((SIZES["test"], CLASSES)))
    truth = Truth(TRUTH.forget[:5], TRUTH.retain, TRUTH.test)
    few = Logits(flat.forget[:5], flat.retain, flat.test)
    few_rows = table([row(e, tags={}) for e, _, _ in audit_logits(few, truth)])
    line = pick(few_rows, "loss rank", "AUC")
    assert not line["valid_flag"] and "5 forgotten" in line["reason"]
    same = Logits(np.zeros_like(flat.forget), flat.retain, flat.test)
    line = pick(table([row(e, tags={}) for e, _, _ in audit_logits(same, TRUTH)]), "loss attack", "accuracy")
    assert not line["valid_flag"] and "majority" in line["reason"]


def test_infinite_and_half_precision_logits_are_audited():
    def audited(model):
        return table([row(e, tags={}) for e, _, _ in audit_logits(model, TRUTH, oracles=ORACLES)])

    candidate = simulate(3)
    plain, infinite = audited(candidate), candidate.forget.copy()
    infinite[7, (TRUTH.forget[7] + 1) % CLASSES] = np.inf  # a loss without bound
    rows = audited(edited(candidate, infinite))
    for audit, statistic in (("loss rank", "AUC"), ("loss attack", "accuracy"), ("calibrated margin", "AUC")):
        found, known = pick(rows, audit, statistic), pick(plain, audit, statistic)
        assert found["valid_flag"] and found["value"] == pytest.approx(known["value"], abs=0.02)
    halves = Logits(*(torch.tensor(getattr(candidate, part)).bfloat16() for part in SIZES))
    auc = pick(audited(halves), "loss rank", "AUC")
    assert auc["valid_flag"] and auc["value"] == pytest.approx(pick(plain, "loss rank", "AUC")["value"], abs=0.01)


def test_every_interval_of_a_share_or_an_area_is_inside_and_has_a_width(traps, summary):
    for frame_, low, high in (
        (traps, "ci_lo", "ci_hi"),
        (traps, "null_lo", "null_hi"),
        (summary, "value_lo", "value_hi"),
    ):
        shares = frame_[frame_["statistic"].isin(SHARES)].dropna(subset=[low])
        assert len(shares) > 20 and (shares[low] >= 0).all() and (shares[high] <= 1).all()
        moving = shares[shares["statistic"] != "majority accuracy"]  # a constant of the design
        assert (moving[low] < moving[high]).all()
