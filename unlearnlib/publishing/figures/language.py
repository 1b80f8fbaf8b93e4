"""Language models: the way of a method from what it was to what it should be, and what it thinks of wrong answers."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnlib.publishing.figures.appearance import COLOURS, POINTS, WIDTH, colour, look, panels, plt


def forgetting_paths(frame, box: tuple[float, float], oracles):
    """Retained over forgotten knowledge while methods run: one line a method, the mean over seeds at every number of
    steps, its end marked. Band: where retrained models lie (`box`, in forgotten knowledge); stars: those that were
    trained. `frame` has columns method, steps, seed, forget, retain; `oracles` forget and retain."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    axes.axvspan(
        *box, color=COLOURS["retrain, other seed"], alpha=0.25, lw=0, zorder=0, label="where a retrained one lies"
    )
    axes.scatter(oracles.forget, oracles.retain, marker="*", s=45, color=colour("retrain"), label="retrained", zorder=3)
    names = list(frame.method.unique())
    for name in names:
        shade, marker = look(name, names)
        mean = frame[frame.method == name].groupby("steps")[["forget", "retain"]].mean()
        axes.plot(mean.forget, mean.retain, "-", color=shade, lw=1.4, alpha=0.8)
        axes.plot(
            mean.forget.iloc[-1], mean.retain.iloc[-1], marker, color=shade, ms=7, label=name, ls="none", zorder=4
        )
    axes.set(xlabel="probability of forgotten answers", ylabel="probability of retained answers")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    figure.legend(loc="outside right upper", fontsize=POINTS)
    return figure


def ratio_histograms(ratios: Mapping[str, Sequence[float]], reference: Sequence[float], *, columns: int = 3):
    """Truth ratios of the questions about forgotten people, one panel a model, on a logarithmic axis; in every panel
    the outline of retrained models (`reference`). Ratios beyond the axis are counted in its last bars."""
    edges = np.linspace(-3, 3, 25)
    figure, grid = panels(len(ratios), columns=columns, height=1.9, sharex=True, sharey=True)
    names = list(ratios)
    for axes, (name, values) in zip(grid, ratios.items(), strict=True):
        for sample, options in (
            (values, {"color": colour(name, names), "alpha": 0.6, "label": "this model"}),
            (reference, {"histtype": "step", "color": colour("retrain"), "lw": 1.5, "label": "retrained"}),
        ):
            logs = np.clip(np.log10(np.asarray(sample, dtype=float)), edges[0], edges[-1])
            axes.hist(logs, edges, weights=np.full(len(logs), 1 / len(logs)), **options)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(name)
    for axes in grid[-columns:]:
        axes.set_xlabel("log10 truth ratio")
    for axes in grid[::columns]:
        axes.set_ylabel("share")
    return figure
