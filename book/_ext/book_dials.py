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
        series = []
        for name in dict.fromkeys(r["series"] for r in here if r["kind"] == "line"):
            series += _series(name, here, settings)
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


def _series(name: str, here: list[Mapping], settings: list[float]) -> list[dict]:
    points = [r for r in here if r["series"] == name and r["kind"] == "line" and r["x"] and r["y"]]
    at = {x: [float(r["y"]) for r in points if float(r["x"]) == x] for x in settings}
    if sum(map(bool, at.values())) < 2:
        return []
    mid = [sorted(ys)[len(ys) // 2] if ys else None for ys in at.values()]
    # A band has no name of its own: it belongs to the line that runs inside it.
    outlines = [(float(r["x"]), float(r["y"])) for r in here if r["kind"] == "band" and _is_number(r["x"])]
    low, high = [], []
    for (x, ys), middle in zip(at.items(), mid, strict=True):
        edges = sorted(end for place, end in outlines if place == x)
        pairs = zip(edges, edges[1:], strict=False)
        around = [pair for pair in pairs if ys and pair[0] <= middle <= pair[1]]
        ends = [*ys, *(around[0] if around else ())]
        low.append(min(ends, default=None))
        high.append(max(ends, default=None))
    return [{"name": name, "mid": mid, "low": low, "high": high}]


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
