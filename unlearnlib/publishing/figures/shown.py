"""How a figure gets onto a page: sharp, a second time for a phone, and with its data.

A page shows the wide picture at its drawn size, so that 9 points are 9 points, and on a phone the narrow one, whose
panels stand below each other. The numbers that were drawn travel with the picture as a table. A notebook knows
the wide picture and its size in CSS pixels; the rest is metadata of the output:

    {"width", "height", "unlearnlib": {"narrow": base64, "narrow_width", "narrow_height", "points", "data": csv}}

with `points` the smallest text of either picture, `data` empty where only pixels were drawn, and `narrow` empty where
the panels do not fit a phone: there the wide picture scrolls.
"""

import base64
import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from unlearnlib.publishing.figures.appearance import mpl

DPI = 200  # of the picture: two pixels of it for one of most screens
NARROW = 3.5  # inches, and a twentieth on each side: a phone of 390 pixels leaves 358
CSS = 96  # pixels of a page in an inch
PHONE = 400  # CSS pixels: a narrow picture that came out wider is none
MOST_NUMBERS = 4000  # of a figure whose data are kept: a mesh of more is a picture
_LETTERS = 44  # that a title may have on a phone before it breaks


def bundle(figure) -> tuple[str, dict]:
    """The picture (base64) and the metadata of its output, as IPython's formatters want them.

    Panels that shared names and labels keep those that they get for the narrow picture, so show a figure once.
    """
    wide, width, height = _drawn(figure)
    ours = {"points": round(_smallest(figure), 1), "data": table(figure)}
    with warnings.catch_warnings(record=True) as said, _narrowed(figure):
        warnings.simplefilter("always")
        narrow, *size = _drawn(figure)
        points = _smallest(figure)
    if any("constrained_layout" in str(warning.message) for warning in said) or size[0] > PHONE:
        narrow, size = "", [width, height]
    else:
        ours["points"] = round(min(ours["points"], points), 1)
    ours |= {"narrow": narrow, "narrow_width": size[0], "narrow_height": size[1]}
    return wide, {"width": width, "height": height, "unlearnlib": ours}


def _drawn(figure) -> tuple[str, int, int]:
    """The picture as base64, and its width and height on a page."""
    raw, small = io.BytesIO(), io.BytesIO()
    # Without the version of the drawing library in its bytes.
    figure.savefig(raw, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    picture = Image.open(raw).convert("RGB")
    if picture.getcolors(1 << 15):  # lines and text: a palette makes a third of the size
        picture = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    size = [round(pixels * CSS / DPI) for pixels in picture.size]
    return base64.b64encode(small.getvalue()).decode(), *size


def _smallest(figure) -> float:
    texts = figure.findobj(lambda artist: isinstance(artist, mpl.text.Text))
    return min((t.get_fontsize() for t in texts if t.get_visible() and t.get_text().strip()), default=99.0)


def _panels(figure) -> list:
    """The axes with a place in a grid, from the upper left to the lower right."""
    axes = [a for a in figure.axes if a.get_visible() and a.get_subplotspec() is not None]
    return sorted(axes, key=lambda a: (a.get_subplotspec().rowspan.start, a.get_subplotspec().colspan.start))


def _is_picture(axes) -> bool:
    return not (len(axes.get_xticks()) or len(axes.get_yticks())) or not axes.axison


@contextmanager
def _narrowed(figure) -> Iterator[None]:
    """The figure with its panels below each other, for as long as the block lasts.

    Panels without ticks are pictures: they stay side by side, two in a row where they have titles. A panel that left
    its names or its label to a neighbour gets its own; a legend beside the panels goes below them.
    """
    axes, size = _panels(figure), figure.get_size_inches().copy()
    specs = [a.get_subplotspec() for a in axes]
    texts = {text: text.get_text() for text in _titles(figure, axes)}
    pictures = all(map(_is_picture, axes))
    titled = any(a.get_title() or a.get_title("left") for a in axes)
    columns = 2 if pictures else 1
    if pictures and not titled:
        figure.set_size_inches(NARROW, max(size[1] * NARROW / size[0], 1.0))
    elif len({spec.colspan.start for spec in specs}) > columns:
        _stack(figure, axes, columns)
    else:
        figure.set_size_inches(NARROW, size[1])
    for text, said in texts.items():
        text.set_text("\n".join(textwrap.fill(line, _LETTERS // columns) for line in said.split("\n")))
    own = list(figure.legends)
    legends, below = _legends_below(figure, axes)
    _spread_ticks(figure, axes)
    try:
        yield
    finally:
        for legend in below:
            legend.remove()
        for legend in legends:
            legend.set(visible=True, in_layout=True)
        figure.legends[:] = own
        for a, spec in zip(axes, specs, strict=True):
            a.set_subplotspec(spec)
        for text, said in texts.items():
            text.set_text(said)
        figure.set_size_inches(*size)


def _stack(figure, axes, columns: int) -> None:
    """Give the panels a new grid of `columns`, each with the height it had."""
    width, height = figure.get_size_inches()
    specs = [a.get_subplotspec() for a in axes]
    heights = {(s.rowspan.start, s.colspan.start): height * len(s.rowspan) / s.get_gridspec().nrows for s in specs}
    places, heights = list(heights), list(heights.values())
    ratios = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    if columns > 1:  # pictures keep their shape, and most of their size
        ratios = [1.6 * ratio * NARROW / width for ratio in ratios]
    grid = mpl.gridspec.GridSpec(len(ratios), columns, figure=figure, height_ratios=ratios)
    for a, spec in zip(axes, specs, strict=True):
        a.set_subplotspec(grid[divmod(places.index((spec.rowspan.start, spec.colspan.start)), columns)])
    for a in axes if columns == 1 else ():
        _label(a, axes)
    figure.set_size_inches(NARROW, sum(ratios))


def _titles(figure, axes) -> Iterator:
    for a in axes:
        yield from (t for t in (a.title, a._left_title, a._right_title, a.xaxis.label) if t.get_text())
    if figure._suptitle is not None:
        yield figure._suptitle


def _label(axes, others) -> None:
    """Names and labels that a panel shared with its neighbours, while they stood in one row."""
    if _is_picture(axes):
        return
    axes.tick_params(labelbottom=not axes.xaxis.get_ticks_position() == "top", labelleft=True)
    for which, shared in (("x", axes.get_shared_x_axes()), ("y", axes.get_shared_y_axes())):
        if not getattr(axes, f"get_{which}label")():
            labels = [getattr(o, f"get_{which}label")() for o in others if shared.joined(axes, o)]
            getattr(axes, f"set_{which}label")(next(filter(None, labels), ""))


def _legends_below(figure, axes) -> tuple[list, list]:
    """Legends that stand beside or below panels, now hidden, and those below the figure that stand for them."""
    beside = [a.get_legend() for a in axes if a.get_legend() is not None]
    moved = [*figure.legends, *(legend for legend in beside if legend._bbox_to_anchor is not None)]
    below = []
    for legend in moved:
        labels = [text.get_text() for text in legend.get_texts()]
        columns = int(NARROW / (0.55 + 0.072 * max(map(len, labels), default=1)))
        options = {"fontsize": legend._fontsize, "title": legend.get_title().get_text() or None}
        ncols = max(1, min(columns, len(labels)))
        below.append(figure.legend(legend.legend_handles, labels, loc="outside lower center", ncols=ncols, **options))
        legend.set(visible=False, in_layout=False)
    figure.legends[:] = below  # one outside the axes takes its place even when it is not seen
    return moved, below


def _spread_ticks(figure, axes) -> None:
    """Slant the names at a lower edge that would run into each other."""
    figure.draw_without_rendering()
    for a in axes:
        names = [t for t in a.get_xticklabels() if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent() for t in names]
        if any(left.x1 > right.x0 - 2 for left, right in zip(boxes, boxes[1:], strict=False)):
            a.tick_params(axis="x", labelrotation=45)


COLUMNS = ("panel", "series", "kind", "x axis", "x", "y axis", "y", "value")


def table(figure) -> str:
    """What was drawn, as csv with `COLUMNS`; "" where it is nothing but pixels, or too much.

    Lines and points give their coordinates, a bar its place and height, a step its edges and levels, a band its
    outline, a matrix its column, its row and the value there, a level (a line or a zone across the panel) its one
    coordinate.
    Where an axis names its ticks, the name stands for the number.
    """
    lines, drawn = [], [a for a in figure.axes if a.get_visible()]
    for number, axes in enumerate(drawn, 1):
        panel = _title(axes, drawn) or (f"panel {number}" if len(drawn) > 1 else "")
        for series, kind, points in _series(axes):
            head = [panel, "" if series.startswith("_") else series, kind]
            for x, y, *rest in points:
                told = [axes.get_xlabel(), _told(axes.xaxis, x), axes.get_ylabel(), _told(axes.yaxis, y)]
                lines.append([*head, *told, f"{rest[0]:.6g}" if rest else ""])
    if not lines or len(lines) > MOST_NUMBERS:
        return ""
    return "".join(",".join(map(_quoted, line)) + "\n" for line in [COLUMNS, *lines])


def _title(axes, drawn) -> str:
    """The panel's title, or that of the uppermost panel of its column."""
    own = axes.get_title() or axes.get_title("left")
    if own or axes.get_subplotspec() is None:
        return own
    column = axes.get_subplotspec().colspan.start
    above = [a for a in _panels(axes.figure) if a in drawn and a.get_subplotspec().colspan.start == column]
    return above[0].get_title() or above[0].get_title("left") if above else ""


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return '"{}"'.format(text.replace('"', '""')) if any(c in text for c in ',"') else text


def _told(axis, value: float) -> str:
    """A number, or the name that the axis gives to it; "" for the coordinate that a level does not have."""
    if np.isnan(value):
        return ""
    if isinstance(axis.get_major_locator(), mpl.ticker.FixedLocator) and value in axis.get_major_locator().locs:
        return str(axis.get_major_formatter()(value) or f"{value:.6g}")
    return f"{value:.6g}"


def _series(axes) -> Iterator[tuple[str, str, np.ndarray]]:
    """(series, kind, points [n, 2 or 3]) of everything on the axes that stands for numbers."""
    for line in axes.lines:
        points = _columns(line.get_xdata(orig=False), line.get_ydata(orig=False))
        if line.get_transform().contains_branch(axes.transData):
            yield str(line.get_label()), "line", points
        else:
            yield str(line.get_label()), "level", _level(line.get_transform(), axes, points)[:1]
    for item in axes.collections:
        name = str(item.get_label())
        if isinstance(item, mpl.collections.QuadMesh):
            yield name, "matrix", _entries(item.get_array(), offset=0.5)
        elif isinstance(item, mpl.collections.LineCollection):
            yield from ((name, "line", part) for part in item.get_segments())
        elif isinstance(item, mpl.collections.PathCollection):
            yield name, "points", item.get_offsets()
        elif isinstance(item, mpl.collections.PolyCollection):
            yield from ((name, "band", path.vertices) for path in item.get_paths())
    for bars in (c for c in axes.containers if isinstance(c, mpl.container.BarContainer)):
        middle = [(b.get_x() + b.get_width() / 2, b.get_y() + b.get_height() / 2) for b in bars]
        flat = bars.orientation == "horizontal"
        ends = [(b.get_width(), y) if flat else (x, b.get_height()) for b, (x, y) in zip(bars, middle, strict=True)]
        yield str(bars.get_label()), "bar", np.array(ends).reshape(-1, 2)
    for patch in (p for p in axes.patches if isinstance(p, mpl.patches.StepPatch)):
        values, edges, _ = patch.get_data()
        yield str(patch.get_label()), "step", _columns(edges[:-1], values)
    for patch in (p for p in axes.patches if isinstance(p, mpl.patches.Rectangle)):
        along = patch.get_transform().contains_branch_seperately(axes.transData)
        if sum(along) == 1:  # a zone across the panel
            corners = np.array(
                [patch.get_xy(), (patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height())]
            )
            yield str(patch.get_label()), "level", _level(patch.get_transform(), axes, corners)
    for image in () if _is_picture(axes) else axes.images:
        if np.ndim(image.get_array()) == 2:
            yield "", "matrix", _entries(image.get_array())


def _level(transform, axes, points: np.ndarray) -> np.ndarray:
    """Points of which only the coordinates on the axis of data count."""
    counts = transform.contains_branch_seperately(axes.transData)
    return np.where(counts, np.asarray(points, float), np.nan)


def _columns(*columns) -> np.ndarray:
    return np.column_stack([np.asarray(column, float) for column in columns])


def _entries(values, offset: float = 0.0) -> np.ndarray:
    """Column, row and value of every entry of a matrix, where its cells have their ticks."""
    values = np.ma.filled(np.ma.asarray(values, float), np.nan)
    rows, columns = np.indices(values.shape).reshape(2, -1)
    return _columns(columns + offset, rows + offset, values.ravel())
