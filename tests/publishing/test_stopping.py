"""Signals end runs in order: one line, no traceback, no kernel, no file; and errors of a run are sentences."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from small_book import notebook

from unlearnlib.publishing import _execute, parameters, runner


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGINT], 143),
        ([signal.SIGHUP], 129),
    ],
    ids=["Ctrl-C thrice", "terminated", "terminal closed"],
)
def test_a_stopped_run_leaves_one_line_and_nothing_else(project, monkeypatch, signals, status):
    """Signals reach the whole group, as from a terminal."""
    wait = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    nbformat.write(notebook(["# Slow", ("n = 1", "parameters"), wait]), "notebooks/slow.ipynb")
    Path("scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(project / "scratch"))
    # A shell's background jobs ignore Ctrl-C and pass that on: the test may be one of them.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from unlearnlib.__main__ import main; sys.exit(main())"
    copy_the_command_line(project)
    call = [sys.executable, "-c", start, "run", "notebooks/slow.ipynb", "-o", "runs"]
    env = {**os.environ, "PYTHONPATH": str(project)}
    process = subprocess.Popen(call, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: Path("notebooks/pid").exists() and Path("notebooks/pid").read_text())
    kernel = int(Path("notebooks/pid").read_text())
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.1)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == status
    assert told == "unlearn: interrupted, nothing was half written\n"
    until(lambda: not Path(f"/proc/{kernel}").exists())
    assert os.listdir("scratch") == [] and os.listdir("runs") == []


def copy_the_command_line(project: Path) -> None:
    """The small project gets the command line too."""
    source = Path(runner.__file__).parents[1] / "__main__.py"
    (project / "unlearnlib/__main__.py").write_text(source.read_text())


def named(kind: str, text: str) -> Exception:
    return type(kind, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            named("CellTimeoutError", "A cell timed out\n-------\nx\n-------"),
            "the cell took longer than its limit of 3 s",
        ),
        (named("DeadKernelError", "Kernel died"), "DeadKernelError: Kernel died"),
        (named("ValueError", "first\nlast line\n-----\n\n"), "ValueError: last line"),
        (named("KeyError", "---"), "KeyError"),
        (named("ValueError", "x" * 10**6), f"ValueError: {'x' * 500}... (1000000 characters)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_ends_a_run_is_a_sentence(error, said):
    assert _execute.in_words(error, 3) == said


@pytest.mark.parametrize(
    ("name", "value"), [("factor", "x" * 10**6), ("x" * 10**6, 3), ("factor", list(range(10**5))), ("name", 10**4000)]
)
def test_a_long_value_is_not_echoed(name, value):
    with pytest.raises(ValueError) as caught:
        parameters.check({"factor": 2, "name": "digits"}, {name: value})
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, "[2026-13-01]", "{" * 1000, "-" * 10**5])
def test_text_that_no_parser_likes_is_only_text(text):
    assert parameters.parse(text, [1]) == text
