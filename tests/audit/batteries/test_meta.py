"""The audit of audits, on worlds that are made in a second: known residuals are in order, broken audits are caught."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnlib import audit
from unlearnlib.audit.batteries.class_panel import CLASS_PANEL
from unlearnlib.audit.batteries.panel import PANEL
from unlearnlib.audit.batteries.seen import Instrument, Seen, predicted
from unlearnlib.audit.known_answers.residuals import interpolated, phantom_world, pruned, quantised, relearned, world
from unlearnlib.data import loading
from unlearnlib.data.examples import Examples
from unlearnlib.seeding import numpy_generator
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


@pytest.fixture(scope="module")
def phantoms():
    return [phantom_world(forget=60, models=8, references=16, seed=s) for s in range(3)]


@pytest.fixture(scope="module")
def small():
    ds = loading.load("digits")
    some = ds.train[torch.arange(400)]
    build = models.build("mlp", ds).architecture.initialised
    recipe = Recipe(epochs=8, batch_size=64, lr=5e-3)
    return world(some, ds.test[torch.arange(150)], build, recipe, forget=48, models=4, references=16, seed=0)


def share(matrix: pd.DataFrame, audit: str, case: str, extra: int = 16) -> float:
    line = matrix[(matrix["audit"] == audit) & (matrix["case"] == case) & (matrix["extra"] == extra)]
    return float(line["value"].iloc[0])


def test_power_rises_with_the_residual_of_the_phantom_and_its_known_values_are_met(phantoms):
    matrix = audit.meta_matrix(audit.meta_evaluation(phantoms, budgets=(0, 1, 16)))
    for name in ("LiRA", "U-LiRA", "RMIA", "calibrated margin"):
        power = [share(matrix, name, f"phantom after {k} steps") for k in (40, 20, 10, 5, 0)]
        assert power == sorted(power) and power[-1] == 1
        assert share(matrix, name, "phantom, retrained") < 0.2
    ghost = audit.Phantom()
    for w in phantoms:
        for case in w.cases[1:]:
            drawn = np.mean([a.forget[:, 0] for a in case.candidates]) - np.mean([a.forget[:, 0] for a in w.references])
            assert drawn / ghost.gap == pytest.approx(case.residual, abs=0.15)


def test_a_planted_audit_that_always_rejects_or_never_does_is_seen(phantoms):
    loud = Instrument("loud", (16,), grouped=lambda one, s, r: (1.0, 0.0))
    deaf = Instrument("deaf", (16,), grouped=lambda one, s, r: (0.0, 1.0))
    matrix = audit.meta_matrix(audit.meta_evaluation(phantoms, budgets=(16,), panel=(loud, deaf)))
    loud, deaf = (matrix[matrix["audit"] == name].set_index("measure") for name in ("loud", "deaf"))
    assert loud.loc["level", "value"] == 1 and loud.loc["level", "low"] > 0.05
    assert (deaf.loc["power", "value"] == 0).all() and deaf.loc["level", "value"] == 0


def test_the_prediction_keeps_its_level():
    p = [predicted(v[0], v[1:]) for v in numpy_generator(0, "t").normal(size=(4000, 9))]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.014)  # four standard errors


def test_the_canary_rank_needs_no_other_model(small):
    """A model that ranks each planted label first among the wrong ones is seen, one that ranks as it likes is not."""
    canary, chosen = next(i for i in PANEL if i.name == "canary rank"), np.flatnonzero(small.canaries)
    logits = numpy_generator(0, "ranks").normal(size=small.originals[0].forget.shape)
    told = logits.copy()
    told[chosen, small.labels["forget"][chosen]] = 9
    told[np.arange(len(told)), small.true_labels] = 10  # the right answer is still the first
    assert canary.alone(Seen(replace(small.originals[0], forget=told), small), ())[1] < 1e-3
    draws = numpy_generator(1, "ranks").normal(size=(100, *logits.shape))
    blank = [canary.alone(Seen(replace(small.originals[0], forget=z), small), ())[1] for z in draws]
    assert np.mean(np.array(blank) <= 0.05) <= 0.12  # 5 % and three standard errors


def test_networks_of_known_residual(small):
    panel = [one for one in PANEL if one.name != "relearn time"]
    matrix = audit.meta_matrix(audit.meta_evaluation([small], budgets=(0, 1, 16), panel=panel))
    assert small.trained == 16 + 4 * (2 + 1 + 1 + 4 + 1)
    for name in ("LiRA", "output distance", "U-LiRA"):
        assert share(matrix, name, "identity") == 1
    assert share(matrix, "two-sided margin", "refusal") == 1 and share(matrix, "LiRA", "refusal") == 0
    assert share(matrix, "alignment with the original", "distilled head") == 1  # the encoder is untouched
    order = matrix[(matrix["measure"] == "order") & (matrix["audit"] == "LiRA")]
    assert order["value"].iloc[0] > 0.5
    assert set(matrix["measure"]) == {"level", "power", "order", "false alarms", "kept power", "relearnt", "seconds"}


def test_transformations_do_what_they_say_and_leave_the_model_alone(small):
    model = small.originals[0].network
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weight = next(p for p in quantised(model, 3).parameters() if p.dim() > 1)
    assert len(weight.unique()) <= 7
    gone = pruned(model, 0.5)
    assert all((p == 0).float().mean() == pytest.approx(0.5, abs=0.02) for p in gone.parameters() if p.dim() > 1)
    other = small.originals[1].network
    for a, same in ((0.0, model), (1.0, other)):
        pairs = zip(interpolated(model, other, a).parameters(), same.parameters(), strict=True)
        assert all(torch.allclose(x, y) for x, y in pairs)
    some = Examples(small.forget.images, small.forget.labels)
    moved = zip(relearned(model, some, 5, 0.1, 0).parameters(), model.parameters(), strict=True)
    assert not all(torch.equal(x, y) for x, y in moved)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_recommendation_leaves_out_an_audit_that_cries_wolf(phantoms):
    def rows(name, level, power, mask, seed):
        rng = numpy_generator(seed, name)
        found = []
        for w in range(6):
            for case, null, p in (("retrained", True, level), ("identity", False, power), ("mask", False, mask)):
                for p_value in np.where(rng.random(40) < p, 0.01, 0.5):
                    line = {
                        "world": w,
                        "audit": name,
                        "extra": 0,
                        "grouped": False,
                        "case": case,
                        "residual": float(not null),
                    }
                    found.append({**line, "family": "x", "null": null, "statistic": 0.0, "p": p_value, "seconds": 1.0})
        return pd.DataFrame(found)

    wolf, good, weak = rows("wolf", 0.6, 1.0, 1.0, 0), rows("good", 0.04, 0.9, 0.2, 1), rows("weak", 0.04, 0.5, 0.4, 2)
    told = audit.recommended(pd.concat([wolf, good, weak]))
    assert told.loc[0, "audit"] == "good" and told.loc[0, "beside"] == "weak" and told.loc[0, "missed"] == "mask"
    assert audit.recommended(pd.concat([wolf, good])).loc[0, "beside"] == ""
    assert told.loc[0, "low"] < told.loc[0, "power"] < told.loc[0, "high"]


def test_errors_at_the_door(phantoms, small):
    for call, says in (
        (lambda: audit.meta_evaluation([]), "a world or more"),
        (lambda: audit.meta_evaluation(phantoms, budgets=(3,)), "budgets"),
        (lambda: audit.meta_evaluation(phantoms, budgets=(64,)), "as many references"),
        (lambda: audit.meta_matrix(pd.DataFrame({"p": [0.1]})), "rows lack"),
        (lambda: quantised(small.originals[0].network, 1), "bits"),
        (lambda: pruned(small.originals[0].network, 1.0), "share"),
        (lambda: phantom_world(forget=0, models=4, references=4, seed=0), "forget"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_a_class_that_is_only_unnamed_is_found_by_audits_that_look_past_the_answer():
    ds = loading.load("digits")
    build = models.build("mlp", ds).architecture.initialised
    recipe = Recipe(epochs=8, batch_size=64, lr=5e-3)
    made = world(ds.train, ds.test, build, recipe, label=3, models=4, references=16, seed=0)
    assert set(made.labels["forget"]) == {3} and not made.canaries.any()
    assert "canaries kept" not in [case.name for case in made.cases]
    matrix = audit.meta_matrix(audit.meta_evaluation([made], budgets=(16,), panel=CLASS_PANEL))
    for name in ("prototypical relearning", "alignment with the original"):
        assert share(matrix, name, "lowered bias") == 1 and share(matrix, name, "identity") == 1
        assert share(matrix, name, "retrained") < 0.5
    assert share(matrix, "forget accuracy", "identity") == 1 and share(matrix, "forget accuracy", "lowered bias") == 0
    with pytest.raises(ValueError, match="name either forget"):
        world(ds.train, ds.test, build, recipe, label=3, forget=20, models=4, references=16, seed=0)


def test_audits_of_a_class_are_not_put_on_random_examples(small):
    rows = audit.meta_evaluation([small], budgets=(16,), panel=[i for i in CLASS_PANEL if i.needs == "class"])
    assert rows.empty
