"""Grids of runs: where they write, in a folder or in a store, and which name a copy of a chapter must carry."""

import papermill.iorw
import pytest

from unlearnlib.publishing import notebooks, runner, sweeps
from unlearnlib.publishing.execution import Job, RunReport, beside

DEFAULTS = {"dataset": "digits", "seed": 0}


@pytest.fixture
def store():
    """What was written to a store that papermill knows under fake://."""
    kept = {}

    class Store:
        read = staticmethod(kept.__getitem__)
        write = staticmethod(lambda text, path: kept.update({path: text}))

    papermill.iorw.papermill_io.register("fake://", Store)
    yield kept
    papermill.iorw.papermill_io._handlers.pop(0)


def ran(jobs: list[Job], workers, say) -> list[RunReport]:
    """In place of the executor: each run records its seed; that of seed 2 fails."""
    reports = []
    for job in jobs:
        failed = job.given["seed"] == 2
        if not failed:
            notebooks.put(beside(job.target, ".csv"), f"value\n{job.given['seed'] + 0.5}\n")
            notebooks.put(job.target, "{}")
        reports.append(RunReport(job.notebook, job.target, "failed" if failed else "executed"))
    return reports


def test_a_grid_writes_pages_and_their_records_to_a_store(store, monkeypatch):
    monkeypatch.setattr(sweeps, "defaults_of", lambda notebook: DEFAULTS)
    monkeypatch.setattr(sweeps, "run_many", ran)
    axes = {"dataset": ["class:3"], "seed": [0, 1, 2]}
    reports = sweeps.grid(
        "notebooks/page.ipynb", axes, "fake://bucket/runs/{dataset}/s{seed}.ipynb", say=lambda _: None
    )
    assert [report.status for report in reports] == ["executed", "executed", "failed"]
    assert set(store) == {
        *(f"fake://bucket/runs/class-3/s{seed}.{kind}" for seed in (0, 1) for kind in ("csv", "ipynb")),
        "fake://bucket/runs/page-records.csv",
    }
    assert store["fake://bucket/runs/page-records.csv"] == "dataset,seed,value\nclass:3,0,0.5\nclass:3,1,1.5\n"


@pytest.mark.parametrize("where", ["s3://bucket/a.ipynb", "gs://bucket/a.ipynb", "abs://container/a.ipynb"])
def test_papermills_own_stores_are_handed_through(where):
    assert notebooks.is_remote(where) and notebooks._store(where) is papermill.iorw.papermill_io
    assert sweeps.target_of(where.replace("a.", "{dataset}."), "page.ipynb", DEFAULTS) == where.replace("a.", "digits.")
    assert beside(where, ".csv") == where.replace(".ipynb", ".csv")


def test_an_unknown_store_is_refused():
    with pytest.raises(ValueError, match="papermill knows no store for nowhere://"):
        notebooks.put("nowhere://bucket/a.ipynb", "{}")


def test_a_copy_with_other_parameters_keeps_the_name_of_its_chapter(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(notebooks, "problems", lambda page, name: asked.append(name) or [])
    for stem, record in (("page-digits", {"source": "notebooks/page.ipynb"}), ("page", {"source": None}), ("new", {})):
        page = {"cells": [], "metadata": {"unlearnlib": record}, "nbformat": 4, "nbformat_minor": 5}
        notebooks.write_text(tmp_path / f"{stem}.ipynb", notebooks.dumps(page))
        assert runner.main(["check", str(tmp_path / f"{stem}.ipynb")]) == 0
    assert asked == ["page", "page", "new"]
