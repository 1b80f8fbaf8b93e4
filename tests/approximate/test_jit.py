"""JiT: the loss in closed form for linear networks, one step against its gradient, and no carried-over gradient."""

import copy

import pytest
import torch
from small import split, state
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate.jit import steepness
from unlearnlib.methods import registry
from unlearnlib.training import models

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def draws(n: int = 20, samples: int = 8, label: str = "noise"):
    pixels = split().forget.pixels()[:n]
    noise = torch.randn(n, samples, 1, 8, 8, generator=registry.Run(0).generator(label))
    return pixels, noise


def test_a_linear_network_is_as_steep_as_its_matrix_and_no_steeper():
    model = linear()
    pixels, noise = draws()
    rows = noise.flatten(0, 1).flatten(1)
    exact = ((rows @ model[1].weight.T).norm(dim=1) / rows.norm(dim=1)).mean()
    loss = steepness(model, pixels, noise)
    assert torch.allclose(loss, exact, atol=1e-6) and loss <= torch.linalg.matrix_norm(model[1].weight, 2)
    top = torch.linalg.svd(model[1].weight).Vh[0].reshape(1, 1, 1, 8, 8).expand(20, 1, 1, 8, 8)
    assert torch.allclose(steepness(model, pixels, 3 * top), torch.linalg.matrix_norm(model[1].weight, 2), atol=1e-5)


def test_both_terms_carry_gradient():
    # Released code takes the perturbed output without gradient; then the bias would get one, and x would matter.
    model = linear()
    pixels, noise = draws()
    first = torch.autograd.grad(steepness(model, pixels, noise), list(model.parameters()))
    assert torch.allclose(first[1], torch.zeros(3), atol=1e-6)
    second = torch.autograd.grad(steepness(model, pixels.flip(0), noise), list(model.parameters()))
    assert torch.allclose(first[0], second[0], atol=1e-5)


def test_gradients_are_cleared_before_every_step():
    model, parts = linear(), split()
    settings = {"seed": 0, "lr": 0.3, "batch_size": 10, "samples": 4, "sigma": 0.7, "epochs": 2}
    done = ul.unlearn("jit", model, parts, **settings, **PLAIN)
    by_hand, run = copy.deepcopy(model), registry.Run(0)
    rng, order = run.generator("noise"), run.generator("order")
    mean, std = (v.reshape(1, -1, 1, 1) for v in models.pixel_statistics(parts.forget))

    def f(z):
        return by_hand(z * std + mean)

    for _ in range(2):
        shuffled = torch.randperm(20, generator=order)
        for index in (shuffled[:10], shuffled[10:]):
            noise = 0.7 * torch.randn(10, 4, 1, 8, 8, generator=rng)
            loss = steepness(f, (parts.forget.pixels(index) - mean) / std, noise)
            slopes = torch.autograd.grad(loss, list(by_hand.parameters()))
            with torch.no_grad():
                for p, slope in zip(by_hand.parameters(), slopes, strict=True):
                    p.sub_(0.3 * slope)
    assert torch.allclose(done.model[1].weight, by_hand[1].weight, atol=1e-6)
    assert done.cost.gradient_evaluations == 2 * 20 * 5
    assert steepness(done.model, *draws()) < steepness(model, *draws())


def test_a_constant_network_is_the_minimum_and_stays():
    model = linear()
    nn.init.zeros_(model[1].weight)
    assert steepness(model, *draws()) == 0
    after = ul.unlearn("jit", model, split(), seed=0, lr=1.0, **PLAIN).model
    assert all(torch.equal(a, b) for a, b in zip(state(after).values(), state(model).values(), strict=True))


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"sigma": 0.0}])
def test_errors_at_the_door(wrong):
    with pytest.raises(ValueError, match="samples >= 1 and sigma > 0"):
        ul.unlearn("jit", linear(), split(), seed=0, **wrong)
