"""How a notebook is executed: parameters checked, papermill in a process of its own, the result cleaned and stamped.

Two runs of one page with equal code, parameters and data write the same bytes. A page whose fingerprint has not
changed is skipped, so a killed run, or a grid of runs, resumes where it stopped.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from unlearnlib._commands import one_line
from unlearnlib.publishing import _execute, bookkeeping, notebooks, parameters, provenance, surroundings
from unlearnlib.publishing.outputs import PARTIAL, beside, keep, reason, refuse_unwritable
from unlearnlib.store import digests

# Minutes of the committed pages: CPU time, which a busy machine changes little; the clock's for fast runs. They are
# kept out of the pages, so that those can be compared.
TIMINGS = Path("book/timings.json")
PATIENCE = 20.0  # seconds that stopped runs get to end their kernels
INTERRUPTED = "interrupted"


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
        return self.notebook if self.output is None else self.output


@dataclass(frozen=True)
class RunReport:
    """How one job ended: "executed", "skipped" or "failed"; then the code cell (0: none), the error, what was kept."""

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
        late = threading.Timer(PATIENCE, self._kill)
        late.daemon = True
        late.start()

    def _kill(self) -> None:
        for process in list(self.processes):
            process.kill()  # its kernel notices and ends too


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
    `output` as it was; what there is of the page is kept beside it as NAME.partial.ipynb, or where `partial` says.
    """
    job = Job(str(path), None if output is None else str(output), given or {}, fast, force, timeout)
    return run_many([job], say=say)[0]


def run_many(jobs: Sequence[Job], workers: int = 1, say: Callable[[str], None] = print) -> list[RunReport]:
    """Run jobs, at most `workers` at once, in processes of their own; reports in the order of the jobs.

    Those that took longest when they were last committed start first, so that none is waited for alone at the end.
    All parameters and outputs are tried before the first job starts: ValueError where one is wrong, cannot be written
    or is that of another job. What fails later is a report.
    """
    plans = [_planned(job) for job in jobs]
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    places = [_one_place(job.target) for job in jobs]
    twice = next((job.target for job, place in zip(jobs, places, strict=True) if places.count(place) > 1), None)
    if twice:
        raise ValueError(f"two runs would write {twice}: name the differing parameters, as in -o 'runs/{{seed}}.ipynb'")
    refuse_unwritable([job.target for job in jobs])
    trouble = surroundings.cache_trouble()
    if trouble:
        say(trouble)
    session = _Session()
    with ThreadPoolExecutor(workers) as pool:
        futures = {i: pool.submit(_reported, plans[i], session, say) for i in _longest_first(jobs)}
        try:
            return [futures[i].result() for i in range(len(plans))]
        except BaseException:
            session.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _longest_first(jobs: Sequence[Job]) -> list[int]:
    """Places of the jobs by falling minutes of the last committed run; those of pages without one are in front."""
    try:
        minutes = json.loads(TIMINGS.read_text())
    except (OSError, ValueError):
        minutes = {}
    return sorted(range(len(jobs)), key=lambda i: -minutes.get(Path(jobs[i].notebook).as_posix(), float("inf")))


def defaults_of(notebook: str) -> dict[str, object]:
    """Name -> default of the page's parameters. Raises ValueError that names the notebook."""
    source = notebooks.read(notebook)
    try:
        return notebooks.defaults(source)
    except ValueError as error:
        raise ValueError(f"{notebook}: {error}") from None


def _planned(job: Job) -> _Plan:
    name = one_line(job.notebook, 100)
    try:
        source = notebooks.read(job.notebook)
        values = parameters.check(defaults_of(job.notebook), job.given)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(job.notebook) else f"{name}: {text}") from None
    if job.output is None:
        if job.given:
            raise ValueError(f"{name}: a page in place shows its defaults; name an output with -o")
        if notebooks.is_remote(job.notebook):
            raise ValueError(f"{name}: a notebook in a store is not run in place; name an output with -o")
    elif not beside(os.path.basename(job.output), "").strip(". "):
        raise ValueError(f"{name}: the output {job.output!r} names no file; give a folder or a path to an .ipynb")
    elif _one_place(job.output) == _one_place(job.notebook):
        raise ValueError(f"{name}: the output would replace the notebook; use --in-place")
    elif _is_another_source(job):
        raise ValueError(f"{name}: the output would replace the notebook {one_line(job.output, 100)}; name another")
    return _Plan(job, notebooks.ready(source), values)


def _one_place(where: str) -> str:
    """The same text for all spellings of one place."""
    return where if notebooks.is_remote(where) else os.path.realpath(where)


def _is_another_source(job: Job) -> bool:
    """Whether the output is a notebook of the folder that `job.notebook` is in, and was not made from that."""
    if notebooks.is_remote(job.output) or notebooks.is_remote(job.notebook) or not os.path.exists(job.output):
        return False
    if os.path.dirname(_one_place(job.output)) != os.path.dirname(_one_place(job.notebook)):
        return False
    origin = _record(_text(job.output)).get("source")
    return origin is None or Path(origin).name != Path(job.notebook).name


def _text(where: str) -> str | None:
    """What is at a place, None also where it cannot be read: then it is no earlier result."""
    try:
        return notebooks.fetch(where)
    except (OSError, ValueError):
        return None


def _reported(plan: _Plan, session: _Session, say: Callable[[str], None]) -> RunReport:
    """The report of a job, whatever becomes of it: one failure must not end the others."""
    job = plan.job
    try:
        return _run(plan, session, say)
    except Exception as error:  # a full disk, a store, a broken installation
        say(f"{Path(job.target).stem}: stopped: {reason(error)}")
        return RunReport(job.notebook, job.target, "failed", error=reason(error))


def _run(plan: _Plan, session: _Session, say: Callable[[str], None]) -> RunReport:
    job, started = plan.job, time.monotonic()
    name = Path(job.target).stem
    old = _text(job.target)
    record = _record(old)
    if not job.force and _unchanged(plan, record, old):
        say(f"{name}: unchanged, skipped")
        return RunReport(job.notebook, job.target, "skipped")
    modules = digests.module_digests(digests.all_modules())
    with tempfile.TemporaryDirectory(prefix="unlearn-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        end = _execute_in(scratch, plan, session, lambda text: say(f"{name}: {text}"))
        for warning in surroundings.notes(scratch):
            say(f"{name}: {one_line(warning)}")
        rows, text = _text(str(scratch / "records.csv")), _text(str(scratch / "output.ipynb"))
        if not end["failed"]:
            try:
                page = _page(plan, notebooks.loads(text), modules)
                text = notebooks.dumps(page)
                _write(job, text, rows)
            except Exception as error:  # a store has errors of its own; hours of work must not be lost to one
                end |= {"failed": f"could not write {job.target}: {reason(error)}", "cell": 0}
        else:
            rows = None  # of a page that did not come to its end
    seconds = time.monotonic() - started
    if end["failed"]:
        return _failed(job, end, "" if session.stopped or text is None else keep(job.target, text, rows), seconds, say)
    try:
        spent = seconds if job.fast else end["cpu"]
        _note_minutes(job.target, spent, record.get("fingerprint") != notebooks.stamp(page)["fingerprint"])
    except (OSError, ValueError) as error:  # the page is there; only its minutes are not known
        say(f"{name}: {TIMINGS} could not be written: {reason(error)}")
    say(f"{name}: {end['cells']} cells in {seconds:.1f} s -> {job.target}")
    return RunReport(job.notebook, job.target, "executed", seconds)


def _failed(job: Job, end: Mapping, kept: str, seconds: float, say: Callable[[str], None]) -> RunReport:
    if end["failed"] != INTERRUPTED:
        where = f" in cell {end['cell']} of {end['cells']}" if end["cell"] else ""
        say(f"{Path(job.target).stem}: stopped{where}: {end['failed']}")
    return RunReport(job.notebook, job.target, "failed", seconds, end["cell"], end["failed"], kept)


def _write(job: Job, text: str, rows: str | None) -> None:
    if rows is not None and job.output is not None:
        notebooks.put(beside(job.target, ".csv"), rows)
    notebooks.put(job.target, text)
    if not notebooks.is_remote(job.target):
        for old in (PARTIAL, PARTIAL.replace(".ipynb", ".csv")):
            Path(beside(job.target, old)).unlink(missing_ok=True)


def _record(text: str | None) -> dict:
    try:
        return notebooks.stamp(notebooks.loads(text)) if text else {}
    except (ValueError, KeyError):
        return {}


def _unchanged(plan: _Plan, record: Mapping, text: str | None) -> bool:
    if not {"parameters", "mode", "data"} <= set(record) or record["parameters"] != plan.values:
        return False
    if (record["mode"] == "fast") != plan.job.fast:
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


def _execute_in(scratch: Path, plan: _Plan, session: _Session, say: Callable[[str], None]) -> dict:
    """Run the notebook in a process and follow its progress; returns the last message."""
    job, last = plan.job, {"cell": 0, "cells": 0, "failed": INTERRUPTED}
    if session.stopped:
        return last
    notebooks.write_text(scratch / "input.ipynb", notebooks.dumps(plan.source))
    folder = os.getcwd() if notebooks.is_remote(job.notebook) else os.path.dirname(os.path.abspath(job.notebook))
    task = {"input": str(scratch / "input.ipynb"), "output": str(scratch / "output.ipynb"), "folder": folder}
    given = {name: plan.values[name] for name in job.given}
    notebooks.write_text(scratch / "job.json", json.dumps({**task, "parameters": given, "timeout": job.timeout}))
    call = [sys.executable, "-P", _execute.__file__, str(scratch / "job.json")]
    env = surroundings.environment(scratch, job.fast) | {bookkeeping.OUTPUT: _shown(job.target)}
    started = time.monotonic()
    with (
        open(scratch / "log", "w+", encoding="utf-8") as log,
        subprocess.Popen(
            call, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
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
            last["failed"] = one_line(lines[-1]) if lines else f"the process ended with code {process.returncode}"
    return last


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
