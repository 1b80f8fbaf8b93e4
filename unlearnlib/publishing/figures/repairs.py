"""Repair and forgetting without data, and pruning as an aid (chapter 13)."""

from collections.abc import Sequence

from unlearnlib.publishing.figures.appearance import (
    INK,
    ORANGE,
    WIDTH,
    band,
    colour,
    known,
    null_band,
    panels,
    plt,
    series,
    ticks,
)


def repaired(frame, flat, null: tuple[float, float], names: Sequence[str], *, y: str = "retain accuracy"):
    """Accuracy after repair against the number of pictures a class, one panel a dose of damage.

    `frame` (source, dose, pictures and `y`) has a curve for each of `names`, mean and range over seeds; `flat` (source,
    dose, `y`) what needs no number of pictures: "damaged" is dotted, two others are dashed. The band is the retrained
    models.
    """
    doses = list(dict.fromkeys(frame.dose))
    figure, drawn = panels(len(doses), columns=2, height=3.2, sharey=True)
    others = [name for name in dict.fromkeys(flat.source) if name != "damaged"]
    for axes, dose in zip(drawn, doses, strict=True):
        null_band(axes, null, along="y", label="retrained")
        for place, name in enumerate(names):
            shade, marker = known(name) or series(place)
            part = frame[(frame.dose == dose) & (frame.source == name)]
            band(axes, part, x="pictures", y=y, colour=shade, marker=marker, label=name)
        for name, line in zip(("damaged", *others), (":", "--", "-."), strict=False):
            height = flat[(flat.dose == dose) & (flat.source == name)][y].mean()
            shade = INK if name == "damaged" else colour(name)
            axes.axhline(height, color=shade, ls=line, lw=1.2, label=name)
        ticks(axes, sorted(frame.pictures.unique()))
        axes.set(title=f"{dose} steps of damage", xlabel="pictures a class")
    drawn[0].set_ylabel(y)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def transfer(frame, null: tuple[float, float]):
    """Accuracies of a student against rounds of transfer, one panel a threshold of the filter (columns threshold,
    round, forget, retain): where the forgotten class (orange) rises, the filter leaks. The band is retraining."""
    thresholds = list(dict.fromkeys(frame.threshold))
    figure, drawn = panels(len(thresholds), height=2.9, sharey=True)
    for axes, threshold in zip(drawn, thresholds, strict=True):
        part = frame[frame.threshold == threshold]
        null_band(axes, null, along="y")
        band(axes, part, x="round", y="retain", colour=INK, label="other classes", marker="")
        band(axes, part, x="round", y="forget", colour=ORANGE, label="forgotten class", marker="")
        axes.set(title=f"filter {threshold:g}", xlabel="rounds", ylim=(-0.03, 1.03))
    drawn[0].set_ylabel("test accuracy")
    drawn[0].legend()
    return figure


def pruned_gaps(frame, *, y: str = "gap"):
    """What fine-tuning leaves, against the share of weights that is kept (columns kept, mask, `y`); one curve a kind of
    mask, mean and range over seeds. At 1 nothing is pruned; zero is retraining under the same mask."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for place, (name, part) in enumerate(frame.groupby("mask", sort=False)):
        shade, marker = series(place)
        band(axes, part, x="kept", y=y, colour=shade, marker=marker, label=name)
    axes.axhline(0.0, color=colour("retrain"), lw=1)
    ticks(axes, sorted(frame.kept.unique()))
    axes.set(xlabel="share of weights kept", ylabel=f"{y} of forget accuracy")
    axes.legend()
    return axes
