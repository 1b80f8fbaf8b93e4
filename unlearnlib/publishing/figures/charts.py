"""Charts that several chapters use: estimates with intervals, distributions, curves, a matrix of verdicts."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    BLUE,
    POINTS,
    RED,
    WIDTH,
    band,
    colour,
    look,
    mpl,
    null_band,
    panels,
    plt,
    sns,
    ticks,
)


def intervals(
    frame, *, y: str, x: str, low: str, high: str, label: str, null: tuple[float, float] | None = None, axes=None
):
    """Estimates with their intervals, one line a row of `frame`; `null` is drawn as a band behind them."""
    axes = axes or plt.subplots(figsize=(WIDTH, 0.3 * len(frame) + 0.9))[1]
    names = list(frame[y])
    if null is not None:
        null_band(axes, null)
    for position, (_, row) in enumerate(frame.iterrows()):
        shade, marker = look(row[y])
        axes.plot([row[low], row[high]], [position] * 2, color=shade, lw=2.2, solid_capstyle="round")
        axes.plot(row[x], position, marker, color=shade, ms=6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    return axes


def null_panels(boards: Mapping[str, object], x, *, null: str = "retrain, other seed", y: str = "method", share=True):
    """One panel a title of `boards` (frames with a row `null`): the column `x` (or the title's own, by a mapping) of
    every method with its interval. Inside the band a method is as near to retraining as one more retraining."""
    rows = max(len(board) for board in boards.values())
    figure, drawn = panels(len(boards), height=0.27 * rows + 0.9, sharex=share)
    for axes, (title, board) in zip(drawn, boards.items(), strict=True):
        column = x if isinstance(x, str) else x[title]
        ends = board.set_index(y).loc[null]
        intervals(
            board,
            y=y,
            x=column,
            low=f"{column}_low",
            high=f"{column}_high",
            label=column,
            null=(ends[f"{column}_low"], ends[f"{column}_high"]),
            axes=axes,
        )
        axes.set_title(title)
        if axes is not drawn[0]:
            axes.tick_params(labelleft=False)
    return figure


def densities(values: Mapping[str, np.ndarray], *, label: str, bins: int = 40, axes=None):
    """Outlined histograms on common bins, one a name: the density of a score under each model or set.

    The few scores beyond 99.6 % of all stand in the outermost bins. Names of one colour differ by their line.
    """
    axes = axes or plt.subplots(figsize=(WIDTH, 3))[1]
    edges = np.linspace(
        *np.quantile(np.concatenate([np.asarray(v) for v in values.values()]), [0.002, 0.998]), bins + 1
    )
    drawn = []
    for name, value in values.items():
        counts, _ = np.histogram(np.clip(np.asarray(value), edges[0], edges[-1]), bins=edges, density=True)
        shade = look(name, list(values))[0]
        axes.stairs(counts, edges, color=shade, lw=1.8, ls=("-", "--", ":")[min(drawn.count(shade), 2)], label=name)
        drawn.append(shade)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend()
    return axes


def density_panels(found: Mapping[str, Mapping[str, np.ndarray]], *, label: str):
    """`densities` side by side, one panel a title: where the curves of original and retrained part, memory shows."""
    figure, drawn = panels(len(found), height=3.0)
    for axes, (title, values) in zip(drawn, found.items(), strict=True):
        densities(values, label=label, axes=axes)
        axes.set_title(title)
    return figure


def noise_floor(frame, columns: Mapping[str, str]):
    """Distance to a retrained model over the label noise, one panel a column (name -> title), mean and range over
    seeds: the original, above the floor of one more retraining where forgetting can be seen. Columns noise, model."""
    figure, drawn = panels(len(columns), height=3.0, sharey=True)
    for axes, (column, title) in zip(drawn, columns.items(), strict=True):
        axes.axhline(0, color="black", lw=0.8, label="_zero")
        for name, part in frame.groupby("model", sort=False):
            band(axes, part, x="noise", y=column, colour=colour(name), marker=look(name)[1], label=name)
        axes.set(xlabel="label noise", title=title)
    drawn[0].set_ylabel("accuracy above retrained")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def scatter_tradeoff(frame, *, x: str, y: str, size: str | None = None, x_label: str, y_label: str, axes=None):
    """One point a method: its mean with the interval of each axis; the area of a point is its cost."""
    axes = axes or plt.subplots(figsize=(WIDTH, 3.8))[1]
    for _, row in frame.iterrows():
        shade, marker = look(row.method, list(frame.method))
        area = 40 if size is None or not np.isfinite(row[size]) else 25 + 260 * min(1.0, row[size])
        axes.plot([row[f"{x}_low"], row[f"{x}_high"]], [row[y]] * 2, color=shade, lw=1)
        axes.plot([row[x]] * 2, [row[f"{y}_low"], row[f"{y}_high"]], color=shade, lw=1)
        axes.scatter(row[x], row[y], s=area, color=shade, marker=marker, alpha=0.85, zorder=3)
        axes.annotate(row.method, (row[x], row[y]), textcoords="offset points", xytext=(7, 6), fontsize=POINTS)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return axes


def verdicts(caught, values, *, rows: Sequence[str], columns: Sequence[str], axes=None):
    """A matrix of verdicts: red where an audit caught a candidate (`caught` [rows, columns]), blue where it let it
    pass, with the texts `values` [rows, columns] in the cells."""
    axes = axes or plt.subplots(figsize=(WIDTH, 0.34 * len(rows) + 1.6))[1]
    shades = mpl.colors.ListedColormap([sns.light_palette(BLUE)[1], sns.light_palette(RED)[2]])
    axes.pcolormesh(np.asarray(caught, float), cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for (row, column), text in np.ndenumerate(np.asarray(values)):
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=POINTS)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0)
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    return axes


def curves(
    frame, *, x: str, y: str, by: str, low: str | None = None, high: str | None = None, label: str, marks=(), axes=None
):
    """One line a value of `by`, over a logarithmic x that is labelled at `marks`; `low` and `high` as bands."""
    axes = axes or plt.subplots(figsize=(WIDTH, 3.2))[1]
    names = list(dict.fromkeys(frame[by]))
    for name in names:
        part = frame[frame[by] == name]
        shade, marker = look(name, names)
        axes.plot(part[x], part[y], "-", marker=marker, color=shade, ms=4, lw=1.6, label=name)
        if low is not None:
            axes.fill_between(part[x], part[low], part[high], color=shade, alpha=0.15, lw=0)
    axes.set_xscale("log")
    if len(marks):
        ticks(axes, marks)
    axes.set_xlabel(x)
    axes.set_ylabel(label)
    axes.legend()
    return axes


def budget(frame, *, allowed: Mapping[str, float], by: str, label: str = "residual of the gradient"):
    """Residuals of certified removal over deletions: the certified bound (full) climbs to its budget (dotted), the true
    residual (dashed) stays far below. `frame` has the columns deletions, certified, true and `by`."""
    figure, (axes,) = panels(1, height=3.2)
    names = list(dict.fromkeys(frame[by]))
    for place, name in enumerate(names):
        part = frame[frame[by] == name]
        shade, _ = look(name, names) if len(allowed) > 1 else look("certified Newton")
        told = f", {name}" if len(allowed) > 1 else ""
        first = place == 0 or len(allowed) > 1
        after = part[part.deletions > 0]
        axes.plot(after.deletions, after.certified, color=shade, lw=1.4, label=f"certified{told}" if first else None)
        axes.plot(after.deletions, after.true, "--", color=shade, lw=1.4, label=f"true{told}" if first else None)
    for place, (name, limit) in enumerate(allowed.items()):
        shade = look(name, names)[0] if len(allowed) > 1 else "black"
        axes.axhline(limit, color=shade, ls=":", lw=1.2, label="budget" if place == 0 else None)
    axes.set_yscale("log")
    axes.set_xlabel("deletions")
    axes.set_ylabel(label)
    axes.legend()
    return axes
