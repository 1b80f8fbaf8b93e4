"""How many models are trained at once: measured once on this machine, then remembered.

A stack saves the overhead of many small operations and pays with grouped convolutions and a larger working set.
Narrow networks and perceptrons gain from it, wide convolutions lose. Used by `fit_many` in the fast mode alone
(UNLEARN_FAST=1): elsewhere the rule is fixed, so that bits do not depend on a machine.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from unlearnlib import seeding
from unlearnlib.store import addresses, cache
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import descend, descend_many
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.stacking import Unstackable

FIXED = 16  # in pinned mode: speed saturates near it
CANDIDATES = (1, 4, 16)
STEPS, REPEATS = 4, 2


def at_once(build: Callable[[int], nn.Module], examples, recipe: Recipe, seeds: Sequence[int], batch: int) -> int:
    """How many of the models `build(seed)` to stack on batches of `batch` examples; 1: train them one by one.

    In pinned mode `FIXED`. In the fast mode the candidate with the least time a model, in seconds that are kept in the
    cache; without one they are measured whenever they are needed.
    """
    if os.environ.get("UNLEARN_FAST") != "1":
        return FIXED
    counts = [count for count in CANDIDATES if count <= max(1, len(seeds))]
    if len(counts) == 1:
        return 1
    model = build(seeds[0])
    device = next(model.parameters()).device
    address = addresses.key(
        what="at once",
        network=str(model),
        shape=(batch, *examples.shape),
        recipe=(recipe.optimiser, recipe.precision, recipe.channels_last, recipe.augment),
        counts=tuple(counts),
        machine=(platform.machine(), platform.node()),
        numerics=addresses.numerics(device),
        versions=addresses.versions(),
    )

    def measured() -> cache.Entry:
        models = [model, *(build(seed) for seed in seeds[1 : counts[-1]])]
        return cache.Entry(None, {str(c): seconds(models[:c], examples, recipe, batch) for c in counts})

    told = cache.remember(address, measured).about
    return min(counts, key=lambda count: told[str(count)])


def seconds(models: Sequence[nn.Module], examples, recipe: Recipe, batch: int) -> float:
    """Seconds a step and model, of the shortest of a few runs; infinite for what cannot be stacked."""
    index = torch.arange(batch) % len(examples)
    device = next(models[0].parameters()).device

    def run(steps: int) -> float:
        started = _clock(device)
        streams = [[Batch(index, examples.labels[index])] * steps for _ in models]
        if len(models) == 1:
            descend(copied(models[0]), examples, streams[0], recipe, steps, seed=0)
        else:
            descend_many(models, examples, streams, recipe, steps, seeds=range(len(models)))
        return _clock(device) - started

    try:
        with seeding.isolated(0, "at once"):
            run(1)
            whole = min(run(1 + STEPS) for _ in range(REPEATS))
            return max(whole - min(run(1) for _ in range(REPEATS)), 1e-9) / STEPS / len(models)
    except Unstackable:
        return float("inf")


def _clock(device: torch.device) -> float:
    if device.type == torch.device("cpu").type:
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()
