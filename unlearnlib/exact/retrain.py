"""Retraining from scratch on the retain set: the reference that every other method is measured against.

    theta_r = A(D \\ F; seed),   A the original's own training procedure, from a fresh initialisation

Exact by definition. The recipe must be the one that trained the original: else the gap to the oracle measures the
schedule. Released code that resets layers instead of building the network anew has left most of a ResNet trained
(see the bug ledger); here `models.fresh` builds anew, or refuses.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from unlearnlib import seeding
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class Retrain:
    recipe: Recipe = Recipe()  # that of the original
    build: Callable[[int], nn.Module] | None = None  # seed -> untrained network; for layers that cannot be reset


@method(
    "retrain",
    Retrain,
    family="exact",
    reads="retain",
    guarantee="exact",
    paper="bourtoule2021",
    cost="gradient * recipe.epochs * seen(R, recipe.batch_size, recipe.keep_last)",
    fails="Where it costs too much. With another recipe than the original's it is exact still, but no reference.",
    origin="the recipe must be the original's",
)
def retrain(model, split, config: Retrain, run) -> Program:
    if run.freeze_norms:
        raise ValueError("freeze_norms keeps statistics that were learnt from the forget set: retraining starts anew")
    where, recipe = split.retain_index, config.recipe
    if config.build is None:
        start = models.fresh(model, run.seed, split.train.pixels(where[:4]))
    else:
        start = config.build(run.seed)
    rng = seeding.generator(run.seed, "order")
    order = minibatches(len(where), recipe.batch_size, recipe.epochs, rng, keep_last=recipe.keep_last)
    batches = (Batch(where[i], split.train.labels[where[i]]) for i in order)
    return Program(start, batches, recipe, steps_of(len(where), recipe))
