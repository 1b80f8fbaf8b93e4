"""Sliders over results that are on the page already: the reader turns a dial, and nothing is computed.

Below the first figure of a chapter whose horizontal axis is the dial, the page gets what `dials.js` needs to show the
figure's numbers at one setting. The numbers are those that travel with the figure; without a script, or on paper, the
figure stands for itself.
"""

import csv
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path

from book_results import number, outputs, told
from docutils import nodes
from sphinx.transforms import SphinxTransform

# chapter -> (how its horizontal axis begins or ends, what the slider is called)
DIALS = {
    1: ("label noise", "Label noise"),
    2: ("models", "Number of models"),
    6: ("damping", "Damping"),
    8: ("beta", "Weight of forgetting, beta"),
    9: ("epsilon", "Privacy budget, epsilon"),
}
LEAST = 3  # settings that make a dial


def dial(data: str, axis: str) -> dict | None:
    """What a slider along the horizontal axis `axis` shows, from the csv of a figure; None where it has no such axis.

    {"x": settings, "panels": [{"title", "y", "range", "level", "across", "series"}]}, and a series is {"name", "mid",
    "low", "high"} with one number or None a setting: `low` and `high` are the ends of everything drawn for it there,
    `mid` the middle one. `level` are the ends of what is drawn across the panel, such as the null, `across` its names.
    """
    rows = [row for row in csv.DictReader(io.StringIO(data)) if row.get("x axis") is not None]
    ours = [r for r in rows if axis in (r["x axis"].lower(), r["x axis"].lower().split(",")[-1].strip())]
    lines = [r for r in ours if r["kind"] == "line" and _is_number(r["x"]) and _is_number(r["y"])]
    settings = sorted({float(r["x"]) for r in lines})
    if not LEAST <= len(settings) <= 60:
        return None
    panels = []
    for title in dict.fromkeys((r["panel"], r["y axis"]) for r in lines):
        here = [r for r in ours if (r["panel"], r["y axis"]) == title and (not r["y"] or _is_number(r["y"]))]
        series, bands = [], _bands(here)
        for name in dict.fromkeys(r["series"] for r in here if r["kind"] == "line"):
            series += _series(name, here, settings, bands)
        across = [r for r in here if r["kind"] == "level" and r["y"]]
        level = sorted(float(r["y"]) for r in across)
        ends = [v for s in series for part in ("low", "high", "mid") for v in s[part] if v is not None] + level
        panels.append(
            {
                "title": title[0] if not title[0].startswith("panel ") else "",
                "y": title[1],
                "range": [min(ends), max(ends)],
                "level": [level[0], level[-1]] if level else None,
                "across": ", ".join(dict.fromkeys(r["series"] for r in across if r["series"])),
                "series": series,
            }
        )
    return {"x": settings, "panels": panels}


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _bands(here: list[Mapping]) -> list[dict[float, tuple[float, float]]]:
    """The bands of a panel, setting -> its ends, in the order in which they were drawn.

    The outline of a band over n settings has 2 n + 3 corners: it begins and ends at the first one.
    """
    corners = [(float(r["x"]), float(r["y"])) for r in here if r["kind"] == "band" and _is_number(r["x"])]
    size = 2 * len({x for x, _ in corners}) + 3
    if len(corners) % size:  # bands over different settings: nothing tells them apart
        return []
    parts = [corners[start : start + size] for start in range(0, len(corners), size)]
    ends = [{x: sorted(y for place, y in part if place == x) for x, _ in part} for part in parts]
    return [{x: (ys[0], ys[-1]) for x, ys in found.items()} for found in ends]


def _series(name: str, here: list[Mapping], settings: list[float], bands: list) -> list[dict]:
    points = [r for r in here if r["series"] == name and r["kind"] == "line" and r["x"] and r["y"]]
    at = {x: [float(r["y"]) for r in points if float(r["x"]) == x] for x in settings}
    if sum(map(bool, at.values())) < 2:
        return []
    mid = [sorted(ys)[len(ys) // 2] if ys else None for ys in at.values()]
    # A band has no name of its own: a line takes the first one left that holds all of it, as they were drawn.
    ours = (band for band in bands if all(x in band and _holds(band[x], ys) for x, ys in at.items() if ys))
    band = next(ours, {})
    if band:
        bands.remove(band)
    ends = [[*ys, *(band.get(x, ()) if ys else ())] for x, ys in at.items()]
    low, high = ([pick(found, default=None) for found in ends] for pick in (min, max))
    return [{"name": name, "mid": mid, "low": low, "high": high}]


def _holds(ends: tuple[float, float], values: list[float]) -> bool:
    slack = 1e-5 * max(map(abs, ends))  # the csv has six digits
    return all(ends[0] - slack <= value <= ends[1] + slack for value in values)


def shown(document: nodes.document, place: int) -> nodes.figure | None:
    """The figure that shows the picture of this place; its identifier does not tell, where it has a caption."""
    for figure in document.findall(nodes.figure):
        if any(f"-figure-{place}.png" in raw.astext() for raw in figure.findall(nodes.raw)):
            return figure
    return None


class AddDials(SphinxTransform):
    default_priority = 690  # after the figures have their places

    def apply(self, **_) -> None:
        chapter = number(self.env.docname)
        if chapter not in DIALS:
            return
        axis, label = DIALS[chapter]
        nb = json.loads(Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8"))
        pictures = [output for _, output in outputs(nb) if "image/png" in output["data"]]
        for place, output in enumerate(pictures, 1):
            found = dial(told(output).get("unlearnlib", {}).get("data", ""), axis)
            figure = shown(self.document, place) if found else None
            if figure is not None:
                data = html.escape(json.dumps({"label": label, **found}, ensure_ascii=False), quote=True)
                figure.parent.insert(
                    figure.parent.index(figure) + 1,
                    nodes.raw("", f'<div class="dial" data-dial="{data}" hidden></div>', format="html"),
                )
                return


def setup(app):
    app.add_transform(AddDials)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
