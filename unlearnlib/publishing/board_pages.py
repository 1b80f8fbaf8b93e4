"""Fragments of the pages of results: data for their scripts, the static figures and tables, and the list of files.

They stand below `book/generated`. Where a results file is missing they say so, and the pages build all the same.
"""

import io
import json
import re
from collections.abc import Collection, Mapping, Sequence

from unlearnlib._extras import optional
from unlearnlib.publishing import archive
from unlearnlib.publishing.figures import appearance
from unlearnlib.publishing.figures import boards as figures
from unlearnlib.publishing.markup import code, grid_table, plain
from unlearnlib.publishing.tables import estimate

plt = optional("matplotlib.pyplot")
NONE_YET = "No results file with a ranking audit, U-LiRA or KLoM, is here yet: nothing is ranked."
DOTS = "Error on the forget set"
PLANNED = {
    "cifar10-class": "CIFAR-10 at full size: one class, by the same methods",
    "cifar100-random": "CIFAR-100 at full size: a tenth of the training pictures",
    "imagenette-random": "Imagenette at 64 pixels: a tenth of the training pictures",
}


def texts(found: Sequence[Mapping], rows, made_by: Mapping[str, str], pages: Collection[str] = ()) -> dict[str, str]:
    """File name -> text of all fragments, from the boards, their rows, and what makes each file (see `listed`)."""
    appearance.style()  # before any figure is begun
    ranked = [board for board in found if board["ranked"]]
    made = {
        "board.html": embedded(found),
        "board-files.md": listed(rows, made_by, pages),
        "board-columns.md": columns(),
    }
    made["board-proxies.md"] = proxies(ranked)
    made["board-ranks.md"] = NONE_YET + "\n" if not ranked else _ranked(ranked)
    made["board-costs.md"] = _explored(found, "board-costs")
    made["guide-costs.md"] = _explored(ranked, "guide-costs", stays=True)
    if ranked and _places(ranked[0]):
        made["board-ranks.svg"] = drawing(figures.ranks(ranked[0], _places(ranked[0])), _ranks_alt(ranked[0]))
    if found:
        first = found[0]["estimates"][0]
        made["board-costs.svg"] = drawing(figures.costs(found[0], first), _costs_alt(found[0], first))
    dotted = [b for b in found if any(e["title"] == DOTS and e["retrained"] is not None for e in b["estimates"])]
    made["board-requests.md"] = _dotted(dotted)
    if dotted:
        made["board-requests.svg"] = drawing(figures.by_request(dotted, DOTS), DOTS_ALT)
    return made


def embedded(found: Sequence[Mapping]) -> str:
    """The boards as JSON inside the page, where a script reads them without any request, and that script."""
    data = json.dumps({"boards": list(found)}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<link rel="stylesheet" href="../_static/boards.css">\n'
        f'<script type="application/json" id="boards-data">{data}</script>\n'
        '<script src="../_static/boards.js" defer></script>\n'
    )


def _places(board: Mapping) -> list[tuple[int, int]]:
    """Rank intervals of the ranked lines; empty where one seed ranks nothing."""
    order = board["order"]
    return [(1 + sum(v > 0 for v in row), len(order) - sum(v < 0 for v in row)) for row in order]


def _ranks_alt(board: Mapping) -> str:
    ends = [f"{m['method']} {low} to {high}" for m, (low, high) in zip(board["lines"], _places(board), strict=False)]
    return f"Rank intervals on {board['title']}, best first: {'; '.join(ends)}."


def _costs_alt(board: Mapping, shown: Mapping) -> str:
    return (
        f"{shown['title']} of {sum(p is not None for p in shown['points'])} methods over their cost, with intervals,"
        f" on {board['title']}. A band shows where one more retraining would fall."
    )


DOTS_ALT = (
    f"Dot plot: one row for each data set and request, each method at its {DOTS.lower()} less that of the retrained"
    " models, with intervals over seeds; a band in each row shows where one more retraining would fall."
)


def drawing(figure, alt: str) -> str:
    """A figure as SVG text: the same for the same numbers, naming no other host, and with its alternative text."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # metadata would name other hosts
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "boards"}):
        figure.savefig(text, format="svg", metadata=nothing, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    label = alt.replace("&", "and").replace('"', "'").replace("<", "under ")
    found = re.sub(r"<\?xml.*?<svg ", f'<svg role="img" aria-label="{label}" ', text.getvalue(), count=1, flags=re.S)
    return found.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")


def _figure(drawn: str, name: str, alt: str, caption: str, *, folder: str = "generated", stays: bool = False) -> str:
    """A numbered figure, which the script of its page hides once it has drawn its own, unless it `stays`.

    `folder` is that of the drawing as seen from the page that includes this.
    """
    options = ["" if stays else ":figclass: board-static\n", f":name: {name}\n", f":alt: {alt}\n"]
    return f"```{{figure}} {folder}/{drawn}.svg\n{''.join(options)}\n{caption}\n```"


def _ranked(found: Sequence[Mapping]) -> str:
    first, parts = found[0], []
    if _places(first):
        caption = (
            f"{plain(first['title'])}: rank intervals over {first['seeds']} seeds. Methods whose bars overlap are not"
            " told apart."
        )
        parts.append(_figure("board-ranks", "board-ranks", plain(_ranks_alt(first)), caption))
    for board in found:
        parts.append(f"````{{dropdown}} As a table: {plain(board['title'])}\n{ranking(board)}\n````")
    return "\n\n".join(parts) + "\n"


def ranking(board: Mapping) -> str:
    """The leaderboard of one board as a Markdown table: rank, method, score, test accuracy, cost."""
    places, lines = _places(board), []
    for i, line in enumerate(board["lines"]):
        low, high = places[i] if i < len(places) else (None, None)
        rank = "not ranked" if low is None else f"{low}" if low == high else f"{low} to {high}"
        score = sum(line["scores"]) / len(line["scores"]) if line["scores"] else None
        damage = estimate(*line["damage"]) if None not in line["damage"] and line["damage"] else "n/a"
        cost = "n/a" if line["cost"] is None else f"{line['cost']:.3g}"
        lines.append([rank, plain(line["method"]), "n/a" if score is None else f"{score:.2f}", damage, cost])
    head = ["Rank", "Method", "Score", "Test accuracy, less retraining's", "Cost, of a retraining"]
    return grid_table(head, lines)


def proxies(found: Sequence[Mapping]) -> str:
    """What cheaper numbers say of the ranking, for the first board that has any: a sentence and a folded table."""
    board = next((b for b in found if b["proxies"]), None)
    if board is None:
        return "No ranked board has another audit beside the two that rank.\n"
    known = [p for p in board["proxies"] if None not in p["correlation"]]
    above, below = ([p for p in known if side * p["correlation"][i] > 0] for side, i in ((1, 1), (-1, 2)))
    best = f" The nearest is {plain(_measure(known[0]))}: {estimate(*known[0]['correlation'])}." if known else ""
    lines = [[plain(_measure(p)), p["subset"], estimate(*_ends(p)), str(p["methods"])] for p in board["proxies"]]
    head = ["Cheaper number", "On", "Rank correlation with the score", "Methods"]
    table = grid_table(head, lines)
    return (
        f"On {plain(board['title'])}: of {len(lines)} cheaper numbers, {len(above)} have an interval above 0,"
        f" {len(below)} below it, and {len(lines) - len(above) - len(below)} are not decided, each by"
        f" itself.{best}\n\n````{{dropdown}} All of them\n{table}\n````\n"
    )


def _measure(proxy: Mapping) -> str:
    return f"{proxy['audit']}, {proxy['statistic']}"


def _ends(proxy: Mapping) -> list[float]:
    return [float("nan") if end is None else end for end in proxy["correlation"]]


def _explored(found: Sequence[Mapping], name: str, *, stays: bool = False) -> str:
    if not found:
        return NONE_YET + "\n"
    board, first = found[0], found[0]["estimates"][0]
    caption = (
        f"{plain(board['title'])}: {plain(first['title'])}, over cost. Bars: 95 % intervals over seeds. Band: where one"
        " more retraining would fall."
    )
    return _figure("board-costs", name, plain(_costs_alt(board, first)), caption, stays=stays) + "\n"


def _dotted(found: Sequence[Mapping]) -> str:
    if not found:
        return "No results file is here yet.\n"
    caption = (
        "Each method's error on the forget set, less that of the retrained models: 0 answers the forgotten examples as"
        " retraining does, and a point on its left still knows them. Bars: 95 % intervals over seeds. Bands: where one"
        " more retraining would fall."
    )
    name = "board-requests"
    return _figure(name, name, plain(DOTS_ALT), caption, folder="../generated", stays=True) + "\n"


def listed(rows, made_by: Mapping[str, str], pages: Collection[str] = ()) -> str:
    """All results files: what they hold, what makes each; and those that are planned and not there.

    `pages`: names of files that a page of the same name makes and tells how.
    """
    lines = []
    for name, part in rows.groupby("file", sort=True):
        stem = name.rpartition(".")[0]
        size = f"{len(part):,} rows, {part['method'].nunique()} methods, {part['seed_train'].nunique()} seeds"
        what = ", ".join(dict.fromkeys(part["dataset"] + ": " + part["forget_set_id"].str.partition(", seed")[0]))
        page = f"[its page](benchmarks/{stem}.ipynb)" if stem in pages else ""
        lines.append([code(name), plain(what), size, page or code(made_by.get(stem, "")) or "not recorded"])
    there = {name.rpartition(".")[0] for name in rows["file"].unique()}
    lines += [[code(stem), plain(what), "not there yet", ""] for stem, what in PLANNED.items() if stem not in there]
    return grid_table(["File", "What it holds", "Size", "Made by"], lines) + "\n"


def columns() -> str:
    """The columns of the archive: name, type and unit, meaning."""
    parts = []
    for title, schema in (("results", archive.SCHEMA), ("results-examples", archive.OF_EXAMPLES)):
        lines = [[code(n), f"{kind}{', ' if unit else ''}{unit}", plain(m)] for n, (kind, unit, m) in schema.items()]
        parts.append(f"````{{dropdown}} Columns of {title}\n{grid_table(['Column', 'Type', 'Meaning'], lines)}\n````")
    return "\n\n".join(parts) + "\n"
