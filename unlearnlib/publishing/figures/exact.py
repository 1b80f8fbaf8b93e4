"""Exact learners: what a deletion touches, what it costs, and what it gives away (chapters 03 and 04)."""

from collections.abc import Mapping

import numpy as np

from unlearnlib.publishing.figures.appearance import (
    BLUE,
    INK,
    ORANGE,
    POINTS,
    WIDTH,
    bare,
    look,
    panels,
    plt,
    series,
    ticks,
)
from unlearnlib.publishing.figures.charts import intervals
from unlearnlib.publishing.figures.pictures import gallery

_NODES = {"untouched": "#c8c8c8", "updated": BLUE, "rebuilt": ORANGE}


def shard_grids(grids: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Shards (rows) by slices (columns), one panel a request: (touched, held) of [S, R]. Dark stages are trained again,
    numbers count the deleted points in a slice; the title says the share of all stages."""
    figure, drawn = panels(len(grids), height=2.4, sharey=True)
    for axes, (name, (touched, held)) in zip(drawn, grids.items(), strict=True):
        touched, (rows, columns) = np.asarray(touched, dtype=float), np.shape(held)
        axes.pcolormesh(touched, cmap="Blues", vmin=0, vmax=1.3, edgecolors="white", linewidth=2)
        for row, column in zip(*np.nonzero(held), strict=True):
            place = {"ha": "center", "va": "center", "color": "white", "fontsize": POINTS}
            axes.text(column + 0.5, row + 0.5, str(held[row, column]), **place)
        axes.set_title(f"{name}\n({touched.mean():.0%} of the stages)")
        axes.set_xticks(np.arange(columns) + 0.5, range(1, columns + 1))
        axes.set_yticks(np.arange(rows) + 0.5, range(1, rows + 1))
        axes.set_xlabel("slice")
    drawn[0].set_ylabel("shard")
    return figure


def sharding(measured, planned, levels: Mapping[str, float]):
    """Left: accuracy over the number of shards (mean and range over seeds), beside learners without shards (`levels`).
    Middle, right: what one deletion saves, planned (markers) on the law (lines). `planned` has the columns over
    (shards or slices), value, slicing, speed-up, law."""
    figure, (left, *others) = panels(3, height=3.0)
    grouped = measured.groupby("shards")["accuracy"]
    shade, marker = look("SISA")
    left.plot(grouped.mean().index, grouped.mean(), "-", marker=marker, color=shade, ms=4, label="shards")
    left.fill_between(grouped.mean().index, grouped.min(), grouped.max(), color=shade, alpha=0.15, lw=0)
    for (name, level), line in zip(levels.items(), (":", "--"), strict=True):
        left.axhline(level, color=INK if ":" in line else look("class modules")[0], ls=line, lw=1.2, label=name)
    left.set(xlabel="shards", ylabel="test accuracy")
    left.legend()
    for axes, (over, part) in zip(others, planned.groupby("over", sort=False), strict=True):
        for place, (slicing, own) in enumerate(part.groupby("slicing", sort=False)):
            tint, shape = series(place + 1)
            axes.plot(own["value"], own["law"], "-", color=tint, lw=1)
            axes.plot(own["value"], own["speed-up"], shape, color=tint, ms=5, label=slicing)
        axes.set_xlabel(over)
    others[0].set_ylabel("retraining / one deletion")
    others[0].legend()
    return figure


def deletion_trees(flows: Mapping[str, tuple[object, int]]):
    """What one deletion does in a tree, one panel a title: (the flow of the deletion, number of random upper layers).
    Blue nodes were subtracted from, orange ones built anew, grey ones never visited; squares split at random."""
    figure, drawn = panels(len(flows), height=3.2, sharey=True)
    for axes, (title, (flow, random_depth)) in zip(drawn, flows.items(), strict=True):
        place = {p: sum((-1.0 if s == "L" else 1.0) / 2 ** (k + 1) for k, s in enumerate(p)) for p in flow.path}
        for node in flow.itertuples():
            x, y = place[node.path], -node.depth
            if node.depth:
                axes.plot([place[node.path[:-1]], x], [y + 1, y], color="#b0b0b0", lw=0.8, zorder=0)
            shape = "s" if node.depth < random_depth and node.attribute >= 0 else "o"
            axes.scatter(x, y, s=12 + 5 * np.sqrt(node.n), color=_NODES[node.state], marker=shape, zorder=2)
        counts = flow.state.value_counts()
        told = ", ".join(f"{counts.get(state, 0)} {state}" for state in ("updated", "rebuilt"))
        axes.set_title(f"{title}\n{told},\nof {len(flow)} nodes")
        deepest = int(flow.depth.max())
        bare(axes).set_yticks(range(-deepest, 1), [str(-k) for k in range(-deepest, 1)])
    drawn[0].set_ylabel("depth")
    handles = [plt.Line2D([], [], marker="o", ls="", color=shade, label=state) for state, shade in _NODES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def random_layers(frame, levels: Mapping[str, float]):
    """Over the number of random upper layers: the share of a forest that one deletion rebuilds, and its accuracy beside
    forests that cannot forget (`levels`). Dots are seeds, lines their means: cheaper deletions cost accuracy."""
    figure, drawn = panels(2, height=3.0)
    shade, marker = look("forest")
    for axes, column in zip(drawn, ("rebuilt", "accuracy"), strict=True):
        axes.plot(frame.depth, frame[column], marker, ms=4, color=shade, label="DaRE")
        axes.plot(frame.groupby("depth")[column].mean(), color=shade)
        axes.set_xlabel("random upper layers (dots: seeds)")
    drawn[0].set(yscale="log", ylabel="rebuilt / all examples")
    for (name, level), line in zip(levels.items(), ("--", ":"), strict=False):
        drawn[1].axhline(level, ls=line, color=INK, lw=1.2, label=name)
    drawn[1].set_ylabel("test accuracy")
    drawn[1].legend()
    return figure


def queue_costs(frame):
    """Mean cost of a request (share of a refit, logarithmic) for each learner and queue: dots are seeds, bars means.
    An adversary makes shards and forests pay; closed forms lie on one point. Columns learner, queue, mean."""
    learners, queues = (list(dict.fromkeys(frame[c])) for c in ("learner", "queue"))
    figure, (axes,) = panels(1, height=0.42 * len(learners) + 0.9)
    for place, queue in enumerate(queues):
        shade, marker = series(place)
        for row, name in enumerate(learners):
            values = frame[(frame.queue == queue) & (frame.learner == name)]["mean"].to_numpy()
            height = row + (place - (len(queues) - 1) / 2) * 0.24
            axes.plot(values, [height] * len(values), marker, ms=4, color=shade, label=queue if row == 0 else None)
            axes.plot(values.mean(), height, "|", ms=11, mew=2, color=shade)
    axes.set_xscale("log")
    axes.set_yticks(range(len(learners)), learners)
    axes.invert_yaxis()
    axes.set_xlabel("cost of a request / cost of a refit (dots: seeds; bars: means)")
    axes.legend()
    return figure


def shard_attack(board, rates, law):
    """Left: what the first half of the shards gains under each deleter; the adaptive one without noise stands out of
    the band of retraining. Right: votes on what is left over epsilon (`rates` by epsilon), on the law (line)."""
    figure, (left, right) = panels(2, height=2.9)
    null = board[board.deleter == "retrained"].iloc[0]
    ends = {"low": "advantage_low", "high": "advantage_high", "null": (null.advantage_low, null.advantage_high)}
    intervals(board, y="deleter", x="advantage", label="first half minus second half", axes=left, **ends)
    left.axvline(0, color="black", lw=0.8)
    right.plot(rates.index, law, color="black", lw=1, label="law")
    right.plot(rates.index, rates.unlearned_rate, "o", color=ORANGE, label="adaptive deletions")
    right.plot(rates.index, rates.retrained_rate, "s", color=BLUE, label="retrained")
    right.set(xlabel="epsilon of the published votes", ylabel="votes 1 on what is left")
    right.legend()
    return figure


def recovered(pictures, batched, *, columns: int):
    """Above: deleted pictures, and what two releases give away; nothing tells them apart. Below: the same for batches:
    cosine of the best single guess, and of the span of the change. `batched` has the columns size, single, span."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 4.6), height_ratios=[1, 1.2])
    gallery(pictures, ["deleted", "recovered"], columns=columns, axes=above)
    told = {"single": "best single guess", "span": "inside the span of the change"}
    for place, (column, label) in enumerate(told.items()):
        shade, marker = series(place + 1)
        average = batched.groupby("size")[column].mean()
        below.plot(average.index, average, "-", marker=marker, color=shade, ms=4, label=label)
    ticks(below, average.index)
    below.set(ylim=(0, 1.05), xlabel="examples deleted between two releases", ylabel="cosine")
    below.legend()
    return figure


def break_even(shares, laws, levels: Mapping[str, float]):
    """Share of a retraining that a batch of deletions takes, measured (markers) and by law (lines, same columns
    learner, size, share), beside what does not depend on the batch (`levels`). Exact is cheaper left of the
    crossings."""
    figure, (axes,) = panels(1, height=3.6)
    names = list(dict.fromkeys(shares.learner))
    shapes = dict(zip(names, "osD^vP", strict=False))
    for place, name in enumerate(names):
        average = shares[shares.learner == name].groupby("size").share.mean()
        shade = series(place)[0]
        axes.plot(average.index, average, shapes[name], ms=5, color=shade, label=name)
        own = laws[laws.learner == name]
        axes.plot(own["size"], own["share"], color=shade, lw=1)
    for (name, level), line in zip(levels.items(), (":", "--"), strict=False):
        axes.axhline(level, ls=line, color=look("finetune")[0], lw=1.4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="random points deleted at once", ylabel="share of a retraining")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
