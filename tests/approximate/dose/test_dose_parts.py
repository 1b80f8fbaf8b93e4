"""Parts as guests of a method: they serve many runs, leave no trace, and are refused at the door."""

import copy
import dataclasses

import pytest
import torch
from dosing import vector
from small import dataset, same, split, state

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate import dose
from unlearnlib.training import models
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import Tally
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.stacking import Unstackable

ALL = (
    dose.L2SP(0.1),
    dose.EWC(0.1),
    dose.BoundedLoss(3.0),
    dose.GradientProjection(16),
    dose.SaliencyMask(0.5),
    dose.BallProjection(0.3),
    dose.EarlyStop(2),
    dose.RatioCap(0.5),
    dose.KLTrustRegion(1e-3, iterations=3),
)


@pytest.mark.parametrize("part", ALL, ids=lambda part: type(part).__name__)
def test_a_part_serves_many_runs_and_leaves_no_trace(part, trained):
    model, parts = trained
    before, rng = state(model), torch.get_rng_state()
    settings = {"epochs": 1, "batch_size": 10, "parts": (part,)}
    first, second = (ul.unlearn("neggrad_plus", model, parts, seed=1, **settings).model for _ in range(2))
    many = ul.unlearn_many("neggrad_plus", [model, model], [parts, parts], seeds=[1, 2], **settings)
    assert same(state(first), state(second))
    assert all(
        torch.allclose(a, b, atol=2e-6)
        for a, b in zip(state(first).values(), state(many[0].model).values(), strict=True)
    )
    assert same(state(model), before) and torch.equal(torch.get_rng_state(), rng)


def test_parts_compose():
    parts = split()
    model = training.fit(models.build("resnet_bn", dataset(), width=4), parts.train, Recipe(epochs=1))
    chosen = (dose.L2SP(0.1), dose.SaliencyMask(0.5), dose.BallProjection(0.05))
    after = ul.unlearn("scrub", model, parts, seed=0, epochs=2, batch_size=16, lr=0.1, parts=chosen).model
    away = vector(after) - vector(model)
    assert away.norm().item() <= 0.05 * (1 + 1e-5) and (away == 0).float().mean() > 0.49


def test_parts_are_refused_where_they_cannot_serve(trained):
    model, parts = trained
    with pytest.raises(ValueError, match="dlfd has no hyper-parameter 'parts'"):
        ul.unlearn("dlfd", model, parts, seed=0, noise_steps=0, parts=(dose.L2SP(0.1),))
    with pytest.raises(ValueError, match="must be a tuple of training.Part"):
        ul.unlearn("finetune", model, parts, seed=0, parts=("l2sp",))
    for wrong in (dose.L2SP(0.1), (dose.L2SP,), None, "l2sp"):
        with pytest.raises(ValueError, match="^parts must be a tuple of training.Part"):
            ul.unlearn("finetune", model, parts, seed=0, parts=wrong)
    with pytest.raises(ValueError, match="^RatioCap.recipe is the Recipe of the original"):
        ul.unlearn("finetune", model, parts, seed=0, parts=(dose.RatioCap(0.1, "retrain", "adam"),))
    with pytest.raises(ValueError, match="jit has no hyper-parameter 'parts'"):
        ul.unlearn("jit", model, parts, seed=0, parts=())
    batches = [Batch(torch.arange(4), parts.train.labels[:4])]
    with pytest.raises(RuntimeError, match="L2SP is not ready"):
        training.descend(copy.deepcopy(model), parts.train, batches, Recipe(), 1, seed=0, parts=(dose.L2SP(1.0),))
    for wrong in (
        dose.L2SP(-1),
        dose.L2SP(float("inf")),
        dose.EWC(None),
        dose.BallProjection(-1),
        dose.SaliencyMask(2),
        dose.EarlyStop(0),
        dose.EarlyStop(1.5),
        dose.RatioCap("small"),
        dose.GradientProjection(True),
        dose.KLTrustRegion(0),
        dose.KLTrustRegion(float("nan")),
    ):
        with pytest.raises(ValueError, match=f"^{type(wrong).__name__} needs [^\n]*$"):
            ul.unlearn("finetune", model, parts, seed=0, epochs=1, parts=(wrong,))


def test_models_of_one_step_that_ask_for_different_things_are_not_stacked():
    parts = split()
    nets = [models.build("mlp", dataset(), seed=k) for k in range(2)]
    index = torch.arange(4)
    hard = Batch(index, parts.train.labels[index])
    soft = dataclasses.replace(hard, soft=torch.full((4, 3), 1 / 3), soft_weights=torch.ones(4))
    with pytest.raises(Unstackable, match="size or kind"):
        training.descend_many(nets, parts.train, [[hard], [soft]], Recipe(), 1, seeds=[0, 1], tally=Tally())
