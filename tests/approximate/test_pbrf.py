"""The proximal Bregman response: its derivative, its minimum, and where the loss itself would have none."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from convex import divided, linear, points, refit, removed, tanh_network, weights

import unlearnlib as ul
from unlearnlib import data, training
from unlearnlib.approximate import curvature
from unlearnlib.approximate.gradients import mean_gradient
from unlearnlib.approximate.pbrf import PBRF, Response, pbrf
from unlearnlib.data.examples import Examples
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.doors import Diverged
from unlearnlib.training.prediction import accuracy, predict
from unlearnlib.training.recipe import Recipe


def test_the_derivative_of_the_response_is_the_influence_function():
    """theta'(eps) - theta_s = eps (G + lam)^-1 grad l + O(eps^2): eps is halved by doubling the training set."""
    model, damping, gaps = tanh_network(), 0.1, []
    small = points(12, classes=3)
    for copies in (4, 16, 64):
        train = Examples.concatenate([small] * copies)
        parts = divided(train, [1])
        config = PBRF(damping=damping, enough=1e-10, steps=400)
        step = weights(removed(pbrf, config, model, parts)) - weights(model)
        matrix = curvature.Curvature(model, train).dense() + damping * torch.eye(39, dtype=torch.float64)
        first = torch.linalg.solve(matrix, mean_gradient(model, parts.forget) / len(train))
        gaps.append(float((step - first).norm() / first.norm()))
    assert gaps[0] < 0.2 and gaps[1] < 0.35 * gaps[0] and gaps[2] < 0.35 * gaps[1]


def test_the_response_is_a_minimum():
    model, train = tanh_network(), points(40, classes=3)
    parts = divided(train, list(range(8)))
    config = PBRF(damping=0.05, enough=1e-9, steps=400)
    made = removed(pbrf, config, model, parts)
    objective = Response(model, parts, 0.05)
    value, slope = objective(made)
    start, first = objective(model)
    assert slope.norm() < 1e-6 * first.norm() and value < start
    assert torch.allclose(first, -mean_gradient(model, parts.forget) * 8 / 40, atol=1e-14)


def test_the_response_of_a_deep_network_on_noisy_labels_stays_near():
    """-CE beats every quadratic pull in networks with hidden layers: with it these weights moved by 2e11 norms."""
    ds = data.load("digits")
    parts = data.split(ds, forget="random:54", seed=0)
    rng = torch.Generator().manual_seed(0)
    labels, wrong = parts.train.labels.clone(), torch.rand(len(parts.train), generator=rng) < 0.15
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (int(wrong.sum()),), generator=rng)) % 10
    parts = dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))
    network = models.build("mlp", ds, hidden=(32, 32))
    model = training.fit(network, parts.train, Recipe(epochs=30, lr=5e-3), progress=False)
    made = ul.unlearn("pbrf", model, parts, seed=0).model
    assert accuracy(made, parts.retain) > accuracy(model, parts.retain) - 0.02 > 0.8
    assert (weights(made) - weights(model)).norm() < 0.5 * weights(model).norm()
    before, after = (F.cross_entropy(predict(m, parts.forget), parts.forget.labels) for m in (model, made))
    assert after > before


def test_a_response_outside_of_its_bound_is_refused(monkeypatch):
    model, train = tanh_network(), points(40, classes=3)
    monkeypatch.setattr(torch.optim.LBFGS, "step", lambda self, closure: [p.data.add_(1e6) for p in model.parameters()])
    with pytest.raises(Diverged, match="pbrf"):
        pbrf(model, divided(train, [0]), PBRF(damping=0.05), registry.Run(0))


def test_for_a_linear_network_response_and_retraining_agree_to_first_order():
    """At a minimum the two have one derivative: their distance is small against what both moved."""
    train, lam = points(80), 1e-2
    model = refit(linear(2, 5), train, lam)
    parts = divided(train, [5])
    response = removed(pbrf, PBRF(damping=lam, enough=1e-8, steps=400), model, parts)
    retrained = refit(model, parts.retain, lam * 80 / 79)
    step = weights(retrained) - weights(model)
    assert (weights(response) - weights(retrained)).norm() < 0.15 * step.norm()
