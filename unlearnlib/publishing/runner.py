"""The only executor of notebooks: run pages, run grids of them, and say which are stale or may not be committed.

    python -m unlearnlib.runner run notebooks/*.ipynb --in-place            the committed pages, at their defaults
    python -m unlearnlib.runner run notebooks/dose.ipynb -p seed 3 -o runs/dose.ipynb
    python -m unlearnlib.runner grid notebooks/dose.ipynb -g dataset mnist cifar10 -g seed 0 1 \
        -o 'runs/dose/{dataset}-s{seed}.ipynb' --jobs 2
    python -m unlearnlib.runner status [--mark]                             fresh or stale, and why
    python -m unlearnlib.runner check                                       what may not be committed

Exit status: 0 all well, 1 a run failed or a page is not as it should be, 2 a wrong request, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearnlib.publishing import bookkeeping, notebooks, parameters, provenance
from unlearnlib.publishing.execution import Job, RunReport, committed, defaults_of, run_many, run_notebook
from unlearnlib.publishing.sweeps import grid, target_of

__all__ = ["Job", "RunReport", "grid", "main", "run_many", "run_notebook"]


def _pages(paths: Sequence[str]) -> list[Path]:
    pages = [Path(p) for p in paths] or committed()
    if not pages:
        raise ValueError("no pages: start it where notebooks/ is, or name them")
    return pages


def _cli_run(args: argparse.Namespace) -> int:
    if (args.output is None) != args.in_place:
        raise ValueError("say where the result goes: either -o OUTPUT or --in-place")
    jobs = []
    for notebook in args.notebooks:
        defaults = defaults_of(notebook)
        given = _given(defaults, args.parameter)
        output = args.output and target_of(args.output, notebook, parameters.check(defaults, given))
        jobs.append(Job(notebook, output, given, args.fast, args.force, args.timeout))
    return _outcome(run_many(jobs, args.jobs))


def _cli_grid(args: argparse.Namespace) -> int:
    defaults = defaults_of(args.notebook)
    axes = {}
    for name, *values in args.grid:
        parameters.check_name(name, defaults)
        _once(name, axes)
        axes[name] = [parameters.parse(value, defaults[name]) for value in values]
    options = {"fast": args.fast, "force": args.force, "timeout": args.timeout}
    given = _given(defaults, args.parameter)
    return _outcome(grid(args.notebook, axes, args.output, given, workers=args.jobs, **options))


def _given(defaults: Mapping[str, object], pairs: Sequence[Sequence[str]]) -> dict[str, object]:
    given: dict[str, object] = {}
    for name, text in pairs:
        parameters.check_name(name, defaults)
        _once(name, given)
        given[name] = parameters.parse(text, defaults[name])
    return given


def _once(name: str, before: Mapping[str, object]) -> None:
    if name in before:
        raise ValueError(f"parameter {name!r} is given twice")


def _outcome(reports: Sequence[RunReport]) -> int:
    failed = [r for r in reports if r.status == "failed"]
    for report in failed:
        print(f"failed: {report.notebook}, cell {report.cell}: {report.error}; partial notebook: {report.partial}")
    return 1 if failed else 0


def _cli_status(args: argparse.Namespace) -> int:
    wrong = 0
    for path in _pages(args.notebooks):
        found = provenance.state(path, with_data=args.data)
        if args.mark:
            provenance.mark(found)
            found = provenance.state(path, with_data=args.data)
        says = {(True, True): " (says so)", (True, False): " (does not say so)", (False, True): " (says stale)"}
        remark = says.get((bool(found.reasons), found.says_so), "")
        print(f"{'stale' if found.reasons else 'fresh'}  {path}{remark}  {'; '.join(found.reasons)}".rstrip())
        wrong += not found.honest
    return 1 if wrong else 0


def _cli_check(args: argparse.Namespace) -> int:
    found = 0
    for path in _pages(args.notebooks):
        page = notebooks.read(path)
        chapter = Path(notebooks.stamp(page).get("source") or path).stem  # a copy with other parameters keeps its name
        for problem in notebooks.problems(page, chapter):
            print(f"{path}: {problem}")
            found += 1
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unlearnlib.runner", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="run | grid | status | check")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    running.add_argument("--jobs", type=int, default=1, help="notebooks at once")
    running.add_argument("--fast", action="store_true", default=os.environ.get(bookkeeping.FAST) == "1")
    running.add_argument("--force", action="store_true", help="run even if nothing has changed")
    running.add_argument("--timeout", type=int, metavar="SECONDS", help="limit of one cell")
    run = commands.add_parser("run", parents=[running], help="execute notebooks")
    run.add_argument("notebooks", nargs="+")
    run.add_argument("-o", "--output", help="folder, or path with {parameter} fields")
    run.add_argument("--in-place", action="store_true")
    run.set_defaults(call=_cli_run)
    many = commands.add_parser("grid", parents=[running], help="execute one notebook for a grid of parameters")
    many.add_argument("notebook")
    many.add_argument("-g", "--grid", nargs="+", action="append", required=True, metavar="NAME VALUE")
    many.add_argument("-o", "--output", required=True, help="path with {parameter} fields")
    many.set_defaults(call=_cli_grid)
    status = commands.add_parser("status", help="is each page fresh or stale; fails if a stale page does not say so")
    status.add_argument("--mark", action="store_true", help="make stale pages say so, and fresh ones not")
    status.add_argument("--data", action="store_true", help="also load the data and compare checksums")
    check = commands.add_parser("check", help="what may not be committed")
    for command, call in ((status, _cli_status), (check, _cli_check)):
        command.add_argument("notebooks", nargs="*")
        command.set_defaults(call=call)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.call(args)
    except ValueError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("runner: interrupted, no page was half written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
