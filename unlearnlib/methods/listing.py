"""The table of methods for the command line, read from their sources: importing them all would take seconds.

What is shown stands as texts in each method's `@method(...)`; `unlearnlib.methods()` has the hyper-parameters too.
"""

import ast
import csv
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearnlib._commands import Parser
from unlearnlib.methods.catalogue import HOMES

COLUMNS = ("name", "family", "reads", "guarantee", "paper", "cost")
_PAGE = """\
examples:
  unlearn methods                              all methods
  unlearn methods --family curvature           those that use second derivatives
  unlearn methods --reads forget               those that need nothing but the forget set
  unlearn methods --guarantee exact --format json

columns:
  reads       the sets that the method sees
  guarantee   exact: the same distribution as training without the forget set; none: to be audited
  paper       key in the bibliography of the book
  cost        a formula in the method's hyper-parameters and the sizes R and F of the retain and the forget set

exit status: 0 some method fits, 1 none does, 2 a wrong request
In Python, unlearnlib.methods() gives the table with the defaults of all hyper-parameters.
"""


def declared() -> list[dict[str, str]]:
    """One row a method, in the order of the catalogue: `COLUMNS` as declared."""
    found: dict[str, dict[str, str]] = {}
    for home in dict.fromkeys(HOMES.values()):
        tree = _parsed(home)
        named = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "method":
                facts = {word.arg: word.value for word in node.keywords if word.arg in COLUMNS}
                told = {name: _text(value, named) for name, value in facts.items()}
                name = _text(node.args[0], named)
                found[name] = dict.fromkeys(COLUMNS, "") | {"name": name, "guarantee": "none"} | told
    return [found[name] for name in HOMES]


def _parsed(module: str) -> ast.Module:
    return ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """What the names of a module stand for, those that it imports from other methods included."""
    named = {node.targets[0].id: node.value for node in tree.body if _names_one(node)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlearnlib.approximate."):
            theirs = {alias.name for alias in node.names if alias.name.isupper()}
            named |= {name: value for name, value in _constants(_parsed(node.module)).items() if name in theirs}
    return named


def _names_one(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)


def _text(node: ast.expr, named: Mapping[str, ast.expr]) -> str:
    """A text written as a literal, a constant of its module, or an f-string of these."""
    if isinstance(node, ast.Name):
        return _text(named[node.id], named)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, named) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, named)
    return ast.literal_eval(node)


def chosen(rows: Sequence[Mapping[str, str]], **wanted: str | None) -> list[Mapping[str, str]]:
    """The rows whose columns have the wanted values (None: any).

    `reads` compares sets, in any order. Raises ValueError that lists the values where no row has the wanted one.
    """
    for column, value in wanted.items():
        known = {row[column]: _parts(row[column]) for row in rows}
        if value is not None and _parts(value) not in known.values():
            raise ValueError(f"no method has {column} {value!r}: there are {'; '.join(sorted(known))}")
    return [row for row in rows if all(v is None or _parts(row[c]) == _parts(v) for c, v in wanted.items())]


def _parts(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")}


def written(rows: Sequence[Mapping[str, str]], form: str) -> str:
    """The rows as "text" (aligned columns), "csv" or "json"."""
    if form == "json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False)
    if form == "csv":
        file = io.StringIO()
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return file.getvalue().rstrip("\n")
    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def command(argv: Sequence[str]) -> int:
    parser = Parser(prog="unlearn methods", description="The table of unlearning methods.", epilog=_PAGE)
    parser.add_argument("--family", help="exact, gradient, distillation, saliency, curvature, distribution, ...")
    parser.add_argument("--reads", metavar="SETS", help='what it may see: "retain", "forget", "retain, forget"')
    parser.add_argument("--guarantee", help="exact or none")
    parser.add_argument("--format", choices=("text", "csv", "json"), default="text")
    args = parser.parse_args(argv[1:])
    rows = chosen(declared(), family=args.family, reads=args.reads, guarantee=args.guarantee)
    if rows:
        print(written(rows, args.format))
    return 0 if rows else 1
