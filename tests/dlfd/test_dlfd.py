"""DLFD: the transport plan against exact solvers, the perturbation against its definition, the limits of the method."""

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import rbf_kernel
from small import dataset, same, split, state

import unlearnlib as ul
from unlearnlib import dlfd, training
from unlearnlib.data.examples import pixel_limits
from unlearnlib.dlfd import distances
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


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
            model, images, labels, forget, tap=tap, limits=pixel_limits(parts.train), **settings
        )
        cost = [dlfd.cosine_cost(tap(x)[1], forget) for x in (images, result)]
    distance = [(dlfd.sinkhorn(c, 0.05)[0] * c).sum().item() for c in cost]
    with models.evaluating(model):
        losses = [F.cross_entropy(model(x), labels).item() for x in (images, result)]
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

    monkeypatch.setattr(dlfd.Monitor, "check", keep_the_last)
    model, parts = trained
    settings = {"seed": 3, "batch_size": 16, "epochs": 1, "lr": 0.01}
    plain = state(ul.unlearn("finetune", model, parts, **settings).model)
    for off in ({"noise_steps": 0}, {"noise_step": 0.0, "noise_steps": 1}):
        result = state(ul.unlearn("dlfd", model, parts, **settings, **off).model)
        assert all(torch.allclose(result[k], plain[k], atol=1e-6) for k in plain)


def monitor_of(parts, **changes) -> dlfd.Monitor:
    return dlfd.Monitor(
        parts,
        dlfd.Rule(**{**dict(threshold=0.05, patience=3, score_limit=0.05, refresh=256), **changes}),
        registry.Run(0),
    )


def test_the_checkpoint_is_the_most_accurate_one_within_the_limit(trained, monkeypatch):
    monitor = monitor_of(trained[1])
    scores = iter([0.2, 0.04, 0.01, 0.01, 0.3])
    accuracies = iter([0.80, 0.90, 0.85])  # asked for only where the score is within the limit
    monkeypatch.setattr(monitor, "score", lambda model: next(scores))
    monkeypatch.setattr(monitor, "accuracy", lambda model: next(accuracies))
    for k in range(5):
        monitor.check(torch.nn.Linear(1, 1, bias=False).requires_grad_(False).apply(lambda m, k=k: m.weight.fill_(k)))
    assert monitor.best_state["weight"].item() == 2 and len(monitor.readings) == 5


def test_dynamic_forgetting_switches_after_patience_readings_in_a_row(trained):
    monitor, seen = monitor_of(trained[1]), []
    for score in (0.01, 0.01, 0.2, 0.01, 0.01, 0.01, 0.2, 0.2, 0.01, 0.2, 0.2, 0.2):
        monitor.switch(score)
        seen.append(monitor.distancing)
    assert seen == [True] * 5 + [False] * 6 + [True]


def test_the_score_is_tracked_in_parts(trained):
    model, parts = trained
    whole, tracked = monitor_of(parts), monitor_of(parts, refresh=5)
    assert whole.score(model) == tracked.score(model)  # the first reading measures everything
    other = models.build("cnn", dataset(), seed=9)
    readings = [tracked.score(other) for _ in range(4)]  # four fives are the 20 forgotten, and more than the 12 unseen
    assert readings[0] != readings[-1] == whole.score(other)
    assert whole._tally.forward_evaluations == 2 * 32 and tracked._tally.forward_evaluations == 32 + 4 * 10


def test_the_method_neither_sees_the_test_set_nor_scores_on_what_selects(trained):
    _, parts = trained
    monitor = monitor_of(parts)
    unseen, select = monitor._sides[1]._examples, monitor._select
    assert len(unseen) + len(select) == len(parts.validation)
    pairs = (unseen.images[:, None] == select.images[None]).flatten(2).all(2)
    assert not pairs.any()


def test_off_below_the_threshold(trained):
    model, parts = trained
    off = {"threshold": 1.0, "patience": 1}
    result = ul.unlearn("dlfd", model, parts, seed=3, batch_size=16, **off)
    assert result.cost.gradient_evaluations == 96  # six batches of 16, no perturbation
    on = ul.unlearn("dlfd", model, parts, seed=3, batch_size=16, threshold=0.0, noise_steps=2, check_every=10**6)
    assert on.cost.gradient_evaluations == 96 * 3


def test_every_distance_is_that_of_its_definition():
    x, y = (F.normalize(c, dim=1) for c in clouds(8, 8))
    a, b = x.numpy(), y.numpy()
    between, within = (np.linalg.norm(p[:, None] - q[None], axis=2) for p, q in ((a, b), (a, a)))
    energy = 2 * between.mean() - within.mean() - np.linalg.norm(b[:, None] - b[None], axis=2).mean()
    assert distances.energy(x, y).item() == pytest.approx(energy, abs=1e-5)
    # torch's median of an even number of entries is the lower of the two in the middle
    gamma = 1 / (2 * np.sort(between.flatten() ** 2)[(between.size - 1) // 2])
    mmd = rbf_kernel(a, a, gamma).mean() + rbf_kernel(b, b, gamma).mean() - 2 * rbf_kernel(a, b, gamma).mean()
    assert distances.mmd(x, y).item() == pytest.approx(mmd, abs=1e-6)
    exact = ot.sliced_wasserstein_distance(a, b, n_projections=20_000, p=1, seed=0) * 5**0.5
    assert distances.sliced(x, y).item() == pytest.approx(exact, rel=0.15)  # 64 directions


def test_sliced_wasserstein_of_unequal_sizes_in_one_dimension():
    x, y = torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([[1.0], [-1.0], [-1.0], [-1.0], [-1.0], [-1.0]])
    assert distances.sliced(x, y).item() == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), abs=1e-6)


@pytest.mark.parametrize("name", sorted(dlfd.DISTANCES))
def test_every_distance_reaches_the_perturbation_and_vanishes_for_equal_batches(trained, name):
    model, parts = trained
    images, labels = parts.retain.pixels(range(16)), parts.retain.labels[:16]
    forget = models.features(model, parts.forget.pixels())
    with models.FeatureTap(model, images) as tap, torch.no_grad():
        own = tap(images)[1]
        assert dlfd.distance(name, own, own, 0.005).item() == pytest.approx(0, abs=5e-3)
        options = dict(steps=4, step=0.02, transport_weight=1.0, ce_weight=0.0, distance=name)
        with torch.enable_grad():
            after, _ = dlfd.perturb(model, images, labels, forget, tap=tap, limits=pixel_limits(parts.train), **options)
        before, now = (dlfd.distance(name, tap(x)[1], forget).item() for x in (images, after))
    assert now > before * 1.02


def test_epsilon_bounds_the_change_of_a_pixel(trained):
    images, result, *_ = moved(trained, epsilon=0.03)
    assert 0.029 < (result - images).abs().max() <= 0.03 + 1e-6


def test_random_signs_are_a_walk_of_the_same_steps(trained):
    images = torch.full((4, 1, 50, 50), 0.5)
    limits = (torch.tensor(0.0), torch.tensor(1.0))
    rng = torch.Generator().manual_seed(0)
    walk = dlfd.random_signs(images, limits=limits, steps=9, step=0.01, rng=rng) - images
    assert walk.std().item() == pytest.approx(0.01 * 9**0.5, rel=0.03) and abs(walk.mean().item()) < 0.001
    model, parts = trained
    rng = {"noise": "random", "threshold": 0.0, "batch_size": 16}
    assert ul.unlearn("dlfd", model, parts, seed=3, **rng).cost.gradient_evaluations == 96  # no gradient for noise


def test_without_transport_the_forget_set_is_only_watched(trained):
    model, parts = trained
    settings = {
        "seed": 3,
        "batch_size": 16,
        "threshold": 0.0,
        "score_limit": 0.5,
        "transport_weight": 0.0,
        "noise_steps": 2,
    }
    alone = state(ul.unlearn("dlfd", model, parts, distance="mmd", **settings).model)
    again = state(ul.unlearn("dlfd", model, parts, regularisation=0.5, **settings).model)
    assert same(alone, again)


def test_the_clean_batch_alone_is_fine_tuning(trained, monkeypatch):
    monkeypatch.setattr(dlfd.Monitor, "check", lambda self, model: setattr(self, "best_state", state(model)))
    model, parts = trained
    settings = {"seed": 3, "batch_size": 16, "epochs": 1, "lr": 0.01}
    plain = state(ul.unlearn("finetune", model, parts, **settings).model)
    result = state(ul.unlearn("dlfd", model, parts, clean_weight=1.0, noise_steps=1, threshold=0.0, **settings).model)
    assert all(torch.allclose(result[k], plain[k], atol=1e-6) for k in plain)


def test_lower_precision_gives_nearly_the_same_picture(trained):
    images, exact, *_ = moved(trained, steps=1)
    _, lower, *_ = moved(trained, steps=1, precision="bfloat16")
    step = exact - images
    assert (step.sign() == (lower - images).sign())[step != 0].float().mean() > 0.8


def test_no_pass_is_no_change(trained):
    model, parts = trained
    for name in ("dlfd", "dlfd_as_released"):
        assert same(state(ul.unlearn(name, model, parts, seed=0, epochs=0).model), state(model))


def test_refusals(trained):
    model, parts = trained
    for wrong, message in (
        ({"regularisation": 0.0}, "regularisation > 0"),
        ({"refresh": 0}, "refresh >= 1"),
        ({"epsilon": -1.0}, "epsilon >= 0"),
        ({"clean_weight": 2.0}, "clean_weight between 0 and 1"),
        ({"distance": "cosine"}, "one of transport, mmd, energy, sliced"),
        ({"noise": "none"}, "one of gradient, random"),
        ({"layer": "neck"}, "no layer 'neck'"),
        ({"precision": "auto"}, "one of float32, bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            ul.unlearn("dlfd", model, parts, seed=0, **wrong)
    for wrong in ({"schedule": "cosine"}, {"optimiser": "adamw"}):
        with pytest.raises(ValueError, match="dlfd_as_released has no hyper-parameter"):
            ul.unlearn("dlfd_as_released", model, parts, seed=0, **wrong)
    tiny = type(parts).of(retain=parts.retain, forget=parts.forget, validation=parts.validation[:2], test=parts.test)
    with pytest.raises(ValueError, match="validation set of at least 4"):
        ul.unlearn("dlfd", model, tiny, seed=0)
    assert same(state(model), state(trained[0]))
