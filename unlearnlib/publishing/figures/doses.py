"""What a step, a dial or a dose does (chapters 07 and 08)."""

from collections.abc import Mapping

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    INK,
    ORANGE,
    POINTS,
    WIDTH,
    band,
    colour,
    known,
    look,
    null_band,
    panels,
    plt,
    series,
    ticks,
)


def cost_gap(board, pairs: Mapping[str, str], *, x: str = "cost", y: str = "UA gap"):
    """Cost against the gap of the forget set: open markers are the rows `pairs` names, full ones (with intervals) the
    same methods at a second dose and the same cost. Every point stands at its measured cost; the line joins a method's
    two doses. The band is the null, the dashed line the original."""
    at = board.set_index("method")
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4))
    null_band(axes, (at.loc["retrain, other seed", f"{y}_low"], at.loc["retrain, other seed", f"{y}_high"]), along="y")
    axes.axhline(at.loc["original", y], color=colour("original"), lw=1, ls="--", label="original")
    for name, more in pairs.items():
        shade, marker = look(name)
        cost, end = at.loc[name, x], at.loc[more]
        axes.plot([cost, end[x]], [at.loc[name, y], end[y]], color=shade, lw=1, alpha=0.6)
        axes.plot([end[x]] * 2, [end[f"{y}_low"], end[f"{y}_high"]], color=shade, lw=2.2, alpha=0.35)
        axes.plot(cost, at.loc[name, y], marker, mfc="white", mec=shade, ms=6)
        axes.plot(end[x], end[y], marker, color=shade, ms=6, label=name)
    axes.set(xscale="log", xlabel="cost, as a share of retraining", ylabel=f"{y}: residual < 0 < over-forgotten")
    figure.legend(loc="outside right upper")
    return figure


def dose_error(frame, null: tuple[float, float], columns: Mapping[str, str], *, x: str, label: str):
    """Errors over a dose, mean and range over seeds: the forget error (first of `columns`, name -> label) crosses the
    band of retrained models at a middle dose; beyond it the retain error rises."""
    figure, (axes,) = panels(1, height=3.2)
    for shade, (column, told) in zip((ORANGE, INK), columns.items(), strict=True):
        band(axes, frame, x=x, y=column, colour=shade, label=told)
    null_band(axes, null, along="y", label="forget error of retrained models")
    axes.set(xlabel=label, ylabel="error", ylim=(-0.02, 1.02))
    axes.legend()
    return figure


def two_known_answers(side, height, curve, ends, start, minimum, changes, slopes: Mapping[str, float]):
    """Left: level lines of a quadratic loss; what L2-SP reaches by descent (`ends` [n, 2]) lies on the closed form
    (`curve`). Right: change of the retain loss over the step, slope 2 projected and 1 plain (columns step, eta,
    change)."""
    figure, (left, right) = panels(2, height=3.3)
    left.contour(side, side, height, levels=12, colors="#c8c8c8", linewidths=0.8)
    left.plot(*np.asarray(curve).T, color="black", lw=1.2, label="closed form")
    left.plot(*np.asarray(ends).T, "o", color=ORANGE, label="L2-SP, by descent")
    left.plot(*start, "s", color=colour("original"), label="start")
    left.plot(*minimum, "*", ms=11, color=colour("retrain"), label="minimum")
    left.set(title="L2-SP on a quadratic loss", xlabel="first parameter", ylabel="second parameter")
    left.legend()
    for place, (name, slope) in enumerate(slopes.items()):
        shade, marker = series(place)
        mean = changes[changes.step == name].groupby("eta").change.mean()
        right.loglog(mean.index, mean, "-", marker=marker, ms=4, color=shade, label=f"{name}, slope {slope:.2f}")
    right.set(title="one climbing step", xlabel="step eta", ylabel="|change of the retain loss|")
    right.legend()
    return figure


def respond(axes, rows, column: str, frame, *, colour: str = ORANGE):
    """One response of one dial (mean and range over seeds by `value`), beside the original (dashed) and the band of all
    retrained models of `frame` (name -> rows); distances from the original have no such band."""
    band(axes, rows, x="value", y=column, colour=colour)
    if column != "distance":
        both = np.concatenate([frame[name][column].to_numpy() for name in ("retrain", "null")])
        null_band(axes, (both.min(), both.max()), along="y")
        axes.axhline(frame["original"][column].mean(), color=known("original")[0], ls="--", lw=1)
    return axes


def responses(rows, frame, columns, *, label: str):
    """The responses `columns` of one dial, a panel each. A right dose is where the curve crosses the blue band."""
    figure, drawn = panels(len(columns), columns=2, height=2.4)
    for axes, column in zip(drawn, columns, strict=True):
        respond(axes, rows, column, frame)
        axes.set(title=column, xlabel=label)
        if column == "distance":
            axes.set_yscale("log")
    return figure


def dial_grid(dials: Mapping[str, object], frame, columns):
    """Dials (rows) by responses (columns): how far each dial carries the model from the original (dashed) to the
    retrained models (band), and what else it moves on the way."""
    options = {"sharex": "row", "sharey": "col", "squeeze": False}
    figure, grid = plt.subplots(len(dials), len(columns), figsize=(WIDTH, 1.45 * len(dials) + 0.4), **options)
    for row, (name, rows) in zip(grid, dials.items(), strict=True):
        values = sorted(rows.value.unique())
        for axes, column in zip(row, columns, strict=True):
            respond(axes, rows, column, frame)
            ticks(axes, values[:: max(1, len(values) - 1)])
        row[0].set_ylabel(name)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column)
        if column == "distance":
            axes.set_yscale("log")
    return figure


def equal_forgetting(dials: Mapping[str, object], single: Mapping[str, object], frame, reference: str):
    """Retain against forget accuracy, one curve a dial (`reference` is drawn full), single settings as markers, and the
    original and the retrained model. To the right is more forgetting; above the reference a dial buys something."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    ends = ["forget accuracy", "retain accuracy"]
    for place, (name, rows) in enumerate(dials.items()):
        mean = rows.groupby("value")[ends].mean().sort_values(ends[0])
        shade, marker = series(place)
        line = "-" if name == reference else "--"
        axes.plot(*mean.to_numpy().T, line, marker=marker, ms=3.5, lw=1.4, label=name, color=shade)
    for (name, rows), mark in zip(single.items(), "XP*", strict=False):
        axes.plot(*rows[ends].mean(), mark, color="black", ms=8, label=name)
    for name, mark, size in (("retrain", "*", 15), ("original", "s", 7)):
        axes.plot(*frame[name][ends].mean(), mark, ms=size, color=colour(name), label=name)
    axes.set(xlabel=ends[0], ylabel=ends[1], xlim=(1.0, 0.35), ylim=(0.5, 1.0))
    figure.legend(loc="outside right upper")
    return figure


def ratio_cap(frame, kappa: float, columns: Mapping[str, str]):
    """Gaps and cost over the share that is to be forgotten, without a cap and with one: beyond the dotted line the
    capped learner retrains, at the price of retraining (blue). Columns kind, value and those of `columns`."""
    figure, drawn = panels(len(columns), height=2.8)
    for axes, (column, label) in zip(drawn, columns.items(), strict=True):
        for shade, (kind, part) in zip((INK, ORANGE), frame.groupby("kind", sort=False), strict=True):
            band(axes, part, x="value", y=column, colour=shade, label=kind)
        axes.axvline(kappa, color="#707070", ls=":", lw=1)
        axes.axhline(float(column == "cost"), color=colour("retrain"), lw=1)
        ticks(axes, sorted(frame.value.unique()))
        axes.set(xlabel="share to be forgotten", title=label)
    drawn[0].legend(fontsize=POINTS)
    return figure
