"""Descent-to-delete: published noise levels, and the distances that the noise has to hide."""

import pytest
import torch

from unlearnlib.private.descent import Constants, DescentToDelete, descent_sigma
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import loss_for, minimise

MNIST = Constants(n=11_982, strong_convexity=0.011982, smoothness=0.261982)


@pytest.mark.parametrize("iterations, sigma", [(1, 2.585), (2, 1.233), (5, 0.427), (50, 0.0026)])
def test_noise_on_mnist_threes_and_eights(iterations, sigma):
    computed = descent_sigma(MNIST, iterations, 1.0, 1 / 11_982)
    assert computed == pytest.approx(sigma, abs=5e-4 if iterations < 50 else 5e-5)


def test_weak_convexity_needs_many_steps():
    weak = Constants(n=11_982, strong_convexity=1e-3, smoothness=0.251)
    assert descent_sigma(weak, 500, 1.0, 1e-5) == pytest.approx(0.062, abs=5e-4)


def test_batches_take_fewer_steps_than_one_by_one():
    assert MNIST.steps(5, 1) == 5
    assert 5 < MNIST.steps(5, 10) < 50
    e, k = MNIST.error(5), 10
    assert MNIST.contraction ** MNIST.steps(5, k) * (e + k * MNIST.shift) <= e


def distance(learner, keep):
    x, y = learner._problem(keep)
    best = minimise(loss_for(learner.state.classes), x, y, learner.lam)[0]
    return float(torch.linalg.vector_norm(learner.state.theta - best))


@pytest.mark.parametrize("classes", [2, 3])
def test_secret_weights_stay_within_e_and_two_e(mnist, classes):
    """After every request: within e of the minimiser, within 2e of training from scratch."""
    small = mnist[mnist.labels < classes][:200]
    learner = DescentToDelete(iterations=4, lam=0.05).fit(small)
    bound = learner.state.constants.error(4)
    assert distance(learner, learner.state.alive) <= bound
    for request in ([0], [1, 2, 3], [10]):
        learner.forget(request)
        assert distance(learner, learner.state.alive) <= bound
    scratch = DescentToDelete(iterations=4, lam=0.05).fit(learner.retained())
    gap = torch.linalg.vector_norm(scratch.state.theta - learner.state.theta)
    assert 0 < float(gap) <= 2 * bound


def test_zero_iterations_would_be_caught(mnist):
    """Planted defect: publishing without descending leaves the deletion in the weights."""
    small = mnist[mnist.labels < 2][:200]
    learner = DescentToDelete(iterations=40, lam=0.05).fit(small)
    kept = learner.state.theta
    learner.forget(range(20))
    learner.state.theta = kept
    assert distance(learner, learner.state.alive) > learner.state.constants.error(40)


def test_publication_noise(threes_eights, accuracy):
    train, test = threes_eights
    learner = DescentToDelete(iterations=60, lam=0.05, epsilon=1.0, delta=1e-4).fit(train)
    noise = (learner.state.published - learner.state.theta).flatten()
    expected = descent_sigma(learner.state.constants, 60, 1.0, 1e-4)
    assert float(noise.std()) == pytest.approx(expected, rel=0.1)
    receipt = learner.forget([4])
    again = (learner.state.published - learner.state.theta).flatten()
    assert abs(float(torch.corrcoef(torch.stack([noise, again]))[0, 1])) < 0.15  # fresh noise
    assert receipt.touched == {"gradient steps": 60} and receipt.cost.gradient_evaluations == 60 * 599
    assert receipt.certificate.epsilon == 1.0 and receipt.certificate.delta == 1e-4
    assert "secret" in receipt.certificate.compared_with
    assert accuracy(learner, test) > 0.85


def test_half_of_the_data_is_the_limit(mnist):
    small = mnist[mnist.labels < 2][:40]
    learner = DescentToDelete(iterations=5, lam=0.1).fit(small)
    learner.forget(range(20))
    with pytest.raises(BudgetExhausted, match="half"):
        learner.forget([20])
    willing = DescentToDelete(iterations=5, lam=0.1, on_exhausted="retrain").fit(small)
    assert willing.forget(range(25)).certificate.kind == "exact"
    assert willing.state.constants.n == 15


def test_refusals():
    with pytest.raises(ValueError, match="iterations"):
        DescentToDelete(iterations=0)
    with pytest.raises(ValueError, match="epsilon"):
        DescentToDelete(epsilon=0.0)
