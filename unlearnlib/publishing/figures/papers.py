"""Figures of the chapters that re-run papers."""

from collections.abc import Sequence

from unlearnlib.publishing.figures.appearance import BLUE, GREY, RED, WIDTH, plt

_FURTHEST = 4.0  # half-widths that are drawn; what is farther away has an arrow


def published_in_intervals(places: Sequence[tuple[str, float]]):
    """Published numbers in units of our interval: 0 is our number, the band from -1 to 1 the interval.

    places      (what it is, (published - ours)/half-width)
    """
    axes = plt.subplots(figsize=(WIDTH, 0.27 * len(places) + 0.9))[1]
    axes.axvspan(-1, 1, color=GREY, alpha=0.25, lw=0)
    axes.axvline(0, color=GREY, lw=1)
    for position, (_, place) in enumerate(places):
        inside = abs(place) <= 1
        marker = "o" if abs(place) <= _FURTHEST else ">" if place > 0 else "<"
        shown = max(-_FURTHEST, min(_FURTHEST, place))
        axes.plot(shown, position, marker, color=BLUE if inside else RED, ms=6, clip_on=False)
    axes.set_yticks(range(len(places)), [name for name, _ in places])
    axes.set(xlim=(-_FURTHEST, _FURTHEST), ylim=(len(places) - 0.5, -0.5))
    axes.set_xlabel("published number, in half-widths of our interval")
    axes.grid(axis="y", visible=False)
    return axes
