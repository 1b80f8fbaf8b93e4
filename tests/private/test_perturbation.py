"""Output and objective perturbation: calibrated scales, exact laws in one dimension, the do-nothing receipt."""

import math

import numpy as np
import pytest
import torch

from unlearnlib.private.accounting import gaussian_delta, gaussian_epsilon
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.logistic import loss_for, minimise
from unlearnlib.private.mechanisms import erm_sensitivity
from unlearnlib.private.perturbation import ObjectivePerturbation, OutputPerturbation


def test_output_noise_has_the_calibrated_scale(threes_eights):
    train, _ = threes_eights
    learner = OutputPerturbation(lam=0.1, epsilon=1.0, delta=1e-5).fit(train)
    noise = learner.state.published - learner.state.minimiser
    sensitivity = erm_sensitivity(600, 0.1) + 2e-9 / 0.1
    assert learner.state.scale == pytest.approx(3.7306 * sensitivity, rel=1e-4)
    assert float(noise.std()) == pytest.approx(learner.state.scale, rel=0.1)  # 785 coordinates
    pure = OutputPerturbation(lam=0.1, epsilon=1.0, delta=0.0).fit(train)
    length = float(torch.linalg.vector_norm(pure.state.published - pure.state.minimiser))
    assert length == pytest.approx(785 * sensitivity, rel=0.15)  # Gamma(785): relative std 0.036


def test_the_exact_deletion_is_covered(threes_eights):
    """The true distance between the two minimisers costs less than the certified epsilon."""
    train, _ = threes_eights
    learner = OutputPerturbation(lam=0.1, epsilon=1.0, delta=1e-5).fit(train)
    receipt = learner.forget(range(30))
    x, y = learner._problem(learner.state.alive)
    distance = torch.linalg.vector_norm(minimise(loss_for(2), x, y, 0.1)[0] - learner.state.minimiser)
    assert float(distance) <= learner.sensitivity(600, 30)
    true = gaussian_epsilon(learner.state.scale, 1e-5, float(distance))
    assert true <= receipt.certificate.epsilon
    assert receipt.certificate.epsilon == pytest.approx(
        gaussian_epsilon(learner.state.scale, 1e-5, learner.sensitivity(600, 30))
    )


def test_forgetting_changes_nothing_and_adds_up(threes_eights):
    train, test = threes_eights
    learner = OutputPerturbation(lam=0.1, epsilon=1.0, delta=0.0, max_epsilon=3.5).fit(train)
    before = learner.logits(test.images)
    first, second = learner.forget([3]), learner.forget([5, 8])
    assert torch.equal(learner.logits(test.images), before)
    assert first.certificate.epsilon == pytest.approx(1.0)
    assert second.certificate.epsilon == pytest.approx(3.0, rel=1e-6)  # sensitivity 2kL/(n lam)
    assert first.cost.gradient_evaluations == 0 and len(learner.retained()) == 597
    with pytest.raises(BudgetExhausted, match="max_epsilon"):
        learner.forget([1])
    assert len(learner.retained()) == 597  # a refusal leaves everything as it was


def test_retraining_when_exhausted_uses_fresh_noise(threes_eights):
    train, test = threes_eights
    learner = OutputPerturbation(lam=0.1, max_epsilon=0.5, on_exhausted="retrain").fit(train)
    before = learner.logits(test.images)
    receipt = learner.forget([0, 1])
    assert receipt.certificate.kind == "exact" and receipt.touched == {"retrained": 1}
    assert not torch.allclose(learner.logits(test.images), before)
    assert learner.state.trained_on == 598


def density_ratio(slack, extra, lam, x, y, other_x, other_y):
    """max over w of |log f_D(w) - log f_D'(w)| for d = 1: f(w) = p(b(w)) |db/dw|, p ~ exp(-slack |b|/2)."""
    n, w = len(x), np.linspace(-60, 60, 200_001)

    def log_density(x, y):
        p = 1 / (1 + np.exp(-np.outer(w, x)))
        b = -((p - y) * x).sum(1) - n * (lam + extra) * w
        slope = (p * (1 - p) * x**2).sum(1) + n * (lam + extra)
        return -slack * np.abs(b) / 2 + np.log(slope)

    return np.abs(log_density(x, y) - log_density(other_x, other_y)).max()


@pytest.mark.parametrize("epsilon, lam", [(1.0, 0.2), (0.3, 0.01), (4.0, 0.05)])
def test_objective_perturbation_exact_law_in_one_dimension(epsilon, lam):
    x, y = np.array([1.0, -0.4, 0.7, 0.2]), np.array([1.0, 0.0, 0.0, 1.0])
    other_x, other_y = x.copy(), y.copy()
    other_x[0], other_y[0] = 1.0, 0.0
    slack, extra = ObjectivePerturbation(epsilon=epsilon, lam=lam).noise(4, 2)
    assert density_ratio(slack, extra, lam, x, y, other_x, other_y) <= epsilon
    zero_x = np.array([0.0, -0.4, 0.7, 0.2])  # deletion: the row becomes zero
    assert density_ratio(slack, extra, lam, x, y, zero_x, y) <= epsilon
    # Planted defect: noise of scale 2/(3 epsilon) instead of 2/epsilon' leaks more.
    assert density_ratio(3 * epsilon, 0.0, lam, x, y, other_x, other_y) > epsilon


def test_objective_perturbation_learns_and_certifies(threes_eights, accuracy):
    train, test = threes_eights
    learner = ObjectivePerturbation(lam=0.01, epsilon=20.0).fit(train)
    assert accuracy(learner, test) > 0.85
    assert learner.forget([2, 3]).certificate.epsilon == 40.0
    assert ObjectivePerturbation(epsilon=8.0).noise(100, 4)[0] < 2.0  # each of four columns has a quarter


def test_group_guarantee_of_the_gaussian_is_exact():
    sigma = 3.7306316348
    assert gaussian_delta(2.1546766577, sigma, 2.0) == pytest.approx(1e-5, rel=1e-6)
    assert math.isclose(gaussian_epsilon(sigma, 1e-5, 2.0), 2.1546766577, rel_tol=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="delta"):
        OutputPerturbation(delta=1.0)
    with pytest.raises(ValueError, match="lam"):
        OutputPerturbation(lam=0.0)
    with pytest.raises(ValueError, match="leave delta at 0"):
        ObjectivePerturbation(delta=1e-5)
    with pytest.raises(ValueError, match="call fit"):
        OutputPerturbation().logits(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="on_exhausted"):
        OutputPerturbation(on_exhausted="ignore")
