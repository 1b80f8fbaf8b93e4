"""Noisy fine-tuning: published noise levels, the missing sqrt 2, and that projection and clipping do bound the gap."""

import math

import pytest
import torch
from torch import nn

from unlearnlib import seeding
from unlearnlib.private.accounting import zcdp_rho
from unlearnlib.private.noisy_finetuning import NoisyFineTuning, noisy_distance, noisy_rho, noisy_sigma, project

RHO = 0.030556595  # (1, 1e-5)


@pytest.mark.parametrize(
    "steps, decay, sigma", [(1, 0.0, 8.17), (100, 0.0, 1.62), (1000, 0.0, 2.81), (100, 1.0, 1.23), (1000, 1.0, 1.14)]
)
def test_noise_per_step(steps, decay, sigma):
    assert zcdp_rho(1, 1e-5) == pytest.approx(RHO, rel=1e-6)
    assert noisy_sigma(RHO, steps, 1.0, 1.0, 0.01, decay) == pytest.approx(sigma, abs=5e-3)


def test_limit_without_decay_and_the_missing_square_root_of_two():
    """lam -> 0 is D^2/(2 rho T) = 1.618^2; D^2/(4 rho T), 1.144^2, would be sqrt 2 too little noise."""
    distance = noisy_distance(100, 1.0, 1.0, 0.01, 0.0)
    assert distance == pytest.approx(2 + 2 * 0.01 * 100)
    limit = math.sqrt(distance**2 / (2 * RHO * 100))
    assert limit == pytest.approx(1.618, abs=5e-4)
    assert noisy_sigma(RHO, 100, 1.0, 1.0, 0.01, 0.0) == pytest.approx(limit, rel=1e-12)
    assert noisy_sigma(RHO, 100, 1.0, 1.0, 0.01, 1e-9) == pytest.approx(limit, rel=1e-6)
    halved = math.sqrt(distance**2 / (4 * RHO * 100))
    assert halved == pytest.approx(1.144, abs=5e-4)
    assert noisy_rho(halved, 100, 1.0, 1.0, 0.01, 0.0) == pytest.approx(2 * RHO, rel=1e-12)


def test_rho_is_attained_by_opposed_gradients():
    """Two chains at +-C0 with gradients -+C1 are Gaussians D apart: order a has divergence exactly a rho."""
    steps, step_size, decay, sigma = 25, 0.02, 3.0, 0.7
    mean, other, variance = 1.5, -1.5, 0.0
    for _ in range(steps):
        mean, other = (x - step_size * (s * 0.8 + decay * x) for x, s in ((mean, -1), (other, 1)))
        variance = (1 - step_size * decay) ** 2 * variance + sigma**2
    rho = (mean - other) ** 2 / (2 * variance)
    assert noisy_rho(sigma, steps, 1.5, 0.8, step_size, decay) == pytest.approx(rho, rel=1e-10)


def test_project_scales_only_what_is_too_long():
    tensors = [torch.full((2, 2), 3.0), torch.full((3,), 4.0)]
    project(tensors, 100.0)
    assert torch.equal(tensors[0], torch.full((2, 2), 3.0))
    project(tensors, 1.0)
    assert float(torch.cat([t.flatten() for t in tensors]).norm()) == pytest.approx(1.0, rel=1e-6)
    assert float(tensors[0][0, 0] / tensors[1][0]) == pytest.approx(0.75, rel=1e-6)
    zero = [torch.zeros(3)]
    project(zero, 1.0)
    assert torch.equal(zero[0], torch.zeros(3))


def network(scale: float):
    def train(examples):
        with seeding.isolated(0, "network"):
            model = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.Tanh(), nn.Linear(12, 2)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(scale)
        return model

    return train


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.state.model.parameters()])


@pytest.mark.parametrize("decay", [0.0, 5.0])
def test_any_two_starts_end_within_the_distance(threes_eights, decay):
    """With the same noise the two runs differ by at most D, however far apart they began."""
    train = threes_eights[0][:64]
    options = dict(steps=15, step_size=0.02, start_clip=0.5, gradient_clip=0.3, decay=decay, batch_size=16, seed=4)
    ends, before = [], []
    for scale in (1.0, -8.0):
        learner = NoisyFineTuning(network(scale), **options).fit(train)
        before.append(weights(learner))
        learner.forget([0, 1])
        ends.append(weights(learner))
    bound = noisy_distance(15, 0.5, 0.3, 0.02, decay)
    assert float((before[0] - before[1]).norm()) > 5 * bound
    assert 0.01 * bound < float((ends[0] - ends[1]).norm()) <= bound


def test_noise_has_the_stated_size(threes_eights):
    """Tiny clips leave only noise: the sum of T steps has std sigma sqrt(T)."""
    options = dict(steps=9, step_size=1e-6, start_clip=1e-6, gradient_clip=1e-6)
    learner = NoisyFineTuning(network(1.0), epsilon=1.0, delta=1e-5, **options).fit(threes_eights[0][:40])
    receipt = learner.forget([3])
    assert float(weights(learner).std()) == pytest.approx(3 * learner.sigma, rel=0.03)
    assert learner.sigma == pytest.approx(noisy_sigma(RHO, 9, 1e-6, 1e-6, 1e-6, 0.0), rel=1e-6)
    assert receipt.certificate.epsilon == 1.0 and "never saw" in receipt.certificate.compared_with
    assert receipt.cost.gradient_evaluations == 9 * 39


def test_it_learns_at_a_loose_budget(threes_eights, accuracy):
    """Large epsilon: fine-tuning on what remains still works, and repeats bit for bit."""
    train, test = threes_eights
    options = dict(epsilon=5e4, steps=150, step_size=0.5, start_clip=1.0, gradient_clip=1.0, batch_size=64)
    learners = [NoisyFineTuning(network(1.0), **options).fit(train) for _ in range(2)]
    original = weights(learners[0])
    for learner in learners:
        learner.forget(range(10))
    assert torch.equal(weights(learners[0]), weights(learners[1]))
    assert accuracy(learners[0], test) > 0.8
    assert not torch.equal(weights(learners[0]), original)


def test_the_trained_module_is_not_touched(threes_eights):
    module = network(1.0)(None).eval()
    before = [p.detach().clone() for p in module.parameters()]
    learner = NoisyFineTuning(lambda examples: module, steps=2).fit(threes_eights[0][:30])
    state = torch.get_rng_state()
    learner.forget([0])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    assert not module.training and not learner.state.model.training


def test_refusals(threes_eights):
    with pytest.raises(ValueError, match="BatchNorm"):
        NoisyFineTuning(lambda e: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784))).fit(threes_eights[0][:9])
    with pytest.raises(ValueError, match="step_size"):
        NoisyFineTuning(network(1.0), step_size=0.1, decay=20.0)
    frozen = network(1.0)(None)
    frozen[1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        NoisyFineTuning(lambda e: frozen).fit(threes_eights[0][:9])
