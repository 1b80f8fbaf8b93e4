"""The static figures of the boards, for readers without scripts and for print: ranks, costs, and data by request."""

import math
from collections.abc import Sequence

from unlearnlib._extras import optional
from unlearnlib.publishing.figures import appearance

plt = optional("matplotlib.pyplot")
SHOWN = 30  # methods in a figure; the table has all


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
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    return figure


def by_request(boards: Sequence[dict], title: str):
    """A dot plot: one row a board, each method at its distance to the retrained models, behind them the null's band."""
    figure, axes = plt.subplots(figsize=(appearance.WIDTH, 0.5 * len(boards) + 1.6))
    names: dict[str, dict] = {}
    for row, board in enumerate(boards):
        estimate = next(e for e in board["estimates"] if e["title"] == title)
        centre, null = estimate["retrained"], estimate["null"]
        if None not in null:
            ends = [null[0] - centre, null[1] - centre]
            axes.fill_between(ends, row - 0.38, row + 0.38, color=appearance.COLOURS["retrain, other seed"], alpha=0.3)
        points = [(m, p) for m, p in zip(board["lines"], estimate["points"], strict=True) if p]
        for place, (line, (value, low, high)) in enumerate(points):
            y = row + 0.6 * (place / max(len(points) - 1, 1) - 0.5)
            if low is not None and not math.isnan(low):
                axes.plot([low - centre, high - centre], [y, y], color=line["colour"], lw=1.2)
            axes.plot([value - centre], [y], line["marker"], color=line["colour"], ms=5.5)
            names.setdefault(line["method"], line)
    axes.axvline(0, color=appearance.INK, lw=0.8)
    axes.set_yticks(range(len(boards)), [f"{b['data'].split(',')[0]}\n{b['request']}" for b in boards])
    axes.invert_yaxis()
    axes.set_xlabel(f"{title[0].lower()}{title[1:]}, less that of the retrained models")
    handles = [plt.Line2D([], [], color=m["colour"], marker=m["marker"], ls="", label=n) for n, m in names.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.22 - 0.5 / len(boards)), ncols=3)
    return figure
