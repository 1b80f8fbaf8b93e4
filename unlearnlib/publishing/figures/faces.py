"""Collapse while it happens, and over the tie of task and identity (chapter 11)."""

from unlearnlib.audit.statistics.intervals import t_interval
from unlearnlib.publishing.figures.appearance import band, colour, look, panels, series


def collapse_traces(frame):
    """Loss of clean and of perturbed pictures, and validation accuracy, over the steps of the loop: mean and range over
    seeds; columns variant, step, clean, perturbed, accuracy. Full: the first variant, dotted: the second. As written
    the loss that is trained on falls while the loss of the pictures as they are rises."""
    figure, (left, right) = panels(2, height=3.2)
    for line, (variant, part) in zip(("-", ":"), frame.groupby("variant", sort=False), strict=False):
        for place, column in enumerate(("clean", "perturbed")):
            told = f"{column} pictures, {variant}"
            band(left, part, x="step", y=column, colour=series(place)[0], marker="", line=line, label=told)
        band(right, part, x="step", y="accuracy", colour=series(2)[0], marker="", line=line, label=variant)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.set(xlabel="step", ylabel="validation accuracy")
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def entanglement(frame, columns):
    """Accuracy less that of the retrained model over the correlation of identity and task, with 95% intervals over
    seeds; one panel a column of `columns`, one line a method. Below zero is damage."""
    figure, drawn = panels(len(columns), height=3.1)
    names = [name for name in dict.fromkeys(frame.method) if colour(name) != colour("retrain")]
    for axes, column in zip(drawn, columns, strict=True):
        for place, name in enumerate(names):
            part = frame[frame.method == name]
            shade, marker = look(name)
            ends = [t_interval(v[column].to_numpy()) for _, v in part.groupby("correlation")]
            x = [v + 0.012 * (place - (len(names) - 1) / 2) for v in sorted(part.correlation.unique())]
            axes.plot(x, [i.value for i in ends], "-", marker=marker, color=shade, ms=4, label=name)
            axes.vlines(x, [i.low for i in ends], [i.high for i in ends], color=shade, lw=1)
        axes.axhline(0, color="black", lw=0.8, ls=":")
        axes.set(xlabel="correlation of identity and task", title=column)
    drawn[0].set_ylabel("accuracy less retrained")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
