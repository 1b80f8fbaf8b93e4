"""Outputs that cannot be written: refused before anything runs, and where that fails later no page is lost."""

import errno
import json
import os
import subprocess
import tempfile
from pathlib import Path

import nbformat
import pytest
from small_book import PAGE, notebook

from unlearnlib.publishing import execution, notebooks, outputs, runner, sweeps
from unlearnlib.publishing.execution import Job


@pytest.fixture
def nothing_runs(project, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # a start would raise
    return project


def refused(capsys, *arguments: str) -> str:
    """The one line with which `unlearn` refuses."""
    assert runner.main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("unlearn: ") and len(told) < 700
    return told


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_output_is_not_in_place(nothing_runs, capsys, empty):
    before = Path("notebooks/page.ipynb").read_bytes()
    assert "empty text" in refused(capsys, "run", "notebooks/page.ipynb", "-o", empty)
    assert "empty text" in refused(capsys, "grid", "notebooks/page.ipynb", "-g", "factor", "1", "-o", empty)
    with pytest.raises(ValueError, match="names no file"):
        runner.run_notebook("notebooks/page.ipynb", output=empty)
    assert Path("notebooks/page.ipynb").read_bytes() == before


@pytest.mark.parametrize("name", [".ipynb", "runs/.ipynb"])
def test_an_output_without_a_name_is_refused(nothing_runs, capsys, name):
    assert "names no file" in refused(capsys, "run", "notebooks/page.ipynb", "-o", name)


def test_every_spelling_of_the_notebook_is_the_notebook(nothing_runs, capsys):
    Path("alias").symlink_to("notebooks")
    for same in (os.path.abspath("notebooks/page.ipynb"), "alias/page.ipynb", "notebooks/../notebooks/page.ipynb"):
        assert "use --in-place" in refused(capsys, "run", "notebooks/page.ipynb", "-o", same)
    jobs = [Job("notebooks/page.ipynb", "runs/x.ipynb"), Job("notebooks/page.ipynb", os.path.abspath("runs/x.ipynb"))]
    with pytest.raises(ValueError, match="two runs would write"):
        execution.run_many(jobs)


def test_no_other_chapter_is_overwritten(nothing_runs, capsys):
    nbformat.write(notebook(PAGE), "notebooks/other.ipynb")
    assert "would replace the notebook" in refused(capsys, "run", "notebooks/page.ipynb", "-o", "notebooks/other.ipynb")


def unwritable() -> dict[str, str]:
    return {
        "afile/x.ipynb": "File exists",
        "afile/deeper/x.ipynb": "Not a directory",
        f"runs/{'x' * 244}.ipynb": "File name too long",  # its .partial.ipynb
        f"runs/new/{'x' * 300}/x.ipynb": "File name too long",
        "runs/new/x.ipynb/{factor}.ipynb/": "is there and is no file",
        "/dev/null": "File exists",
    }


@pytest.mark.parametrize("where", unwritable())
def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(nothing_runs, capsys, where):
    Path("afile").write_text("a file")
    target = where.rstrip("/")
    if target != where:
        Path(target.format(factor=2)).mkdir(parents=True)
    there = sorted(map(str, Path().rglob("*")))
    told = refused(capsys, "run", "notebooks/page.ipynb", "-o", target)
    assert told.startswith("unlearn: cannot write ") and told.strip().endswith((unwritable()[where], "Not a directory"))
    assert sorted(map(str, Path().rglob("*"))) == there


def test_one_bad_output_of_a_grid_is_refused_with_all_others(nothing_runs, capsys):
    long = "x" * 300
    told = refused(capsys, "grid", "notebooks/page.ipynb", "-g", "name", "a", long, "-o", "runs/{name}.ipynb")
    assert "File name too long" in told and not Path("runs").exists()


def test_a_full_disk_is_noticed_first(nothing_runs, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "No space left on device" in refused(capsys, "run", "notebooks/page.ipynb", "-o", "runs/deep/er")
    assert "No space left on device" in refused(capsys, "run", "notebooks/page.ipynb", "--in-place")
    assert not Path("runs").exists()


@pytest.fixture
def instant(project, monkeypatch):
    """Runs that end at once and record a row; what a test does in between is called with the job."""
    done = notebooks.dumps(notebooks.read("notebooks/page.ipynb"))
    meanwhile = {}

    def execute(scratch, plan, session, say):
        (scratch / "output.ipynb").write_text(done)
        (scratch / "records.csv").write_text("value\n1\n")
        meanwhile.get("do", lambda job: None)(plan.job)
        return {"cell": 9, "cells": 9, "failed": None, "cpu": 1.0}

    monkeypatch.setattr(execution, "_execute_in", execute)
    return meanwhile


def blocked(job: Job) -> None:
    """The folder of the second job becomes a file while it runs."""
    if job.target == "runs/digits2/2.ipynb":
        Path("runs/digits2").rmdir()
        Path("runs/digits2").write_text("in the way")


def test_an_output_lost_during_a_run_costs_neither_the_page_nor_the_other_runs(instant, capsys):
    instant["do"] = blocked
    output = ["-o", "runs/{name}{factor}/{factor}.ipynb"]
    assert runner.main(["grid", "notebooks/page.ipynb", "-g", "factor", "1", "2", "3", *output]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert failed == [
        "failed: notebooks/page.ipynb: could not write runs/digits2/2.ipynb: File exists; "
        "what there is of the page: runs/2.partial.ipynb"
    ]
    assert notebooks.stamp(notebooks.read("runs/2.partial.ipynb"))["parameters"]["factor"] == 2
    assert Path("runs/2.partial.csv").read_text() == "value\n1\n"
    assert Path("runs/digits1/1.ipynb").exists() and Path("runs/digits3/3.ipynb").exists()
    assert Path("runs/page-records.csv").read_text() == "factor,value\n1,1\n3,1\n"


def test_where_nothing_near_can_be_written_a_temporary_folder_keeps_the_page(project, monkeypatch):
    for name in ("runs", "afile"):
        Path(name).write_text("in the way")
    kept = outputs.keep("afile/x/page.ipynb", "the page")
    assert Path(kept).parent.parent == Path(tempfile.gettempdir()) and Path(kept).read_text() == "the page"
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: "afile/y")
    assert outputs.keep("afile/x/page.ipynb", "the page") == ""


def test_whatever_ends_one_job_the_others_run(instant, capsys):
    def broken(job):
        if job.given["factor"] == 2:
            raise MemoryError

    instant["do"] = broken
    reports = sweeps.grid("notebooks/page.ipynb", {"factor": [1, 2, 3]}, "runs/{factor}.ipynb", say=lambda _: None)
    assert [(r.status, r.error) for r in reports] == [("executed", ""), ("failed", "MemoryError"), ("executed", "")]


@pytest.mark.parametrize("spoilt", ["{}", "no json", '{"nbformat": 4}', "binary"])
def test_whatever_lies_at_the_target_is_no_earlier_result(instant, spoilt):
    Path("runs").mkdir()
    Path("runs/page.ipynb").write_bytes(b"\xff\xfe" if spoilt == "binary" else spoilt.encode())
    assert runner.run_notebook("notebooks/page.ipynb", output="runs/page.ipynb").status == "executed"
    nb = notebooks.read("runs/page.ipynb")
    nb["metadata"]["unlearnlib"] = {"from": "somebody else"}
    Path("runs/page.ipynb").write_text(json.dumps(nb))
    assert runner.run_notebook("notebooks/page.ipynb", output="runs/page.ipynb").status == "executed"


def test_a_table_of_records_that_cannot_be_written_does_not_fail_the_grid(instant):
    Path("runs/page-records.csv").mkdir(parents=True)
    told = []
    reports = sweeps.grid("notebooks/page.ipynb", {"factor": [1, 2]}, "runs/{factor}.ipynb", say=told.append)
    assert [r.status for r in reports] == ["executed"] * 2 and "could not be written" in told[-1]


def test_what_took_longest_starts_first_and_reports_keep_their_order(nothing_runs, monkeypatch):
    names = [f"notebooks/{name}.ipynb" for name in "abcd"]
    for name in names:
        nbformat.write(notebook(PAGE), name)
    Path("book").mkdir(exist_ok=True)
    Path("book/timings.json").write_text(json.dumps({names[0]: 0.5, names[1]: 3, names[3]: 1}))
    started = []

    def reported(plan, session, say):
        started.append(plan.job.notebook)
        return plan.job.notebook

    monkeypatch.setattr(execution, "_reported", reported)
    jobs = [Job(name, f"runs/{Path(name).name}") for name in names]
    assert execution.run_many(jobs) == names
    assert started == [names[2], names[1], names[3], names[0]]  # c has never run
    Path("book/timings.json").write_text("{")  # unreadable: the order given
    started.clear()
    assert execution.run_many(jobs) == names == started
