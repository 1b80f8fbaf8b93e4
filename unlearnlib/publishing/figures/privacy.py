"""Noise and what it buys (chapters 09 and 10)."""

from collections.abc import Mapping

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    WIDTH,
    bare,
    colour,
    look,
    panels,
    plt,
    series,
    ticks,
)


def privacy_definition(curves, errors, epsilon: float, delta: float):
    """Left: densities of the output with and without you (columns output, with, without); the sliver above e^epsilon
    times the second is delta. Right: the best attack's two error rates (columns false, missed) touch lines of slope
    -e^epsilon and -e^-epsilon, and no attack gets below them."""
    figure, (left, right) = panels(2, height=3.2)
    scaled = np.exp(epsilon) * curves["without"]
    left.plot(curves["output"], curves["with"], color=colour("original"), label="P: with you")
    left.plot(curves["output"], curves["without"], color=colour("retrain"), label="Q: without you")
    left.plot(curves["output"], scaled, "--", color=colour("retrain"), label=r"$e^{\varepsilon} Q$")
    shown = {"where": curves["with"] > scaled, "color": RED, "alpha": 0.6, "label": r"$\delta$"}
    left.fill_between(curves["output"], scaled, curves["with"], **shown)
    left.set(ylim=(0, 0.6), xlim=(curves["output"].min(), 6.2), xlabel="output", ylabel="density")
    left.legend(loc="upper right")
    x = errors["false"]
    right.plot(x, errors["missed"], color="black", label="best attack")
    right.plot(x, 1 - x, ":", color="black", label="guessing")
    steep, flat = 1 - delta - np.exp(epsilon) * x, (1 - delta - x) / np.exp(epsilon)
    right.plot(x, steep, "--", color=RED, label=r"slope $-e^{\varepsilon}$")
    right.plot(x, flat, "--", color=ORANGE, label=r"slope $-e^{-\varepsilon}$")
    right.set(ylim=(0, 1), xlabel="says 'in' though you are not", ylabel="says 'out' though you are in")
    right.legend()
    return figure


def clipping(gradients, clipped, cloud, cut: float, *, title: str):
    """One step of private training: gradients [n, 2] as dots, the same cut to the circle of radius `cut`, and noisy
    means [m, 2] about the clipped one. Clipping moves the mean, noise scatters it."""
    figure, drawn = panels(3, height=2.8)
    circle, cutting = np.linspace(0, 2 * np.pi, 100), np.linalg.norm(gradients, axis=1) > cut
    for axes, points, told in zip(
        drawn, (gradients, clipped), ("one gradient an example", "cut to norm C"), strict=False
    ):
        axes.plot(*points[~cutting].T, ".", color=BLUE, ms=4)
        axes.plot(*points[cutting].T, ".", color=RED, ms=4)
        axes.plot(cut * np.cos(circle), cut * np.sin(circle), color="black", lw=1)
        limit = 1.05 * np.abs(gradients).max()
        axes.set(title=told, aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit))
    drawn[2].plot(*cloud.T, ".", color=GREY, ms=3, label="private mean")
    drawn[2].plot(*gradients.mean(0), "o", color=BLUE, label="mean")
    drawn[2].plot(*clipped.mean(0), "s", color=RED, label="clipped mean")
    drawn[2].set_title(title)
    drawn[2].set_aspect("equal", adjustable="datalim")
    drawn[2].locator_params(nbins=4)
    figure.legend(*drawn[2].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def spending(frame, published: tuple[float, float]):
    """Epsilon over epochs, one line an accountant (columns accountant, epochs, epsilon), and the published value
    (star): the same run has as many epsilons as accountants; the dotted limit is no bound."""
    figure, (axes,) = panels(1, height=3.3)
    for place, (name, part) in enumerate(frame.groupby("accountant", sort=False)):
        shade, marker = series(place)
        line = ":" if "limit" in name else "-"
        axes.plot(part.epochs, part.epsilon, line, marker=marker, ms=4, color=shade, label=name)
    axes.plot(*published, "*", color="black", ms=10, label="published")
    axes.set(xlabel="epochs", ylabel="epsilon")
    axes.legend()
    return figure


def privacy_accuracy(frame, *, label: str, published=None, silent: float | None = None):
    """Test accuracy with its interval over epsilon (columns epsilon, value, low, high); dashed: the same network and
    clipping without noise; stars: published. Noise costs accuracy."""
    figure, (axes,) = panels(1, height=3.2)
    shade, marker = look("DP-SGD")
    ends = [frame["value"] - frame["low"], frame["high"] - frame["value"]]
    axes.errorbar(frame["epsilon"], frame["value"], yerr=ends, fmt=f"{marker}-", color=shade, capsize=3, label=label)
    if published is not None:
        axes.plot(*published, "*", color="black", ms=10, label="published")
    if silent is not None:
        axes.axhline(silent, color=colour("original"), ls="--", label="clipped, without noise")
    ticks(axes, frame["epsilon"])
    axes.set(xlabel="epsilon", ylabel="test accuracy")
    axes.legend()
    return figure


def groups(frame, deletions):
    """Left: epsilon of a group over its size, above the straight line (columns size, mechanism, epsilon). Right: how
    many deletions a promise covers over the epsilon of one example (columns one, promised, deletions)."""
    figure, (left, right) = panels(2, height=3.3)
    for place, (name, part) in enumerate(frame.groupby("mechanism", sort=False)):
        shade, marker = series(place)
        left.plot(
            part["size"], part["epsilon"], ":" if "times" in name else "-", marker=marker, color=shade, label=name
        )
    ticks(left, sorted(frame["size"].unique()))
    left.set(yscale="log", xlabel="group size k", ylabel="epsilon")
    left.legend()
    for place, (promised, part) in enumerate(deletions.groupby("promised", sort=False)):
        shade = series(place)[0]
        right.step(part["one"], part["deletions"], color=shade, where="mid", label=f"promised: {promised}")
    right.set_xscale("log")
    right.set_yscale("symlog", linthresh=1)
    right.set(ylim=(0, 200), xlabel="epsilon of one example", ylabel="deletions covered")
    right.legend()
    return figure


def exposure(board, *, x: str = "test accuracy", y: str = "exposure"):
    """Exposure of what should be forgotten against accuracy, with the interval of each; a line joins the dial of one
    way. At one half (dotted) a model shows nothing; further right it is more useful. Columns way, and x, y with
    ends."""
    figure, (axes,) = panels(1, height=3.8)
    ways = list(dict.fromkeys(board["way"]))
    for way, part in board.groupby("way", sort=False):
        shade, marker = look(way, ways)
        xerr, yerr = ([part[c] - part[f"{c}_low"], part[f"{c}_high"] - part[c]] for c in (x, y))
        line = "-" if len(part) > 1 else ""
        axes.errorbar(part[x], part[y], xerr=xerr, yerr=yerr, fmt=marker + line, color=shade, lw=1, label=way)
    axes.axhline(0.5, color="black", lw=0.8, ls=":")
    axes.set(xlabel=x, ylabel=f"{y} of the wrong labels")
    axes.legend()
    return figure


def noise_clouds(paths: Mapping[int, np.ndarray], new, clouds: Mapping[int, Mapping[str, np.ndarray]], side, loss):
    """Level lines of a loss with its new minimiser (star), one panel a number of steps: the path towards it, and the
    clouds of what is published after unlearning (grey) and after retraining (blue). More steps, smaller clouds."""
    figure, drawn = panels(len(paths), height=2.6, sharex=True, sharey=True)
    for axes, (steps, path) in zip(drawn, paths.items(), strict=True):
        axes.contour(side, side, loss, levels=8, colors="#cccccc", linewidths=0.7)
        for name, points in clouds[steps].items():
            axes.plot(*points.T, ".", color=colour(name), ms=2.5, alpha=0.7)
        axes.plot(*path.T, "o-", color="black", ms=3, lw=1)
        axes.plot(*new, "*", color=RED, ms=10)
        axes.set_title(f"{steps} steps: distance {np.linalg.norm(path[-1] - new):.2f}")
        bare(axes).set(xlim=(side[0], side[-1]), ylim=(side[0], side[-1]))
    return figure


def noise_against_steps(frame, labels: Mapping[str, str]):
    """What a deletion needs over its steps, one panel a method (title -> label of its axis; a different scale each):
    columns method, series, steps, value. To be seen is the shape, not the height."""
    figure, drawn = panels(len(labels), columns=2, height=2.6)
    for axes, (method, label) in zip(drawn, labels.items(), strict=True):
        for place, (name, part) in enumerate(frame[frame.method == method].groupby("series", sort=False)):
            axes.plot(part["steps"], part["value"], color=series(place)[0], label=name)
        axes.set_yscale("log")
        if part["steps"].max() > 100:
            axes.set_xscale("log")
        axes.set(title=method, ylabel=label, xlabel="steps of a deletion")
        axes.legend()
    return figure


def sandwich(board, *, cap: float, label: str):
    """For each learner a bar from the audited lower bound (triangle up) to the certificate (triangle down), and the
    estimate (dot; left out above `cap`). A red bar is a certificate that an audit has refuted."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.34 * len(board) + 1.0))
    for place, row in enumerate(board.itertuples(index=False)):
        shade = BLUE if row.holds else RED
        axes.plot([row.bound, row.certificate], [place, place], color=shade, lw=5, alpha=0.35)
        axes.plot(row.certificate, place, "v", color=INK, ms=7, label=None if place else "certificate")
        axes.plot(row.bound, place, "^", color=shade, ms=7, label=None if place else "audited lower bound")
        if np.isfinite(row.estimate) and row.estimate < cap:
            axes.plot(row.estimate, place, "o", color=ORANGE, ms=5)
    axes.plot([], [], "o", color=ORANGE, label="estimate")
    axes.set_yticks(range(len(board)), board["method"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
