"""Pictures, planes and matrices: what a reader looks at rather than reads off."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    BLUE,
    INK,
    ORANGE,
    POINTS,
    RED,
    WIDTH,
    bare,
    colour,
    mpl,
    panels,
    plt,
    sns,
)


def gallery(images, titles: Sequence[str] = (), *, columns: int = 10, axes=None):
    """Pictures [N, C, H, W] in [0, 1] as one sheet, `columns` in a row; titles name the rows."""
    images = np.asarray(images)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (height + 2) - 2, columns * (width + 2) - 2, channels))
    for k, image in enumerate(images):
        row, column = (k // columns) * (height + 2), (k % columns) * (width + 2)
        sheet[row : row + height, column : column + width] = image.transpose(1, 2, 0)
    axes = axes or plt.subplots(figsize=(WIDTH, WIDTH * rows / columns + 0.1))[1]
    axes.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(height + 2) * k + height / 2 for k in range(len(titles))], titles)
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)
    return axes


def boundary(probability, points, labels, marked, *, title: str, axes, extent):
    """A decision boundary in the plane: `probability` [G, G] of class 1 on a grid; marked points are ringed."""
    axes.imshow(probability, origin="lower", extent=extent, cmap="coolwarm", vmin=0, vmax=1, alpha=0.35, aspect="auto")
    axes.contour(probability, levels=[0.5], colors="black", linewidths=1.2, extent=extent)
    for k, (face, shape) in enumerate(((BLUE, "o"), (RED, "s"))):
        axes.plot(*points[(labels == k) & ~marked].T, shape, color=face, ms=3.5)
        axes.plot(*points[(labels == k) & marked].T, shape, mfc=face, mec="black", mew=1.6, ms=8)
    axes.set_title(title)
    return bare(axes)


def boundaries(fields: Mapping[str, np.ndarray], points, labels, marked, *, extent, unseen: Sequence[str] = ()):
    """`boundary` of several networks; those in `unseen` never saw the marked points, which are left out there.

    To be seen: the original bends around the marked points, the retrained network has no reason to.
    """
    figure, drawn = panels(len(fields), height=2.5, sharex=True, sharey=True)
    for axes, (name, probability) in zip(drawn, fields.items(), strict=True):
        kept = ~marked if name in unseen else np.ones(len(points), bool)
        title = name.replace(" by ", "\nby ")
        boundary(probability, points[kept], labels[kept], marked[kept], title=title, axes=axes, extent=extent)
    return figure


def regions(axes, plane, field, *, side, title: str, frame: Mapping[str, np.ndarray] | None = None):
    """The regions of up to three classes (`field` [G, G] on `side` x `side`) with the points of `plane`: (points,
    labels, marked). `frame` adds the borders of other networks: the original's dashed, the retrained one's dotted."""
    points, labels, marked = plane
    shades = [BLUE, RED, "#4b8b4b"]
    levels = [-0.5, 0.5, 1.5, 2.5]
    axes.contourf(side, side, field, levels=levels, colors=shades, alpha=0.3)
    for (name, other), line in zip((frame or {}).items(), ("--", ":"), strict=False):
        axes.contour(side, side, other, [0.5, 1.5], colors=[colour(name)], linestyles=line, linewidths=1.4)
    for k in range(labels.max() + 1):
        axes.plot(*points[(labels == k) & ~marked].T, ".", color=shades[k], ms=3)
        axes.plot(*points[(labels == k) & marked].T, "o", mfc=shades[k], mec="black", mew=0.8, ms=4)
    axes.set(title=title, xlim=(side[0], side[-1]), ylim=(side[0], side[-1]))
    return bare(axes)


def design_matrix(state, *, names: Sequence[str], marked: Mapping[int, str], title: str, axes):
    """A design [models, examples] of codes 0, 1, 2 as a chequered field; columns in `marked` are framed and named."""
    shades = mpl.colors.ListedColormap([sns.light_palette(BLUE)[2], ORANGE, "#f2f2f2"])
    state = np.asarray(state)
    axes.pcolormesh(state, cmap=shades, vmin=0, vmax=2, edgecolors="white", linewidth=1)
    for column, text in marked.items():
        axes.add_patch(plt.Rectangle((column, 0), 1, len(state), fill=False, ec="black", lw=1.8, zorder=3))
        axes.text(column + 0.5, len(state) + 0.25, text, ha="center", va="bottom", fontsize=POINTS)
    axes.set_xlabel("examples")
    axes.set_ylabel("models")
    axes.set_title(title, pad=18)
    bare(axes)
    sns.despine(ax=axes, left=True, bottom=True)
    faces = [plt.Rectangle((0, 0), 1, 1, fc=shades(k), ec="#aaaaaa") for k in range(3)]
    axes.legend(faces, names, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, columnspacing=0.8)
    return axes


def matrices(found: Mapping[str, np.ndarray], *, limit: float):
    """Matrices side by side: red positive, blue negative, by the signed square root, so that small entries show."""
    figure, drawn = panels(len(found), columns=3, height=2.5)
    for axes, (name, matrix) in zip(drawn, found.items(), strict=True):
        values = np.asarray(matrix, dtype=float)
        root = np.sign(values) * np.sqrt(np.abs(values))
        axes.imshow(root, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_title(name)
        bare(axes)
    return figure


def heat_maps(frame, columns: Mapping[str, str], *, by: str, x: str, y: str, labels: tuple[str, str]):
    """Means over `x` and `y`, one row a value of `by` and one panel a column of `columns` (name -> title)."""
    kinds = list(dict.fromkeys(frame[by]))
    figure, grid = plt.subplots(
        len(kinds) * len(columns), 1, figsize=(WIDTH, 2.1 * len(kinds) * len(columns)), squeeze=False
    )
    places = iter(grid.flat)
    for kind in kinds:
        for column, title in columns.items():
            axes = next(places)
            table = frame[frame[by] == kind].pivot_table(column, y, x, "mean")
            sns.heatmap(table, cmap="Blues", ax=axes, annot=True, fmt=".2f", cbar=False, annot_kws={"size": POINTS})
            axes.invert_yaxis()
            axes.set(title=f"{kind}: {title}", xlabel=labels[0], ylabel=labels[1])
            axes.tick_params(axis="y", rotation=0)
    return figure


def feature_planes(found: Mapping[str, np.ndarray], labels, marked, *, names: Sequence[str]):
    """Features in the plane, one panel a model (points [N, 2]): two classes by colour and shape, marked ones ringed.

    To be seen: whether the classes stand apart; after a collapse all points lie near one line.
    """
    figure, drawn = panels(len(found), columns=min(len(found), 4), height=2.3)
    for axes, (title, points) in zip(drawn, found.items(), strict=True):
        for k, (shade, shape) in enumerate(((BLUE, "o"), (ORANGE, "s"))):
            axes.plot(*points[labels == k].T, shape, color=shade, ms=2.4, alpha=0.7, label=names[k])
        ring = {"mfc": "none", "mec": INK, "mew": 0.6, "ms": 5}
        axes.plot(*points[marked].T, "o", label="forgotten people", **ring)
        axes.set_title(title)
        bare(axes)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
