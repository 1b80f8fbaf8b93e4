"""The only executor of notebooks: the commands `unlearn run`, `grid`, `status`, `check` and `pages`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearnlib._commands import Parser, carried_out, one_line
from unlearnlib._extras import optional
from unlearnlib.publishing import bookkeeping, notebooks, parameters, provenance
from unlearnlib.publishing.execution import Job, RunReport, committed, defaults_of, run_many, run_notebook
from unlearnlib.publishing.sweeps import grid, target_of

__all__ = ["Job", "RunReport", "command", "grid", "main", "run_many", "run_notebook"]


def _pages(paths: Sequence[str]) -> list[Path]:
    pages = [Path(p) for p in paths] or committed()
    if not pages:
        raise ValueError("no pages: start it where notebooks/ is, or name them")
    return pages


def _cli_run(args: argparse.Namespace) -> int:
    optional("papermill")
    if (args.output is None) != args.in_place:
        raise ValueError("say where the result goes: either -o OUTPUT or --in-place")
    jobs = []
    for notebook in args.notebooks:
        defaults = defaults_of(notebook)
        given = _given(defaults, args.parameter)
        output = None if args.in_place else target_of(args.output, notebook, parameters.check(defaults, given))
        jobs.append(Job(notebook, output, given, args.fast, args.force, args.timeout))
    return _outcome(run_many(jobs, args.jobs))


def _cli_grid(args: argparse.Namespace) -> int:
    optional("papermill")
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
        where = f", cell {report.cell}" if report.cell else ""
        kept = f"; what there is of the page: {report.partial}" if report.partial else ""
        print(f"failed: {one_line(report.notebook, 100)}{where}: {report.error}{kept}")
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


def _cli_pages(args: argparse.Namespace) -> int:
    from unlearnlib.publishing import pages  # imports every method for its card

    for written in pages.generate(args.folder or pages.FOLDER):
        print(written)
    return 0


_RUN = """\
examples:
  unlearn run notebooks/*.ipynb --in-place --jobs 2
      execute the committed pages anew, at their defaults
  unlearn run notebooks/01-what-is-forgetting.ipynb -p dataset mnist -p unlearning_lr 1e-3 -o runs/
      write runs/01-what-is-forgetting.ipynb with two parameters changed
  unlearn run notebooks/08-dose-control.ipynb -p forget class:3 -o 'runs/{dataset}-{forget}.ipynb'
      fields in braces are parameters of the page; a store such as s3://bucket/{lr}.ipynb is written as well
"""
_GRID = """\
examples:
  unlearn grid notebooks/08-dose-control.ipynb -g dataset digits mnist5k -g lr .02 .05 \\
      -o 'runs/dose/{dataset}-{lr}.ipynb' --jobs 2
  unlearn grid notebooks/08-dose-control.ipynb -g alpha .6 .9 -p seeds "[0, 1]" -o 'runs/{alpha}.ipynb'

What the runs record is collected in runs/dose/08-dose-control-records.csv.
"""
_RULES = """
A parameter is a Python or YAML literal of the type of its default: 3, -1e-05, true, [mnist, cifar10],
random:0.1; the text 5 is written '"5"'. Unknown names and wrong types are refused before anything runs, and so is
an output that cannot be written. A page that is there, with the same code, parameters and versions, is skipped, so
the same command goes on after an interruption.

exit status: 0 all pages are there, 1 a run failed (what there is of its page is kept as NAME.partial.ipynb),
2 a wrong request, 130 interrupted, 143 terminated
"""
_STATUS = """\
examples:
  unlearn status                        all pages of notebooks/ and book/benchmarks/
  unlearn status --mark                 stale pages get a note below their title, fresh ones lose it
  unlearn status --data notebooks/02-measuring-forgetting.ipynb

A page is stale when its cells, its parameters, a library module that it imported or the versions of numpy and torch
are no longer those of the run that made it; with --data also when a data set's checksum has changed.

exit status: 0 every stale page says so and no fresh one does, 1 otherwise, 2 a wrong request
"""
_CHECK = """\
examples:
  unlearn check                         all pages of notebooks/ and book/benchmarks/
  unlearn check notebooks/02-measuring-forgetting.ipynb

Lists what may not be committed: cells out of order, errors, warnings, widgets, absolute paths, numerics that are not
pinned, a page without claims, or one that another program executed.

exit status: 0 nothing, 1 something, 2 a wrong request
"""
_PAGES = """\
examples:
  unlearn pages                         write book/generated/: claims, status, methods, tables of what was measured

A file whose text has not changed is not touched.

exit status: 0 written, 2 a wrong request
"""


def _parser(name: str) -> Parser:
    made = {"run": _run_parser, "grid": _grid_parser, "status": _status_parser, "check": _check_parser}
    return made.get(name, _pages_parser)(f"unlearn {name}")


def _run_parser(prog: str) -> Parser:
    about = "Execute notebooks in processes of their own, and write clean pages that say what made them."
    parser = Parser(prog=prog, description=about, epilog=_RUN + _RULES)
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    parser.add_argument("-o", "--output", help="folder, or path with {parameter} fields")
    parser.add_argument("--in-place", action="store_true", help="write the pages where they are, at their defaults")
    parser.set_defaults(call=_cli_run)
    return _running(parser)


def _grid_parser(prog: str) -> Parser:
    about = "Execute one notebook for every combination of parameter values."
    parser = Parser(prog=prog, description=about, epilog=_GRID + _RULES)
    parser.add_argument("notebook", metavar="NOTEBOOK")
    values = {"nargs": "+", "action": "append", "required": True, "metavar": ("NAME", "VALUE")}
    parser.add_argument("-g", "--grid", help="a parameter and its values; may be given many times", **values)
    parser.add_argument("-o", "--output", required=True, help="path with {parameter} fields")
    parser.set_defaults(call=_cli_grid)
    return _running(parser)


def _running(parser: Parser) -> Parser:
    pair = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    parser.add_argument("-p", "--parameter", help="change a parameter; may be given many times", **pair)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at once (default 1)")
    fast = "all threads and instructions instead of reproducible bits; the page says so"
    parser.add_argument("--fast", action="store_true", default=os.environ.get(bookkeeping.FAST) == "1", help=fast)
    parser.add_argument("--force", action="store_true", help="run even if nothing has changed")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="limit of one cell")
    return parser


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:12]) < 10**8:
        raise argparse.ArgumentTypeError(f"{one_line(text, 40)!r} is no whole number of seconds above 0")
    return int(text)


def _status_parser(prog: str) -> Parser:
    parser = _looking(prog, "Say of each page whether it is fresh or stale, and why.", _STATUS, _cli_status)
    parser.add_argument("--mark", action="store_true", help="make stale pages say so, and fresh ones not")
    parser.add_argument("--data", action="store_true", help="also load the data and compare checksums")
    return parser


def _check_parser(prog: str) -> Parser:
    return _looking(prog, "Say what may not be committed.", _CHECK, _cli_check)


def _looking(prog: str, about: str, epilog: str, call) -> Parser:
    parser = Parser(prog=prog, description=about, epilog=epilog)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.set_defaults(call=call)
    return parser


def _pages_parser(prog: str) -> Parser:
    about = "Write the pages that the book makes from its committed notebooks."
    parser = Parser(prog=prog, description=about, epilog=_PAGES)
    parser.add_argument("--folder", type=Path, help="another folder than book/generated")
    parser.set_defaults(call=_cli_pages)
    return parser


def command(argv: Sequence[str]) -> int:
    """Carry out one command: its name, then its arguments. Raises ValueError on a wrong request."""
    args = _parser(argv[0]).parse_args(argv[1:])
    return args.call(args)


def main(argv: Sequence[str] | None = None) -> int:
    """What `python -m unlearnlib.runner` was: the commands without the program's own help."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    if name not in ("run", "grid", "status", "check"):
        print("unlearn: the commands are run, grid, status and check; see unlearn --help", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    return carried_out(lambda: command([name, *rest]), "unlearn")


if __name__ == "__main__":
    sys.exit(main())
