"""Influence, Newton and the matrices behind them (chapters 05 and 06)."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    INK,
    band,
    bare,
    colour,
    look,
    mpl,
    null_band,
    panels,
    plt,
    series,
)
from unlearnlib.publishing.figures.charts import curves

_LINES = {"original": "-", "retrain": "-", "influence": "--", "rescaled_influence": ":"}
_TOLD = {"retrain": "refitted without it", "rescaled_influence": "rescaled influence"}


def influence_plane(points, labels, strength, side, fields: Sequence[Mapping[str, np.ndarray]], removed, titles):
    """Points coloured by influence, with boundaries (log-odds of each name on `side` x `side`); one panel an entry of
    `fields`, without the point `removed` (crossed; None: with all). An influential point holds the boundary in place,
    and the estimates follow the refit; a redundant one can go without a trace."""
    figure, drawn = panels(len(fields), height=3.2, sharex=True, sharey=True)
    norm = mpl.colors.LogNorm(strength.min(), strength.max())
    for axes, field, gone, title in zip(drawn, fields, removed, titles, strict=True):
        for k, marker in ((0, "o"), (1, "s")):
            here = (labels == k) & (np.arange(len(labels)) != gone)
            cloud = axes.scatter(
                *points[here].T,
                c=strength[here],
                marker=marker,
                cmap="Blues",
                edgecolors="#707070",
                lw=0.5,
                s=24,
                norm=norm,
            )
        if gone is not None:
            axes.plot(*points[gone], "x", color="black", ms=9, mew=2)
        for name, odds in field.items():
            tint, line = [colour(name)], [_LINES[name]]
            axes.contour(side, side, odds, levels=[0.0], colors=tint, linewidths=1.8, linestyles=line)
        axes.set_title(title)
        bare(axes).set(xlim=(side[0], side[-1]), ylim=(side[0], side[-1]))
    figure.colorbar(cloud, ax=drawn, label="change of the log-odds", location="right", shrink=0.8)
    handles = [
        plt.Line2D([], [], color=colour(n), ls=_LINES[n], lw=1.8, label=_TOLD.get(n, n)) for n in max(fields, key=len)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def law_and_refits(ridge, refits):
    """Left: influence over leave-one-out, on the line 1 - leverage (columns leverage, ratio). Right: influence against
    refits, near the diagonal (columns seed, influence, refit): the ranking is right, the effect under-estimated."""
    figure, (left, right) = panels(2, height=3.2)
    span = np.linspace(0, ridge.leverage.max() * 1.05, 2)
    left.plot(span, 1 - span, color=INK, lw=1, label="$1 - h$")
    left.plot(ridge.leverage, ridge.ratio, ".", color=colour("influence"), ms=4)
    left.set(xlabel="leverage $h$", ylabel="influence / leave-one-out", title="ridge regression")
    left.legend()
    limit = 1.05 * np.abs(refits[["influence", "refit"]]).to_numpy().max()
    right.plot([-limit, limit], [-limit, limit], color=INK, lw=1)
    for place, (seed, part) in enumerate(refits.groupby("seed")):
        shade, marker = series(place + 1)
        right.plot(part["refit"], part["influence"], marker, color=shade, ms=3, label=f"subset {seed}")
    right.set(xlabel="change of the log-odds, refitted", ylabel="influence estimate", title="logistic regression")
    right.legend()
    return figure


def error_growth(frame, marks):
    """Error over the distance to go against the size of the forget set, one panel a kind of set: influence grows to
    doing nothing (1), Newton steps lie far below. Median and range; columns forget, arm, size, error."""
    figure, drawn = panels(frame.forget.nunique(), height=3.4, sharey=True)
    for axes, (kind, part) in zip(drawn, frame.groupby("forget", sort=False), strict=True):
        found = part.groupby(["arm", "size"], sort=False)["error"].agg(["median", "min", "max"]).reset_index()
        ends = {"low": "min", "high": "max", "label": "error / distance to go"}
        curves(found, x="size", y="median", by="arm", marks=marks, axes=axes, **ends)
        axes.set(yscale="log", xlabel="size of the forget set", title=f"forget set: {kind}")
        axes.get_legend().remove()
    for axes in drawn[1:]:
        axes.set_ylabel("")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def depth_correlation(frame, named: Mapping[str, str]):
    """Rank correlation of influence with each target over the number of hidden layers, mean and range over seeds:
    high with the proximal Bregman response, falling with retraining. Columns depth, target, correlation."""
    figure, (axes,) = panels(1, height=3.2)
    shades = {"response": look("pbrf"), "leave-one-out": look("retrain")}
    for target, label in named.items():
        shade, marker = shades[target]
        part = frame[frame.target == target]
        band(axes, part, x="depth", y="correlation", colour=shade, marker=marker, label=label)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set_xticks(sorted(frame.depth.unique()))
    axes.set(xlabel="hidden layers", ylabel="rank correlation of influence", ylim=(min(-0.2, axes.get_ylim()[0]), 1.05))
    axes.legend(loc="lower left")
    return figure


def residual_curves(frame):
    """Relative residual over iterations, one panel a damping, one line a seed; diamonds are direct inverses.
    Columns damping, solver, residuals (a list). Above 1 an answer is worse than none."""
    dampings = sorted(frame.damping.unique())
    figure, drawn = panels(len(dampings), height=3.0, sharey=True)
    names = list(dict.fromkeys(frame.solver))
    for axes, damping in zip(drawn, dampings, strict=True):
        for place, name in enumerate(names):
            shade = series(place)[0]
            for k, residuals in enumerate(frame[(frame.solver == name) & (frame.damping == damping)].residuals):
                direct = len(residuals) == 2
                x, y = ([1], residuals[-1:]) if direct else (range(len(residuals)), residuals)
                axes.plot(x, y, "D" if direct else "-", ms=6, lw=1.3, color=shade, label=None if k else name)
        axes.set_xscale("symlog", linthresh=1)
        axes.set(yscale="log", ylim=(1e-6, 50), title=rf"damping $\delta$ = {damping:g}", xlabel="iterations")
    drawn[0].set_ylabel("relative residual")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure


def damping(frame, levels: Mapping[str, Mapping[str, tuple[float, float]]]):
    """Gap to retraining over the damping, one panel a request, with the ranges of the original and of the null
    (`levels`). Large damping is doing nothing. Columns request, damping, method, gap."""
    figure, drawn = panels(len(levels), height=3.1)
    for axes, (kind, known) in zip(drawn, levels.items(), strict=True):
        methods = frame[frame.request == kind].groupby("method", sort=False)
        for (name, part), line in zip(methods, ("-", "--", ":", "-."), strict=False):  # one family has one colour
            shade, marker = look(name)
            band(axes, part, x="damping", y="gap", colour=shade, marker=marker, line=line, label=name)
        for name, ends in known.items():
            if name == "original":
                axes.axhspan(*ends, color=colour(name), alpha=0.3, lw=0, label=name)
            else:
                null_band(axes, ends, along="y", label=name)
        axes.set(xscale="log", xlabel="damping", title=kind)
    drawn[0].set_ylabel("gap to retrained, forget set")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def noise_doses(frame, levels: Mapping[str, float]):
    """Retain and forget accuracy over the dose of noise, one panel a request; dashed is the retrained model's forget
    accuracy. Both fall together. Columns request, dose, retain, forget."""
    figure, drawn = panels(len(levels), height=3.0, sharey=True)
    for axes, (kind, level) in zip(drawn, levels.items(), strict=True):
        for place, column in enumerate(("retain", "forget")):
            shade, marker = series(place)
            band(axes, frame[frame.request == kind], x="dose", y=column, colour=shade, marker=marker, label=column)
        axes.axhline(level, color=colour("retrain"), ls="--", lw=1.2, label="retrained, forget set")
        axes.set(xscale="log", xlabel=r"$\lambda$", title=kind)
    drawn[0].set_ylabel("accuracy")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
