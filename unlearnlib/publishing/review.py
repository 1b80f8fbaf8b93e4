"""What a change does to the pages: the list that whoever reviews a pull request goes through.

    unlearn changed --since main

One line a page that differs from the named commit: text, code, tables, figures, and every claim whose verdict moved.
"""

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearnlib._commands import Parser, one_line
from unlearnlib.publishing import notebooks

PAGES = ("notebooks", "book", "index.md", "README.md", "_toc.yml")
EPILOG = """examples:
  unlearn changed
  unlearn changed --since HEAD~3

exit status: 0 listed, 2 no such commit, or no repository
"""
SUFFIXES = {".ipynb", ".md", ".yml", ".bib"}


def differences(old: Mapping, new: Mapping) -> list[str]:
    """What differs between two versions of a notebook, in words; empty if a reader sees the same page."""
    found = []
    for kind, name in (("markdown", "text"), ("code", "code")):
        sides = [[c["source"] for c in nb["cells"] if c["cell_type"] == kind] for nb in (old, new)]
        found += [name] if sides[0] != sides[1] else []
    for what, sides in (("table", map(_tables, (old, new))), ("figure", map(_figures, (old, new)))):
        before, after = map(Counter, sides)
        count = max((after - before).total(), (before - after).total())
        found += [f"{count} {what}{'s' * (count > 1)}"] if count else []
    before, after = ({c["text"]: c["verdict"] for c in notebooks.noted(nb, "claim")} for nb in (old, new))
    for text in dict.fromkeys([*before, *after]):
        verdicts = before.get(text, "new"), after.get(text, "gone")
        found += [f"claim {verdicts[0]} -> {verdicts[1]}: {one_line(text, 90)}"] if verdicts[0] != verdicts[1] else []
    return found


def _outputs(nb: Mapping) -> list[Mapping]:
    return [output.get("data", {}) for cell in nb["cells"] for output in cell.get("outputs", [])]


def _tables(nb: Mapping) -> list[str]:
    return [data["text/html"] for data in _outputs(nb) if "table-wrap" in data.get("text/html", "")]


def _figures(nb: Mapping) -> list[str]:
    return [data["image/png"] for data in _outputs(nb) if "image/png" in data]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]}: {one_line(done.stderr or 'failed', 200)}")
    return done.stdout


def changed(since: str) -> dict[str, list[str]]:
    """Page -> what differs from the commit `since`, for pages that differ. Raises ValueError on an unknown commit."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}").strip()
    found: dict[str, list[str]] = {}
    for line in _git("diff", "--name-status", "--no-renames", commit, "--", *PAGES).splitlines():
        state, name = line.split("\t", 1)
        if Path(name).suffix not in SUFFIXES:
            continue
        if state == "M" and name.endswith(".ipynb"):
            old = notebooks.loads(_git("show", f"{commit}:{name}"))
            found[name] = differences(old, notebooks.read(name)) or ["provenance only"]
        else:
            found[name] = [{"A": "new", "D": "gone"}.get(state, "text")]
    return found


def command(argv: Sequence[str]) -> int:
    parser = Parser(prog=f"unlearn {argv[0]}", description=__doc__, epilog=EPILOG)
    parser.add_argument("--since", default="main", help="a branch, tag or commit (default: main)")
    try:
        found = changed(parser.parse_args(argv[1:]).since)
    except ValueError as error:
        parser.error(str(error))
    for page, what in found.items():
        print(f"{page}: {'; '.join(what)}")
    print(f"{len(found)} pages differ")
    return 0
