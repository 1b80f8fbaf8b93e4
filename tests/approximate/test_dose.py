"""Dose control in closed form, and OrthoGrad, which is built from it."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate import dose, gradients
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import Part, Tally
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.stacking import Unstackable

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def vector(model) -> torch.Tensor:
    return gradients.flat(p.detach() for p in model.parameters())


@pytest.fixture(scope="module")
def trained():
    parts = split()
    return training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3)), parts


@pytest.fixture(scope="module")
def memorised():
    """The forget set has wrong labels, which the model has learnt by heart: its loss there is below that elsewhere."""
    parts = split()
    labels = parts.train.labels.clone()
    labels[parts.forget_index] = (labels[parts.forget_index] + 1) % 3
    parts = dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))
    recipe = Recipe(epochs=40, batch_size=20, lr=5e-3)
    return training.fit(models.build("mlp", dataset(), hidden=(32,)), parts.train, recipe), parts


@pytest.fixture(scope="module")
def tiny():
    """Pictures of four pixels and a linear network in float64: 15 parameters, everything can be solved exactly."""
    parts = [examples(n=n, side=2, seed=s) for n, s in ((60, 0), (12, 2), (12, 3))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    return model, Split.of(retain=parts[0], forget=parts[1], validation=parts[2])


def step(model, parts, part: Part, lr: float, number: int = 1, ascend: bool = True):
    """`number` plain steps up (or down) the whole forget loss with `part` on board; returns a new model."""
    where, moved = parts.forget_index, copy.deepcopy(model)
    weights = torch.full((len(where),), (-1 if ascend else 1) / len(where))
    recipe = Recipe(optimiser="sgd", lr=lr, momentum=0.0, weight_decay=0.0, schedule="constant")
    stream = (Batch(where, parts.train.labels[where], weights) for _ in range(number))
    program = part.applied(registry.Program(moved, stream, recipe, number), parts, registry.Run(0))
    return training.descend(moved, parts.train, program.batches, recipe, number, seed=0, parts=program.parts)


def loss(model, part) -> torch.Tensor:
    return F.cross_entropy(model(part.pixels(dtype=next(model.parameters()).dtype)), part.labels)


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


@pytest.mark.parametrize("per_example", [False, True])
def test_a_projected_step_changes_the_retain_loss_to_second_order_only(per_example, tiny):
    model, parts = tiny
    if per_example:  # as many directions as examples: keep fewer than the 15 parameters
        keep = torch.cat([parts.retain_index[:4], parts.forget_index])
        parts = dataclasses.replace(parts, train=parts.train[keep], is_forget=parts.is_forget[keep])
    part = dose.GradientProjection(batch_size=10_000, per_example=per_example)
    before, changes, plain = loss(model, parts.retain), [], []
    for lr in (0.04, 0.02, 0.01):
        changes.append((loss(step(model, parts, part, lr), parts.retain) - before).abs().item())
        plain.append((loss(step(model, parts, Part(), lr), parts.retain) - before).abs().item())
    for series, order in ((changes, 4.0), (plain, 2.0)):
        assert [series[0] / series[1], series[1] / series[2]] == pytest.approx([order, order], rel=0.05)
    assert loss(step(model, parts, part, 0.04), parts.forget) > loss(model, parts.forget)


def test_the_span_that_is_taken_out():
    rng = torch.Generator().manual_seed(0)
    rows, g = torch.randn(4, 30, generator=rng), torch.randn(30, generator=rng)
    rest = gradients.without_span(g, rows)
    basis = torch.linalg.qr(rows.T).Q
    assert torch.allclose(rest, g - basis @ (basis.T @ g), atol=1e-5) and (rows @ rest).abs().max() < 1e-5
    repeated = torch.cat([rows, rows[:2], torch.zeros(1, 30)])  # a degenerate batch spans no more
    assert torch.allclose(gradients.without_span(g, repeated), rest, atol=1e-5)
    assert torch.equal(gradients.without_span(g, torch.zeros(3, 30)), g)
    single = g - (g @ rows[0]) / rows[0].square().sum() * rows[0]
    assert torch.allclose(gradients.without_span(g, rows[:1]), single, atol=1e-6)


def test_orthograd_is_a_projected_climb_and_a_repair():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    parts = split(n=28, forget=20)
    settings = {"epochs": 1, "batch_size": 20, "lr": 0.1}
    after = ul.unlearn("orthograd", model, parts, seed=0, retain_batch_size=8, alpha=0.3, **settings)
    rows = gradients.example_gradients(model, parts.retain.pixels(), parts.retain.labels)
    climb = gradients.mean_gradient(model, parts.forget)
    basis = torch.linalg.qr(rows.T).Q
    climb = climb - basis @ (basis.T @ climb)
    assert torch.allclose(vector(after.model), vector(model) - 0.1 * (0.3 * rows.mean(0) - 0.7 * climb), atol=1e-6)
    assert after.cost.gradient_evaluations == 28
    # To first order nobody in the retain batch notices: the climb alone changes each of its losses by O(lr^2).
    each, before = [], F.cross_entropy(model(parts.retain.pixels()), parts.retain.labels, reduction="none")
    for lr in (0.02, 0.01):
        settings["lr"] = lr
        moved = ul.unlearn("orthograd", model, parts, seed=0, retain_batch_size=8, alpha=0.0, **settings).model
        now = F.cross_entropy(moved(parts.retain.pixels()), parts.retain.labels, reduction="none")
        each.append((now - before).abs().max().item())
    assert each[0] < 1e-4 and each[0] / each[1] > 3.5


def test_orthograd_with_all_weight_on_the_retain_set_is_fine_tuning():
    model, parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), split(n=40, forget=20)
    settings = {"seed": 0, "epochs": 1, "batch_size": 20, "lr": 0.1, **PLAIN}
    both = [
        ul.unlearn(name, model, parts, **kw, **settings).model
        for name, kw in (("orthograd", {"alpha": 1.0, "retain_batch_size": 20}), ("finetune", {}))
    ]
    assert torch.allclose(*map(vector, both), atol=1e-6)


def test_a_trust_region_step_attains_its_divergence(tiny):
    model, parts = tiny
    pixels, errors = parts.retain.pixels(dtype=torch.float64), []
    old = torch.log_softmax(model(pixels), 1)
    for delta in (1e-2, 1e-4, 1e-6):
        part = dose.KLTrustRegion(delta, batch_size=10_000, damping=0.0, iterations=60)
        moved = step(model, parts, part, lr=123.0)  # the optimiser's own step does not count
        new = torch.log_softmax(moved(pixels), 1)
        attained = (old.exp() * (old - new)).sum(1).mean().item()
        errors.append(abs(attained - delta))
        assert loss(moved, parts.forget) > loss(model, parts.forget)
    # O(delta^1.5): the constant must not grow as delta shrinks
    constants = [error / delta**1.5 for error, delta in zip(errors, (1e-2, 1e-4, 1e-6), strict=True)]
    assert max(constants) < 2 and constants[2] < 1.5 * constants[0]


def test_the_trust_region_goes_along_the_natural_gradient(tiny):
    model, parts = tiny
    pixels = parts.retain.pixels(dtype=torch.float64)
    probability = torch.softmax(model(pixels), 1).detach()
    inputs = torch.cat([pixels.flatten(1), torch.ones(60, 1, dtype=torch.float64)], 1)
    fisher = torch.zeros(15, 15, dtype=torch.float64)  # E sum_y p_y grad log p_y grad log p_y^T, by its definition
    for x, p in zip(inputs, probability, strict=True):
        for y in range(3):
            slope = torch.outer(F.one_hot(torch.tensor(y), 3) - p, x)
            flat = torch.cat([slope[:, :4].flatten(), slope[:, 4]])
            fisher += p[y] * torch.outer(flat, flat) / 60
    g = -gradients.mean_gradient(model, parts.forget)
    natural = torch.linalg.solve(fisher + 0.01 * torch.eye(15), g)
    expected = vector(model) - math.sqrt(2e-3 / (g @ natural)) * natural
    moved = step(model, parts, dose.KLTrustRegion(1e-3, batch_size=10_000, damping=0.01, iterations=60), lr=0.1)
    assert torch.allclose(vector(moved), expected, atol=1e-6)


def test_the_ball_is_kept_and_projecting_twice_is_projecting_once(trained):
    model, parts = trained
    free = step(model, parts, Part(), 1.0, number=3)
    assert (vector(free) - vector(model)).norm() > 0.2
    kept = step(model, parts, dose.BallProjection(0.2), 1.0, number=3)
    away = vector(kept) - vector(model)
    assert away.norm().item() == pytest.approx(0.2, rel=1e-5)
    once = copy.deepcopy(free)
    (ball,) = dose.BallProjection(0.2).applied(registry.Program(model, (), Recipe(), 0), parts, registry.Run(0)).parts
    ball.after_step(once, 0)
    assert torch.allclose(
        vector(once) - vector(model), 0.2 * F.normalize(vector(free) - vector(model), dim=0), atol=1e-6
    )
    inside = vector(once)
    ball.after_step(once, 1)
    assert torch.allclose(vector(once), inside, atol=1e-7)
    wide = step(model, parts, dose.BallProjection(1e6), 1.0, number=3)
    assert same(state(wide), state(free))


def test_forgetting_stops_when_the_forget_set_is_no_better_known_than_unseen_pictures(memorised):
    model, parts = memorised
    settings = {"seed": 0, "lr": 0.02, "batch_size": 20, **PLAIN}
    target = 0.0
    for c, share in enumerate(torch.bincount(parts.forget.labels, minlength=3) / len(parts.forget)):
        target += share.item() * loss(model, parts.validation[parts.validation.labels == c]).item()
    stopped = ul.unlearn("neggrad", model, parts, epochs=60, parts=(dose.EarlyStop(),), **settings)
    count = stopped.cost.gradient_evaluations // 20
    before = ul.unlearn("neggrad", model, parts, epochs=count - 1, **settings).model
    assert 1 < count < 60 and loss(before, parts.forget) < target <= loss(stopped.model, parts.forget)
    rarely = ul.unlearn("neggrad", model, parts, epochs=60, parts=(dose.EarlyStop(7),), **settings)
    assert rarely.cost.gradient_evaluations == 20 * 7 * math.ceil(count / 7)
    bare = dataclasses.replace(parts, validation=parts.validation[:0])
    with pytest.raises(ValueError, match="no example of a forgotten class"):
        ul.unlearn("neggrad", model, bare, epochs=1, parts=(dose.EarlyStop(),), **settings)


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


def test_a_ratio_cap_refuses_or_retrains(trained):
    model, parts = trained  # 20 of 120 are to be forgotten
    settings = {"seed": 4, "epochs": 1}
    free = ul.unlearn("neggrad", model, parts, **settings).model
    below = ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.2),), **settings).model
    assert same(state(below), state(free))
    with pytest.raises(ValueError, match="0.167 of the data are to be forgotten, more than kappa = 0.1: retrain"):
        ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.1),), **settings)
    recipe = Recipe(epochs=1)
    cap = dose.RatioCap(0.1, "retrain", recipe)
    instead = ul.unlearn("neggrad", model, parts, parts=(dose.L2SP(1.0), cap), **settings).model
    assert same(state(instead), state(ul.unlearn("retrain", model, parts, seed=4, recipe=recipe).model))
    with pytest.raises(ValueError, match="refuse or retrain"):
        ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.1, "ignore"),), **settings)


def test_the_mask_as_a_part_of_another_method(trained):
    model, parts = trained
    after = ul.unlearn("neggrad_plus", model, parts, seed=0, epochs=2, parts=(dose.SaliencyMask(0.25),)).model
    assert (vector(after) != vector(model)).float().mean().item() == pytest.approx(0.25, abs=0.01)


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
    with pytest.raises(ValueError, match="jit has no hyper-parameter 'parts'"):
        ul.unlearn("jit", model, parts, seed=0, parts=())
    batches = [Batch(torch.arange(4), parts.train.labels[:4])]
    with pytest.raises(RuntimeError, match="L2SP is not ready"):
        training.descend(copy.deepcopy(model), parts.train, batches, Recipe(), 1, seed=0, parts=(dose.L2SP(1.0),))
    for wrong in (
        dose.L2SP(-1),
        dose.BallProjection(-1),
        dose.SaliencyMask(2),
        dose.EarlyStop(0),
        dose.KLTrustRegion(0),
    ):
        with pytest.raises(ValueError, match=type(wrong).__name__ if "Mask" not in type(wrong).__name__ else "mask"):
            ul.unlearn("finetune", model, parts, seed=0, epochs=1, parts=(wrong,))


def test_models_of_one_step_that_ask_for_different_things_are_not_stacked():
    parts = split()
    nets = [models.build("mlp", dataset(), seed=k) for k in range(2)]
    index = torch.arange(4)
    hard = Batch(index, parts.train.labels[index])
    soft = dataclasses.replace(hard, soft=torch.full((4, 3), 1 / 3), soft_weights=torch.ones(4))
    with pytest.raises(Unstackable, match="size or kind"):
        training.descend_many(nets, parts.train, [[hard], [soft]], Recipe(), 1, seeds=[0, 1], tally=Tally())
