"""DLFD: the transport plan against exact solvers, the perturbation against its definition, the limits of the method."""

import numpy as np
import ot
import pytest
import torch
from small import dataset, same, split, state

import unlearnlib as ul
from unlearnlib import dlfd, models, registry, training
from unlearnlib.training import Recipe


def clouds(m: int = 12, n: int = 9, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(m, 5, generator=rng, dtype=torch.float64), torch.randn(n, 5, generator=rng, dtype=torch.float64)


def test_the_plan_equals_that_of_a_trusted_library_and_meets_its_marginals():
    cost = dlfd.cosine_cost(*clouds())
    plan, error = dlfd.sinkhorn(cost, 0.05, tolerance=1e-10, max_iterations=20_000)
    reference = ot.sinkhorn(
        np.full(12, 1 / 12), np.full(9, 1 / 9), cost.numpy(), 0.05, stopThr=1e-12, numItermax=20_000
    )
    assert np.allclose(plan.numpy(), reference, atol=1e-9) and error < 1e-10
    assert torch.allclose(plan.sum(0), torch.full((9,), 1 / 9, dtype=torch.float64), atol=1e-12)
    assert abs((plan.sum(1) - 1 / 12).abs().sum().item() - error) < 1e-12


def test_small_regularisation_gives_the_exact_optimum():
    first, second = clouds()
    cost = dlfd.cosine_cost(first, second)
    exact = ot.emd2([], [], cost.numpy())
    values = [(dlfd.sinkhorn(cost, r, 1e-6, 100_000)[0] * cost).sum().item() for r in (0.5, 0.05, 0.005)]
    assert values[0] > values[1] > values[2] >= exact - 1e-6 and values[2] - exact < 0.003
    same_cloud = dlfd.cosine_cost(first, first)
    assert (dlfd.sinkhorn(same_cloud, 0.005, 1e-6, 100_000)[0] * same_cloud).sum() < 0.003


def test_an_early_stop_reports_its_marginal_error():
    _, error = dlfd.sinkhorn(dlfd.cosine_cost(*clouds()), 0.001, tolerance=1e-12, max_iterations=1)
    assert error > 0.01
    with pytest.raises(ValueError, match="finite cost matrix"):
        dlfd.sinkhorn(torch.tensor([[float("nan")]]), 0.1)


@pytest.fixture(scope="module")
def trained():
    parts = split()
    return training.fit(models.build("cnn", dataset()), parts.train, Recipe(epochs=4, batch_size=16)), parts


def moved(trained, **changes):
    model, parts = trained
    settings = {"steps": 4, "step": 0.02, "transport_weight": 3.0, "ce_weight": 0.0, "regularisation": 0.05, **changes}
    images, labels = parts.retain.pixels(range(16)), parts.retain.labels[:16]
    forget = models.features(model, parts.forget.pixels())
    with models.FeatureTap(model, images) as tap:
        result, work = dlfd.perturb(
            model, images, labels, forget, tap=tap, limits=dlfd.pixel_limits(parts.train), **settings
        )
        cost = [dlfd.cosine_cost(tap(x)[1], forget) for x in (images, result)]
    distance = [(dlfd.sinkhorn(c, 0.05)[0] * c).sum().item() for c in cost]
    with models.evaluating(model):
        losses = [torch.nn.functional.cross_entropy(model(x), labels).item() for x in (images, result)]
    return images, result, distance, losses, work


def test_the_transport_term_reaches_the_perturbation(trained):
    images, result, distance, _, work = moved(trained)
    assert (result != images).float().mean() > 0.5
    assert distance[1] > distance[0] + 0.005
    assert work == 64


def test_the_perturbation_keeps_to_its_budget_and_to_true_pixels(trained):
    images, result, *_ = moved(trained)
    assert (result - images).abs().max() <= 4 * 0.02 + 1e-6
    assert result.min() >= 0 and result.max() <= 1


def test_the_classification_term_alone_lowers_the_loss(trained):
    _, _, _, losses, _ = moved(trained, transport_weight=0.0, ce_weight=1.0)
    assert losses[1] < losses[0]


def test_limits_are_those_declared_or_observed():
    parts = split()
    low, high = dlfd.pixel_limits(parts.train)
    assert low.item() == 0 and high.item() == 1
    floating = type(parts.train)(parts.train.pixels() * 4 - 2, parts.train.labels)
    low, high = dlfd.pixel_limits(floating)
    assert low.item() == floating.images.min() and high.item() == floating.images.max()


def test_membership_score_of_gaussian_losses():
    rng = torch.Generator().manual_seed(0)
    member, unseen = torch.randn(20_000, generator=rng), torch.randn(30_000, generator=rng) + 1
    # two unit Gaussians one apart: the best attack is right with probability Phi(1/2)
    assert abs(dlfd.membership_score(member, unseen) - 0.19146) < 0.005
    assert abs(dlfd.membership_score(unseen, member) - 0.19146) < 0.005  # over-forgetting counts too
    assert dlfd.membership_score(torch.ones(5), torch.ones(7)) == pytest.approx(0, abs=1e-12)


def test_without_noise_it_is_fine_tuning(trained, monkeypatch):
    def keep_the_last(self, model):
        self.best_state = state(model)

    monkeypatch.setattr(dlfd._Monitor, "check", keep_the_last)
    model, parts = trained
    settings = {"seed": 3, "batch_size": 16, "epochs": 1, "lr": 0.01}
    plain = state(ul.unlearn("finetune", model, parts, **settings).model)
    for off in ({"noise_steps": 0}, {"noise_step": 0.0, "noise_steps": 1}):
        result = state(ul.unlearn("dlfd", model, parts, **settings, **off).model)
        assert all(torch.allclose(result[k], plain[k], atol=1e-6) for k in plain)


def test_the_checkpoint_is_the_most_accurate_one_within_the_limit(trained, monkeypatch):
    model, parts = trained
    monitor = dlfd._Monitor(parts, dlfd.Dlfd(score_limit=0.05), registry.Run(0))
    readings = iter([(0.2, 0.99), (0.04, 0.80), (0.01, 0.90), (0.01, 0.85), (0.3, 1.0)])
    monkeypatch.setattr(monitor, "measure", lambda model: next(readings))
    for k in range(5):
        monitor.check(torch.nn.Linear(1, 1, bias=False).requires_grad_(False).apply(lambda m, k=k: m.weight.fill_(k)))
    assert monitor.best_state["weight"].item() == 2


def test_off_below_the_threshold(trained):
    model, parts = trained
    off = {"threshold": 1.0, "patience": 1, "check_every": 1}
    result = ul.unlearn("dlfd", model, parts, seed=3, batch_size=16, **off)
    assert result.cost.gradient_evaluations == 96  # six batches of 16, no perturbation
    on = ul.unlearn("dlfd", model, parts, seed=3, batch_size=16, threshold=0.0, noise_steps=2, check_every=10**6)
    assert on.cost.gradient_evaluations == 96 * 3


def test_refusals(trained):
    model, parts = trained
    with pytest.raises(ValueError, match="regularisation > 0"):
        ul.unlearn("dlfd", model, parts, seed=0, regularisation=0.0)
    tiny = type(parts).of(retain=parts.retain, forget=parts.forget, validation=parts.validation[:2], test=parts.test)
    with pytest.raises(ValueError, match="validation set of at least 4"):
        ul.unlearn("dlfd", model, tiny, seed=0)
    assert same(state(model), state(trained[0]))
