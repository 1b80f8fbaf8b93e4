"""The tables of the pool of strong networks: both ranking audits on margins whose leakage is known."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlearnlib.audit.statistics.state import FORGET, NEVER, state_matrix
from unlearnlib.studies.ranking import leaderboard

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def loaded(name: str):
    sys.path.insert(0, str(FOLDER))
    try:
        found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def tables():
    return loaded("_pool_board")


def rows(tables, shift: float, seed: int = 0):
    """Rows of eight models whose margins are 3 N(0, 1) for an example, N(0, 1) for a model, more where it forgot."""
    rng = np.random.default_rng(seed)
    state = state_matrix(8, 3000, states=("forget", "never"), seed=seed).state
    s = 3 * rng.normal(size=3000) + rng.normal(size=(8, 3000)) + shift * (state == FORGET)
    facts, reference = [{"test": 0.9, "retain": 1.0}] * 8, {"test": 0.91, "retain": 1.0}
    tags = {"columns": {}, "reference": reference, "budget": 0.05, "cost": 0.0, "seeds": range(8)}
    made = tables.rows_of("x", s, s > 0, s, np.full(3000, 0.5), state, facts, tags)
    return {what: [r["value"] for r in made if r["audit"] == what] for what in ("U-LiRA", "KLoM")}


def test_the_jackknife_estimates_the_divergence_of_two_gaussians(tables):
    for shift in (0.0, 0.5, 1.0):
        found = rows(tables, shift)["KLoM"]
        assert np.mean(found) == pytest.approx(shift**2 / 2, abs=0.08)  # biased by -0.045 at four models a side


def test_without_leakage_the_attack_is_at_chance_and_with_it_above_in_each_model(tables):
    assert np.mean(rows(tables, 0.0)["U-LiRA"]) == pytest.approx(0.5, abs=0.01)
    assert min(rows(tables, 1.0)["U-LiRA"]) > 0.65


def test_the_null_uses_models_that_never_saw_an_example_and_no_others(tables):
    state = state_matrix(8, 500, states=("forget", "never"), seed=1).state
    halves = tables.halves(state)
    assert (state[halves != 0] == NEVER).all()
    assert ((halves == FORGET).sum(0) == 2).all() and ((halves == NEVER).sum(0) == 2).all()


def test_a_phantom_forgets_with_networks_that_saw_for_its_share_alone():
    seen = state_matrix(8, 4000, states=("forget", "never"), seed=2).state != NEVER
    for share in (0.0, 0.3, 1.0):
        roles = loaded("audits_cifar").phantom(seen, share, np.random.default_rng(0))
        assert not seen[roles == NEVER].any()
        assert ((roles == FORGET).sum(0) == 2).all() and ((roles == NEVER).sum(0) == 2).all()
        knew = np.where(roles == FORGET, seen, 0).sum(0)
        assert set(knew) <= {0, 2} and np.mean(knew == 2) == pytest.approx(share, abs=0.03)


def test_what_the_pages_say_of_the_strong_networks_is_in_the_file():
    """`book/leaderboard.md` and the front page quote these numbers."""
    rows = pd.read_parquet(FOLDER.parent / "book/benchmarks/cifar10-random.parquet")
    lines = pd.read_parquet(FOLDER.parent / "book/benchmarks/cifar10-random-examples.parquet")
    table = leaderboard(rows).table.set_index("method")
    mean = rows.pivot_table(index="method", columns="statistic", values="value")
    place = table[["rank_low", "rank_high"]].apply(tuple, axis=1)
    assert place["retrain, other seed"] == (1, 1) and place["msg"] == (2, 2)
    for alike in ("finetune", "neggrad_plus", "lotus"):
        assert place[alike][0] == place["original"][0] == 3
    assert [round(mean["AUC"][m], 2) for m in ("original", "msg")] == [0.59, 0.55]
    assert [round(mean["mean"][m], 2) for m in ("original", "msg")] == [0.28, 0.16]
    damage = [round(100 * table["damage"][m], 1) for m in ("msg", "ct", "retrain, in part")]
    assert damage[0] == -1.1 and [round(d) for d in damage[1:]] == [-15, -39]
    for wrong in ("random_labels", "salun"):
        assert mean["AUC"][wrong] < 0.56 and mean["mean"][wrong] > 2
        assert -2.5 < lines[lines["method"] == wrong]["shift"].mean() < -1.5
    assert max(mean["AUC"]["ct"], mean["AUC"]["retrain, in part"]) < 0.51
    methods = set(table.index) - {"original", "retrain, other seed", "retrain, in part"}
    assert len(methods) == 8 and rows["cost_frac_retrain"][rows["method"].isin(methods)].max() < 0.0501
