"""What an accelerator gives: training one model there, and many at once, over the same work done otherwise.

Wall time, since the processor mostly waits; each ratio is the median of the ratios of neighbouring runs, after one run
of both that chooses kernels. Without an accelerator there are no rows.

    python benchmarks accelerator --output book/benchmarks/accelerator.json
"""

import time
from collections.abc import Callable

import torch
from _ratios import row
from training import pictures

from unlearnlib.training import models
from unlearnlib.training.loop import fit
from unlearnlib.training.many import fit_many
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=256, optimiser="sgd", lr=0.1)


def seconds(call: Callable) -> float:
    started = time.perf_counter()
    call()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def ratios(slow: Callable, quick: Callable, repeats: int) -> list[float]:
    slow(), quick()
    return [seconds(slow) / seconds(quick) for _ in range(repeats)]


def rows(device: torch.device, repeats: int, n: int = 4096, count: int = 8) -> list[dict]:
    """Two ratios on `device`, with `n` pictures and `count` models."""
    ds = pictures(n)

    def one(place: torch.device) -> Callable:
        return lambda: fit(models.build("fastnet", ds).to(place), ds.train, RECIPE, progress=False)

    def one_by_one() -> None:
        for _ in range(count):
            one(device)()

    def at_once() -> None:
        masks = torch.ones(count, n, dtype=torch.bool)
        build = lambda seed: models.build("fastnet", ds, seed=seed).to(device)  # noqa: E731
        fit_many(build, ds.train, masks, RECIPE, list(range(count)), chunk=count, progress=False)

    unit, what = "x less wall time", "fastnet, 32 pixels, B 256"
    return [
        row(f"{what}: accelerator over processor", ratios(one(torch.device("cpu")), one(device), repeats), 10.0, unit),
        row(f"{what}: {count} models at once over one by one", ratios(one_by_one, at_once, repeats), 2.0, unit),
    ]


def run(repeats: int) -> list[dict]:
    return rows(torch.accelerator.current_accelerator(), repeats) if torch.accelerator.is_available() else []
