"""How figures look: sizes, and one table that gives every method its colour and its marker on every page.

Colours name families, markers the methods in them. All colours differ for readers without one kind of cone, stand out
from white by a contrast of 3 : 1 or more, and none is yellow. What is no method (seeds, dials, estimators) takes
`series` by its place, which ends where the colours end: nothing cycles.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

from unlearnlib._extras import optional

mpl, plt, sns = optional("matplotlib"), optional("matplotlib.pyplot"), optional("seaborn")

WIDTH = 7.0  # inches, of a figure that fills the text: it is shown at about the size it is drawn at
POINTS = 9.0  # the smallest text
BLUE, RED, ORANGE, INK, GREY = "#0173b2", "#c0392b", "#d96c00", "#303030", "#707070"
COLOURS = {"original": GREY, "retrain": BLUE, "retrain, other seed": "#3a93c8"}
_MARKERS = "osD^vPX<>h"
# family -> (colour, its methods and learners in the order of the markers)
_FAMILIES = {
    "descent": (ORANGE, "finetune cf_k eu_k l1_sparse"),
    "ascent": ("#7a1f1f", "neggrad neggrad_plus orthograd sfron"),
    "labels": ("#8736d9", "random_labels salun amnesiac boundary_shrink boundary_expand"),
    "teachers": ("#006640", "scrub scrub_r bad_teacher delete"),
    "curvature": ("#4800d9", "influence rescaled_influence newton woodfisher pbrf unrolled_sgd ntk"),
    "importance": ("#a87b4f", "fisher_forgetting ssd lfssd jit unsir assd"),
    "features": ("#e62ecf", "dlfd dlfd_as_released"),
    "competition": ("#a92204", "fcs msg cfw prmq ct kde rni"),
    "since 2024": ("#573d71", "amun lotus negmerge task_vector uam munba mu_mis rum"),
    "without data": ("#320104", "gkt recall inversion noise"),
    "attribution": ("#1097f9", "datamodel_matching oracle_matching"),
    "exact": ("#203a40", ("SISA", "class modules", "forest", "naive Bayes", "class means", "nearest neighbours")),
    "certified": (
        "#2e004c",
        (
            *("output perturbation", "objective perturbation", "certified Newton", "descent-to-delete", "Langevin"),
            *("DP-SGD", "rewind-to-delete", "noisy fine-tuning"),
        ),
    ),
}
TABLE = {name: (shade, marker) for (name, shade), marker in zip(COLOURS.items(), "sod", strict=True)} | {
    name: (shade, marker)
    for shade, names in _FAMILIES.values()
    for name, marker in zip(names.split() if isinstance(names, str) else names, _MARKERS, strict=False)
}
_ALIASES = {
    "retrained": "retrain",
    "null": "retrain, other seed",
    "identity": "original",
    "fine-tuning": "finetune",
    "fisher noise": "fisher_forgetting",
    "rescaled influence": "rescaled_influence",
    "DLFD as written": "dlfd",
    "DLFD as released": "dlfd_as_released",
    "strong ascent": "neggrad",
}
_SERIES = (INK, ORANGE, BLUE, "#8736d9", "#006640", "#e62ecf", "#a87b4f", "#7a1f1f", "#2e004c", "#4800d9")


def style() -> None:
    """The book's look; call it once at the top of a notebook. Text has 9 points or more, figures fill 7 inches."""
    sns.set_theme(context="notebook", style="whitegrid", palette=list(_SERIES))
    text = ("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    mpl.rcParams.update(dict.fromkeys((*text, "legend.title_fontsize"), POINTS))
    mpl.rcParams.update(
        {
            "axes.titlesize": POINTS + 1,
            "figure.titlesize": POINTS + 1,
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "grid.linewidth": 0.6,
            "svg.hashsalt": "unlearnlib",
        }
    )


@functools.lru_cache(maxsize=1024)
def known(name: str) -> tuple[str, str] | None:
    """(colour, marker) of a method or model, also as "salun, tuned" or "scrub x10"; None where no table has it."""
    if name in TABLE:
        return TABLE[name]
    bare = re.sub(r"( x[\d.]+|,.*)$", "", name)
    bare = _ALIASES.get(name, _ALIASES.get(bare, bare))
    return TABLE.get(bare)


def names_of(family: str) -> tuple[str, ...]:
    """The methods of a family, in the order of their markers."""
    names = _FAMILIES[family][1]
    return tuple(names.split() if isinstance(names, str) else names)


def series(place: int) -> tuple[str, str]:
    """(colour, marker) of the series at `place`, for what is no method. Raises ValueError beyond the last colour."""
    if not 0 <= place < len(_SERIES):
        raise ValueError(f"a figure tells {len(_SERIES)} series apart: draw panels instead of series {place + 1}")
    return _SERIES[place], _MARKERS[place]


def look(name: str, names: Sequence[str] = ()) -> tuple[str, str]:
    """(colour, marker) of a name: by the table, else by its place among the unknown of `names`, else plain ink."""
    found = known(str(name))
    strangers = [n for n in names if known(str(n)) is None]
    return found or (series(strangers.index(name)) if name in strangers else (INK, "o"))


def colour(name: str, names: Sequence[str] = ()) -> str:
    """The colour of a model or method; what is in no table takes its own by its place in `names`."""
    return look(name, names)[0]


def panels(count: int, *, columns: int | None = None, height: float = 2.7, **options):
    """A figure as wide as the text with `count` panels, `columns` in a row: (figure, list of axes)."""
    columns = columns or min(count, 3 if count != 4 else 2)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **options)
    for spare in grid.flat[count:]:
        spare.set_visible(False)
    return figure, list(grid.flat[:count])


def band(axes, frame, *, x: str, y: str, colour: str, label: str | None = None, marker: str = "o", line: str = "-"):
    """Mean of `y` at every `x` as a line; the range over all rows (seeds) as a band about it."""
    grouped = frame.groupby(x, sort=True)[y]
    mean = grouped.mean()
    axes.plot(mean.index, mean, line, marker=marker, ms=4, lw=1.5, color=colour, label=label)
    axes.fill_between(mean.index, grouped.min(), grouped.max(), color=colour, alpha=0.2, lw=0)
    return axes


def null_band(axes, ends, *, along: str = "x", label: str | None = None):
    """The range of the null, behind everything: what lies inside is no gap."""
    span = axes.axvspan if along == "x" else axes.axhspan
    span(*ends, color=COLOURS["retrain, other seed"], alpha=0.25, lw=0, zorder=0, label=label)
    return axes


def ticks(axes, values, which: str = "x"):
    """A logarithmic axis that is labelled at the values that were measured, and nowhere else."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}ticks")(list(values), [f"{v:g}" for v in values])
    axes.minorticks_off()


def bare(axes):
    """A plane without ticks or grid."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    return axes


def span_of(frame, column: str) -> tuple[float, float]:
    """Smallest and largest value of a column."""
    values = np.asarray(frame[column], dtype=float)
    return float(values.min()), float(values.max())
