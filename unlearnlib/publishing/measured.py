"""Tables of what the scripts below `benchmarks/` measured: ratios, operations, growth, and the audit of audits.

They are Markdown fragments below `book/generated`, which pages of the book include. Nothing is measured here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unlearnlib.publishing import audited
from unlearnlib.publishing.markup import UNMEASURED, grid_table, plain

FOLDER = Path("book/benchmarks")
PERFORMANCE = FOLDER / "performance.json"
_PRODUCTS = "In pinned mode numpy's OpenBLAS computes it, 2.1 to 2.65 times as fast on large products as before."
_MODULES = "Left: class modules step with torch's plain Adam. What is trained by a recipe takes fused steps."
_BYTES = (
    "Left: among others, pictures are kept as bytes, and each batch becomes numbers between 0 and 1 when it is read."
)
_DONE = {  # operation of the profiler -> what was done about it
    "aten::mm": _PRODUCTS,
    "aten::addmm": _PRODUCTS,
    "Optimizer.step#AdamW.step": "One fused step for all weights; what is left is torch's own Python around it.",
    "Optimizer.step#Adam.step": _MODULES,
    "aten::sqrt": _MODULES,
    "Optimizer.step#SGD.step": "Left: torch's fused step of SGD crashes on emulated processors.",
    "aten::add": "Left: among others weight decay and momentum of SGD, which is not fused.",
    "aten::copy_": _BYTES,
    "aten::_to_copy": _BYTES,
    "aten::div": _BYTES,
}


def texts(folder: Path = FOLDER) -> dict[str, str]:
    """File name -> Markdown of the tables that the files below `folder` allow."""
    performance = folder / PERFORMANCE.name
    grown, profile = folder / "growth.json", folder / "operations.json"
    matrix, classes = (_table(folder / f"{name}.csv") for name in ("audits", "audits-classes"))
    told, pool = (_json(folder / f"{name}.json") for name in ("audits", "audits-cifar10"))
    audits = {} if matrix is None or told is None else audited.texts(matrix, told)
    audits |= audited.of_classes(classes, told) | {"audits-pool.md": audited.of_pool(pool)}
    return audits | {
        "performance-table.md": ratios(json.loads(performance.read_text())) if performance.exists() else UNMEASURED,
        "operations-table.md": operations(json.loads(profile.read_text())) if profile.exists() else UNMEASURED,
        "growth-table.md": growth(json.loads(grown.read_text())) if grown.exists() else UNMEASURED,
    }


def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path) if path.exists() else None


def _json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def ratios(results: Mapping) -> str:
    """Each benchmark's ratio beside its goal, and the machine that they were measured on."""
    lines = []
    for row in results["rows"]:
        spread = f"{_short(row['low'])} to {_short(row['high'])}"
        verdict = "reached" if row["ratio"] >= row["goal"] else "missed"
        found = f"{_short(row['ratio'])} {row.get('unit', '')}".strip()
        lines.append([plain(row["name"]), found, spread, _short(row["goal"]), verdict])
    reached = sum(line[-1] == "reached" for line in lines)
    machine = "; ".join(f"{name}: {value}" for name, value in results["machine"].items())
    table = grid_table(["Work", "Ratio (median)", "Lowest to highest", "Goal", "Verdict"], lines)
    return f"Goals reached: {reached} of {len(lines)}. Measured on {machine}.\n\n{table}\n"


def operations(profile: Mapping) -> str:
    """The most expensive operations, their share of all runs and of each chapter's, and what was done about them."""
    lines = []
    for row in profile["operations"]:
        shares = [f"{100 * row[key]:.1f} %" for key in ("share", *profile["chapters"])]
        lines.append([f"`{row['operation']}`", *shares, _DONE.get(row["operation"], "Nothing.")])
    head = ["Operation", "Share", *(f"Chapter {chapter}" for chapter in profile["chapters"]), "What was done"]
    return f"Between operations, in Python: {100 * profile['between']:.0f} %.\n\n{grid_table(head, lines)}\n"


def growth(points: Sequence[Mapping]) -> str:
    """How seconds and memory grow with one size: ends of each curve, and the exponent fitted to its seconds."""
    lines = []
    for (work, over), curve in pd.DataFrame(points).groupby(["work", "over"], sort=False):
        curve = curve.sort_values("size")
        first, last = curve.iloc[0], curve.iloc[-1]
        ends = [f"{_short(end['seconds'])} s, {end['megabytes']:.0f} MB" for end in (first, last)]
        span = f"{over}, {first['size']:,g} to {last['size']:,g}"
        lines.append([plain(work), plain(span), *ends, exponent(curve)])
    return grid_table(["Work", "Grows with", "Smallest", "Largest", "Exponent of seconds"], lines) + "\n"


def exponent(curve: pd.DataFrame, least: float = 0.05) -> str:
    """Slope of log seconds on log size of the points above `least` seconds; "" where there are fewer than three."""
    long = curve[curve["seconds"] > least]
    if len(long) < 3:
        return ""
    return f"{np.polyfit(np.log(long['size']), np.log(long['seconds']), 1)[0]:.2f}"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
