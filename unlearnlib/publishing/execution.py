"""How a notebook is executed: parameters checked, papermill in a process of its own, the result cleaned and stamped.

Two runs of one page with equal code, parameters and data write the same bytes. A page whose fingerprint has not
changed is skipped, so a killed run, or a grid of runs, resumes where it stopped.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from unlearnlib.publishing import _execute, bookkeeping, notebooks, parameters, provenance
from unlearnlib.store import digests

# Minutes of the committed pages: CPU time, which a busy machine changes little; the clock's for fast runs. They are
# kept out of the pages, so that those can be compared.
TIMINGS = Path("book/timings.json")


@dataclass(frozen=True)
class Job:
    """One page to be made: a notebook, where to write it (None: in place) and its parameters."""

    notebook: str
    output: str | None = None
    given: Mapping[str, object] = field(default_factory=dict)
    fast: bool = False  # all threads and instructions instead of reproducible bits
    force: bool = False  # run even if nothing has changed
    timeout: int | None = None  # seconds for one cell

    @property
    def target(self) -> str:
        return self.output or self.notebook


@dataclass(frozen=True)
class RunReport:
    """How one job ended: "executed", "skipped" or "failed"; then the code cell, the error and what was kept."""

    notebook: str
    output: str
    status: str
    seconds: float = 0.0
    cell: int = 0
    error: str = ""
    partial: str = ""


@dataclass
class _Session:
    """The processes that run now, so that they can be stopped together."""

    processes: set[subprocess.Popen] = field(default_factory=set)
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.processes):
            process.stdin.close()  # tells the process to stop its kernel and end


@dataclass(frozen=True)
class _Plan:
    job: Job
    source: dict  # the notebook without outputs
    values: dict[str, object]  # all parameters


def run_notebook(
    path: str | Path,
    given: Mapping[str, object] | None = None,
    output: str | Path | None = None,
    *,
    fast: bool = False,
    force: bool = False,
    timeout: int | None = None,
    say: Callable[[str], None] = print,
) -> RunReport:
    """Execute one notebook with some parameters changed and write the clean page to `output` (None: in place).

    output      a local path, or a URL of a store that papermill knows
    timeout     seconds that one cell may take

    Raises ValueError, before anything runs, on an unknown parameter (naming the nearest), a value of the wrong
    type, or parameters for a run in place. A cell that raises gives a report with status "failed" and leaves
    `output` as it was; the partial notebook is kept beside it as NAME.partial.ipynb.
    """
    job = Job(str(path), None if output is None else str(output), given or {}, fast, force, timeout)
    return run_many([job], say=say)[0]


def run_many(jobs: Sequence[Job], workers: int = 1, say: Callable[[str], None] = print) -> list[RunReport]:
    """Run jobs, at most `workers` at once, in processes of their own; reports in the order of the jobs.

    All parameters are checked before the first job starts. Raises ValueError if two jobs write to one place.
    """
    plans = [_planned(job) for job in jobs]
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    targets = [os.path.normpath(job.target) for job in jobs]
    twice = next((t for t in targets if targets.count(t) > 1), None)
    if twice:
        raise ValueError(f"two runs would write {twice}: name the differing parameters, as in -o 'runs/{{seed}}.ipynb'")
    session = _Session()
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run, plan, session, say) for plan in plans]
        try:
            return [future.result() for future in futures]
        except BaseException:
            session.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def defaults_of(notebook: str) -> dict[str, object]:
    """Name -> default of the page's parameters. Raises ValueError that names the notebook."""
    source = notebooks.read(notebook)
    try:
        return notebooks.defaults(source)
    except ValueError as error:
        raise ValueError(f"{notebook}: {error}") from None


def _planned(job: Job) -> _Plan:
    try:
        values = parameters.check(defaults_of(job.notebook), job.given)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(job.notebook) else f"{job.notebook}: {text}") from None
    if job.output is None and job.given:
        raise ValueError(f"{job.notebook}: a page in place shows its defaults; name an output with -o")
    if job.output is None and notebooks.is_remote(job.notebook):
        raise ValueError(f"{job.notebook}: a notebook in a store is not run in place; name an output with -o")
    if job.output and os.path.normpath(job.output) == os.path.normpath(job.notebook):
        raise ValueError(f"{job.notebook}: the output would replace the notebook; use --in-place")
    return _Plan(job, notebooks.ready(notebooks.read(job.notebook)), values)


def _run(plan: _Plan, session: _Session, say: Callable[[str], None]) -> RunReport:
    job, started = plan.job, time.monotonic()
    name = Path(job.target).stem
    old = notebooks.fetch(job.target)
    record = _record(old)
    if not job.force and _unchanged(plan, record, old):
        say(f"{name}: unchanged, skipped")
        return RunReport(job.notebook, job.target, "skipped")
    modules = digests.module_digests(digests.all_modules())
    with tempfile.TemporaryDirectory(prefix="unlearn-") as scratch:
        left = Path(scratch) / "output.ipynb"
        end = _execute_in(Path(scratch), plan, session, lambda text: say(f"{name}: {text}"))
        if not end["failed"]:
            page = _page(plan, notebooks.read(left), modules)
            try:
                _write(job, page, notebooks.fetch(Path(scratch) / "records.csv"))
            except Exception as error:  # a store has errors of its own; hours of work must not be lost to one
                end["failed"] = f"could not write {job.target}: {error}"
        seconds = time.monotonic() - started
        if end["failed"]:
            kept = "" if session.stopped else _keep_partial(job, left)
            where = f"cell {end['cell']} of {end['cells']}"
            if not session.stopped:
                say(f"{name}: FAILED in {where}: {end['failed']}" + (f" (see {kept})" if kept else ""))
            return RunReport(job.notebook, job.target, "failed", seconds, end["cell"], end["failed"], kept)
    spent = seconds if job.fast else end["cpu"]
    _note_minutes(job.target, spent, record.get("fingerprint") != notebooks.stamp(page)["fingerprint"])
    say(f"{name}: {end['cells']} cells in {seconds:.1f} s -> {job.target}")
    return RunReport(job.notebook, job.target, "executed", seconds)


def _write(job: Job, page: dict, rows: str | None) -> None:
    if rows is not None and job.output is not None:
        notebooks.put(beside(job.target, ".csv"), rows)
    notebooks.put(job.target, notebooks.dumps(page))
    if not notebooks.is_remote(job.target):
        Path(beside(job.target, ".partial.ipynb")).unlink(missing_ok=True)


def _record(text: str | None) -> dict:
    try:
        return notebooks.stamp(notebooks.loads(text)) if text else {}
    except (ValueError, KeyError):
        return {}


def _unchanged(plan: _Plan, record: Mapping, text: str | None) -> bool:
    if not record or record["parameters"] != plan.values or (record["mode"] == "fast") != plan.job.fast:
        return False
    if any(":" in name for name in record["data"]):  # a folder's content is not known without reading it
        return False
    page = notebooks.loads(text)
    return not provenance.changes({**record, "given": dict(plan.job.given)}, page, plan.source)


def _page(plan: _Plan, executed: dict, modules: Mapping[str, str]) -> dict:
    job = plan.job
    source, output = _shown(job.notebook), _shown(job.target)
    command, _ = bookkeeping.commands(source, output, notebooks.defaults(plan.source), plan.values, job.fast)
    origin = None if job.output is None else source
    record = provenance.stamped(executed, given=job.given, modules=modules, source=origin, command=command)
    return notebooks.clean(executed, record, notebooks.machine_paths())


def _shown(where: str) -> str:
    """A path as a reader of the book would write it: relative to this folder, or as if it were in `runs`."""
    if notebooks.is_remote(where):
        return where
    path = Path(os.path.relpath(os.path.abspath(where)))
    return Path("runs", path.name).as_posix() if ".." in path.parts else path.as_posix()


def beside(where: str, suffix: str) -> str:
    """The file that belongs to a notebook: same place and stem, another suffix."""
    return re.sub(r"\.ipynb$", "", where) + suffix


def _keep_partial(job: Job, partial: Path) -> str:
    """Copy what a failed run left behind next to its target (to `runs` for a store) and name the copy."""
    text = notebooks.fetch(partial)
    if text is None:
        return ""
    kept = beside(job.target, ".partial.ipynb")
    kept = f"runs/{Path(kept).name}" if notebooks.is_remote(kept) else kept
    notebooks.write_text(kept, text)
    return kept


def _execute_in(scratch: Path, plan: _Plan, session: _Session, say: Callable[[str], None]) -> dict:
    """Run the notebook in a process and follow its progress; returns the last message."""
    job, last = plan.job, {"cell": 0, "cells": 0, "failed": "interrupted"}
    if session.stopped:
        return last
    notebooks.write_text(scratch / "input.ipynb", notebooks.dumps(plan.source))
    folder = os.getcwd() if notebooks.is_remote(job.notebook) else os.path.dirname(os.path.abspath(job.notebook))
    task = {"input": str(scratch / "input.ipynb"), "output": str(scratch / "output.ipynb"), "folder": folder}
    given = {name: plan.values[name] for name in job.given}
    notebooks.write_text(scratch / "job.json", json.dumps({**task, "parameters": given, "timeout": job.timeout}))
    call = [sys.executable, "-P", _execute.__file__, str(scratch / "job.json")]
    started = time.monotonic()
    with (
        open(scratch / "log", "w+", encoding="utf-8") as log,
        subprocess.Popen(
            call, env=_environment(job, scratch), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        session.processes.add(process)
        try:
            for line in process.stdout:
                if not line.startswith(_execute.MARK):
                    continue
                message = json.loads(line.removeprefix(_execute.MARK))
                last = {**last, **message}
                if "failed" not in message:
                    say(f"cell {last['cell']}/{last['cells']}, {time.monotonic() - started:.1f} s")
        finally:
            session.processes.discard(process)
        if process.wait() != 0 and not session.stopped:
            log.seek(0)
            lines = log.read().strip().splitlines()
            last["failed"] = lines[-1] if lines else f"the process ended with code {process.returncode}"
    return last


def _environment(job: Job, scratch: Path) -> dict[str, str]:
    """The environment of a run: pinned numerics, the library on the path, no profile of the user's IPython."""
    inherited = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(digests.PACKAGE.parent), *inherited]),
        "IPYTHONDIR": str(scratch / "ipython"),  # parallel kernels would wait for one history file
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning on stderr
        bookkeeping.OUTPUT: _shown(job.target),
        bookkeeping.RECORDS: str(scratch / "records.csv"),
    }
    for name in (bookkeeping.FAST, "MPLBACKEND"):  # the second would keep figures off the page
        env.pop(name, None)
    return env | ({bookkeeping.FAST: "1"} if job.fast else {**bookkeeping.PINS, **bookkeeping.ONE_THREAD})


_timings = threading.Lock()


def _note_minutes(target: str, seconds: float, changed: bool) -> None:
    """Keep the minutes of a page of the book, where they are missing or the page has changed and they moved by 25%.

    Re-running an unchanged page on another machine is a reproduction, which should leave no difference behind.
    """
    shown = _shown(target)
    if not TIMINGS.parent.is_dir() or not shown.startswith(("notebooks/", "book/")):
        return
    with _timings:
        known = json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}
        minutes, old = round(seconds / 60, 2), known.get(shown)
        if old is None or (changed and abs(minutes - old) > 0.25 * old):
            notebooks.write_text(TIMINGS, json.dumps({**known, shown: minutes}, indent=1, sort_keys=True) + "\n")


def committed() -> list[Path]:
    """The pages of the book below this folder: the chapters, and their copies on the big data sets."""
    found = [*sorted(Path("notebooks").glob("*.ipynb")), *sorted(Path("book/benchmarks").glob("*.ipynb"))]
    return [path for path in found if not path.name.endswith(".partial.ipynb")]
