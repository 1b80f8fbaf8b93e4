"""RNI: draw the head anew, shake some layers, and fine-tune a few tensors at a time on the retain set.

    reset the head; then for each epoch but the last ones
        choose `layers` weights and biases at random, norms aside
        from the second epoch on add sigma xi to a share of them: those that were not chosen before
        descend on R in the chosen ones and the norms alone, with a fresh optimiser
    in the last `rates` epochs descend in all of them, each epoch at its own rate

One of the competition's published solutions ("reset and noise injection"; code: munl/unlearning/kgltop7.py of arXiv
2410.01276). The forget set is never read. Tensors that are not chosen in an epoch stay bit-identical in it. As
released, a tensor that was chosen in any earlier epoch is never shaken again, so that the noise dies out; of its list
of six rates for the last epochs the first four are used. Deviations: norms are told by their kind, where the released
code looks for "bn" in their names and takes those of shortcuts for layers; where fewer than `layers` tensors are
there, all are chosen.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from unlearnlib.approximate.steps import HEAVY_BALL, Descent, passes
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.loop import descend


@dataclass(frozen=True)
class Rni(Descent):
    epochs: int = 9  # passes over the retain set, the last ones included
    lr: float = 2e-4  # of all epochs but the last ones
    rates: tuple[float, ...] = (2e-4, 2e-4, 2e-4, 1e-3)  # of the last epochs, in which all tensors move
    layers: int = 9  # tensors that are chosen in an epoch
    share: float = 0.7  # of the chosen ones that are shaken
    sigma: float = 0.04  # of the noise

    def __post_init__(self):
        rates = tuple(self.rates) if isinstance(self.rates, (list, tuple)) else ()
        good = all(isinstance(r, (int, float)) and r >= 0 for r in rates) and (rates or self.rates in ((), []))
        if not good or self.layers < 1 or not 0 <= self.share <= 1 or self.sigma < 0:
            raise ValueError("rni needs rates >= 0 in a tuple, layers >= 1, 0 <= share <= 1 and sigma >= 0")
        object.__setattr__(self, "rates", rates)


def sides(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters of layers, and of norms."""
    norms = {
        f"{name}.{own}".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm))
        for own, _ in module.named_parameters(recurse=False)
    }
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return [n for n in names if n not in norms], [n for n in names if n in norms]


@method(
    "rni",
    Rni,
    family="gradient",
    reads="retain",
    paper="cadet2024",
    cost="gradient * epochs * seen(R, batch_size)",
    fails="With the small published rate and noise most of the network stays as it was, above all before the head.",
    published=HEAVY_BALL
    | {
        "epochs": 9,
        "lr": 2e-4,
        "weight_decay": 5e-4,
        "batch_size": 64,
        "rates": (2e-4, 2e-4, 2e-4, 1e-3),
        "layers": 9,
        "share": 0.7,
        "sigma": 0.04,
    },
    origin="the solution's own values, in the benchmark's code",
    search={"lr": (1e-5, 1e-2, "log"), "sigma": (0.005, 0.2, "log"), "layers": (2, 12)},
)
def rni(model, split, config: Rni, run) -> nn.Module:
    head = models.head_name(model, split.train.pixels([0]))
    model = models.reinitialised(model, run.seed, only={head})
    layers, norms = sides(model)
    if not layers:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    count = min(config.layers, len(layers))
    choice, noise, order = run.generator("chosen"), run.generator("noise"), run.generator("order")
    seen: set[str] = set()
    parameters = dict(model.named_parameters())
    for epoch in range(config.epochs):
        left = config.epochs - epoch  # epochs, this one included
        last = left <= len(config.rates)
        chosen = [layers[i] for i in torch.randperm(len(layers), generator=choice)[:count].tolist()]
        moving = {*layers, *norms} if last else {*chosen, *norms}
        if epoch and not last:
            for name in chosen[: int(config.share * count)]:
                if name not in seen:
                    shaken = torch.randn(parameters[name].shape, generator=noise)
                    with torch.no_grad():
                        parameters[name].add_(config.sigma * shaken.to(parameters[name]))
        seen |= moving
        for name in (*layers, *norms):
            parameters[name].requires_grad_(name in moving)
        rate = config.rates[len(config.rates) - left] if last else config.lr
        once = replace(config, epochs=1, lr=rate)
        batches, steps = passes(split.retain_index, split.train.labels, once, order)
        recipe, settings = run.taught(once.recipe()), {"tally": run.tally, "progress": run.progress}
        descend(model, split.train, batches, recipe, steps, seed=run.seed + epoch, **settings)
    for name in (*layers, *norms):
        parameters[name].requires_grad_(True)
    return model
