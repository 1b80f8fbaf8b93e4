"""The executor and what it records: run on real small notebooks in a project of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import papermill.iorw
import pytest
from small_book import notebook

from unlearnlib.publishing import execution, notebooks, provenance, runner
from unlearnlib.store import digests

ROOT = Path(__file__).resolve().parents[2]


def edit(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The page executed in place, once for all tests that only look at it."""
    return {}


@pytest.fixture
def fresh(project, executed):
    """A project whose page has been executed in place."""
    if not executed:
        assert runner.main(["run", "notebooks/page.ipynb", "--in-place"]) == 0
        executed["page"] = Path("notebooks/page.ipynb").read_bytes()
        executed["timings"] = Path("book/timings.json").read_text()
    Path("notebooks/page.ipynb").write_bytes(executed["page"])
    return project


def page(path="notebooks/page.ipynb"):
    return notebooks.read(path)


# What a run writes.


def test_an_executed_page_is_clean_valid_and_complete(fresh, executed, capsys):
    text = Path("notebooks/page.ipynb").read_text()
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert nbformat.writes(nbformat.reads(text, as_version=4)) + "\n" == text
    nb = page()
    assert [c["id"] for c in nb["cells"]] == [f"c{i:03d}" for i in range(1, 10)]
    assert [c["execution_count"] for c in notebooks.code_cells(nb)] == list(range(1, 9))
    assert set(nb["metadata"]) == {"kernelspec", "language_info", "unlearnlib"}
    assert not any("injected-parameters" in notebooks.tags(c) for c in nb["cells"])
    assert nb["cells"][4]["outputs"][0]["text"] == (
        "2.0 <module 'unlearnlib.toy' from 'unlearnlib/toy.py'>\n<object object at 0x...>\n"
    )
    assert str(fresh) not in text and os.path.expanduser("~") + "/" not in text
    assert notebooks.noted(nb, "claim") == [{"text": "The value is small", "verdict": "holds", "evidence": "value 2.0"}]
    record = notebooks.stamp(nb)
    assert set(record["modules"]) == {"unlearnlib.publishing.tables", "unlearnlib.toy"}
    assert record["parameters"] == {"factor": 2, "rate": 0.5, "name": "digits", "fail": False, "keep": False}
    assert record["fingerprint"] == provenance.fingerprint(record)
    assert json.loads(executed["timings"]).keys() == {"notebooks/page.ipynb"}
    assert sorted(p.name for p in Path("notebooks").iterdir()) == ["page.ipynb"]


def test_a_second_run_writes_the_same_bytes(fresh, executed):
    report = runner.run_notebook("notebooks/page.ipynb", force=True)
    assert report.status == "executed" and report.seconds > 0
    assert Path("notebooks/page.ipynb").read_bytes() == executed["page"]


def test_the_canary_gives_the_committed_bits(project):
    """Training losses to six digits, and a figure, on whatever machine this runs."""
    shutil.copy(ROOT / "tests" / "canary.ipynb", "notebooks/canary.ipynb")
    committed = page("notebooks/canary.ipynb")
    assert runner.main(["run", "notebooks/canary.ipynb", "--in-place"]) == 0
    again = page("notebooks/canary.ipynb")
    assert again["cells"] == committed["cells"]
    assert any("image/png" in output.get("data", {}) for output in again["cells"][6]["outputs"])


def test_minutes_change_only_with_the_page_and_by_a_quarter(project):
    def kept(seconds, changed, where="notebooks/page.ipynb"):
        execution._note_minutes(where, seconds, changed)
        return json.loads(execution.TIMINGS.read_text())

    assert kept(60, True) == {"notebooks/page.ipynb": 1.0}
    assert kept(6000, False) == {"notebooks/page.ipynb": 1.0}  # a slower machine reproduces the page: no difference
    assert kept(72, True) == {"notebooks/page.ipynb": 1.0}
    assert kept(90, True) == {"notebooks/page.ipynb": 1.5}
    assert kept(30, False, "runs/page.ipynb") == {"notebooks/page.ipynb": 1.5}


def test_an_unchanged_page_is_not_run_again(fresh):
    started = time.process_time()
    report = runner.run_notebook("notebooks/page.ipynb")
    assert report.status == "skipped" and time.process_time() - started < 0.1


# Failure.


def test_a_failing_cell_is_named_and_leaves_the_target_alone(project, capsys):
    Path("runs").mkdir()
    Path("runs/page.ipynb").write_text("an older result")
    assert runner.main(["run", "notebooks/page.ipynb", "-p", "fail", "true", "-o", "runs"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "failed: notebooks/page.ipynb, cell 6: ArithmeticError: the page was told to fail; "
        "what there is of the page: runs/page.partial.ipynb"
    )
    assert Path("runs/page.ipynb").read_text() == "an older result"
    assert sorted(os.listdir("runs")) == ["page.ipynb", "page.partial.ipynb"]
    assert "ArithmeticError" in Path("runs/page.partial.ipynb").read_text()
    assert "unlearnlib" not in page()["metadata"]


def test_a_cell_that_takes_too_long_is_stopped(project):
    nbformat.write(
        notebook(["# Slow", ("n = 1", "parameters"), "import time; time.sleep(600)"]), "notebooks/slow.ipynb"
    )
    report = runner.run_notebook("notebooks/slow.ipynb", timeout=1)
    assert (report.status, report.cell) == ("failed", 2) and report.seconds < 300
    assert report.error == "the cell took longer than its limit of 1 s"


def test_an_interrupted_run_leaves_neither_kernel_nor_file(project):
    wait = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(["# Slow", ("n = 1", "parameters"), wait]), "notebooks/slow.ipynb")
    before = Path("notebooks/slow.ipynb").read_bytes()
    # A shell's background jobs ignore Ctrl-C and pass that on: the test may be one of them.
    call = ["-c", "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "]
    call[1] += "runpy.run_module('unlearnlib.publishing.runner', run_name='__main__', alter_sys=True)"
    call = [sys.executable, *call, "run", "notebooks/slow.ipynb", "--in-place"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, start_new_session=True)
    _until(lambda: Path("notebooks/pid").exists() and Path("notebooks/pid").read_text())
    kernel = int(Path("notebooks/pid").read_text())
    process.send_signal(signal.SIGINT)
    assert b"interrupted" in process.communicate(timeout=120)[1] and process.returncode == 130
    _until(lambda: not Path(f"/proc/{kernel}").exists())
    assert Path("notebooks/slow.ipynb").read_bytes() == before
    assert sorted(os.listdir("notebooks")) == ["page.ipynb", "pid", "slow.ipynb"]


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)


# Parameters.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "facto", "3", "-o", "runs"], "did you mean 'factor'"),
        (["-p", "factor", "0.5", "-o", "runs"], "factor must be int like its default 2, not 0.5"),
        (["-p", "factor", "three", "-o", "runs"], "factor must be int"),
        (["-p", "fail", "1", "-o", "runs"], "fail must be bool"),
        (["-p", "name", "5", "-o", "runs"], "write 5 in quotes"),
        (["-p", "factor", "3", "--in-place"], "a page in place shows its defaults"),
        (["-o", "runs/{factr}.ipynb"], "did you mean 'factor'"),
        (["-o", "notebooks"], "use --in-place"),
        ([], "either -o OUTPUT or --in-place"),
        (["notebooks/none.ipynb", "-o", "runs"], "no such notebook"),
        (["-p", "rate", "1", "-p", "rate", "2", "-o", "runs"], "'rate' is given twice"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(project, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(subprocess, "Popen", None)  # a start would raise
    assert runner.main(["run", "notebooks/page.ipynb", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_plain_papermill_is_refused_an_unknown_parameter_too(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(project))
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'factor'") as caught:
        papermill.execute_notebook(
            "notebooks/page.ipynb", "out.ipynb", {"facto": 3}, cwd="notebooks", progress_bar=False
        )
    assert caught.value.ename == "ValueError" and caught.value.exec_count == 4


def test_given_parameters_stay_visible_and_travel_to_a_store(project, capsys):
    store = {}

    class Store:
        """A papermill store that keeps what it is given in memory."""

        read = staticmethod(store.__getitem__)
        write = staticmethod(lambda text, path: store.update({path: text}))

    papermill.iorw.papermill_io.register("fake://", Store)
    try:
        arguments = ["run", "notebooks/page.ipynb", "-p", "rate", "3", "-p", "keep", "true"]
        arguments += ["-o", "fake://bucket/r{rate}.ipynb"]
        assert runner.main(arguments) == 0
        assert list(store) == ["fake://bucket/r3.0.csv", "fake://bucket/r3.0.ipynb"]
        assert store["fake://bucket/r3.0.csv"] == "value\n12.0\n"
        nb = notebooks.loads(store["fake://bucket/r3.0.ipynb"])
        injected = [c for c in nb["cells"] if "injected-parameters" in notebooks.tags(c)]
        assert [c["source"] for c in injected] == ["# Parameters\nrate = 3.0\nkeep = True\n"]
        assert notebooks.tags(injected[0]) == ["hide-input", "injected-parameters"]
        assert notebooks.noted(nb, "claim")[0]["verdict"] == "fails"
        command = notebooks.stamp(nb)["command"]
        assert command.endswith("run notebooks/page.ipynb -p rate 3.0 -p keep True -o fake://bucket/r3.0.ipynb")
        assert runner.main(arguments) == 0 and "unchanged, skipped" in capsys.readouterr().out
    finally:
        papermill.iorw.papermill_io._handlers.pop(0)
    assert runner.main(arguments) == 2 and "knows no store" in capsys.readouterr().err


def test_a_page_that_a_store_refuses_is_kept(project, monkeypatch):
    class Full:
        """A store that has nothing and takes nothing."""

        read = staticmethod({}.__getitem__)

        @staticmethod
        def write(text, path):
            raise PermissionError("no space")

    papermill.iorw.papermill_io.register("full://", Full)
    done = json.dumps(json.loads(notebooks.dumps(page())))
    ended = {"cell": 1, "cells": 1, "failed": None, "cpu": 1.0}
    monkeypatch.setattr(
        execution, "_execute_in", lambda scratch, *_: (scratch / "output.ipynb").write_text(done) and ended
    )
    try:
        report = runner.run_notebook("notebooks/page.ipynb", output="full://bucket/page.ipynb")
    finally:
        papermill.iorw.papermill_io._handlers.pop(0)
    assert report.status == "failed" and report.error == "could not write full://bucket/page.ipynb: no space"
    assert notebooks.read(report.partial)["cells"] and report.partial == "runs/page.partial.ipynb"


# Fresh or stale.


def test_the_digest_of_code_ignores_comments_docstrings_and_blank_lines():
    original = 'def f(x):\n    """Doc."""\n    return f"{x!r:>{8}} \'a\'" + "b"\n'
    same = '"""Module."""\n\n# Why.\ndef f(x):\n\n    "Other" \' doc.\'\n    return f"{x!r:>{8}} \'a\'" + "b"  # so\n'
    assert digests.digest(original) == digests.digest(same)
    for other in (
        original.replace('"b"', '"c"'),
        original.replace("8", "9"),
        original.replace("return ", "x = "),
        original.replace("    return", "return"),
        original.replace('"b"', '"b"\n    "b".strip()'),
    ):
        assert digests.digest(original) != digests.digest(other)
    assert digests.digest("!ls a") != digests.digest("!ls b")
    # A string that is an argument, an element or a value is code.
    assert digests.digest('f(\n    "a"\n)') != digests.digest("f(\n)")


def test_f_strings_count_the_same_however_many_tokens_they_are(monkeypatch):
    """Python 3.12 splits f-strings into tokens; the digest must not depend on the version that computes it."""
    import tokenize

    source = "x = 'a' + f'{y + 1} b'\n"
    expected = digests.digest(source)
    whole = list(tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__))
    text = "f'{y + 1} b'"
    if any(t.string == text for t in whole):
        place = next(i for i, t in enumerate(whole) if t.string == text)
        (row, start), (_, end) = whole[place].start, whole[place].end
        names = {**tokenize.tok_name, 901: "FSTRING_START", 902: "FSTRING_MIDDLE", 903: "FSTRING_END"}
        pieces = [(901, "f'", 0, 2), (54, "{", 2, 3), (1, "y", 3, 4), (902, " b", 9, 11), (903, "'", 11, 12)]
        split = [
            tokenize.TokenInfo(kind, string, (row, start + a), (row, start + b), source)
            for kind, string, a, b in pieces
        ]
        assert split[-1].end == (row, end)
        monkeypatch.setattr(tokenize, "tok_name", names)
        monkeypatch.setattr(tokenize, "generate_tokens", lambda _: iter([*whole[:place], *split, *whole[place + 1 :]]))
    assert digests.digest(source) == expected


@pytest.mark.parametrize(
    ("path", "old", "new", "reason"),
    [
        ("unlearnlib/toy.py", "2 * x  # doubled", "2 * x  # twice", None),
        ("unlearnlib/toy.py", "Scaled by two", "Twice", None),
        ("unlearnlib/publishing/runner.py", "import argparse", "import argparse, abc", None),
        ("notebooks/page.ipynb", "# of the doubling", "# of it all", None),
        ("notebooks/page.ipynb", "With one thought", "With two", None),
        ("unlearnlib/toy.py", "2 * x", "3 * x", "code: unlearnlib.toy"),
        ("unlearnlib/__init__.py", "1.0", "1.1", None),
        ("notebooks/page.ipynb", "value < 10", "value < 11", "cells: edited after the run"),
        ("notebooks/page.ipynb", "rate = 0.5", "rate = 0.25", "parameters: rate"),
        ("notebooks/page.ipynb", "rate = 0.5", "speed = 0.5", "parameters: speed, rate"),
        ("notebooks/page.ipynb", '"numpy": "', '"numpy": "0', "versions: numpy 0"),
    ],
)
def test_a_page_is_stale_when_what_it_depends_on_changes(fresh, capsys, path, old, new, reason):
    assert runner.main(["status"]) == 0
    assert capsys.readouterr().out == "fresh  notebooks/page.ipynb\n"
    edit(path, old, new)
    assert runner.main(["status"]) == (1 if reason else 0)
    said = capsys.readouterr().out
    assert said.startswith("stale" if reason else "fresh") and (reason or "") in said
    if reason:
        assert "does not say so" in said


def test_a_removed_module_makes_a_page_stale(fresh):
    Path("unlearnlib/toy.py").unlink()
    assert provenance.state(Path("notebooks/page.ipynb")).reasons == ("code: unlearnlib.toy",)


def test_a_stale_page_can_say_so_and_take_it_back(fresh, executed, capsys):
    edit("unlearnlib/toy.py", "2 * x", "3 * x")
    assert runner.main(["status", "--mark"]) == 0
    assert "stale  notebooks/page.ipynb (says so)  code: unlearnlib.toy" in capsys.readouterr().out
    note = page()["cells"][1]
    assert "Older than its code" in note["source"] and "unlearnlib.toy" in note["source"]
    marked = Path("notebooks/page.ipynb").read_bytes()
    assert runner.main(["status", "--mark"]) == 0 and Path("notebooks/page.ipynb").read_bytes() == marked
    edit("unlearnlib/toy.py", "3 * x", "2 * x")
    assert runner.main(["status"]) == 1 and "(says stale)" in capsys.readouterr().out
    assert runner.main(["status", "--mark"]) == 0
    assert Path("notebooks/page.ipynb").read_bytes() == executed["page"]


def test_a_benchmark_page_follows_its_notebook(fresh):
    copy = page()
    copy["metadata"]["unlearnlib"] |= {"source": "notebooks/page.ipynb"}
    Path("book/benchmarks").mkdir()
    notebooks.write_text("book/benchmarks/page.ipynb", notebooks.dumps(copy))
    assert provenance.state(Path("book/benchmarks/page.ipynb")).reasons == ()
    edit("notebooks/page.ipynb", "value < 10", "value < 11")
    assert provenance.state(Path("book/benchmarks/page.ipynb")).reasons == ("cells: notebooks/page.ipynb was edited",)
    Path("notebooks/page.ipynb").unlink()
    assert "is gone" in provenance.state(Path("book/benchmarks/page.ipynb")).reasons[0]


# What may not be committed.


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda nb: None, None),
        (lambda nb: nb["cells"][1].update(execution_count=None), "code cell 1 has execution count None"),
        (
            lambda nb: nb["cells"][1]["outputs"].append(
                {"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []}
            ),
            "code cell 1 raised KeyError",
        ),
        (
            lambda nb: nb["cells"][1]["outputs"].append({"output_type": "stream", "name": "stderr", "text": "w"}),
            "wrote to stderr",
        ),
        (lambda nb: nb["cells"][0].update(source="# A\n\nsee /home/me/data"), "an absolute path: /home/me"),
        (lambda nb: nb["cells"][4]["outputs"][0].update(text=os.getcwd()), "an absolute path: "),
        (lambda nb: nb["cells"][2]["metadata"].clear(), "one code cell with the tag `parameters`, it has 0"),
        (lambda nb: nb["cells"][2].update(source="x = [i for i in y]"), "parameter x must be a plain literal"),
        (
            lambda nb: nb["cells"][2].update(source="\n".join(f"x{i} = {i}" for i in range(11))),
            "declares 11 names, at most 10",
        ),
        (lambda nb: nb["cells"][6]["outputs"].clear(), "it claims nothing"),
        (lambda nb: nb["metadata"].update(papermill={}), "metadata of another executor"),
        (lambda nb: nb["metadata"].pop("unlearnlib"), "the runner never ran it"),
        (lambda nb: nb["metadata"]["unlearnlib"].update(chapter="other"), "begin('other') should say 'page'"),
    ],
)
def test_check_finds_what_may_not_be_committed(fresh, spoil, problem):
    nb = page()
    nb["metadata"]["unlearnlib"]["mode"] = "pinned"  # the page does without torch, which takes seconds to import
    spoil(nb)
    found = notebooks.problems(nb, "page")
    assert found == [] if problem is None else any(problem in text for text in found), found


def test_check_names_the_page(fresh, capsys):
    assert runner.main(["check"]) == 1
    assert capsys.readouterr().out == (
        "notebooks/page.ipynb: the numerics are not pinned: the first cell must call bookkeeping.pin_numerics()\n"
    )


# Grids.


def test_a_grid_resumes_and_collects_its_records(project, capsys):
    grid = ["grid", "notebooks/page.ipynb", "-g", "name", "a:b", "-p", "rate", "1", "-p", "keep", "true"]
    output = ["-o", "runs/g/{factor}-{name}.ipynb", "--jobs", "2"]
    assert runner.main([*grid, "-g", "factor", "1", *output]) == 0
    assert Path("runs/g/page-records.csv").read_text() == "name,factor,value\na:b,1,2.0\n"
    capsys.readouterr()
    assert runner.main([*grid, "-g", "factor", "1", "3", *output]) == 0
    said = capsys.readouterr().out
    assert "1-a-b: unchanged, skipped" in said and "3-a-b: 9 cells" in said
    assert Path("runs/g/page-records.csv").read_text() == "name,factor,value\na:b,1,2.0\na:b,3,6.0\n"
    made = ["1-a-b.csv", "1-a-b.ipynb", "3-a-b.csv", "3-a-b.ipynb", "page-records.csv"]
    assert sorted(os.listdir("runs/g")) == made
    assert not Path("book/timings.json").exists()
    assert runner.main([*grid, "-g", "factor", "1", "3", "-o", "runs/g"]) == 2
    assert "two runs would write runs/g/page.ipynb" in capsys.readouterr().err
    assert runner.main([*grid, "-g", "rate", "1", *output]) == 2
    assert "fixed or has values in the grid: see rate" in capsys.readouterr().err


# Validation by nbval.


def test_nbval_compares_verdicts_and_not_evidence(fresh):
    text = Path("notebooks/page.ipynb").read_text()
    assert text.count("value 2.0") == 3
    Path("notebooks/moved.ipynb").write_text(text.replace("value 2.0", "value 2.1"))
    Path("notebooks/flipped.ipynb").write_text(text.replace("[holds]", "[fails]"))
    sanitize = str(ROOT / "tests" / "nbval-sanitize.cfg")
    options = ["-q", "--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with", sanitize, "-p", "no:cacheprovider"]
    call = [sys.executable, "-m", "pytest", *options, "notebooks/moved.ipynb", "notebooks/flipped.ipynb"]
    env = {**os.environ, "PYTHONPATH": str(fresh)}
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert "1 failed, 15 passed" in done.stdout, done.stdout
    assert "'[fails] The value is small' == '[holds] The value is small'" in done.stdout
