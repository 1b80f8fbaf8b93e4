"""Influence, Newton, unrolled SGD and the proximal Bregman response against closed forms and refits, in float64."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convex import divided, linear, points, refit, removed, tanh_network, weights
from scipy.stats import pearsonr, spearmanr
from small import same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import curvature, gradients
from unlearnlib.approximate.gradients import example_gradients, flat, mean_gradient, trainable
from unlearnlib.approximate.influence import (
    Influence,
    RescaledInfluence,
    effects,
    influence,
    moved,
    rescaled,
    rescaled_influence,
)
from unlearnlib.approximate.newton import Newton, newton
from unlearnlib.approximate.unrolled_sgd import UnrolledSGD, unrolled_sgd
from unlearnlib.data.examples import Dataset, Split
from unlearnlib.exact.ridge import Ridge
from unlearnlib.methods import registry
from unlearnlib.training import models

EXACT = {"iterations": 2000, "tolerance": 1e-13}


@pytest.fixture(scope="module")
def logistic():
    train, lam = points(80), 1e-2
    return train, lam, refit(linear(2, 5), train, lam)


# Ridge: the squared loss, where everything is known in closed form.


@pytest.fixture(scope="module")
def ridge():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=40)
    learner = Ridge(lam=0.7, intercept=False).fit_targets(x, y)
    return learner, x, y, torch.tensor(x.T @ x)


def test_influence_is_one_minus_the_leverage_of_leaving_one_out(ridge):
    learner, x, y, gram = ridge
    residuals, h = learner.residuals()[:, 0], learner.leverages()
    for i in range(40):
        estimate = curvature.solve(gram, torch.tensor(-x[i] * residuals[i]), damping=0.7, **EXACT).x.numpy()
        truth = learner.leave_out([i])[:, 0] - learner.theta[:, 0]
        assert np.allclose(estimate, (1 - h[i]) * truth, atol=1e-13)
        assert np.linalg.norm(estimate) < np.linalg.norm(truth)


def test_rescaling_makes_a_single_deletion_exact(ridge):
    learner, x, y, gram = ridge
    inverse = np.linalg.inv(gram.numpy() + 0.7 * np.eye(6))
    for i in (0, 7, 31):
        spread = torch.tensor(x[i] @ inverse @ x[i]).reshape(1, 1, 1)
        error = torch.tensor([[-learner.residuals()[i, 0]]])
        released = rescaled(torch.ones(1, 1, 1, dtype=torch.float64), spread, error)
        step = inverse @ x[i] * released.item()
        assert np.allclose(learner.theta[:, 0] + step, learner.leave_out([i])[:, 0], atol=1e-13)


def test_newton_on_the_retain_set_is_exact_for_a_group_and_influence_is_not(ridge):
    learner, x, y, gram = ridge
    group, kept = list(range(12)), list(range(12, 40))
    theta = torch.tensor(learner.theta[:, 0])
    slope = torch.tensor(x[kept].T @ (x[kept] @ theta.numpy() - y[kept])) + 0.7 * theta
    step = curvature.solve(torch.tensor(x[kept].T @ x[kept]), -slope, damping=0.7, **EXACT).x
    truth = learner.leave_out(group)[:, 0]
    assert np.allclose(theta + step, truth, atol=1e-12)
    first = curvature.solve(gram, -slope, damping=0.7, **EXACT).x
    assert np.linalg.norm((theta + first).numpy() - truth) > 0.1 * np.linalg.norm(truth - theta.numpy())


# Logistic and softmax regression, against refits.


def test_influence_ranks_deletions_as_refitting_does(logistic):
    train, lam, model = logistic
    probe = torch.linspace(-1, 1, 5, dtype=torch.float64)[None, :, None, None]

    def measured(m):
        return float((m(probe)[0, 1] - m(probe)[0, 0]).detach())

    slope = flat(torch.autograd.grad((model(probe)[0, 1] - model(probe)[0, 0]), list(model.parameters())))
    direction = curvature.solve(model, slope, train, damping=lam, **EXACT).x
    estimates = effects(model, train, direction).numpy()[::2]
    # removal keeps the weight n lam of the penalty in the sum
    everyone = torch.arange(len(train))
    truths = []
    for i in range(0, len(train), 2):
        rest = train[everyone != i]
        truths.append(measured(refit(model, rest, lam * len(train) / len(rest))) - measured(model))
    assert pearsonr(estimates, truths).statistic > 0.99 and spearmanr(estimates, truths).statistic > 0.99
    assert 0.5 < np.polyfit(truths, estimates, 1)[0] < 1  # leverages: it under-estimates


def test_effects_are_products_with_single_gradients(logistic):
    train, _, model = logistic
    direction = torch.linspace(-1, 1, 12, dtype=torch.float64)
    rows = example_gradients(model, train.pixels(dtype=torch.float64), train.labels)
    assert torch.allclose(effects(model, train, direction), rows @ direction / len(train), atol=1e-14)


def errors_of(train, lam, model, forget) -> dict[str, float]:
    parts = divided(train, forget)
    n, rest = len(train), len(train) - len(forget)
    truth = refit(model, parts.retain, lam * n / rest)
    options = {"damping": lam, "solver": "dense"}
    found = {
        "none": model,
        "influence": removed(influence, Influence(**options), model, parts),
        "rescaled": removed(rescaled_influence, RescaledInfluence(**options), model, parts),
    }
    for k in (1, 2, 3):
        config = Newton(damping=0.0, l2=lam * n / rest, solver="dense", steps=k)
        found[f"newton {k}"] = removed(newton, config, model, parts)
    return {name: float((weights(m) - weights(truth)).norm()) for name, m in found.items()}


@pytest.mark.parametrize("classes", [2, 4])
def test_errors_are_ordered_as_the_theory_says(classes):
    train, lam = points(120, classes=classes), 1e-2
    model = refit(linear(classes, 5), train, lam)
    one, many = errors_of(train, lam, model, [3]), errors_of(train, lam, model, list(range(30)))
    for errors in (one, many):
        assert errors["influence"] < 0.6 * errors["none"] and errors["newton 1"] < errors["influence"]
        assert errors["newton 2"] < 0.1 * errors["newton 1"] and errors["newton 3"] < 1e-2 * errors["newton 2"] + 1e-13
    assert one["rescaled"] < 0.5 * one["influence"]
    # one rescaled deletion is Newton's step for it, up to the curvature of the loss
    assert many["influence"] / many["none"] > one["influence"] / one["none"]


def test_one_rescaled_deletion_is_a_newton_step_without_the_example():
    train, lam = points(60, classes=3), 2e-2
    model = refit(linear(3, 5), train, lam)
    parts = divided(train, [11])
    step = weights(removed(rescaled_influence, RescaledInfluence(damping=lam, solver="dense"), model, parts))
    n = len(train)
    matrix = curvature.Curvature(model, parts.retain).dense() * (n - 1) / n + lam * torch.eye(18, dtype=torch.float64)
    slope = mean_gradient(model, parts.forget) / n
    assert torch.allclose(step - weights(model), torch.linalg.solve(matrix, slope), atol=1e-12)


def test_with_ekfac_rescaling_is_the_same_for_a_model_that_it_fits_exactly():
    """With equal answers everywhere K-FAC is G; so both solvers must give one result."""
    train = points(60, classes=3)
    model = linear(3, 5)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.1, -0.4, 0.2]))
    parts = divided(train, [1, 5, 9])
    exact, factored = (
        removed(rescaled_influence, RescaledInfluence(damping=0.05, solver=s, samples=None), model, parts)
        for s in ("dense", "ekfac")
    )
    assert torch.allclose(weights(exact), weights(factored), atol=1e-12)


def test_influence_on_the_retain_set_is_the_removal_step_of_certified_removal(logistic):
    """theta + (H_R + lam)^-1 sum_F (grad l + lam theta) / n_R: one Newton step on the retain set's objective."""
    train, lam, model = logistic
    parts = divided(train, [4, 9])
    made = removed(influence, Influence(damping=lam, curvature_of="retain", solver="dense"), model, parts)
    rows = example_gradients(model, train.pixels(dtype=torch.float64), train.labels)
    matrix = curvature.Curvature(model, parts.retain, "hessian").dense() + lam * torch.eye(12, dtype=torch.float64)
    push = (rows[[4, 9]].sum(0) + 2 * lam * weights(model)) / 78
    assert torch.allclose(weights(made), weights(model) + torch.linalg.solve(matrix, push), atol=1e-12)
    step = removed(newton, Newton(damping=0.0, l2=lam, solver="dense"), model, parts)
    assert torch.allclose(weights(made), weights(step), atol=1e-7)  # the original is a minimum to about 1e-8
    retrained = weights(refit(model, parts.retain, lam))
    away = [(weights(m) - retrained).norm() for m in (made, model)]
    assert away[0] < 0.1 * away[1]  # quadratic convergence
    bare = Influence(damping=lam, curvature_of="retain", solver="dense", l2=0.0)
    assert (weights(removed(influence, bare, model, parts)) - retrained).norm() > 1.5 * away[0]
    with pytest.raises(ValueError, match="at most the damping"):
        Influence(damping=lam, l2=lam)


def test_strength_scales_the_step(logistic):
    train, lam, model = logistic
    parts = divided(train, [0])
    one, two = (removed(influence, Influence(strength=s, damping=lam), model, parts) for s in (1.0, 2.0))
    assert torch.allclose(weights(two) - weights(model), 2 * (weights(one) - weights(model)), atol=1e-14)


def test_planted_defect_the_sign_of_the_step(logistic):
    """Forgetting raises the loss of what is forgotten; a step with the wrong sign lowers it."""
    train, lam, model = logistic
    worst = int(F.cross_entropy(model(train.pixels(dtype=torch.float64)), train.labels, reduction="none").argmax())
    parts = divided(train, [worst])

    def loss(m):
        return F.cross_entropy(m(parts.forget.pixels(dtype=torch.float64)), parts.forget.labels).item()

    truth = loss(refit(model, parts.retain, lam * 80 / 79))
    for strength, right in ((1.0, True), (-1.0, False)):
        made = removed(influence, Influence(damping=lam, strength=strength), model, parts)
        assert (abs(loss(made) - truth) < abs(loss(model) - truth)) == right


# Unrolled SGD.


def test_unrolled_sgd_is_exact_for_one_full_batch_step():
    train, lr = points(20), 0.3
    start = linear(2, 5)
    trained = moved(copy.deepcopy(start), -lr * mean_gradient(start, train))
    parts = divided(train, [2, 3, 8])
    # the update was a mean over 20: what is left is the update by the 17 that remain, over 20
    expected = weights(start) - lr * 17 / 20 * mean_gradient(start, parts.retain)
    config = UnrolledSGD(epochs=1, lr=lr, batch_size=20, initial=start)
    assert torch.allclose(weights(removed(unrolled_sgd, config, trained, parts)), expected, atol=1e-14)


def test_the_error_of_unrolling_is_of_second_order_in_the_rate():
    train = points(20)
    start, parts, gaps = linear(2, 5), divided(train, [0, 1]), []
    for lr in (0.01, 0.005, 0.0025):
        made, oracle = copy.deepcopy(start), copy.deepcopy(start)
        for _ in range(8):
            moved(made, -lr * mean_gradient(made, train))
            moved(oracle, -lr * 18 / 20 * mean_gradient(oracle, parts.retain))
        config = UnrolledSGD(epochs=8, lr=lr, batch_size=20, initial=start)
        gaps.append(float((weights(removed(unrolled_sgd, config, made, parts)) - weights(oracle)).norm()))
    assert 3.4 < gaps[0] / gaps[1] < 4.3 and 3.4 < gaps[1] / gaps[2] < 4.3


# The proximal Bregman response.


# Through the door.


@pytest.mark.parametrize("name", ["influence", "rescaled_influence", "newton", "unrolled_sgd", "pbrf"])
@pytest.mark.parametrize("request_of", ["class", "random", "identity"])
def test_the_request_does_not_matter(name, request_of):
    parts = split()
    network = models.build("mlp", Dataset("d", parts.train, parts.train, ("a", "b", "c"), "t"), hidden=(6,))
    mask = {
        "class": parts.train.labels == 1,
        "random": torch.arange(len(parts.train)) % 7 == 0,
        "identity": torch.arange(len(parts.train)) == 3,
    }[request_of]
    parts = Split(parts.train, mask, parts.validation, None, request_of, 0, None)
    done = ul.unlearn(name, network, parts, seed=0)
    again = ul.unlearn(name, network, parts, seed=0 if name == "rescaled_influence" else 5)  # it draws answers
    assert same(state(done.model), state(again.model)) and not same(state(done.model), state(network))
    assert next(done.model.parameters()).dtype == torch.float32
    assert done.cost.gradient_evaluations <= registry.evaluations(name, int(mask.sum()), int((~mask).sum()))


def test_wrong_values_are_refused():
    for name, given, message in (
        ("influence", {"curvature_of": "forget"}, "curvature_of all or retain"),
        ("rescaled_influence", {"solver": "cg"}, "dense, kfac or ekfac"),
        ("newton", {"steps": 0}, "steps >= 1"),
        ("pbrf", {"damping": 0.0}, "damping > 0"),
        ("unrolled_sgd", {"batch_size": 0}, "batch_size >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.configure(name, **given)


def test_parameters_are_trainable_ones_only():
    model = tanh_network()
    model[1].weight.requires_grad_(False)
    parts = divided(points(20, classes=3), [0, 1])
    made = removed(influence, Influence(), model, parts)
    assert torch.equal(made[1].weight, model[1].weight) and not torch.equal(made[3].weight, model[3].weight)
    assert set(trainable(made)) == set(trainable(model)) and math.isfinite(float(weights(made).norm()))


def test_weights_are_the_trainable_parameters_in_order():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 5.0]]))
    found = gradients.weights(model)
    assert found.tolist() == [3.0, 5.0] and not found.requires_grad
