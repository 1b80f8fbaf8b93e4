"""Seconds per unit of counted work, for every method: whether the unit of cost is one unit.

Each method unlearns small, uneven and large forget sets from one network whose arithmetic outweighs the bookkeeping of
its steps. CPU seconds of one thread are regressed on the work that was counted, through the origin; the slope is
compared with that of retraining, in the same run. What passes no example through the network and is no algebra between
gradients is overhead here: the attack on losses that dlfd_as_released fits in every epoch, decompositions of layers'
factors, the optimisers' own steps.

    python benchmarks/work.py          the table: seconds per unit beside that of retraining, and what is off
    python benchmarks work             how near one the ratio is over all methods, and a row for each that is off
"""

import statistics
import sys
from pathlib import Path

import torch
from _ratios import row, timed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import unlearnlib as ul
from unlearnlib.approximate.amnesiac import fit_recording
from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.data.examples import Dataset, Examples, Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

SIZES = ((20, 380), (133, 267), (300, 100))  # forgotten and retained examples
FACTOR = 3  # beyond which a method is off
CLASSES, SIDE = 3, 28
RECIPE = Recipe(epochs=2, batch_size=64)
OPTIONS = {
    "retrain": {"recipe": RECIPE},
    "unsir": {"noise_images": 40, "noise_steps": 5},
    "jit": {"samples": 3},
    "dlfd": {"noise_steps": 2},
    "dlfd_as_released": {"noise_steps": 2},
    "pbrf": {"steps": 5},
    "influence": {"iterations": 5},
    "newton": {"iterations": 5},
    "inversion": {"pictures": 20, "inversion_steps": 2},
    "recall": {"rounds": 2, "pictures": 20, "recall_steps": 2, "forget_pictures": 20, "inversion_steps": 2},
    "gkt": {"rounds": 2, "threshold": 1.0},
}
WHOLE_CLASSES = ("boundary_shrink", "boundary_expand", "unsir", "noise", "inversion", "recall", "gkt")


def pictures(n: int, seed: int) -> Examples:
    rng = torch.Generator().manual_seed(seed)
    return Examples(torch.rand(n, 1, SIDE, SIDE, generator=rng), torch.arange(n) % CLASSES)


def network(examples: Examples) -> torch.nn.Module:
    ds = Dataset("noise", examples, examples, tuple(map(str, range(CLASSES))), "noise")
    return models.build("cnn", ds, width=8, hidden=32)


def options(name: str) -> dict:
    given = dict(OPTIONS.get(name, {}))
    if {"epochs", "batch_size"} <= set(vars(registry.configure(name))) and name != "unrolled_sgd":
        given |= {"epochs": 2, "batch_size": 64}
    return given


def once(name: str, forget: int, retain: int) -> tuple[float, float]:
    """CPU seconds, and the work that was counted, of one call."""
    whole = pictures(forget + retain, 0)
    if name in WHOLE_CLASSES:
        whole.labels[:] = (torch.arange(len(whole)) >= forget).long()
    parts = Split.of(retain=whole[forget:], forget=whole[:forget], validation=pictures(60, 1))
    model, given = network(whole), options(name)
    if name == "amnesiac":
        model, given["record"] = fit_recording(model, parts.train, RECIPE, progress=False)
    if name == "datamodel_matching":  # any effects will do: what a step costs does not depend on them
        n = len(parts.train)
        drawn = torch.randn(n, n, CLASSES, generator=torch.Generator().manual_seed(0)) / n**0.5
        given["datamodel"] = Datamodel(drawn, torch.zeros(n, CLASSES), "drawn", 3, parts.train.checksum())
    seconds, done = timed(lambda: ul.unlearn(name, model, parts, seed=0, **given))
    return seconds, done.cost.work


def slope(name: str) -> float:
    """Seconds per unit of work: least squares through the origin over the forget sets."""
    pairs = [once(name, *sizes) for sizes in SIZES]
    return sum(s * w for s, w in pairs) / sum(w * w for _, w in pairs)


def beside_retraining(names, repeats: int) -> dict[str, list[float]]:
    """Method -> seconds per unit of work over those of retraining, once a repetition."""
    once("retrain", *SIZES[0])  # warm up
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            found[name].append(slope(name) / slope("retrain"))
    return found


def run(repeats: int = 3) -> list[dict]:
    """How near the seconds per unit are to those of retraining, over all methods; and each method that is off."""
    found = beside_retraining([name for name in HOMES if name != "retrain"], repeats)
    near = {name: [min(r, 1 / r) for r in ratios] for name, ratios in found.items()}
    middle = {name: statistics.median(values) for name, values in near.items()}
    rows = [
        row(f"Seconds per unit of work, {len(near)} methods beside retraining", middle.values(), 1 / FACTOR, "of it")
    ]
    off = [name for name, value in middle.items() if value < 1 / FACTOR]
    return rows + [row(f"Seconds per unit of work, {name} alone", near[name], 1 / FACTOR, "of it") for name in off]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, ratios in beside_retraining(HOMES, 3).items():
        middle = statistics.median(ratios)
        off = "" if 1 / FACTOR <= middle <= FACTOR else "   off"
        print(f"{name:20s} {middle:6.2f}   {min(ratios):.2f} to {max(ratios):.2f}{off}", flush=True)
