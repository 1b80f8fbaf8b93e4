"""Pools: the planted answers are recovered on real networks, and the recipe for a new method runs as it is printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from unlearnlib import studies
from unlearnlib.audit.statistics.state import FORGET, state_matrix
from unlearnlib.methods import registry
from unlearnlib.seeding import numpy_generator
from unlearnlib.studies import Setting, pools
from unlearnlib.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
SHORT = Setting("digits", "mlp", forget="random:0.1", label_noise=0.2, recipe=Recipe(epochs=6, batch_size=128, lr=5e-3))


@pytest.fixture(scope="module")
def pool():
    return studies.pooled(SHORT, ["finetune"], models=12, seeds=(0, 1), progress=False)


def of(rows, method, audit, statistic, game=None):
    found = rows[(rows["method"] == method) & (rows["audit"] == audit) & (rows["statistic"] == statistic)]
    return found if game is None else found[found["game"] == game]


def test_the_original_leaks_and_one_more_retraining_does_not(pool):
    rows, examples = pool
    leak = {m: of(rows, m, "U-LiRA", "AUC", "B")["value"].mean() for m in rows["method"].unique()}
    assert leak["original"] > 0.6 and abs(leak["retrain, other seed"] - 0.5) < 0.06
    floor = of(rows, "retrain", "KLoM (gaussian)", "mean")
    np.testing.assert_array_equal(floor["value"], floor["retrain_value"])  # the oracle is its own null
    shift = examples.groupby("method")["shift"].mean()
    assert shift["original"] > 0.3 and abs(shift["retrain"]) < 0.15


def test_klom_and_shift_of_planted_margins():
    """Margins that are one deviation higher where an example was forgotten: KL of two Gaussians 1/2, shift 1."""
    rng = numpy_generator(0, "planted")
    matrix = state_matrix(600, 40, seed=0)
    retrained, unlearned = rng.normal(size=(2, 600, 40))
    unlearned += matrix.state == FORGET
    each = pools._klom_each(unlearned, retrained, matrix)
    assert each.mean() == pytest.approx(0.5, abs=0.03)
    assert pools._klom_each(retrained, retrained, matrix).mean() < 0.02
    assert pools._shifts(unlearned, matrix).mean() == pytest.approx(1.0, abs=0.03)


def test_rows_are_of_the_schema_and_can_be_ranked(pool):
    rows, examples = pool
    board = studies.leaderboard(rows)
    assert board.table["method"].iloc[0] == "retrain, other seed" and board.seeds == (0, 1)
    cost = board.table.set_index("method")["cost"]
    assert cost["original"] == 0 and cost["retrain, other seed"] == 1
    assert cost["finetune"] == pytest.approx(5 / 6, abs=0.05)  # five epochs beside six, in other batches
    assert list(examples.columns) == [
        *("dataset", "arch", "forget_set_id", "method", "example", "label"),
        *("shift", "klom"),
    ]
    assert len(examples) == 4 * len(SHORT.split().forget)
    assert (rows.groupby(["method", "audit", "game", "subset", "statistic", "alpha"], dropna=False).size() == 2).all()


def test_means_are_those_of_the_models():
    rows, _ = studies.pooled(SHORT, [], models=12, seeds=(0,), progress=False)
    accuracy = of(rows, "retrain", "accuracy", "TA").iloc[0]
    made = pools._pool(SHORT, 12, 0)
    oracles = pools._made(SHORT, studies.Candidate("retrain", "retrain"), [None] * 12, made)
    labels = SHORT.split().test.labels.numpy()
    each = [(np.asarray(answer.test).argmax(1) == labels).mean() for answer in oracles.answers]
    assert accuracy["value"] == pytest.approx(np.mean(each)) and accuracy["n_models"] == 12


@pytest.mark.parametrize(
    "change, says",
    [
        ({"models": 11}, "12 models or more"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "no seed twice"),
        ({"methods": ["finetune", "finetune"]}, "two candidates have one label"),
        ({"methods": ["fintune"]}, "did you mean 'finetune'"),
        ({"setting": "digits"}, "setting"),
    ],
)
def test_errors_at_the_door(change, says):
    options = {"setting": SHORT, "methods": ["finetune"], "models": 12, "seeds": (0,)} | change
    setting, methods = options.pop("setting"), options.pop("methods")
    with pytest.raises(ValueError, match=says):
        studies.pooled(setting, methods, **options, progress=False)


def test_the_recipe_for_a_new_method_runs_as_it_is_printed(monkeypatch):
    """Every Python block of the page, with smaller pools: the new method gets its line, and the null is first."""
    page = (ROOT / "book/submit-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    smaller = blocks[1].replace("models=24, seeds=(0, 1, 2)", "models=12, seeds=(0, 1), progress=False")
    smaller = smaller.replace('forget="random:0.25"', "forget=short.forget, recipe=short.recipe, label_noise=0.2")
    assert smaller.count("short") == 2 and "models=12" in smaller
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    names: dict = {"__name__": "__main__", "short": SHORT}
    exec(compile(blocks[0] + smaller, "book/submit-a-method.md", "exec"), names)
    table = names["board"].table.set_index("method")
    assert table.loc["fade", "cost"] == table.loc["finetune", "cost"] > 0  # five epochs each
    assert {"fade", "finetune", "original", "retrain, other seed"} == set(table.index)
    assert table["score"].idxmin() == "retrain, other seed" and table["score"].notna().all()
