"""Rewind-to-delete: the distance bound on a loss whose constants are known, and its two limits."""

import math

import pytest
import torch
from torch import nn

from unlearnlib.data.examples import Examples
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.rewind import RewindToDelete, rewind_distance


@pytest.fixture(scope="module")
def unit(threes_eights):
    """Pictures of norm 1: softmax regression then has L = 1/2 and G = sqrt 2."""
    train, _ = threes_eights
    pixels = train.pixels()[:120]
    return Examples(pixels / pixels.flatten(1).norm(dim=1).view(-1, 1, 1, 1), train.labels[:120])


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    nn.init.zeros_(model[1].weight)
    return model


KNOWN = dict(steps=30, step_size=0.2, smoothness=0.5, gradient_bound=math.sqrt(2))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("rewound", [0, 1, 10, 25])
def test_unlearned_and_retrained_are_within_the_bound(unit, rewound):
    learner = RewindToDelete(linear(), rewound=rewound, capacity=8, **KNOWN).fit(unit)
    learner.forget([0, 1, 2])
    learner.forget(range(20, 25))
    scratch = RewindToDelete(linear(), rewound=rewound, capacity=8, **KNOWN).fit(learner.retained())
    gap = float((weights(learner.state.secret) - weights(scratch.state.secret)).norm())
    assert 0 < gap <= learner.distance(120, 8)


def test_distance_is_the_recursion():
    apart = 0.0
    for step in range(30):
        apart = (1 + 0.2 * 0.5) * apart + (0.2 * 2 * 3 * 1.5 / 100 if step < 18 else 0.0)
    assert rewind_distance(100, 30, 12, 0.2, 0.5, 1.5, removed=3) == pytest.approx(apart, rel=1e-12)
    distances = [rewind_distance(100, 30, k, 0.2, 0.5, 1.5) for k in range(31)]
    assert distances == sorted(distances, reverse=True) and distances[-1] == 0


def test_rewinding_everything_is_retraining(unit):
    learner = RewindToDelete(linear(), rewound=30, **KNOWN).fit(unit)
    receipt = learner.forget([5])
    scratch = RewindToDelete(linear(), rewound=30, **KNOWN).fit(learner.retained())
    assert receipt.certificate.kind == "exact" and learner.state.sigma == 0
    assert torch.equal(weights(learner.state.published), weights(scratch.state.published))


def test_noise_is_published_and_calibrated(unit):
    learner = RewindToDelete(linear(), rewound=20, epsilon=1.0, delta=1e-5, **KNOWN).fit(unit)
    assert learner.state.sigma == pytest.approx(3.7306316 * learner.distance(120), rel=1e-6)
    for _ in range(2):
        noise = weights(learner.state.published) - weights(learner.state.secret)
        assert float(noise.std()) == pytest.approx(learner.state.sigma, rel=0.06)
        learner.forget([1]) if bool(learner.state.alive.all()) else None
    receipt_text = RewindToDelete(linear(), rewound=20, **KNOWN).fit(unit).forget([0]).certificate.compared_with
    assert "same start" in receipt_text and "assumed" in receipt_text


def test_constants_are_held_against_the_path(unit):
    with pytest.raises(ValueError, match="gradient_bound"):
        RewindToDelete(linear(), rewound=10, **{**KNOWN, "gradient_bound": 0.1}).fit(unit)
    with pytest.raises(ValueError, match="raise smoothness"):
        RewindToDelete(linear(), rewound=10, **{**KNOWN, "smoothness": 0.01}).fit(unit)


def test_capacity(unit):
    learner = RewindToDelete(linear(), rewound=20, capacity=2, **KNOWN).fit(unit)
    learner.forget([0, 1])
    with pytest.raises(BudgetExhausted, match="2 deletions"):
        learner.forget([2])
    willing = RewindToDelete(linear(), rewound=20, capacity=2, on_exhausted="retrain", **KNOWN).fit(unit)
    assert willing.forget([0, 1, 2]).certificate.kind == "exact"
    assert willing.state.trained_on == 117


def test_nonconvex_network_runs_and_the_start_is_not_touched(unit, accuracy):
    start = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 2))
    before = weights(start)
    options = dict(steps=60, rewound=50, step_size=0.2, smoothness=4.0, gradient_bound=4.0, epsilon=1e5)
    learner = RewindToDelete(start, **options).fit(unit)
    receipt = learner.forget([3])
    assert receipt.touched == {"gradient steps": 50} and receipt.cost.gradient_evaluations == 50 * 119
    assert torch.equal(weights(start), before) and start.training
    assert learner.logits(unit.images).shape == (120, 2)


def test_refusals():
    with pytest.raises(ValueError, match="rewound"):
        RewindToDelete(linear(), steps=10, rewound=11)
    with pytest.raises(ValueError, match="BatchNorm"):
        RewindToDelete(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 2)))
