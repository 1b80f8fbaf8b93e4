"""What a page sees of the machine: this interpreter, the caller's folders, and no warning that is not the page's."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from small_book import notebook

from unlearnlib.publishing import bookkeeping, notebooks, runner, surroundings


def executed(cells, capsys=None, **options):
    """Run a page of these cells; returns its report and the printed text of its cells."""
    nbformat.write(notebook(["# A page", ("n = 1", "parameters"), *cells]), "notebooks/asked.ipynb")
    report = runner.run_notebook("notebooks/asked.ipynb", output="runs/asked.ipynb", force=True, **options)
    assert report.status == "executed", report.error
    cells = notebooks.read("runs/asked.ipynb")["cells"]
    return report, [(o.get("name"), o["text"]) for c in cells for o in c.get("outputs", []) if "text" in o]


def test_pages_run_in_the_runners_own_interpreter(project, monkeypatch):
    """Another `python3` kernel, and a start-up file of the user, are on the machine."""
    other = project / "jupyter/kernels/python3"
    other.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "another", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    (project / "mine.py").write_text("print('mine')")
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    monkeypatch.setenv("PYTHONSTARTUP", str(project / "mine.py"))
    asked = (
        "import os, sys\nprint(os.path.samefile(sys.executable, os.environ['RUNNER']), 'PYTHONSTARTUP' in os.environ)"
    )
    monkeypatch.setenv("RUNNER", sys.executable)
    monkeypatch.setenv("UNLEARN_DATA", "mine/data")
    monkeypatch.setenv("UNLEARN_CACHE", "mine/cache")
    (project / "mine").mkdir()
    where = "import pathlib\nprint([pathlib.Path(os.environ['UNLEARN_' + n]).is_absolute() for n in ('DATA', 'CACHE')])"
    _, said = executed([asked, where])
    assert said == [("stdout", "True False\n"), ("stdout", "[True, True]\n")]


def test_relative_folders_are_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in surroundings.FOLDERS:
        monkeypatch.setenv(name, f"./sub/{name}")
    env = surroundings.environment(tmp_path, fast=False)
    assert {name: env[name] for name in surroundings.FOLDERS} == {
        name: str(tmp_path / "sub" / name) for name in surroundings.FOLDERS
    }
    monkeypatch.setenv("UNLEARN_CACHE", "Off")
    monkeypatch.setenv("UNLEARN_DATA", "~/sets")
    env = surroundings.environment(tmp_path, fast=False)
    assert env["UNLEARN_CACHE"] == "Off" and env["UNLEARN_DATA"] == os.path.expanduser("~/sets")


def test_an_unwritable_home_is_told_once_and_not_on_the_page(project, monkeypatch):
    (project / "afile").write_text("")
    monkeypatch.setenv("UNLEARN_HOME", "afile/home")
    monkeypatch.delenv("UNLEARN_CACHE", raising=False)
    told = []
    _, said = executed(["import os\nprint(os.environ['UNLEARN_CACHE'])"], say=told.append)
    assert said == [("stdout", "off\n")]
    warnings = [line for line in told if "cannot be written" in line]
    assert warnings == [
        f"results are not kept, {Path('afile/home/results')} cannot be written (Not a directory): "
        "set UNLEARN_CACHE to another folder"
    ]


def test_no_home_is_touched_where_results_are_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNLEARN_CACHE", "off")
    assert surroundings.cache_trouble() == "" and not (tmp_path / "home").exists()


def test_what_the_library_warns_of_is_told_once_and_not_on_the_page(project):
    """A disk that fills up during the run: 101 warnings of the cache."""
    begin = "from unlearnlib.publishing import bookkeeping\nbookkeeping.pin_numerics(fast=True)"
    warn = "import logging\nfor i in range(101):\n    logging.getLogger('unlearnlib.store.cache').warning('it is full')"
    told = []
    _, said = executed([begin, warn, "print('done')"], say=told.append)
    assert said == [("stdout", "done\n")]
    assert told.count("asked: it is full") == 1


def test_without_the_runner_warnings_stay_where_they_were(monkeypatch):
    monkeypatch.delenv(bookkeeping.NOTES, raising=False)
    before = list(logging.getLogger("unlearnlib").handlers)
    bookkeeping._warn_outside_the_page()
    assert logging.getLogger("unlearnlib").handlers == before


@pytest.mark.parametrize("option", ["--inject-output-path", "--inject-paths"])
def test_plain_papermill_may_inject_its_paths(project, option):
    call = [sys.executable, "-m", "papermill", "notebooks/page.ipynb", "out.ipynb", "--cwd", "notebooks", option]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": str(project)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert "PAPERMILL_OUTPUT_PATH" in Path("out.ipynb").read_text()
