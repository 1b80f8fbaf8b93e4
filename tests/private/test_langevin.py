"""Langevin unlearning: published step counts, exact Gaussian chains below the bounds, stationary noise."""

import math

import numpy as np
import pytest
import torch

from unlearnlib.data.examples import Examples
from unlearnlib.private.descent import Constants
from unlearnlib.private.langevin import (
    Langevin,
    after_steps,
    chained,
    langevin_sigma,
    langevin_steps,
    learning_curve,
    renyi_epsilon,
)
from unlearnlib.private.learner import BudgetExhausted

MNIST = Constants(n=11_982, strong_convexity=0.011982, smoothness=0.261982)
ETA, DELTA = 1 / 0.261982, 1 / 11_982


@pytest.mark.parametrize("removed, steps", [(1, 1), (10, 778), (100, 1997)])
def test_steps_on_mnist_threes_and_eights(removed, steps):
    curve = learning_curve(MNIST, 0.03, removed)
    assert langevin_steps(curve, MNIST, ETA, 1.0, DELTA) == steps
    assert renyi_epsilon(after_steps(curve, MNIST, steps, ETA), DELTA) <= 1
    if steps > 1:
        assert renyi_epsilon(after_steps(curve, MNIST, steps - 1, ETA), DELTA) > 1


def test_epsilon_before_any_step_and_noise_for_one_step():
    assert renyi_epsilon(learning_curve(MNIST, 0.03, 1), DELTA) == pytest.approx(0.314, abs=5e-4)
    assert langevin_sigma(MNIST, 1, ETA, 1.0, DELTA) == pytest.approx(0.0096, abs=5e-5)


def gaussian_chain(m, eta, sigma, shift, learn, unlearn):
    """Exact mean difference and variance of two noisy gradient descents on m/2 w^2 + (0 or shift) w, then equal."""
    f, difference, variance = 1 - eta * m, 0.0, 2 * sigma**2 / m
    for step in range(learn + unlearn):
        difference = f * difference + (eta * shift if step < learn else 0.0)
        variance = f * f * variance + 2 * eta * sigma**2
    return difference, variance


@pytest.mark.parametrize("learn, unlearn", [(1, 0), (30, 0), (1000, 0), (1000, 1), (1000, 40), (10, 200)])
def test_bound_holds_on_quadratics(learn, unlearn):
    """Known answer: equal-variance Gaussians have D_a = a difference^2/(2 variance), for every order a."""
    constants = Constants(n=50, strong_convexity=0.2, smoothness=1.0)
    eta, sigma, removed = 0.9, 0.1, 2
    shift = 2 * removed / constants.n
    difference, variance = gaussian_chain(0.2, eta, sigma, shift, learn, unlearn)
    orders = np.array([1.1, 2.0, 8.0, 64.0])
    bound = after_steps(learning_curve(constants, sigma, removed), constants, unlearn, eta)(orders)
    assert (orders * difference**2 / (2 * variance) <= bound).all()


def test_a_quarter_of_the_bound_is_false():
    """Planted defect: S^2 M^2 in place of 4 S^2 M^2 undercuts the exact stationary chains."""
    constants = Constants(n=50, strong_convexity=0.2, smoothness=1.0)
    difference, variance = gaussian_chain(0.2, 0.9, 0.1, 2 / 50, 5000, 0)
    order = np.array([2.0])
    exact = order * difference**2 / (2 * variance)
    assert learning_curve(constants, 0.1, 1)(order) / 4 < exact < learning_curve(constants, 0.1, 1)(order)


def test_chained_requests_hold_on_gaussians():
    """Weak triangle inequality: P to R to Q with means 0, 1, 3 and variance 4, both directions."""
    orders = np.array([1.5, 3.0, 20.0])
    curve = chained(lambda a: a * 1.0 / 8, lambda a: a * 4.0 / 8)(orders)
    assert (curve >= orders * 9.0 / 8).all()
    assert (chained(lambda a: a * 4.0 / 8, lambda a: a * 1.0 / 8)(orders) >= orders * 9.0 / 8).all()


def test_stationary_spread():
    """Zero rows leave only the penalty: an exact AR(1) chain with variance 2 sigma^2/(m (2 - eta m))."""
    blank = Examples(torch.zeros(20, 1, 40, 50), torch.arange(20) % 2)
    learner = Langevin(sigma=0.03, lam=0.1, burn_in=200, bias=False).fit(blank)
    expected = 0.03 * math.sqrt(2 / (0.1 * (2 - 0.1 / 0.35)))
    assert float(learner.state.published.std()) == pytest.approx(expected, rel=0.05)
    assert expected == pytest.approx(0.03 / math.sqrt(0.1), rel=0.1)  # the rule of thumb sigma/sqrt(m)
    assert 0.03 / math.sqrt(MNIST.strong_convexity) * math.sqrt(2 / (2 - ETA * 0.011982)) == pytest.approx(
        0.277, abs=2e-3
    )


def test_requests_in_sequence(threes_eights, accuracy):
    train, test = threes_eights
    learner = Langevin(sigma=0.03, lam=0.1, epsilon=1.0, delta=1e-3, burn_in=300, max_steps=2000).fit(train)
    assert accuracy(learner, test) > 0.8
    first = learner.forget([1])
    second = learner.forget([2, 3, 4])
    for receipt in (first, second):
        assert receipt.certificate.epsilon <= 1.0 and receipt.certificate.delta == 1e-3
    steps = second.touched["langevin steps"]
    assert steps > first.touched["langevin steps"] >= 1
    assert second.cost.gradient_evaluations == steps * 596
    assert f"{learner.state.steps} steps" in second.certificate.compared_with
    assert accuracy(learner, test) > 0.8


def test_exhaustion(threes_eights):
    train = threes_eights[0][:100]
    learner = Langevin(sigma=0.01, lam=0.05, burn_in=20, max_steps=10).fit(train)
    before = learner.state.published
    with pytest.raises(BudgetExhausted, match="more than 10"):
        learner.forget(range(10))
    assert learner.state.published is before and len(learner.retained()) == 100
    willing = Langevin(sigma=0.01, lam=0.05, burn_in=20, max_steps=10, on_exhausted="retrain").fit(train)
    assert willing.forget(range(10)).certificate.kind == "exact"
    assert willing.state.curve is None and willing.state.steps == 20


def test_refusals(threes_eights):
    with pytest.raises(ValueError, match="step_size"):
        Langevin(step_size=10.0, burn_in=1).fit(threes_eights[0][:20])
    with pytest.raises(ValueError, match="sigma"):
        Langevin(sigma=0.0)
