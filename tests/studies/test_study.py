"""Studies: the same rows for any number of workers and after any number of kills, and failures that stay rows."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from unlearnlib import studies
from unlearnlib.audit.verdicts import tidy
from unlearnlib.methods import registry
from unlearnlib.methods.registry import method
from unlearnlib.store import cache, files
from unlearnlib.studies import BASELINES, NULL, RETRAIN, Grid, Setting, run, runs, settings, summary
from unlearnlib.training import cluster
from unlearnlib.training.jobs import Failed
from unlearnlib.training.prediction import accuracy
from unlearnlib.training.recipe import Recipe

TINY = Recipe(epochs=1, batch_size=64, lr=5e-3)
SETTING = Setting("digits", "mlp", recipe=TINY, model_options={"hidden": (16,)})
SOFT = ("soft", "neggrad", {"epochs": 1, "lr": 1e-4})
GRID = Grid(SETTING, ["finetune", SOFT], seeds=(0, 1), rungs=("utility", "cost"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(shared, monkeypatch):
    """The tests of this file share a cache, but for those that count what is made."""
    monkeypatch.setenv("UNLEARN_CACHE", str(shared))


def timeless(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["statistic"].str.contains("seconds")].reset_index(drop=True)


def cells_in(folder: Path) -> int:
    return len(list(folder.glob("??/*.json")))


def values(rows: pd.DataFrame, statistic: str) -> pd.Series:
    return rows[rows["statistic"] == statistic].set_index(["method", "seed_train"])["value"]


def test_the_rows_are_those_of_the_models_by_hand():
    rows = run(GRID)
    assert list(rows.columns) == list(tidy.COLUMNS) and rows["valid_flag"].all()
    order = [(label, seed) for seed in (0, 1) for label in (*BASELINES, "finetune", "soft")]
    assert list(dict.fromkeys(zip(rows["method"], rows["seed_train"], strict=True))) == order
    split, tested = SETTING.split(), values(rows, "TA")
    for seed in (0, 1):
        done = studies.unlearned(SETTING, "neggrad", seed, epochs=1, lr=1e-4)
        models = {
            "original": studies.original(SETTING, seed),
            RETRAIN: studies.retrained(SETTING, seed),
            NULL: studies.retrained(SETTING, seed, other=True),
            "soft": done.model,
        }
        for label, model in models.items():
            assert tested[label, seed] == pytest.approx(accuracy(model, split.test), abs=1e-6), (label, seed)
        whole = studies.unlearned(SETTING, "retrain", seed).cost.work
        shares = rows[rows["seed_train"] == seed].groupby("method")["cost_frac_retrain"].unique()
        assert shares["soft"] == [done.cost.work / whole]
        assert shares["original"] == [0] and shares[RETRAIN] == [1] and shares[NULL] == [1]
    # A method is compared with the retrained model of its own seed, that one with those of the other seeds.
    gaps = rows[rows["statistic"] == "TA"].set_index(["method", "seed_train"])["retrain_value"]
    assert all(gaps["soft", seed] == gaps[NULL, seed] == tested[RETRAIN, seed] for seed in (0, 1))
    assert gaps[RETRAIN, 0] == tested[RETRAIN, 1] and gaps[RETRAIN, 1] == tested[RETRAIN, 0]


def test_retraining_by_another_recipe_is_a_method_and_not_the_oracle():
    longer = ("longer", "retrain", {"recipe": replace(TINY, epochs=2)})
    rows = run(Grid(SETTING, [longer], seeds=(0, 1), rungs=("utility", "cost")))
    shares = rows.groupby("method")["cost_frac_retrain"].unique()
    assert shares["longer"] == [2] and shares[RETRAIN] == [1]
    done = studies.unlearned(SETTING, "retrain", 0, recipe=replace(TINY, epochs=2))
    assert values(rows, "TA")["longer", 0] == pytest.approx(accuracy(done.model, SETTING.split().test), abs=1e-6)


def test_the_logits_that_cells_share_give_the_rows_of_the_models(monkeypatch):
    """With rungs that look into the networks nothing is shared; the other rows are the same."""
    alone = run(Grid(SETTING, [SOFT], seeds=(0, 1), rungs=("utility", "population", "weights")))
    together = run(Grid(SETTING, [SOFT], seeds=(0, 1), rungs=("utility", "population")))
    both = alone[alone["audit"].isin(together["audit"])].drop(columns="run_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(both, together.drop(columns="run_id"))


def test_the_summary_takes_the_null_of_the_study():
    rows = run(GRID)
    table = summary(rows)
    null = rows[(rows["method"] == NULL) & (rows["statistic"] == "TA")]["gap"]
    line = table[(table["method"] == "soft") & (table["statistic"] == "TA")].iloc[0]
    assert line["null_gap"] == pytest.approx(null.mean()) and line["n_seeds"] == 2


def test_ten_kills_lose_and_repeat_nothing(tmp_path, monkeypatch):
    began = time.monotonic()
    whole = run(GRID, folder=tmp_path / "whole")
    lasted = time.monotonic() - began
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "another cache"))
    folder, rng, seen, cut, window = tmp_path / "killed", random.Random(1), [{}], 0, lasted / 4
    for _ in range(10):
        child = os.fork()
        if child == 0:
            try:
                run(GRID, folder=folder)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0, window))
        os.kill(child, signal.SIGKILL)
        cut += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        kept = {path.name: path.read_bytes() for path in folder.glob("??/*.json")}
        assert all(kept.get(name) == content for earlier in seen for name, content in earlier.items())
        window *= 1.5 if len(kept) == len(seen[-1]) else 1  # the machine is busier than it was
        seen.append(kept)
    assert cut >= 3 and len({len(kept) for kept in seen}) >= 2, "the kills missed the run"
    again = run(GRID, folder=folder)
    pd.testing.assert_frame_equal(timeless(again), timeless(whole), check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), again, check_exact=True)
    assert cells_in(folder) == len(GRID.cells()) == len(list(folder.glob("??/*.parquet")))
    monkeypatch.setattr(runs, "battery", lambda *_, **__: pytest.fail("a finished cell was audited again"))
    pd.testing.assert_frame_equal(run(GRID, folder=folder), again, check_exact=True)


def test_workers_give_the_same_rows_even_when_one_is_killed(tmp_path, monkeypatch):
    alone = run(GRID)
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "another cache"))
    made, real_pool, real_received = [], cluster._pool, runs._received

    def received(*arguments):
        entry = real_received(*arguments)
        if len(made) == 1 and not killed:  # the first cell is in, nine are not
            killed.extend(list(made[0]._processes)[:1])
            os.kill(killed[0], signal.SIGKILL)
        return entry

    killed = []
    monkeypatch.setattr(cluster, "_pool", lambda *a: made.append(real_pool(*a)) or made[-1])
    monkeypatch.setattr(runs, "_received", received)
    rows = run(GRID, folder=tmp_path / "rows", workers=2)
    assert killed and len(made) >= 2
    pd.testing.assert_frame_equal(timeless(rows), timeless(alone), check_exact=True)


def test_a_damaged_part_is_made_again(tmp_path, caplog):
    first = run(GRID, folder=tmp_path / "rows")
    part = sorted((tmp_path / "rows").glob("??/*.parquet"))[3]
    part.write_bytes(part.read_bytes()[:-7])
    pd.testing.assert_frame_equal(timeless(run(GRID, folder=tmp_path / "rows")), timeless(first), check_exact=True)
    assert len(caplog.messages) == 1 and "damaged" in caplog.text


def test_divergence_is_a_row_that_is_kept_and_the_rest_goes_on(tmp_path):
    grid = replace(GRID, methods=["finetune", ("broken", "neggrad", {"lr": 1e30}), SOFT])
    rows = run(grid, folder=tmp_path / "rows")
    failed = rows[~rows["valid_flag"]]
    assert list(failed["method"]) == ["broken", "broken"] and list(failed["seed_train"]) == [0, 1]
    assert failed["reason"].str.startswith("Diverged: ").all() and failed["value"].eq(0).all()
    assert cells_in(tmp_path / "rows") == len(grid.cells())
    pd.testing.assert_frame_equal(timeless(rows[rows["valid_flag"]]), timeless(run(GRID)))
    summary(rows)


def test_an_original_that_diverges_fails_its_methods_but_not_the_retrained_models_of_others(tmp_path):
    wild = replace(SETTING, recipe=replace(TINY, optimiser="sgd", lr=1e30))
    rows = run(Grid([wild, SETTING], ["finetune"], seeds=(0,), rungs=("utility",)))
    bad = rows[~rows["valid_flag"]]
    assert list(bad["method"]) == [*BASELINES, "finetune"]
    assert bad[bad["method"] == "finetune"]["reason"].iloc[0].startswith("original, seed 0: Diverged")
    assert len(rows) > len(bad)


def test_on_other_machines_a_cell_gets_what_it_needs_and_does_without_an_oracle_that_diverged(tmp_path, monkeypatch):
    cell = next(cell for cell in GRID.cells() if cell.model.candidate.label == "soft")
    here, needed = timeless(run(GRID)), {}
    for model in cell.needs:
        order = runs._Order(model, model.address(), model.candidate.home, None)
        needed[model.name] = runs._make(order, {})
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr(settings.loop, "fit", lambda *_, **__: pytest.fail("what was sent was made again"))
    order = runs._Order(cell, cell.address(), cell.model.candidate.home, None)
    rows = runs._received(cell, None, runs._audited(order, needed), cache.Store(tmp_path / "rows")).value
    mine = (here["method"] == "soft") & (here["seed_train"] == 0)
    same = [name for name in rows if name != "run_id"]
    expected = here.loc[mine, same].reset_index(drop=True)
    pd.testing.assert_frame_equal(timeless(rows)[same], expected, check_exact=True)
    missing = cell.oracles[1].name
    fewer = runs._audited(order, {**needed, missing: Failed("Diverged: no", lasting=True)})
    assert fewer["valid_flag"].all() and fewer["null_sd"].isna().all()  # one oracle is left, so there is no band
    lost = runs._audited(order, {**needed, missing: Failed("MemoryError: no")})
    assert lost == Failed("retrain, seed 1: MemoryError: no", lasting=False)
    with pytest.raises(ValueError, match="other code, data or numerics"):
        runs._audited(replace(order, address="0" * 64), needed)


def test_a_failure_of_the_machine_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    real = runs.battery

    def failing(*arguments, tags, **more):
        if tags["method"] == "soft":
            raise MemoryError("no room")
        return real(*arguments, tags=tags, **more)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "battery", failing)
        rows = run(GRID, folder=tmp_path / "rows")
    failed = rows[~rows["valid_flag"]]
    assert list(failed["method"]) == ["soft", "soft"] and failed["reason"].eq("MemoryError: no room").all()
    again = run(GRID, folder=tmp_path / "rows")
    assert again["valid_flag"].all()
    assert cells_in(tmp_path / "rows") == len(GRID.cells())


def test_a_full_disk_costs_one_warning_and_not_the_table(tmp_path, monkeypatch, caplog):
    whole = timeless(run(GRID))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    for folder in (tmp_path / "rows", None):
        caplog.clear()
        rows = run(GRID, folder=folder)
        pd.testing.assert_frame_equal(timeless(rows), whole, check_exact=True)
        assert len(caplog.messages) == 1 and "No space left on device" in caplog.text
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_killed_runs_left_in_the_folder_of_a_study_goes(tmp_path):
    for name in ("results.parquet.99-0.partial", "ab/abcd.99-1.partial", "ab/abcd.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    run(Grid(SETTING, [], seeds=(0,), rungs=("cost",)), folder=tmp_path)
    assert not [*tmp_path.rglob("*.partial"), *tmp_path.rglob("*.lock")]


STUDY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it would be ignored
from unlearnlib import studies
from unlearnlib.training.recipe import Recipe
if __name__ == "__main__":
    setting = studies.Setting("digits", "mlp", recipe=Recipe(epochs=int(sys.argv[2]), batch_size=32))
    grid = studies.Grid([setting], [], seeds=(0,), rungs=("utility",))
    print("begins", flush=True)
    print(len(studies.run(grid, workers=int(sys.argv[1]))), flush=True)
"""


@pytest.fixture
def short():
    """A folder whose path leaves room for the sockets of worker processes (108 characters at most)."""
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        yield folder


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["ends", "SIGTERM", "SIGINT twice"])
def test_a_study_that_is_stopped_tidies_up_and_says_little(tmp_path, short, workers, how):
    """Neither folders of its own, nor processes, nor leaked semaphores; a second Ctrl-C adds no second traceback."""
    script, scratch = tmp_path / "study.py", Path(short)
    script.write_text(STUDY)
    epochs = "1" if how == "ends" else "3000"
    study = subprocess.Popen(
        [sys.executable, str(script), str(workers), epochs],
        env={**os.environ, "UNLEARN_CACHE": "off", "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert study.stdout.readline() == "begins\n"
    if how != "ends":
        waits = time.monotonic() + 60
        while not list(scratch.glob("unlearn-*")) and time.monotonic() < waits:
            time.sleep(0.05)
        time.sleep(1 + 3 * bool(workers))
        for _ in range(2 if "INT" in how else 1):
            os.killpg(study.pid, signal.SIGINT) if "INT" in how else study.terminate()
            time.sleep(0.02)
    try:
        told, errors = study.communicate(timeout=120)
    finally:
        study.kill()
    assert not list(scratch.glob("unlearn-*"))
    assert "leaked" not in errors, errors
    if not workers:  # a worker that is ended while it starts may say so
        assert errors.count("Traceback") == ("INT" in how), errors
    assert (study.returncode == 0) == (how == "ends") == bool(told)
    if how == "SIGTERM":
        assert study.returncode == 143
    ends = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):  # what tidies up after workers needs a moment
        while time.monotonic() < ends:
            os.killpg(study.pid, 0)
            time.sleep(0.05)


def test_without_a_cache_a_run_shares_its_models_and_leaves_nothing(tmp_path, monkeypatch):
    kept = run(GRID)
    monkeypatch.setenv("UNLEARN_CACHE", "off")
    fits, real = [], settings.loop.fit
    monkeypatch.setattr(settings.loop, "fit", lambda *a, **k: fits.append(1) or real(*a, **k))
    pd.testing.assert_frame_equal(timeless(run(GRID)), timeless(kept), check_exact=True)
    assert len(fits) == len(GRID.seeds) and cache.store() is None


def test_results_do_not_depend_on_threads_or_on_what_else_is_in_the_grid():
    alone = timeless(run(replace(GRID, methods=[SOFT])))
    torch.set_num_threads(2)
    try:
        both = timeless(run(GRID))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    both = both[both["method"] != "finetune"].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone, check_exact=True)


@dataclass(frozen=True)
class _Nothing:
    pass


def test_a_method_written_elsewhere_runs_here_and_is_refused_on_workers():
    @method("nothing", _Nothing, family="test", reads="forget", paper="none")
    def nothing(model, split, config, run):
        return model

    try:
        grid = Grid(SETTING, ["nothing"], seeds=(0,), rungs=("utility",))
        rows = run(grid)
        assert rows["valid_flag"].all()
        tested = values(rows, "TA")
        assert tested["nothing", 0] == tested["original", 0]
        nothing.__module__ = "__main__"
        with pytest.raises(ValueError, match="nothing is defined in a notebook or script"):
            run(grid, workers=1)
    finally:
        registry._registered.pop("nothing")


def test_many_seeds_are_compared_as_distributions():
    grid = Grid(SETTING, [SOFT], seeds=range(16), rungs=("ensemble",))
    several = [cell for cell in grid.cells() if cell.siblings]
    assert [(cell.model.candidate.label, cell.model.seed) for cell in several] == [
        ("original", 0),
        (NULL, 0),
        ("soft", 0),
    ]
    assert all(len(cell.siblings) == 15 for cell in several)
    assert not any(cell.siblings for cell in replace(grid, seeds=range(15)).cells())


def test_a_wrong_grid_is_refused_before_anything_is_trained():
    wrong = [
        (dict(methods=["finetun"]), "did you mean 'finetune'"),
        (dict(methods=[("finetune", {"epoch": 1})]), "did you mean 'epochs'"),
        (dict(methods=["finetune", "finetune"]), "two candidates are called 'finetune'"),
        (dict(methods=["retrain"]), "two candidates are called 'retrain'"),
        (dict(methods=[("a", "finetune")]), "a method is name"),
        (dict(seeds=()), "at least one seed"),
        (dict(seeds=(1, 1)), "no seed twice"),
        (dict(seeds=(-1,)), "between 0 and"),
        (dict(settings=()), "at least one setting"),
        (dict(rungs=("utilities",)), "rungs are"),
        (dict(seeds=3), "seeds of a grid must be a list, not 3"),
        (dict(methods=[3]), "a method is name"),
        (dict(settings=["mnist5k"]), "each of settings must be Setting, not str"),
        (dict(settings=None), "settings of a grid must be a list"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            replace(GRID, **change)


def test_what_cannot_be_run_is_refused_in_one_line():
    for arguments, message in (
        (dict(grid=[SETTING]), "what is run must be Grid, not list"),
        (dict(grid=GRID, folder=""), "folder is empty"),
        (dict(grid=GRID, workers=-1), "workers must be a whole number"),
        (dict(grid=GRID, workers="2"), "workers must be a whole number"),
        (dict(grid=GRID, limit=5), "limit= needs workers= or cluster="),
    ):
        with pytest.raises(ValueError, match=message):
            run(**arguments)
    for wrong, message in (
        (dict(recipe="fast"), "recipe must be Recipe, not str"),
        (dict(dataset=None), "dataset must be str, not NoneType"),
        (dict(model_options="hidden"), "model_options must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Setting(**wrong)


def test_progress_is_a_line_in_the_log_where_there_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(runs, "_SAY_EVERY", 0.0)
    with caplog.at_level(logging.INFO, "unlearnlib.studies.runs"):
        run(Grid(SETTING, [], seeds=(0,), rungs=("cost",)))
    assert "of 6 jobs done, about 0 minutes left" in caplog.text
