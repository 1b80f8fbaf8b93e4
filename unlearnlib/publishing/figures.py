"""Every figure of the book: tidy data in, matplotlib axes out. Nothing here computes a result.

Colours are those of seaborn's colour-blind palette and mean the same on every page: the original is grey, the
retrained model blue, its null (retrained with another seed) light blue, unlearned models take the others.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib._extras import optional

mpl, plt, sns = optional("matplotlib"), optional("matplotlib.pyplot"), optional("seaborn")

_PALETTE = sns.color_palette("colorblind")
COLOURS = {"original": "#707070", "retrain": _PALETTE[0], "retrain, other seed": _PALETTE[9]}
_OTHERS = [_PALETTE[k] for k in (1, 2, 3, 4, 5, 7, 8)]


def style() -> None:
    """The book's look; call it once at the top of a notebook."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "grid.linewidth": 0.6,
            "svg.hashsalt": "unlearnlib",
        }
    )


def colour(name: str, names: Sequence[str] = ()) -> object:
    """The colour of a model or method; methods take theirs by their order in `names`."""
    if name in COLOURS:
        return COLOURS[name]
    others = [n for n in names if n not in COLOURS]
    return _OTHERS[others.index(name) % len(_OTHERS)] if name in others else _OTHERS[0]


def gallery(images, titles: Sequence[str] = (), *, columns: int = 10, axes=None):
    """Pictures [N, C, H, W] in [0, 1] as one sheet, `columns` in a row; titles name the rows."""
    images = np.asarray(images)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (height + 2) - 2, columns * (width + 2) - 2, channels))
    for k, image in enumerate(images):
        row, column = (k // columns) * (height + 2), (k % columns) * (width + 2)
        sheet[row : row + height, column : column + width] = image.transpose(1, 2, 0)
    axes = axes or plt.subplots(figsize=(0.75 * columns, 0.8 * rows))[1]
    axes.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(height + 2) * k + height / 2 for k in range(len(titles))], titles)
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    return axes


def intervals(
    frame, *, y: str, x: str, low: str, high: str, label: str, null: tuple[float, float] | None = None, axes=None
):
    """Estimates with their intervals, one line a row of `frame`; `null` is drawn as a band behind them."""
    axes = axes or plt.subplots(figsize=(6, 0.38 * len(frame) + 0.9))[1]
    names = list(frame[y])
    if null is not None:
        axes.axvspan(*null, color=COLOURS["retrain, other seed"], alpha=0.25, lw=0, zorder=0)
    for position, (_, row) in enumerate(frame.iterrows()):
        drawn = colour(row[y], names)
        axes.plot([row[low], row[high]], [position] * 2, color=drawn, lw=2.2, solid_capstyle="round")
        axes.plot(row[x], position, "o", color=drawn, ms=6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    return axes


def densities(values: Mapping[str, np.ndarray], *, label: str, bins: int = 40, axes=None, limits=None):
    """Outlined histograms on common bins, one a name: the density of a score under each model or set."""
    axes = axes or plt.subplots(figsize=(5.4, 3))[1]
    joined = np.concatenate([np.asarray(v) for v in values.values()])
    edges = np.linspace(*(limits or np.quantile(joined, [0.002, 0.998])), bins + 1)
    for name, value in values.items():
        clipped = np.clip(np.asarray(value), edges[0], edges[-1])
        counts, _ = np.histogram(clipped, bins=edges, density=True)
        axes.stairs(counts, edges, color=colour(name, list(values)), lw=1.8, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend()
    return axes


def boundary(probability, points, labels, marked, *, title: str, axes, extent):
    """A decision boundary in the plane: `probability` [G, G] of class 1 on a grid; marked points are ringed."""
    axes.imshow(probability, origin="lower", extent=extent, cmap="coolwarm", vmin=0, vmax=1, alpha=0.35, aspect="auto")
    axes.contour(probability, levels=[0.5], colors="black", linewidths=1.2, extent=extent)
    for k, face in ((0, _PALETTE[0]), (1, _PALETTE[3])):
        axes.plot(*points[(labels == k) & ~marked].T, "o", color=face, ms=3.5)
        axes.plot(*points[(labels == k) & marked].T, "o", mfc=face, mec="black", mew=1.6, ms=8)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    return axes


def scatter_tradeoff(frame, *, x: str, y: str, size: str | None = None, x_label: str, y_label: str, axes=None):
    """One point a method: its mean with the interval of each axis; the area of a point is its cost."""
    axes = axes or plt.subplots(figsize=(5.6, 3.8))[1]
    names = list(frame.method)
    for _, row in frame.iterrows():
        drawn = colour(row.method, names)
        area = 40 if size is None or not np.isfinite(row[size]) else 25 + 260 * min(1.0, row[size])
        axes.plot([row[f"{x}_low"], row[f"{x}_high"]], [row[y]] * 2, color=drawn, lw=1)
        axes.plot([row[x]] * 2, [row[f"{y}_low"], row[f"{y}_high"]], color=drawn, lw=1)
        axes.scatter(row[x], row[y], s=area, color=drawn, alpha=0.85, zorder=3)
        axes.annotate(row.method, (row[x], row[y]), textcoords="offset points", xytext=(7, 6), fontsize=8)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return axes


def verdicts(caught, values, *, rows: Sequence[str], columns: Sequence[str], axes=None):
    """A matrix of verdicts: orange where an audit caught a candidate (`caught` [rows, columns]), blue where it let it
    pass, with the texts `values` [rows, columns] in the cells."""
    axes = axes or plt.subplots(figsize=(0.78 * len(columns) + 2.2, 0.34 * len(rows) + 1.3))[1]
    shades = mpl.colors.ListedColormap([sns.light_palette(_PALETTE[0])[1], sns.light_palette(_PALETTE[3])[2]])
    axes.pcolormesh(np.asarray(caught, float), cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for (row, column), text in np.ndenumerate(np.asarray(values)):
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0)
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    return axes


def curves(
    frame, *, x: str, y: str, by: str, low: str | None = None, high: str | None = None, label: str, ticks=(), axes=None
):
    """One line a value of `by`, over a logarithmic x; with `low` and `high` as bands."""
    axes = axes or plt.subplots(figsize=(4.6, 3))[1]
    names = list(dict.fromkeys(frame[by]))
    for name in names:
        part, drawn = frame[frame[by] == name], colour(name, names)
        axes.plot(part[x], part[y], "o-", color=drawn, ms=4, lw=1.6, label=name)
        if low is not None:
            axes.fill_between(part[x], part[low], part[high], color=drawn, alpha=0.15, lw=0)
    axes.set_xscale("log")
    if len(ticks):
        axes.set_xticks(ticks, [str(v) for v in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return axes


def design_matrix(state, *, names: Sequence[str], marked: Mapping[int, str], title: str, axes):
    """A design [models, examples] of codes 0, 1, 2 as a chequered field; columns in `marked` are framed and named."""
    shades = mpl.colors.ListedColormap([sns.light_palette(_PALETTE[0])[2], _PALETTE[1], "#f2f2f2"])
    state = np.asarray(state)
    axes.pcolormesh(state, cmap=shades, vmin=0, vmax=2, edgecolors="white", linewidth=1)
    for column, text in marked.items():
        axes.add_patch(plt.Rectangle((column, 0), 1, len(state), fill=False, ec="black", lw=1.8, zorder=3))
        axes.text(column + 0.5, len(state) + 0.25, text, ha="center", va="bottom", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("examples")
    axes.set_ylabel("models")
    axes.set_title(title, pad=18)
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    faces = [plt.Rectangle((0, 0), 1, 1, fc=shades(k), ec="#aaaaaa") for k in range(3)]
    axes.legend(faces, names, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8)
    return axes
