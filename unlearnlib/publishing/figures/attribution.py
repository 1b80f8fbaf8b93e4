"""How well answers without the forgotten examples are predicted, and what matching them gives (chapter 12)."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    GREY,
    INK,
    ORANGE,
    POINTS,
    RED,
    band,
    colour,
    look,
    null_band,
    panels,
    series,
    ticks,
)


def klom_over_cost(rows, columns: Sequence[str], floor, levels: Mapping[str, object]):
    """KLoM over cost, both on logarithmic axes, a panel for each of `columns`: mean and range over forget sets (columns
    method and cost). The band is what oracles score against oracles (`floor`: their rows), dashed lines are `levels`
    (name -> rows) that no training moves."""
    figure, drawn = panels(len(columns), height=3.4, sharey=True)
    for axes, column in zip(drawn, columns, strict=True):
        null_band(axes, (floor[column].min(), floor[column].max()), along="y", label="retrain, other seed")
        for name, values in levels.items():
            line = ":" if name == "original" else "--"
            axes.axhline(values[column].mean(), color=colour(name), lw=1.3, ls=line, label=name)
        for name, part in rows.groupby("method", sort=False):
            shade, marker = look(name)
            band(axes, part, x="cost", y=column, colour=shade, label=name, marker=marker)
        low, high = rows.cost.min() / 1.2, rows.cost.max() * 1.2
        ticks(axes, [v for v in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if low <= v <= high])
        axes.set(title=column, xlabel="cost / retraining", yscale="log")
    drawn[0].set_ylabel("KLoM, median over examples")
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=POINTS)
    return figure


def score_over_models(rows, levels: Mapping[str, float]):
    """The rank score over the number of models behind a datamodel, a line for each `set`: mean and range over draws of
    the models (columns models, set, score). Dashed: `levels`, attributions that need no such number."""
    figure, (axes,) = panels(1, height=3.2)
    for place, (name, part) in enumerate(rows.groupby("set", sort=False)):
        shade, marker = series(place)
        band(axes, part, x="models", y="score", colour=shade, label=name, marker=marker)
    for name, value in levels.items():
        axes.axhline(value, color=colour(name), ls="--", lw=1.3, label=name)
    ticks(axes, sorted(rows.models.unique()))
    axes.set(xlabel="models trained on subsets, m", ylabel="LDS on held-out subsets")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def margin_changes(found: Mapping[str, object], slopes: Mapping[str, Mapping[str, float]]):
    """Predicted against true change of the margin, one point an example, a panel for each of `found` (frames with set,
    true and predicted). On the dashed line the size is right; `slopes` are those of the lines through the points."""
    figure, drawn = panels(len(found), height=3.3, sharex=True, sharey=True)
    for axes, (title, frame) in zip(drawn, found.items(), strict=True):
        ends = np.array([min(frame.true.min(), frame.predicted.min()), max(frame.true.max(), frame.predicted.max())])
        axes.plot(ends, ends, "--", color=INK, lw=1)
        for place, (name, part) in enumerate(frame.groupby("set", sort=False)):
            shade = (RED, GREY)[place]
            axes.scatter(part.true, part.predicted, s=9, color=shade, alpha=0.6, lw=0, zorder=2 - place)
            slope = slopes[title][name]
            line = part.predicted.mean() + slope * (ends - part.true.mean())
            axes.plot(ends, line, color=shade, lw=1.5, label=f"{name}: slope {slope:.2f}")
        axes.set(title=title, xlabel="true change of the margin")
        axes.legend(loc="upper left", fontsize=POINTS)
        axes.set_ylim(*(ends + np.array([-0.05, 0.25]) * np.ptp(ends)))
    drawn[0].set_ylabel("predicted change")
    return figure


def margin_paths(paths: Mapping[str, object], targets: Mapping[str, object], label: str = "steps"):
    """The margin of single forgotten examples as a method goes on, a panel for each of `paths` (frames with example,
    kind, steps and margin): wrong labels orange, right ones black. Stars: where retrained models have it (`targets`:
    example -> margin). A method that knows where to stop ends at its stars."""
    figure, drawn = panels(len(paths), height=3.0, sharey=True)
    for axes, (title, frame) in zip(drawn, paths.items(), strict=True):
        steps = sorted(frame.steps.unique())
        told = set()
        for (example, kind), part in frame.groupby(["example", "kind"], sort=False):
            shade = ORANGE if kind == "wrong label" else INK
            part = part.sort_values("steps")
            name = None if kind in told else kind
            told.add(kind)
            axes.plot(
                [steps.index(s) for s in part.steps], part.margin, "-", color=shade, lw=1.3, alpha=0.8, label=name
            )
            axes.plot(len(steps) - 0.6, targets[example], "*", color=shade, ms=8)
        axes.set_xticks(range(len(steps)), [f"{s:g}" for s in steps])
        axes.set(title=title, xlabel=label)
    drawn[0].set_ylabel("margin")
    drawn[0].legend(fontsize=POINTS)
    return figure
