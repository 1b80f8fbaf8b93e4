"""A year of requests: what each policy has cost, damaged and left behind by then, and how much of a budget is spent."""

from collections.abc import Mapping, Sequence

from unlearnlib.publishing.figures.appearance import POINTS, RED, WIDTH, band, look, panels, plt


def _look(name: str, policies: Sequence[str]) -> tuple[str, str]:
    """Doing nothing leaves the original."""
    return look("original" if name == "nothing" else name, policies)


def year(frame, columns: Mapping[str, str], policies: Sequence[str]):
    """One column of panels a rate, one row a quantity, one line a policy: its mean over seeds at each batch, the band
    their range. `frame` has columns policy, rate, seed, batch and those that `columns` maps to labels."""
    rates = sorted(frame.rate.unique())
    shape = {"columns": len(rates), "height": 2.4, "sharex": True, "sharey": "row"}
    figure, grid = panels(len(rates) * len(columns), **shape)
    for row, (column, label) in enumerate(columns.items()):
        for place, rate in enumerate(rates):
            axes = grid[row * len(rates) + place]
            for name in policies:
                shade, marker = _look(name, policies)
                part = frame[(frame.policy == name) & (frame.rate == rate)].assign(batch=lambda f: f.batch + 1)
                told = name if row == place == 0 else None
                band(axes, part, x="batch", y=column, colour=shade, marker=marker, label=told)
            if row == 0:
                axes.set_title(f"{rate:.0%} of the data a year")
            if place == 0:
                axes.set_ylabel(label)
            if row == len(columns) - 1:
                axes.set_xlabel("batch of the year")
    figure.legend(loc="outside lower center", ncols=4, fontsize=POINTS)
    return figure


def year_ends(frame, columns: Mapping[str, str], policies: Sequence[str]):
    """The interval of each quantity at the end of the year, one panel a quantity: rates side by side for each policy.
    `frame` has columns policy, rate and, for each of `columns`, it, `_low` and `_high`."""
    figure, grid = panels(len(columns), columns=len(columns), height=0.32 * len(policies) + 1.3, sharey=True)
    rates = sorted(frame.rate.unique())
    for axes, (column, label) in zip(grid, columns.items(), strict=True):
        for place, name in enumerate(policies):
            shade, _ = _look(name, policies)
            for number, rate in enumerate(rates):
                (one,) = frame[(frame.policy == name) & (frame.rate == rate)].to_dict("records")
                height = place + 0.24 * (number - (len(rates) - 1) / 2)
                axes.plot([one[f"{column}_low"], one[f"{column}_high"]], [height] * 2, "-", color=shade, lw=1.4)
                axes.plot(one[column], height, "osD^v"[number], color=shade, ms=4, ls="none")
        axes.axvline(0, color="black", lw=0.8, zorder=0)
        axes.set(xlabel=label, yticks=range(len(policies)), yticklabels=policies)
        axes.invert_yaxis() if axes is grid[0] else None
    for number, rate in enumerate(rates):
        grid[-1].plot([], [], "osD^v"[number], color="black", ms=4, ls="none", label=f"{rate:.0%} a year")
    figure.legend(loc="outside lower center", ncols=len(rates), fontsize=POINTS)
    return figure


def budget_spent(spent: Mapping[str, Sequence[Sequence[float]]], allowed: float):
    """What a certificate has spent, over the examples deleted since the last training, one series a rate and one line a
    run between two trainings; the red line is all that it may spend."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    for name, runs in spent.items():
        shade, marker = look(name, list(spent))
        for number, (deleted, used) in enumerate(runs):
            axes.plot(deleted, used, "-", marker=marker, ms=4, lw=1.2, color=shade, label=name if not number else None)
    axes.axhline(allowed, color=RED, lw=1.4, label="all that may be spent")
    axes.set(xlabel="examples deleted since the last training", ylabel="certified residual")
    axes.set_ylim(0, 1.15 * allowed)
    axes.legend(fontsize=POINTS)
    return figure
