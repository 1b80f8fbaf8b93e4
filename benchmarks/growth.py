"""How cost grows: CPU seconds and memory of an unlearning, an audit and a deletion, as one size grows at a time.

Every point runs in a process of its own, so that its peak of memory is its own. Seconds are CPU time of one thread,
without loading; memory is the peak of the process less what it had when the work began. The pictures are noise: what a
step costs does not depend on what it shows. The exponent is the slope of log seconds on log size over the points whose
work takes longer than a twentieth of a second. Not a part of `python benchmarks`, since it has no peer:

    python benchmarks/growth.py                write book/benchmarks/growth.json, point by point
    python benchmarks/growth.py KLoM           some curves; points that are in the file are not measured again

Last, the curves are drawn to book/_static/growth.svg.
"""

import io
import json
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from _machine import alone, peak_memory  # noqa: E402

RESULTS = ROOT / "book/benchmarks/growth.json"
BASE = {"pictures": 10_000, "parameters": 100_000, "share": 0.01, "models": 64}
SIZES = {
    "pictures": (5_000, 10_000, 20_000, 50_000),
    "parameters": (10_000, 100_000, 1_000_000, 10_000_000),
    "share": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "models": (8, 32, 128, 512),
}
ALT = "CPU seconds against pictures, weights, the share to be forgotten, and models, on logarithmic axes"
# work -> the sizes that it depends on
CURVES = {
    "retraining, 5 epochs": ("pictures", "parameters"),
    "fine-tuning, 1 epoch": ("pictures", "parameters", "share"),
    "gradient ascent, 1 epoch": ("pictures", "parameters", "share"),
    "selective dampening": ("pictures", "parameters", "share"),
    "influence, 20 iterations": ("pictures", "parameters", "share"),
    "U-LiRA, games A and B": ("models", "pictures"),
    "KLoM": ("models", "pictures"),
    "loss attack, one model": ("pictures",),
    "ridge, one deletion": ("pictures",),
    "forest of 10 trees, one deletion": ("pictures",),
    "class means, one deletion": ("pictures",),
}
METHODS = {
    "retraining, 5 epochs": ("retrain", {}),
    "fine-tuning, 1 epoch": ("finetune", {"epochs": 1, "batch_size": 128}),
    "gradient ascent, 1 epoch": ("neggrad", {"epochs": 1, "batch_size": 128}),
    "selective dampening": ("ssd", {}),
    "influence, 20 iterations": ("influence", {"iterations": 20}),
}


def noise(n: int):
    """Pictures of 28 pixels, ten classes."""
    import torch

    from unlearnlib import seeding
    from unlearnlib.data.examples import Dataset, Examples

    rng = seeding.generator(0, "growth")
    images = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=rng)
    examples = Examples(images, torch.randint(0, 10, (n,), generator=rng))
    return Dataset("noise", examples, examples[torch.arange(100)], tuple("0123456789"), "drawn")


def unlearning(what: str, size: dict):
    """A call that unlearns."""
    import unlearnlib as ul
    from unlearnlib import data
    from unlearnlib.training import models
    from unlearnlib.training.recipe import Recipe

    ds = noise(int(size["pictures"]))
    split = data.split(ds, forget=f"random:{size['share']}", seed=0)
    width = max(4, round((size["parameters"] - 10) / (784 + 11)))
    model = models.build("mlp", ds, hidden=(width,), seed=0)
    name, given = METHODS[what]
    given = {"recipe": Recipe(epochs=5, batch_size=128)} if name == "retrain" else given
    return lambda: ul.unlearn(name, model, split, seed=0, **given)


def auditing(what: str, size: dict):
    """A call that audits margins [models, pictures]; the trainings are not counted."""
    import numpy as np

    from unlearnlib.audit.attacks.lira import lira
    from unlearnlib.audit.attacks.membership import loss_attack
    from unlearnlib.audit.distances.klom import klom
    from unlearnlib.audit.statistics import state

    rng = np.random.default_rng(0)
    models, pictures = int(size["models"]), int(size["pictures"])
    if what.startswith("loss"):
        sides = rng.normal(size=(2, pictures))
        return lambda: loss_attack(*sides, seed=0)
    design = state.state_matrix(models, pictures, seed=0)
    margins, oracles = rng.normal(size=(2, models, pictures))
    if what == "KLoM":
        return lambda: klom(margins, oracles, estimator="gaussian")
    return lambda: (lira(margins, design, game="B"), lira(margins, design, game="A", retrained=oracles))


def deleting(what: str, size: dict):
    """A call that deletes one example from a fitted learner."""
    from unlearnlib.exact import forest, naive_bayes, ridge

    train = noise(int(size["pictures"])).train
    learner = {
        "ridge": lambda: ridge.Ridge(),
        "forest": lambda: forest.DareForest(n_trees=10, seed=0),
        "class": lambda: naive_bayes.NearestMean(),
    }[what.split()[0].strip(",")]().fit(train)
    if what.startswith("forest"):
        learner.forget([1])  # compiles
    return lambda: learner.forget([3])


def point(what: str, size: dict) -> tuple[float, float]:
    """Seconds and megabytes of one point."""
    prepare = (
        unlearning if what in METHODS else auditing if CURVES[what][0] == "models" or "attack" in what else deleting
    )
    work = prepare(what, size)
    started = time.process_time()
    needed = peak_memory(work)
    return time.process_time() - started, needed


def measured(what: str, size: dict) -> tuple[float, float]:
    """`point` in a process of its own."""
    try:
        return alone(point, what, size, start="spawn")
    except EOFError:
        raise SystemExit(f"{what} at {size} failed: see the traceback above") from None


def drawn(found: list[dict]) -> None:
    """One panel a size, one line a piece of work."""
    import matplotlib as mpl

    mpl.use("svg")
    import pandas as pd

    from unlearnlib.publishing import figures
    from unlearnlib.publishing.figures import appearance

    figures.style()
    mpl.rcParams["svg.fonttype"] = "path"
    sheet, panels = figures.panels(len(SIZES), columns=2, height=3.4)
    works = list(CURVES)
    for axes, over in zip(panels, SIZES, strict=True):
        for work, curve in pd.DataFrame(found).query("over == @over").groupby("work", sort=False):
            shade, marker = figures.series(works.index(work)) if works.index(work) < 10 else ("#707070", "X")
            axes.plot(curve["size"], curve["seconds"], marker=marker, ms=4, lw=1.3, color=shade, label=work)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel={"share": "share to be forgotten", "parameters": "weights"}.get(over, over),
        )
        appearance.ticks(axes, SIZES[over])
        axes.set_ylabel("CPU seconds")
    lines = {line.get_label(): line for axes in panels for line in axes.lines}
    sheet.legend(lines.values(), lines, loc="outside lower center", ncols=2)
    text, nothing = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))  # these would name other hosts
    sheet.savefig(text, format="svg", metadata=nothing)
    opening = f'<svg role="img" aria-label="{ALT}" '
    drawing = re.sub(r"<\?xml.*?<svg ", opening, text.getvalue(), count=1, flags=re.DOTALL)
    drawing = drawing.replace('xmlns:xlink="http://www.w3.org/1999/xlink" ', "").replace("xlink:href", "href")
    (ROOT / "book/_static/growth.svg").write_text(drawing)


def main(wanted: list[str]) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(row["work"], row["over"], row["size"]) for row in found}
    for what, sizes in CURVES.items():
        for over in sizes:
            for value in SIZES[over] if not wanted or any(w in what for w in wanted) else ():
                if (what, over, value) in done:
                    continue
                seconds, megabytes = measured(what, BASE | {over: value})
                found.append({"work": what, "over": over, "size": value, "seconds": seconds, "megabytes": megabytes})
                print(f"{what}, {over} {value:g}: {seconds:.3g} s, {megabytes:.0f} MB", flush=True)
                partial = RESULTS.with_suffix(".partial")
                partial.write_text(json.dumps(found, indent=1) + "\n")
                partial.replace(RESULTS)
    drawn(found)


if __name__ == "__main__":
    main(sys.argv[1:])
