"""All methods at once: distance to retraining, and what the same cost buys without a method (page 14)."""

from collections.abc import Mapping, Sequence

from unlearnlib.publishing.figures.appearance import INK, POINTS, WIDTH, colour, look, null_band, panels, plt


def distance_over_cost(board, ladders: Mapping[str, Sequence[str]], points: Mapping[str, bool]):
    """Distance to retraining over cost: lines for budgets without a method (`ladders`: name -> rows), one marker a
    method row of `points` (row -> tuned or not): filled as tuned, open as published. Band: the null; dotted: the
    original. A method earns its name below both lines."""
    at = board.set_index("method")
    null = at.loc["retrain, other seed"]
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    null_band(axes, (null.distance_low, null.distance_high), along="y", label="null")
    axes.axhline(at.loc["original", "distance"], color=colour("original"), lw=1, ls=":", label="original")
    for (name, rows), line in zip(ladders.items(), ("-", "--"), strict=True):
        part = at.loc[list(rows)]
        axes.plot(part.cost, part.distance, line, color=INK, lw=1.4, zorder=1, label=f"{name}, fewer passes")
    told = set()
    for row, tuned in points.items():
        shade, marker = look(row)
        name = row.rpartition(",")[0] or row
        label = None if name in told else name
        told.add(name)
        face = shade if tuned else "white"
        place = at.loc[row, "cost"], at.loc[row, "distance"]
        axes.scatter(*place, s=34, zorder=3, lw=1.4, ec=shade, fc=face, marker=marker, label=label)
    axes.set(xscale="log", xlabel="cost / that of retraining", ylabel="distance to retraining")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, fontsize=POINTS)
    return figure


def duels(board, *, x: str, label: str):
    """The difference of every method's distance to that of its rival at equal cost, with its interval; sorted, tuned
    rows filled. Left of zero a method beats its rival. Columns method, tuned, and x with ends."""
    ordered = board.sort_values(x).reset_index(drop=True)
    figure, (axes,) = panels(1, height=0.25 * len(ordered) + 0.9)
    for place, row in ordered.iterrows():
        shade, marker = look(row.method)
        axes.plot([row[f"{x}_low"], row[f"{x}_high"]], [place] * 2, color=shade, lw=2.2)
        face = shade if row.tuned else "white"
        axes.plot(row[x], place, marker, color=shade, mfc=face, ms=5)
    axes.set_yticks(ordered.index, ordered.method)
    axes.set_ylim(len(ordered) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color="black", lw=1)
    return figure
