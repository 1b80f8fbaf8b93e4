"""Where weights may be and steps may go: projections, trust region, mask and ball in closed form."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from dosing import divergence, loss, step, vector
from small import same, state

import unlearnlib as ul
from unlearnlib.approximate import dose, gradients
from unlearnlib.approximate.dose import bounds
from unlearnlib.approximate.dose.directions import Directions
from unlearnlib.methods import registry
from unlearnlib.training.loop import Part
from unlearnlib.training.recipe import Recipe


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


def test_a_trust_region_step_attains_its_divergence(tiny):
    model, parts = tiny
    pixels, errors = parts.retain.pixels(dtype=torch.float64), []
    old = torch.log_softmax(model(pixels), 1)
    for delta in (1e-2, 1e-4, 1e-6):
        part = dose.KLTrustRegion(delta, batch_size=10_000, damping=0.0, iterations=60)
        moved = step(model, parts, part, lr=123.0)  # the optimiser's own step does not count
        new = torch.log_softmax(moved(pixels), 1)
        attained = (old.exp() * (old - new)).sum(1).mean().item()
        assert attained <= delta
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
    near = dose.BallProjection(0.2)
    away = vector(step(model, parts, near, 1.0)) - vector(model)
    assert torch.allclose(
        away, 0.2 * F.normalize(vector(step(model, parts, Part(), 1.0)) - vector(model), dim=0), atol=1e-6
    )
    inside = step(model, parts, dose.BallProjection(0.1), 1.0, number=3)
    ball = bounds.Bounds(bounds._weights(model), tuple(gradients.trainable(model)), radius=0.1)
    again = copy.deepcopy(inside)
    ball.after_step(again, 0)
    assert same(state(again), state(inside))
    wide = step(model, parts, dose.BallProjection(1e6), 1.0, number=3)
    assert same(state(wide), state(free))


@pytest.mark.parametrize("count", [1, 4])
def test_the_divergence_is_that_of_the_whole_descent_whatever_the_number_of_steps(count, tiny):
    model, parts = tiny
    part = dose.KLTrustRegion(1e-3, batch_size=10_000, damping=0.0, iterations=60)
    assert 0.9e-3 < divergence(model, step(model, parts, part, 0.1, number=count), parts.retain) <= 1e-3
    assert same(state(step(model, parts, part, 0.0, number=count)), state(model))  # at rate 0 no step is taken


def test_steps_that_are_given_by_epochs_share_the_divergence_too(tiny):
    model, parts = tiny
    for steps, share in ((4, 1e-3 / 16), ((2, 4), 1e-3 / 16), ((), 1e-3)):
        program = registry.Program(model, (), Recipe(), steps)
        (bound,) = dose.KLTrustRegion(1e-3).applied(program, parts, registry.Run(0)).parts
        assert bound.trust.share == share


def test_a_step_that_would_leave_the_divergence_is_shortened(tiny):
    model, parts = tiny

    class Longer(Part):  # what comes of a step is not the trust region's alone
        def after_gradient(self, model, step):
            self.before = gradients.copies(model)

        @torch.no_grad()
        def after_step(self, model, step):
            for name, p in gradients.trainable(model).items():
                p.add_(5 * (p - self.before[name]))
            return False

        def applied(self, program, split, run):
            return super().applied(dose.KLTrustRegion(1e-3, damping=0.0).applied(program, split, run), split, run)

    after = step(model, parts, Longer(), 0.1, number=3)
    assert 0.5e-3 < divergence(model, after, parts.retain) <= 1e-3


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_neither_momentum_nor_decay_nor_adam_takes_a_projected_step_out_of_its_plane(optimiser, tiny):
    model, parts = tiny
    before, changes = loss(model, parts.retain), []
    for lr in (1e-2, 1e-3):
        settings = {"epochs": 3, "batch_size": 20, "lr": lr, "optimiser": optimiser, "weight_decay": 0.5}
        settings["parts"] = (dose.GradientProjection(10_000),)
        changes.append(
            (loss(ul.unlearn("neggrad", model, parts, seed=0, **settings).model, parts.retain) - before).item()
        )
    assert changes[0] / changes[1] > 70  # 10 where a step has a part along the retain gradient


def test_the_mask_as_a_part_of_another_method(trained):
    model, parts = trained
    after = ul.unlearn("neggrad_plus", model, parts, seed=0, epochs=2, parts=(dose.SaliencyMask(0.25),)).model
    assert (vector(after) != vector(model)).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_the_nearest_point_of_a_ball_that_a_step_may_reach():
    """Steps go across e_1 alone and begin .8 along it: of the ball of radius 1 they reach .6."""
    before = torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64)
    held = bounds.Bounds(torch.zeros(3, dtype=torch.float64), (), radius=1.0)
    held._before, held._allowed = before, Directions(basis=torch.eye(3, dtype=torch.float64)[:1])
    across = torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)
    assert held._in_ball(before + across).tolist() == pytest.approx([0.8, 0.6, 0.0], abs=1e-5)
    assert torch.equal(held._in_ball(before + 0.1 * across), before + 0.1 * across)
