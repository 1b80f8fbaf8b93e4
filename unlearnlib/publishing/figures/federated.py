"""Federations: what forgetting a client costs and leaves, and what later rounds wash out."""

from collections.abc import Mapping, Sequence

from unlearnlib.publishing.figures.appearance import POINTS, band, look, null_band, panels, series

# a method of federations has the colour of its kin among the methods for one model
_KIN = {
    **{"FedEraser": "dlfd", "FedRecover": "influence", "PGA": "neggrad", "distillation": "scrub"},
    **{"rapid retraining": "ssd", "retraining cut short": "retrain", "further rounds": "finetune"},
    "just leaves": "finetune",
}


def _look(name: str, names: Sequence[str]) -> tuple[str, str]:
    return look(_KIN.get(name, name))[0], series(list(names).index(name))[1]


def forgetting_costs(frame, shown: Mapping[str, str], null: Mapping[str, tuple], limits: Mapping[str, tuple]):
    """One panel a column of `shown` (column -> label): its mean over cost for each `family`, whose members are joined
    in the order of their cost, with intervals as bars. `null` gives the band of retraining by column, `limits` the ends
    of the axis. `frame` has the columns family, cost, and each column with `_low` and `_high`."""
    figure, drawn = panels(len(shown), columns=len(shown), height=3.8)
    names = list(dict.fromkeys(frame.family))
    for axes, (column, label) in zip(drawn, shown.items(), strict=True):
        null_band(axes, null[column], along="y", label="retrain, other seed")
        for name in names:
            part = frame[frame.family == name].sort_values("cost")
            shade, marker = _look(name, names)
            ends = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
            axes.errorbar(
                part.cost, part[column], ends, fmt=f"-{marker}", color=shade, lw=1.4, ms=5, elinewidth=1, label=name
            )
        axes.set(xlabel="work / retraining", ylabel=label, xlim=(-0.03, 1.06), ylim=limits[column])
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=POINTS)
    return figure


def washing_out(frame, *, request: int, names: Sequence[str]):
    """The share of triggers that is obeyed after each round, one line a method (the mean, the range over seeds as a
    band). Dashed: the request. `frame` has the columns method, round, obeyed, seed."""
    figure, (axes,) = panels(1, height=3.2)
    for name in names:
        shade, marker = _look(name, names)
        band(axes, frame[frame.method == name], x="round", y="obeyed", colour=shade, marker=marker, label=name)
    axes.axvline(request, color="black", ls="--", lw=1)
    axes.annotate("request", (request, axes.get_ylim()[1]), xytext=(4, -9), textcoords="offset points", fontsize=POINTS)
    axes.set(xlabel="rounds made", ylabel="triggers obeyed")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
