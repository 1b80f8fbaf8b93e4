"""Samplers: crowds of pictures against single ones, what is still drawn of a class, samples in the plane."""

from collections.abc import Mapping

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    COLOURS,
    GREY,
    POINTS,
    WIDTH,
    bare,
    colour,
    look,
    null_band,
    panels,
    plt,
)

LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def crowds_over_pictures(
    frame,
    null: tuple[float, float],
    floor: float,
    *,
    size: tuple[float, float] = (WIDTH, 4.2),
    legend: str = "right upper",
):
    """Frechet distance (of crowds, logarithmic) over integrity I (of pictures, linear to .5 and then logarithmic): the
    mean of each sampler over seeds, bars the range. Band: the integrity of retrained samplers; line: the Frechet
    distance of the original. `frame` has columns method, seed, I, FD; `legend` is its side of the figure."""
    figure, axes = plt.subplots(figsize=size)
    null_band(axes, null, label="retrained samplers")
    axes.axhline(floor, color=GREY, lw=1, ls=":", zorder=0)
    names = list(frame.method.unique())
    for name in names:
        part, (shade, marker) = frame[frame.method == name], look(name, names)
        x, y = part.I.mean(), part.FD.mean()
        ends = [[[v.mean() - v.min()], [v.max() - v.mean()]] for v in (part.I, part.FD)]
        axes.errorbar(x, y, xerr=ends[0], yerr=ends[1], fmt=marker, color=shade, ms=7, lw=1, capsize=2, label=name)
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_yscale("log")
    low, high = frame.FD.min() * 0.8, frame.FD.max() * 1.3
    for which, marks in (
        ("x", [v for v in (0, 0.25, 0.5, 1, 2, 5, 10, 20, 50) if v <= 1.2 * frame.I.max()]),
        ("y", [v for v in (*((3, 4, 7) if high < 20 * low else ()), *LEVELS) if low <= v <= high]),
    ):
        getattr(axes, f"set_{which}ticks")(marks, [f"{v:g}" for v in marks])
    axes.minorticks_off()
    axes.set(ylim=(low, high), xlabel="integrity I: how far the picture of one noise has moved")
    axes.set_ylabel("Fréchet distance to retained pictures")
    figure.legend(loc=f"outside {legend}", fontsize=POINTS, ncols=2 if "center" in legend else 1)
    return figure


def forget_rates(frame, rate: float):
    """The share of samples that still show the class, over the steps of a method: mean and range over seeds. Line: that
    of what a retrained sampler draws (`rate`). `frame` has columns method, steps, seed, rate."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    names = list(frame.method.unique())
    for name in names:
        shade, marker = look(name, names)
        grouped = frame[frame.method == name].groupby("steps").rate
        mean = grouped.mean()
        axes.plot(mean.index, mean, "-", marker=marker, color=shade, ms=5, label=name)
        axes.fill_between(mean.index, grouped.min(), grouped.max(), color=shade, alpha=0.15, lw=0)
    axes.axhline(rate, color=COLOURS["retrain"], lw=1, ls=":", label="retrained")
    axes.set(xlabel="steps", ylabel="share that still shows it", ylim=(-0.03, 1.03))
    figure.legend(loc="outside right upper", fontsize=POINTS)
    return figure


def plane_samples(samples: Mapping[str, np.ndarray], centres: np.ndarray, gone: int, *, columns: int = 4):
    """Samples [n, 2] of GANs in the plane, one panel each; rings where the data are, the forgotten one dashed."""
    figure, grid = panels(len(samples), columns=columns, height=2.0, sharex=True, sharey=True)
    for axes, (name, points) in zip(grid, samples.items(), strict=True):
        axes.plot(*points.T, ".", ms=2, color=colour("original"), alpha=0.5, rasterized=True)
        for k, centre in enumerate(centres):
            ring = plt.Circle(
                centre,
                0.4,
                fill=False,
                ls="--" if k == gone else "-",
                color=colour("finetune" if k == gone else "retrain"),
            )
            axes.add_patch(ring)
        bare(axes).set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
    return figure
