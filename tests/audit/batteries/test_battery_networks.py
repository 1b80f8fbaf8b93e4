"""The battery on small real modules: every rung, what is undefined, what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from unlearnlib.audit.batteries.battery import battery, logits_of
from unlearnlib.audit.batteries.memo import Memo
from unlearnlib.audit.batteries.rungs import Logits, Relearning
from unlearnlib.audit.verdicts.tidy import COLUMNS
from unlearnlib.data.examples import Examples, Split
from unlearnlib.methods.records import Cost
from unlearnlib.seeding import isolated
from unlearnlib.training.models import features


def pick(rows, audit, statistic, subset="forget"):
    hit = rows[(rows["audit"] == audit) & (rows["statistic"] == statistic) & (rows["subset"] == subset)]
    assert len(hit) == 1
    return hit.iloc[0]


def small(seed):
    with isolated(seed, "small"):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def split_of(n=240):
    with isolated(0, "pictures"):
        images = torch.rand(n, 1, 4, 4)
    e = Examples(images, torch.arange(n) % 3)
    return Split.of(retain=e[:120], forget=e[120:160], test=e[160:], request="random:40")


def test_battery_runs_every_rung_and_changes_no_model():
    split, models = split_of(), [small(i) for i in range(5)]
    models[0].train()
    before = [copy.deepcopy(m.state_dict()) for m in models]
    rows = battery(
        models[0],
        split,
        oracles=models[1:4],
        originals=[models[4]],
        null=small(9),
        random_init=small(10),
        cost=Cost(2.0, 100, 50),
        retrain_cost=Cost(10.0, 1000, 0),
        relearning=Relearning(lr=0.1, steps=5, max_steps=30),
        tags={"method": "none", "dataset": "toy", "seed_train": 0},
    )
    expected = {"accuracy", "composite", "loss attack", "loss rank", "two-sided loss", "entropy", "modified entropy"}
    expected |= {"SVC efficacy", "calibrated margin", "RMIA", "IAM", "output distance", "ZRF"}
    expected |= {"weight distance", "probe", "relearn", "cost"}
    assert set(rows["audit"]) == expected and list(rows.columns) == list(COLUMNS)
    assert (rows["forget_kind"] == "random").all() and (rows["cost_frac_retrain"] == 350 / 3000).all()
    assert pick(rows, "cost", "work / retraining", "all")["value"] == 350 / 3000
    assert all(torch.equal(v, before[i][k]) for i, m in enumerate(models) for k, v in m.state_dict().items())
    assert models[0].training and models[0][2].training
    again = battery(models[0], split, oracles=models[1:4], tags={"seed_train": 0}, rungs=("population",))
    same = rows[rows["audit"].isin(set(again["audit"]) - {"composite"})]
    np.testing.assert_allclose(again[again["audit"] != "composite"]["value"], same["value"])


def test_battery_identical_models_have_ratio_one_and_no_distance():
    split, model = split_of(), small(0)
    settings = Relearning(lr=0.1, steps=5, max_steps=30)
    rows = battery(model, split, oracles=[copy.deepcopy(model)], originals=[model], relearning=settings)
    assert pick(rows, "relearn", "log AIN")["value"] == 0.0
    assert pick(rows, "weight distance", "L2", "all")["value"] == 0.0
    assert pick(rows, "output distance", "JS")["value"] == 0.0
    assert pick(rows, "probe", "CKA to original")["value"] == pytest.approx(1.0)
    assert np.isnan(pick(rows, "output distance", "JS")["null_sd"])


def test_pairing_takes_the_gap_to_one_oracle():
    split, models = split_of(), [small(i) for i in range(4)]
    free = battery(models[0], split, oracles=models[1:], rungs=("utility",))
    paired = battery(models[0], split, oracles=models[1:], pair=1, rungs=("utility",))
    own = battery(models[2], split, rungs=("utility",))
    for statistic, subset in (("UA", "forget"), ("RA", "retain"), ("TA", "test")):
        value = pick(own, "accuracy", statistic, subset)["value"]
        assert pick(paired, "accuracy", statistic, subset)["retrain_value"] == value
        a, b = pick(free, "accuracy", statistic, subset), pick(paired, "accuracy", statistic, subset)
        assert a["null_value"] == pytest.approx(b["null_value"]) == a["retrain_value"]
    with pytest.raises(ValueError, match="pair"):
        battery(models[0], split, oracles=models[1:], pair=3)


def test_anything_that_maps_images_to_logits_can_be_audited():
    split, model = split_of(), small(0).eval()

    class Learner:
        def logits(self, images):
            with torch.no_grad():
                return model(images)

    np.testing.assert_allclose(logits_of(Learner(), split.test), logits_of(model, split.test), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(logits_of(lambda x: model(x), split.test), logits_of(model, split.test), atol=1e-6)
    with pytest.raises(ValueError, match="function"):
        logits_of(3, split.test)
    assert features(model, split.test.pixels()).shape == (80, 12)


def test_refusals():
    split = split_of()
    with pytest.raises(ValueError, match="rungs are"):
        battery(small(0), split, rungs=("utilty",))
    with pytest.raises(ValueError, match="tags may be"):
        battery(small(0), split, tags={"value": 1.0}, rungs=("utility",))
    bare = Split.of(retain=split.retain, forget=split.forget)
    with pytest.raises(ValueError, match="never seen"):
        battery(small(0), bare)


# what is undefined costs one row


@pytest.mark.parametrize("forgotten", [1, 2])
def test_a_few_forgotten_examples_lose_only_what_they_leave_undefined(forgotten):
    whole, models = split_of(), [small(i) for i in range(4)]
    split = Split.of(
        retain=whole.retain, forget=whole.forget[:forgotten], test=whole.test, request=f"random:{forgotten}"
    )
    relearning = Relearning(lr=0.1, steps=5, max_steps=30)
    rows = battery(models[0], split, oracles=models[1:3], originals=[models[3]], relearning=relearning)
    for statistic in ("CKA to retrained", "CKA to original"):
        line = pick(rows, "probe", statistic)
        assert not line["valid_flag"] and "four examples" in line["reason"] and np.isnan(line["value"])
    assert pick(rows, "probe", "accuracy")["valid_flag"] and pick(rows, "accuracy", "UA")["valid_flag"]
    line = pick(rows, "relearn", "log AIN")
    assert line["valid_flag"], "a batch norm that sees one picture uses its running statistics"
    assert not pick(rows, "loss rank", "AUC")["valid_flag"] and "\n" not in "".join(rows["reason"])


def test_constant_features_cost_the_alignment_alone():
    split = split_of()

    def dead(seed):
        model = small(seed)
        with torch.no_grad():
            model[2].weight.zero_()
            model[2].bias.zero_()
        return model.eval()

    rows = battery(dead(0), split, oracles=[small(1), small(2)], originals=[small(3)], rungs=("utility", "probe"))
    assert not pick(rows, "probe", "CKA to retrained")["valid_flag"]
    assert "constant" in pick(rows, "probe", "CKA to original")["reason"]
    assert pick(rows, "probe", "accuracy")["valid_flag"]
    alive = battery(small(1), split, oracles=[dead(0), small(2)], originals=[small(3)], rungs=("probe",))
    assert pick(alive, "probe", "CKA to original")["valid_flag"]


def test_logits_of_half_precision_models_and_learners():
    split, model = split_of(), small(0).eval().bfloat16()
    with torch.no_grad():
        expected = model(split.test.pixels().bfloat16()).float().numpy()
        found = logits_of(lambda x: model(x.bfloat16()), split.test)
    np.testing.assert_array_equal(found, expected)


def test_a_memo_keeps_models_apart_and_alive():
    memo, calls = Memo(), []

    def measure(model):
        calls.append(model)
        return len(calls)

    first = [memo(measure, object()) for _ in range(50)]  # an address may be given again once its object is gone
    assert first == list(range(1, 51))
    one = object()
    assert memo(measure, one) == memo(measure, one) == 51


def test_certificates_of_the_battery_need_parents():
    split = split_of()
    models = [
        Logits(*(logits_of(small(i), part) for part in (split.forget, split.retain, split.test))) for i in range(24)
    ]
    both = [
        battery(models[0], split, oracles=models[8:], unlearned=models[1:8], rungs=("ensemble",), parents=parents)
        for parents in (None, range(8), [0] * 8)
    ]
    known = [rows[rows["audit"] == "epsilon"] for rows in both]
    assert not known[0]["valid_flag"].iloc[0] and known[1]["valid_flag"].iloc[0] and len(both[2]) == 0
