"""Pulls in closed form, and the bound on what is climbed."""

import copy

import pytest
import torch
from dosing import PLAIN, loss, vector
from small import same, state

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate import dose, gradients
from unlearnlib.methods import registry
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import Part
from unlearnlib.training.recipe import Recipe


class Quadratic(Part):
    """(1/2) (theta - best)^T H (theta - best) as a penalty: with batches of weight zero it is the whole loss."""

    def __init__(self, hessian, best):
        self.hessian, self.best = hessian, best

    def penalty(self, model):
        away = gradients.flat(model.parameters()) - self.best
        return away @ self.hessian @ away / 2


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("elastic", [False, True])
def test_a_quadratic_loss_with_a_pull_has_a_closed_form(rho, elastic, tiny):
    model, parts = copy.deepcopy(tiny[0]), tiny[1]
    rng, start = torch.Generator().manual_seed(0), vector(tiny[0])
    basis = torch.linalg.qr(torch.randn(15, 15, generator=rng, dtype=torch.float64)).Q
    hessian = basis @ torch.diag(torch.linspace(0.5, 1.5, 15, dtype=torch.float64)) @ basis.T
    best, fisher = torch.randn(2, 15, generator=rng, dtype=torch.float64)
    fisher = torch.sigmoid(fisher)
    part = dose.L2SP(rho)
    if elastic:
        part = dose.EWC(rho, gradients.shaped(fisher, gradients.trainable(model)))
    where, steps = parts.forget_index[:1], 120
    recipe = Recipe(optimiser="sgd", lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
    stream = (Batch(where, parts.train.labels[where], torch.zeros(1)) for _ in range(steps))
    program = registry.Program(model, stream, recipe, steps, (Quadratic(hessian, best),))
    program = part.applied(program, parts, registry.Run(0))
    training.descend(model, parts.train, stream, recipe, steps, seed=0, parts=program.parts)
    pull = 2 * rho * torch.diag(fisher) if elastic else rho * torch.eye(15, dtype=torch.float64)
    exact = torch.linalg.solve(hessian + pull, hessian @ best + pull @ start)
    assert torch.allclose(vector(model), exact, atol=1e-10)


def test_the_fisher_of_ewc_is_that_of_the_retain_set_at_the_start(tiny):
    model, parts = tiny
    run, program = registry.Run(0), registry.Program(model, (), Recipe(), 0)
    (part,) = dose.EWC(2.0).applied(program, parts, run).parts
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[1].weight[0, 0] += 0.5
    fisher = 0.0
    for i in range(len(parts.retain)):
        slope = torch.autograd.grad(loss(model, parts.retain[[i]]), model[1].weight)[0]
        fisher += slope[0, 0].item() ** 2 / len(parts.retain)
    assert part.penalty(moved).item() == pytest.approx(2 * 0.25 * fisher, rel=1e-9)
    assert part.penalty(model) == 0 and run.tally.gradient_evaluations == len(parts.retain)
    with pytest.raises(ValueError, match="one tensor for each trainable parameter"):
        dose.EWC(1.0, {"1.weight": torch.ones(3, 4)}).applied(program, parts, run)


def test_a_bounded_loss_is_not_climbed_beyond_its_bound(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 30, "lr": 0.1, "batch_size": 20, **PLAIN}
    tau = loss(model, parts.forget).item() + 0.5
    bounded = ul.unlearn("neggrad", model, parts, parts=(dose.BoundedLoss(tau),), **settings).model
    longer = ul.unlearn("neggrad", model, parts, parts=(dose.BoundedLoss(tau),), **{**settings, "epochs": 60}).model
    free = ul.unlearn("neggrad", model, parts, **settings).model
    assert tau <= loss(bounded, parts.forget) < 2 * tau < loss(free, parts.forget)
    assert same(state(bounded), state(longer))  # at the bound there is no gradient left
    below = ul.unlearn("neggrad", model, parts, parts=(dose.BoundedLoss(1e9),), **settings).model
    assert same(state(below), state(free))


def test_the_bound_leaves_the_retain_loss_alone():
    part = dose.BoundedLoss(1.0)
    losses, weights = torch.tensor([5.0, 2.0, 0.1]), torch.tensor([0.5, -0.5, -0.5])
    assert part.reweighted(losses, weights).tolist() == [0.5, 0.0, 0.0]  # mean 1.05 of the climbed two
    assert torch.equal(part.reweighted(torch.tensor([5.0, 1.8, 0.1]), weights), weights)  # mean 0.95
    assert torch.equal(part.reweighted(losses, weights.abs()), weights.abs())


def test_the_bound_holds_what_a_teacher_makes_climb(trained):
    # SCRUB climbs a divergence from the teacher, with no weight on the labels.
    model, parts = trained
    settings = {"seed": 0, "epochs": 4, "forget_epochs": 4, "batch_size": 100, "lr": 0.5, "alpha": 0.0, "gamma": 0.0}
    settings |= {"forget_batch_size": 20, "momentum": 0.0, "weight_decay": 0.05}  # decay gives the first push
    free = ul.unlearn("scrub", model, parts, **settings).model
    bound = ul.unlearn("scrub", model, parts, parts=(dose.BoundedLoss(0.0),), **settings).model
    decayed = vector(model) * (1 - 0.5 * 0.05) ** 8
    assert torch.allclose(vector(bound), decayed, atol=1e-6) and not torch.allclose(vector(free), decayed, atol=1e-4)


@pytest.mark.parametrize("tau", [-1.0, float("nan"), "high", True])
def test_a_bound_that_is_none_is_refused(tau, trained):
    model, parts = trained
    with pytest.raises(ValueError, match="BoundedLoss needs tau >= 0"):
        ul.unlearn("neggrad", model, parts, seed=0, parts=(dose.BoundedLoss(tau),))


def test_importances_below_zero_are_refused(trained):
    model, parts = trained
    negative = {name: -torch.ones_like(p) for name, p in model.named_parameters()}
    for fisher in (negative, {name: 1.0 for name in negative}, list(negative.values()), 3.0):
        with pytest.raises(ValueError, match="^EWC.fisher must have one tensor for each .* no negative entry$"):
            ul.unlearn("neggrad", model, parts, seed=0, parts=(dose.EWC(1.0, fisher),))
