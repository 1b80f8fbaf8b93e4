"""Many small models at once, against one after another, and what an ensemble of shadow models takes.

Contenders run in turn within each repetition; each ratio is the median of the ratios of neighbouring runs, in CPU time
of one thread, with their range. Models trained together must first equal the same models trained alone.

    python benchmarks many
"""

import os
import tempfile
from dataclasses import replace
from unittest.mock import patch

import torch
from _ratios import cpu_seconds, row
from torch import nn

from unlearnlib import data, seeding, training
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

SHADOWS, SHADOW_EPOCHS, SHADOW_BUDGET = 64, 8, 180.0
SGD = Recipe(epochs=1, optimiser="sgd", lr=0.1, weight_decay=5e-4)


def pictures(n: int) -> Dataset:
    """Noise of 28 pixels: what a step costs does not depend on what it shows."""
    rng = seeding.generator(0, "benchmark pictures")
    images = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=rng)
    examples = Examples(images, torch.randint(0, 10, (n,), generator=rng))
    return Dataset("noise", examples, examples, tuple("0123456789"), "drawn")


def together(
    repeats: int, precision: str, width: int, batch_size: int, count: int = 16, length: int = 8, chunk: int | None = 16
) -> list[float]:
    """`count` small CNNs one after another, over the same with `chunk` at once (None: as the machine chooses)."""
    ds = pictures(batch_size * length)
    recipe = replace(SGD, batch_size=batch_size, precision=precision, channels_last=True)
    masks, seeds = torch.ones(count, len(ds.train), dtype=torch.bool), list(range(count))

    def build(seed: int) -> nn.Module:
        return models.build("cnn", ds, seed=seed, width=width, hidden=4 * width)

    def many() -> list[nn.Module]:
        return training.fit_many(build, ds.train, masks, recipe, seeds, chunk=chunk, progress=False)

    def alone() -> list[nn.Module]:
        return [training.fit(build(seed), ds.train, recipe, seed, progress=False) for seed in seeds]

    for a, b in zip(many(), alone(), strict=True):  # which measures and remembers the choice, too
        gap = max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))
        assert gap < (1e-3 if precision == "float32" else 5e-2), gap
    return [cpu_seconds(alone) / cpu_seconds(many) for _ in range(repeats)]


def chosen(repeats: int, precision: str, width: int, batch_size: int) -> list[float]:
    """`together` where the fast mode chooses how many are stacked, with its own cache for the choice."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, UNLEARN_FAST="1", UNLEARN_CACHE=folder):
        return together(repeats, precision, width, batch_size, chunk=None)


def shadows(repeats: int) -> list[float]:
    """The budget of 64 models of 8 epochs on 4,000 digits over their time, measured on one of them."""
    ds = data.load("mnist5k")
    recipe = replace(SGD, epochs=SHADOW_EPOCHS, batch_size=64, precision="bfloat16")
    train = ds.train[:4000]

    def one(seed: int) -> None:
        start = models.build("fastnet", ds, seed=seed, width=32, hidden=128)
        training.fit(start, train, recipe, seed, progress=False)

    return [SHADOW_BUDGET / (SHADOWS * cpu_seconds(one, seed)) for seed in range(repeats)]


def run(repeats: int = 3) -> list[dict]:
    """Ratios as dicts with keys name, ratio, low, high, goal and unit."""
    rows = []
    for precision, width, size in [("float32", 8, 16), ("bfloat16", 8, 16), ("bfloat16", 16, 64)]:
        what = f"16 CNNs of width {width} at once, B {size}, {precision}, against one after another"
        rows.append(row(what, together(repeats, precision, width, size), 3))
    for precision, width, size in [("float32", 4, 64), ("float32", 16, 64), ("bfloat16", 16, 64)]:
        what = f"16 CNNs of width {width}, B {size}, {precision}, as many at once as chosen, against one after another"
        rows.append(row(what, chosen(repeats, precision, width, size), 0.95))
    what = f"{SHADOWS} shadow models, {SHADOW_EPOCHS} epochs on 4,000 digits"
    rows.append(row(f"{what}, {SHADOW_BUDGET / 60:g} core-minutes against ours", shadows(repeats), 1))
    return rows
