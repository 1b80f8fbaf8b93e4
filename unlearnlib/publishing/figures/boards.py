"""The static figures of the boards, for readers without scripts and for print: ranks, costs, and data by request."""

from collections.abc import Sequence

from unlearnlib._extras import optional
from unlearnlib.publishing.figures import appearance

plt = optional("matplotlib.pyplot")
SHOWN = 30  # methods in a figure; the table has all
DOTS = 10  # in a row of the dot plot


def ranks(board: dict, places: Sequence[tuple[float, float]]):
    """Rank intervals, one row a method, best first; `places` [ranked] from the leaderboard."""
    lines = board["lines"][: len(places)][:SHOWN]
    figure, axes = plt.subplots(figsize=(appearance.WIDTH, 0.25 * len(lines) + 0.9))
    for row, (line, (low, high)) in enumerate(zip(lines, places, strict=False)):
        axes.plot([low, high], [row, row], color=line["colour"], lw=5, solid_capstyle="round")
        axes.plot([low, high], [row, row], line["marker"], color=line["colour"], ms=6)
    axes.set_yticks(range(len(lines)), [line["method"] for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel("rank, 95 % intervals over seeds, all at once")
    axes.set_xlim(0.5, len(places) + 0.5)
    return figure


def costs(board: dict, estimate: dict):
    """One estimate over cost, with intervals over seeds and the band in which one more retraining would fall."""
    figure, axes = plt.subplots(figsize=(appearance.WIDTH, 4.2))
    if None not in estimate["null"]:
        appearance.null_band(axes, estimate["null"], along="y", label="one more retraining (95 %)")
    if estimate["retrained"] is not None:
        axes.axhline(estimate["retrained"], color=appearance.BLUE, ls="--", lw=1.2, label="retrained")
    paired = [(m, p) for m, p in zip(board["lines"], estimate["points"], strict=True) if p and m["cost"] is not None]
    least = min([line["cost"] for line, _ in paired if line["cost"]], default=1.0) / 4
    for line, (value, low, high) in paired:
        x = line["cost"] or least
        if low is not None and high is not None:
            axes.plot([x, x], [low, high], color=line["colour"], lw=1.3)
        axes.plot([x], [value], line["marker"], color=line["colour"], ms=6, label=line["method"])
    axes.set_xscale("log")
    axes.set_xlabel("cost, as a share of one retraining (log scale; doing nothing at the left edge)")
    axes.set_title(estimate["title"])
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def by_request(boards: Sequence[dict], title: str):
    """A dot plot: one row a board, each method at its distance to the retrained models, behind them the null's band.

    One panel for each request, as a class and a tenth are of different sizes.
    """
    requests = list(dict.fromkeys(board["request"] for board in boards))
    parts = [[board for board in boards if board["request"] == request] for request in requests]
    figure, grid = plt.subplots(
        len(parts),
        figsize=(appearance.WIDTH, 0.5 * len(boards) + 0.7 * len(parts) + 0.8),
        height_ratios=[len(part) + 0.3 for part in parts],
        squeeze=False,
    )
    names: dict[str, dict] = {}
    for axes, part, request in zip(grid.flat, parts, requests, strict=True):
        for row, board in enumerate(part):
            names |= {line["method"]: line for line in _dots(axes, row, board, title)}
        axes.axvline(0, color=appearance.INK, lw=0.8)
        axes.set_yticks(range(len(part)), [board["data"].split(",")[0] for board in part])
        axes.invert_yaxis()
        axes.set_title(request)
    axes.set_xlabel(f"{title[0].lower()}{title[1:]}, less that of the retrained models")
    handles = [plt.Line2D([], [], color=m["colour"], marker=m["marker"], ls="", label=n) for n, m in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _dots(axes, row: int, board: dict, title: str) -> list[dict]:
    """Draw one row: the original, the null and the first of the other methods. Returns the lines that were drawn."""
    estimate = next(e for e in board["estimates"] if e["title"] == title)
    centre, null = estimate["retrained"], estimate["null"]
    if None not in null:
        ends = [null[0] - centre, null[1] - centre]
        axes.fill_between(ends, row - 0.38, row + 0.38, color=appearance.COLOURS["retrain, other seed"], alpha=0.3)
    paired = [(m, p) for m, p in zip(board["lines"], estimate["points"], strict=True) if p]
    always = [pair for pair in paired if pair[0]["base"] in appearance.COLOURS]
    points = always + [pair for pair in paired if pair not in always][: DOTS - len(always)]
    for place, (line, (value, low, high)) in enumerate(points):
        y = row + 0.6 * (place / max(len(points) - 1, 1) - 0.5)
        if low is not None and high is not None:
            axes.plot([low - centre, high - centre], [y, y], color=line["colour"], lw=1.2)
        axes.plot([value - centre], [y], line["marker"], color=line["colour"], ms=5.5)
    return [line for line, _ in points]
