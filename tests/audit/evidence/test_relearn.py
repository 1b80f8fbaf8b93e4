"""Relearn time: a quadratic with known contraction, equal models, censoring, and untouched inputs."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from unlearnlib.audit.evidence.relearn import log_ain, relearn_curve, relearn_time, steps_to
from unlearnlib.data.examples import Examples
from unlearnlib.seeding import isolated


class Quadratic(nn.Module):
    """Outputs its one weight: with loss w^2/2 and rate .1 a step multiplies it by .9."""

    def __init__(self, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(start), dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), 1)


def half_square(outputs, _labels):
    return 0.5 * (outputs**2).mean()


def toy_examples(n=48, classes=3):
    with isolated(0, "toy"):
        images = torch.rand(n, 1, 4, 4)
    return Examples(images, torch.arange(n) % classes)


def toy_model(seed=0):
    with isolated(seed, "model"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3)
        )


def test_known_step_counts_from_curves():
    t = np.arange(60)
    assert steps_to(2 * 0.9**t, 0.1).steps == 29
    assert steps_to(1 * 0.9**t, 0.1).steps == 22
    assert math.ceil(math.log(20) / -math.log(0.9)) == 29 and math.ceil(math.log(10) / -math.log(0.9)) == 22


def test_known_step_counts_by_gradient_descent():
    forget = toy_examples()
    runs = [relearn_time(Quadratic(w), forget, 0.5 * 0.1**2, lr=0.1, objective=half_square) for w in (2, 1)]
    assert [r.steps for r in runs] == [29, 22] and not any(r.censored for r in runs)
    np.testing.assert_allclose(runs[0].curve, 0.5 * (2 * 0.9 ** np.arange(30)) ** 2)
    assert log_ain(runs[1], runs[0]).value == pytest.approx(math.log(22 / 29))
    assert log_ain(runs[1], runs[0]).value < 0 < log_ain(runs[0], runs[1]).value  # residual; over-forgotten


def test_the_same_model_and_seed_give_a_ratio_of_exactly_one():
    forget, model = toy_examples(), toy_model()
    target = relearn_curve(model, forget, 15, lr=0.2, batch_size=8, seed=3)[-1]
    runs = [relearn_time(model, forget, target, lr=0.2, batch_size=8, seed=3) for _ in range(2)]
    assert 0 < runs[0].steps <= 15
    ratio = log_ain(*runs)
    assert ratio.value == 0.0 and ratio.ain == 1.0 and ratio.kind == "exact"
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))  # no dropout: only the order of batches is random
    curves = [relearn_curve(plain, forget, 5, lr=0.2, batch_size=8, seed=s) for s in (3, 3, 4)]
    assert np.array_equal(curves[0], curves[1]) and not np.array_equal(curves[0], curves[2])


def test_a_model_that_saw_the_forget_set_relearns_faster():
    forget = toy_examples()
    knows, fresh = toy_model(0), toy_model(0)
    optimiser = torch.optim.SGD(knows.parameters(), lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(knows(forget.pixels()), forget.labels).backward()
        optimiser.step()
    with torch.no_grad():
        knows[5].weight.mul_(0.2)  # hidden, not forgotten
    target = relearn_curve(fresh, forget, 40, lr=0.2)[-1]
    runs = [relearn_time(m, forget, target, lr=0.2) for m in (knows, fresh)]
    assert runs[0].steps > 0 and log_ain(*runs).value < -0.3


def test_nothing_given_is_changed():
    forget, model = toy_examples(), toy_model()
    model.train()
    model[1].weight.requires_grad_(False)
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    relearn_time(model, forget, 0.0, lr=0.1, max_steps=5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and not model[1].weight.requires_grad and model[5].weight.grad is None
    assert torch.equal(torch.get_rng_state(), generator)


def test_cap_and_bounds():
    forget = toy_examples()
    capped = relearn_time(Quadratic(2), forget, 0.005, lr=0.1, max_steps=10, objective=half_square)
    done = relearn_time(Quadratic(1), forget, 0.005, lr=0.1, max_steps=50, objective=half_square)
    assert capped.steps == 10 and capped.censored and len(capped.curve) == 11
    assert log_ain(capped, done).kind == "at least" and log_ain(capped, done).value == pytest.approx(math.log(10 / 22))
    assert log_ain(done, capped).kind == "at most"
    assert log_ain(capped, capped).kind == "undetermined" and math.isnan(log_ain(capped, capped).value)


def test_at_the_target_from_the_start():
    zero, done = steps_to([0.0, 0.0], 0.1), steps_to([1.0, 0.5, 0.05], 0.1)
    assert zero.steps == 0 and not zero.censored
    assert log_ain(zero, zero).value == 0.0
    assert log_ain(zero, done).value == pytest.approx(math.log(0.25))


def test_rising_measures_and_nan():
    assert steps_to([0.2, 0.5, 0.9], 0.8, falling=False).steps == 2
    assert steps_to([np.nan, np.nan], 0.1).censored
    accuracy = relearn_time(toy_model(), toy_examples(), 0.9, lr=0.5, measure="accuracy", max_steps=300)
    assert not accuracy.censored and accuracy.curve[-1] >= 0.9 > accuracy.curve[:-1].max()
    with pytest.raises(ValueError, match="measure"):
        relearn_time(toy_model(), toy_examples(), 0.9, lr=0.5, measure="f1")
    with pytest.raises(ValueError, match="lr"):
        relearn_time(toy_model(), toy_examples(), 0.9, lr=0.0)
