"""The numbers behind the decision guide, `book/which-method.md`: claims of the chapters, and the boards by budget.

Each arrow of the guide has a fragment below `book/generated` with the claims that it rests on: their verdict, their
evidence and a link to the place where the run that made them stands. A claim that was reworded is missed here at once.
"""

import difflib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from unlearnlib.publishing import bookkeeping, notebooks
from unlearnlib.publishing.markup import grid_table, plain
from unlearnlib.studies.settings import NULL, ORIGINAL

PAGE = Path("book/which-method.md")
# arrow -> (chapter, how the claim begins)
ARROWS: dict[str, tuple[tuple[str, str], ...]] = {
    "retrain": (
        ("01", "On the forget set the original differs from the retrained model"),
        ("14", "No method, as published or tuned, is as near to retraining"),
    ),
    "structure": (
        ("04", "Exact deletion of one point is cheaper than one epoch of fine-tuning"),
        ("03", "Against one network on all data, the largest number of shards"),
        ("03", "A whole class costs shards more than four fifths of a training"),
        ("04", "One deletion rebuilds less than a twentieth of a greedy forest"),
        ("04", "An adversary makes forests and shards pay more"),
    ),
    "class": (
        ("07", "As published, DELETE takes a class away"),
        ("07", "Where a class is to go"),
        ("13", "Noise alone takes the class"),
        ("13", "An accuracy of zero is not absence"),
    ),
    "examples": (
        ("14", "The original is farther from retraining than the null is"),
        ("14", "As published, at most half of the methods beat fine-tuning"),
        ("14", "Tuning brings most methods nearer to retraining"),
        ("08", "At the retrained model's forget accuracy every dial has lost"),
        ("12", "Datamodel matching is half as far from retraining"),
        ("12", "The subset models do not pay here"),
    ),
    "person": (
        ("11", "There is something to forget"),
        ("11", "DLFD as written lowers the attack on the forgotten people"),
        ("11", "DLFD as written keeps the task"),
        ("11", "U-LiRA tells models that unlearned by DLFD as released"),
    ),
    "guarantee": (
        ("10", "Convexity makes certificates cheap"),
        ("10", "A certificate that assumes nothing of the training before it costs most"),
        ("09", "Privacy costs accuracy"),
        ("09", "Groups cost more than linearly"),
        ("09", "An exact method reaches the accuracy of the best private model"),
    ),
    "audit": (
        ("02", "Before anything is unlearned, a threshold on the loss"),
        ("02", "Fewer models make the same attack weaker"),
        ("02", "An average hides whom it is about"),
    ),
}
BUDGETS = (0.02, 0.05, 0.1, 0.25, 0.5)
ROUNDING = 1.025  # a fraction of an epoch more than a budget still counts as within it


def texts(pages: Mapping[Path, Mapping], boards: Sequence[Mapping]) -> dict[str, str]:
    """File name -> fragment, from the chapters (path -> notebook) and the boards.

    Raises ValueError for an arrow whose claim no chapter makes, with the nearest that it does.
    """
    chapters = {path.stem[:2]: path for path in pages if path.parts[0] == "notebooks"}
    found = {f"guide-{arrow}.md": _arrow(wanted, chapters, pages) for arrow, wanted in ARROWS.items()}
    return found | {"guide-budgets.md": budgets(boards)}


def _arrow(wanted: Sequence[tuple[str, str]], chapters: Mapping[str, Path], pages: Mapping[Path, Mapping]) -> str:
    lines = []
    for number, beginning in wanted:
        path = chapters.get(number)
        made = {} if path is None else {c["text"]: c for c in notebooks.noted(pages[path], "claim")}
        claim = next((c for text, c in made.items() if text.startswith(beginning)), None)
        if claim is None:
            near = difflib.get_close_matches(beginning, made, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"guide: chapter {number} makes no claim that begins {beginning!r}{hint}")
        place = f"../notebooks/{path.stem}.html#{bookkeeping.claim_anchor(claim['text'])}"
        evidence = f": {plain(claim['evidence'])}" if claim["evidence"] else ""
        link = f'<a href="{html.escape(place)}">chapter {number}</a>'
        lines.append(f"- **{claim['verdict']}**, {link}: *{plain(claim['text'])}*{evidence}")
    return "\n".join(lines) + "\n"


def budgets(boards: Sequence[Mapping]) -> str:
    """For each ranked board and budget: the methods that may be first among those that it pays for."""
    ranked = [board for board in boards if board["order"]]
    if not ranked:
        return "No results file with a ranking audit is here yet, so no method is named.\n"
    parts = []
    for board in ranked:
        rows = [_budget(board, share) for share in BUDGETS]
        head = ["Budget, of a retraining", "May be first", "Of these surely nearer to retraining than doing nothing"]
        parts.append(f"*{plain(board['title'])}*, {board['seeds']} seeds:\n\n{grid_table(head, rows)}")
    return "\n\n".join(parts) + "\n"


def _budget(board: Mapping, share: float) -> list[str]:
    order, names = board["order"], [line["method"] for line in board["lines"]]
    costs = [line["cost"] for line in board["lines"]]
    paid = [i for i in range(len(order)) if names[i] not in (ORIGINAL, NULL) and (costs[i] or 0.0) <= share * ROUNDING]
    first = [i for i in paid if all(order[i][j] <= 0 for j in paid)]
    idle = names.index(ORIGINAL) if ORIGINAL in names[: len(order)] else None
    better = [names[i] for i in first if idle is not None and order[i][idle] < 0]
    said = ", ".join(map(plain, better)) or "none"
    return [f"{100 * share:g} %", ", ".join(plain(names[i]) for i in first) or "none fits", said if first else ""]
