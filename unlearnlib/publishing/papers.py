"""The ledger of papers re-run: `book/papers.csv`, one public statement a line, with a verdict that its numbers decide.

    source      a key of `book/references.bib`, or a public file
    statement   what the source says, and where nothing was decided, why
    published   the number as the source prints it, or a bound: ">= 10", "<= 0.05"
    ours        our number; empty where nothing was run
    low, high   where a repetition of the published number falls in 19 of 20 cases if it was drawn as ours were: for m
                published and n own runs with mean x and deviation s, x +- t_{n-1} s sqrt(1/n + 1/m) (`prediction`).
                What is computed and not drawn has half a unit of the last published digit on both sides (`rounding`).
                Both are empty where no interval decides
    verdict     agrees: the published number is inside, or the whole interval keeps the bound; disagrees: it is outside,
                or none of the interval keeps the bound; cannot tell: anything else
    page        the page of the book with the command, without its ending

`prediction` asks whether one law made both numbers. It needs no spread from the source.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from scipy import stats

from unlearnlib.publishing import notebooks
from unlearnlib.publishing.markup import grid_table, plain

LEDGER = Path("book/papers.csv")
RUNS = Path("book/benchmarks/papers.json")
READERS = "book/papers"  # the page of lines that readers send: their commands stand there
VERDICTS = ("agrees", "disagrees", "cannot tell")
_PUBLISHED = re.compile(r"(>= |<= )?(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Line:
    """One line of the ledger, as text."""

    source: str
    statement: str
    published: str
    ours: str
    low: str
    high: str
    verdict: str
    page: str


COLUMNS = tuple(field.name for field in fields(Line))


def verdict(published: str, low: str, high: str) -> str:
    """The verdict that follows. ValueError where a number is none, or the interval has one end or is upside down."""
    match = _PUBLISHED.fullmatch(published)
    if not match:
        raise ValueError(f"published is a number, or a bound such as '>= 10', not {published!r}")
    if bool(low) != bool(high):
        raise ValueError("low and high are both given or both empty")
    if not low:
        return "cannot tell"
    value, ends = float(match[2]), (_number("low", low), _number("high", high))
    if ends[0] > ends[1]:
        raise ValueError(f"low {low} is above high {high}")
    if match[1] is None:
        return "agrees" if ends[0] <= value <= ends[1] else "disagrees"
    sign = 1 if match[1] == ">= " else -1
    kept = [sign * end >= sign * value for end in ends]
    return "agrees" if all(kept) else "cannot tell" if any(kept) else "disagrees"


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {text!r}")
    return value


def read(path: Path = LEDGER) -> list[Line]:
    """All lines, checked. Raises ValueError in one line: the file, the line's number and what to do."""
    with open(path, encoding="utf-8", newline="") as file:
        head, *body = list(csv.reader(file)) or [[]]
    if tuple(head) != COLUMNS:
        raise ValueError(f"{path}: the first line must be {','.join(COLUMNS)}")
    lines = []
    for number, cells in enumerate(body, start=2):
        try:
            if len(cells) != len(COLUMNS):
                raise ValueError(f"{len(COLUMNS)} columns are needed, there are {len(cells)}")
            lines.append(_checked(Line(*cells)))
        except ValueError as problem:
            raise ValueError(f"{path}, line {number}: {problem}") from None
    keys = [(line.source, line.statement) for line in lines]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise ValueError(f"{path}: {twice[0]}, {twice[1]!r} stands there twice")
    return lines


def write(lines: Sequence[Line], path: Path = LEDGER) -> None:
    """Write a checked ledger, all or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *map(astuple, map(_checked, lines))])
    notebooks.write_text(path, text.getvalue())


def _checked(line: Line) -> Line:
    if any(cell != " ".join(cell.split()) for cell in astuple(line)):
        raise ValueError("cells are single lines without spaces at their ends")
    for name in ("source", "statement", "page"):
        if not getattr(line, name):
            raise ValueError(f"{name} is empty")
    follows = verdict(line.published, line.low, line.high)
    if line.verdict != follows:
        raise ValueError(f"the verdict that follows from the numbers is {follows!r}, not {line.verdict!r}")
    if line.ours:
        _number("ours", line.ours)
    elif line.low:
        raise ValueError("there is an interval, but ours is empty")
    if line.low and not float(line.low) <= float(line.ours) <= float(line.high):
        raise ValueError(f"ours {line.ours} is not between low {line.low} and high {line.high}")
    return line


def prediction(mean: float, deviation: float, n: int, published_runs: int = 1) -> tuple[float, float, float]:
    """Mean of our n runs, and the 95 % interval for the mean of `published_runs` other ones, as if both were normal.

    deviation   of our runs, with n - 1 in the divisor
    """
    if n < 3:
        raise ValueError(f"a prediction needs three runs at least, there are {n}")
    if published_runs < 1:
        raise ValueError(f"published_runs must be at least 1, not {published_runs!r}")
    half = stats.t.ppf(0.975, n - 1) * deviation * math.sqrt(1 / n + 1 / published_runs)
    return float(mean), float(mean - half), float(mean + half)


def rounding(value: float, published: str) -> tuple[float, float, float]:
    """The value, and half a unit of the last digit of `published` on both sides of it."""
    half = 0.5 * 10.0 ** -len(published.partition(".")[2])
    return value, value - half, value + half


def runs(row: str, path: Path = RUNS) -> list[dict[str, float]]:
    """The numbers of every kept run of one row, by seed."""
    kept = json.loads(Path(path).read_text(encoding="utf-8"))["runs"]
    return [run["numbers"] for run in kept if run["row"] == row]


@dataclass(frozen=True)
class Recorded:
    """A committed file of results as `reproduce` names it: it has a name and a checksum, as a data set has.

    name    path from the root of the book, such as "book/papers.csv"
    """

    name: str
    root: Path = Path()

    def checksum(self) -> str:
        """SHA-256 of its bytes, "" where it is gone."""
        path = self.root / self.name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def table(lines: Sequence[Line]) -> str:
    """The ledger as Markdown: counts, then one row a statement, linked to its page."""
    counts = ", ".join(f"{name}: {sum(line.verdict == name for line in lines)}" for name in VERDICTS)
    shown = [
        [
            plain(line.source),
            plain(line.statement),
            plain(line.published),
            plain(line.ours) + (f" [{plain(line.low)}, {plain(line.high)}]" if line.low else ""),
            line.verdict,
            f"{{doc}}`{line.page.rpartition('/')[2]} </{line.page}>`",
        ]
        for line in lines
    ]
    return f"{counts}.\n\n{grid_table(['Source', 'Statement', 'Published', 'Ours', 'Verdict', 'Page'], shown)}\n"


def texts() -> dict[str, str]:
    """File name -> Markdown of the ledger, or nothing where there is none."""
    return {"papers-table.md": table(read())} if LEDGER.exists() else {}
