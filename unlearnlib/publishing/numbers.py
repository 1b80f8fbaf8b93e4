"""Numbers you should get: what the committed chapters record, and which of a reader's numbers left its interval.

A chapter's tables print estimates as `value ± half` or `value +up -down`, its claims as `value [low, high]`. The
interval is the tolerance: over the seeds of the chapter it says how far another draw may lie, so a re-run by other
instructions, threads or versions is compared by it. With pinned numerics a re-run gives the same digits, and `git diff`
is the sharper comparison. Of a claim the verdict is compared.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearnlib._commands import Parser
from unlearnlib.publishing import notebooks
from unlearnlib.publishing.execution import committed

_REAL = r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf)"
_ESTIMATE = re.compile(
    rf"(?<![\w.])(?P<value>{_REAL}) (?:\[(?P<low>{_REAL}), (?P<high>{_REAL})\]|± (?P<half>{_REAL})"
    rf"|\+(?P<up>{_REAL}) -(?P<down>{_REAL}))"
)
_STARTS = re.compile(r"[-+]?[\d.]")
_EXAMPLES = """\
examples:
  unlearn numbers                                        the numbers of every chapter, with their intervals
  unlearn numbers notebooks/03-exact-shards-and-modules.ipynb
  unlearn run notebooks/0*.ipynb -o runs --fast && unlearn numbers --compare runs

With --compare, chapters are looked for in that folder under the same name, and what is not there is passed over.

exit status: 0 every number is inside and every claim alike, 1 something is not, 2 a wrong request
"""


@dataclass(frozen=True)
class Number:
    """One recorded estimate and where it stands: the table's title or the claim, the row's words, its count there."""

    place: tuple[str, str, int]
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        title, row, index = self.place
        return f"{title[:70]} | {row[:50]} | {index}"


def recorded(page: Mapping) -> Iterator[Number]:
    """Every estimate with an interval in a page's outputs, in order."""
    seen = Counter()
    for output in (o for cell in page["cells"] for o in cell.get("outputs", [])):
        text = "".join(output.get("data", {}).get("text/plain", ""))
        claim = output.get("metadata", {}).get("unlearnlib", {}).get("claim")
        lines = [(claim["text"], claim["evidence"])] if claim else _rows(text)
        for title, line in lines:
            row = "" if claim else _words(line)
            for found in _ESTIMATE.finditer(line):
                seen[title, row] += 1
                yield Number((title, row, seen[title, row]), *_ends(found))


def _ends(found: re.Match) -> tuple[float, float, float]:
    """Value, low and high of an estimate, however it is written."""
    parts = {name: float(number) for name, number in found.groupdict().items() if number is not None}
    value = parts["value"]
    down, up = parts.get("down", parts.get("half", 0.0)), parts.get("up", parts.get("half", 0.0))
    digits = max(len(text.partition(".")[2]) for text in found.groups("") if "e" not in text)
    return value, parts.get("low", round(value - down, digits)), parts.get("high", round(value + up, digits))


def _rows(text: str) -> list[tuple[str, str]]:
    """Title and line of every line but the title."""
    title, *lines = text.splitlines() or [""]
    return [(title, line) for line in lines]


def _words(line: str) -> str:
    """The cells at the head of a table's row that are no numbers: its name."""
    return " ".join(itertools.takewhile(lambda cell: not _STARTS.match(cell), re.split(r"\s{2,}", line.strip())))


def departures(page: Mapping, mine: Mapping) -> list[str]:
    """One line for each number of `mine` outside the interval of `page`, or missing, and each claim that changed.

    Raises ValueError if the two pages were run with different parameters.
    """
    if notebooks.stamp(page).get("parameters") != notebooks.stamp(mine).get("parameters"):
        raise ValueError("it was run with other parameters than the committed page: run it at its defaults")
    own = {number.place: number.value for number in recorded(mine)}
    found = []
    for number in recorded(page):
        if number.place not in own:
            found.append(f"{number}: should be {number.value:g}, is not there")
        elif not number.low <= own[number.place] <= number.high:
            found.append(f"{number}: {own[number.place]:g} is outside [{number.low:g}, {number.high:g}]")
    verdicts = {claim["text"]: claim["verdict"] for claim in notebooks.noted(mine, "claim")}
    for claim in notebooks.noted(page, "claim"):
        here = verdicts.get(claim["text"], "is not there")
        if here != claim["verdict"]:
            found.append(f"claim {claim['text'][:100]!r}: should be {claim['verdict']!r}, {here!r}")
    return found


def _listed(path: Path) -> None:
    page = notebooks.read(path)
    numbers, claims = list(recorded(page)), notebooks.noted(page, "claim")
    print(f"{path.as_posix()}: {len(numbers)} numbers, {len(claims)} claims")
    for number in numbers:
        print(f"  {number}: {number.value:g} [{number.low:g}, {number.high:g}]")
    for claim in claims:
        print(f"  claim {claim['verdict']}: {claim['text'][:100]}")


def _compared(pages: Sequence[Path], folder: Path) -> int:
    found = [path for path in pages if (folder / path.name).is_file()]
    if not found:
        raise ValueError(f"no chapter of the book lies in {folder}: run one with `unlearn run NOTEBOOK -o {folder}`")
    left = 0
    for path in found:
        page = notebooks.read(path)
        try:
            lines = departures(page, notebooks.read(folder / path.name))
        except ValueError as problem:
            raise ValueError(f"{folder / path.name}: {problem}") from None
        left += len(lines)
        print(f"{path.name}: {len(list(recorded(page)))} numbers and {len(notebooks.noted(page, 'claim'))} claims")
        print("\n".join(f"  {line}" for line in lines or ["all inside their intervals"]))
    return 1 if left else 0


def command(argv: Sequence[str]) -> int:
    """`unlearn numbers`: print the numbers of the chapters, or compare a reader's with them."""
    about = "Numbers you should get, with tolerances; or which of yours left its interval."
    parser = Parser(prog=f"unlearn {argv[0]}", description=about, epilog=_EXAMPLES)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="a folder with chapters that you executed")
    args = parser.parse_args(argv[1:])
    chapters = [path for path in committed() if path.parts[0] == "notebooks"]
    pages = [Path(name) for name in args.notebooks] or chapters
    if args.compare:
        return _compared(pages, args.compare)
    for path in pages:
        _listed(path)
    return 0
