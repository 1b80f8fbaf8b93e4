"""The audit of audits: every audit on hundreds of models whose residual is known. Writes what `book/audits.md` shows.

    python benchmarks/audits.py            all worlds, half an hour of one core at most; continues where it was stopped
    python benchmarks/audits.py 2 8        two worlds with 8 candidates a case, for a look; nothing in the book changes

Each world is one forget set of `digits` with networks of its own, and one of phantoms; then there are worlds in which a
whole class is forgotten, for the audits of class requests. A finished world is kept in ~/.cache/unlearnlib-audits under
the checksum of the code, so that an interrupted run loses one.
"""

import hashlib
import io
import json
import re
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unlearnlib import audit
from unlearnlib.audit.batteries.class_panel import CLASS_PANEL
from unlearnlib.audit.batteries.meta import meta_matrix, recommended
from unlearnlib.audit.known_answers.residuals import World, phantom_world, world
from unlearnlib.data import loading
from unlearnlib.publishing import audited
from unlearnlib.publishing.figures import appearance
from unlearnlib.store.files import write
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
WORLDS, MODELS, REFERENCES, FORGOTTEN = 8, 16, 64, 120
CLASSES = (1, 3, 5, 8)  # digits, each the forgotten class of one world
LEVEL = 0.05
ALT = "Percent of models that each audit rejects: one row an audit, one column a kind of model"
OF_CLASSES_ALT = ALT + ", where a class was forgotten"
RECIPE = Recipe(epochs=20, batch_size=64, lr=5e-3)
KEPT = Path.home() / ".cache/unlearnlib-audits"
RESULT = ROOT / "book/benchmarks"


def evaluated(number: int, candidates: int) -> tuple[pd.DataFrame, dict]:
    """The rows of one world of networks and one of phantoms, and what the training took."""
    sizes = {"models": candidates, "references": REFERENCES, "seed": number, "forget": FORGOTTEN}
    made, cost = _trained(sizes)
    start = time.process_time()
    rows = [audit.meta_evaluation([w], first=number) for w in (made, phantom_world(**sizes))]
    return pd.concat(rows), {**cost, "seconds": cost["training"] + time.process_time() - start}


def of_class(number: int, candidates: int) -> tuple[pd.DataFrame, dict]:
    """The same for a world in which one class is forgotten."""
    made, cost = _trained({"models": candidates, "references": REFERENCES, "seed": number, "label": CLASSES[number]})
    start = time.process_time()
    rows = audit.meta_evaluation([made], budgets=(16, 64), first=number, panel=CLASS_PANEL)
    return rows, {**cost, "seconds": cost["training"] + time.process_time() - start}


def _trained(sizes: dict) -> tuple[World, dict]:
    ds = loading.load("digits")
    network = models.build("mlp", ds).architecture
    start = time.process_time()
    made = world(ds.train, ds.test, network.initialised, RECIPE, **sizes)
    return made, {"trained": made.trained, "training": time.process_time() - start}


def _code() -> str:
    """Changes when the instruments or the worlds do."""
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "unlearnlib/audit").rglob("*.py")))
    return hashlib.sha256(text).hexdigest()[:12]


def worlds_of(kind, count: int, candidates: int) -> tuple[pd.DataFrame, list[dict]]:
    """The rows and costs of all worlds of a kind, from those that are kept and new ones."""
    folder, rows, costs = KEPT / _code(), [], []
    for number in range(count):
        place = folder / f"{kind.__name__}-{number}-{candidates}"
        if not place.with_suffix(".json").exists():
            found, cost = kind(number, candidates)
            folder.mkdir(parents=True, exist_ok=True)
            _kept(place.with_suffix(".csv"), found.to_csv(index=False))
            _kept(place.with_suffix(".json"), json.dumps(cost))
            print(f"{place.name}: {cost}", flush=True)
        rows.append(pd.read_csv(place.with_suffix(".csv")))
        costs.append(json.loads(place.with_suffix(".json").read_text()))
    return pd.concat(rows), costs


def _kept(path: Path, text: str) -> None:
    write(path, text.encode())


def drawn(matrix: pd.DataFrame, heads: dict, alt: str, path: Path) -> None:
    """The matrix as a picture: shares of rejections, one row an audit with its extra models."""
    appearance.style()
    values = audited.found(matrix, heads)
    fig, axes = plt.subplots(figsize=(appearance.WIDTH, 0.27 * len(values) + 1.2))
    rows, columns = values.shape
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    axes.pcolormesh(*edges, values.to_numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.invert_yaxis()
    for (i, j), value in np.ndenumerate(values.to_numpy()):
        shade = "white" if value > 0.6 else appearance.INK
        axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=shade, fontsize=appearance.POINTS)
    axes.set_xticks(range(len(values.columns)), values.columns, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(values)), [f"{audit}, {extra}" for audit, extra in values.index])
    axes.xaxis.tick_top()
    axes.grid(False)
    measures = [heads[head][0] for head in values.columns]
    for j in range(1, len(measures)):
        if measures[j] != measures[j - 1]:
            axes.axvline(j - 0.5, color=appearance.INK)
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # no metadata, which would name other hosts
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "audits"}):
        fig.savefig(text, format="svg", metadata=nothing, bbox_inches="tight")
    drawing = re.sub(
        r"<\?xml.*?<svg ", f'<svg role="img" aria-label="{alt}" ', text.getvalue(), count=1, flags=re.DOTALL
    )
    _kept(path, drawing.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href"))


def main(worlds: int = WORLDS, candidates: int = MODELS) -> None:
    whole = (worlds, candidates) == (WORLDS, MODELS)
    classes, more = worlds_of(of_class, min(worlds, len(CLASSES)), candidates)
    of_classes = meta_matrix(classes, level=LEVEL).round(4)
    if whole:
        _kept(RESULT / "audits-classes.csv", of_classes.to_csv(index=False))
        drawn(of_classes, audited.OF_CLASSES, OF_CLASSES_ALT, ROOT / "book/_static/audits-classes.svg")
    rows, costs = worlds_of(evaluated, worlds, candidates)
    matrix, once = meta_matrix(rows, level=LEVEL).round(4), (rows["audit"] == "loss rank") & (rows["extra"] == 0)
    told = {
        "level": LEVEL,
        "worlds": worlds,
        "candidates": candidates,
        "forgotten": FORGOTTEN,
        "trained": sum(c["trained"] for c in costs),
        "seconds": sum(c["seconds"] for c in costs),
        "training_seconds_a_model": sum(c["training"] for c in costs) / sum(c["trained"] for c in costs),
        "audited": int(once.sum()),
        "recommended": recommended(rows, level=LEVEL).to_dict("records") if worlds >= 4 else [],
        "classes": {
            "worlds": len(more),
            "trained": sum(c["trained"] for c in more),
            "seconds": sum(c["seconds"] for c in more),
            "audited": int(((classes["audit"] == "LiRA") & (classes["extra"] == 16)).sum()),
        },
    }
    if whole:
        _kept(RESULT / "audits.csv", matrix.to_csv(index=False))
        _kept(RESULT / "audits.json", json.dumps(told, indent=1) + "\n")
        drawn(matrix, audited.SHOWN, ALT, ROOT / "book/_static/audits.svg")
    shown = [matrix, of_classes] if worlds < 4 else [pd.DataFrame(told["recommended"])]
    print(*(part.round(2).to_string() for part in shown), sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
