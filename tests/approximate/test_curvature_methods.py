"""Fisher forgetting, NTK scrubbing, SSD, LFSSD, WoodFisher: closed forms, limits, and the defects of released code."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from small import dataset, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import seeding, training
from unlearnlib.approximate import fisher, gradients
from unlearnlib.approximate.curvature.products import jacobians
from unlearnlib.approximate.fisher_forgetting import FisherForgetting, deviation
from unlearnlib.approximate.lfssd import sensitivity
from unlearnlib.approximate.ntk import corrections
from unlearnlib.approximate.ssd import dampened
from unlearnlib.approximate.woodfisher import inverse_product
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


def vector(model) -> torch.Tensor:
    return gradients.flat(p.detach() for p in gradients.trainable(model).values())


def changed(name: str, model, parts, *, seed: int = 0, **hyperparameters) -> torch.Tensor:
    """The weights after a method in float64; `ul.unlearn` works in float32."""
    run, config = registry.Run(seed), registry.configure(name, **hyperparameters)
    after = registry.find(name).function(copy.deepcopy(model), parts, config, run)
    assert after[2].weight.dtype == torch.float64
    return vector(after)


@pytest.fixture(scope="module")
def trained():
    parts = split()
    model = training.fit(models.build("mlp", dataset(), hidden=(6,)).double(), parts.train, Recipe(epochs=3))
    return model, parts


@pytest.fixture(scope="module")
def normed():
    parts = split()
    return training.fit(models.build("resnet_bn", dataset(), width=4), parts.train, Recipe(epochs=1)), parts


SHARP = {
    "fisher_forgetting": {"strength": 1e-4},
    "ntk": {},
    "ssd": {"alpha": 0.5, "dampening": 0.1},
    "lfssd": {"alpha": 0.5, "dampening": 0.1},
    "woodfisher": {},
}


@pytest.mark.parametrize("name", SHARP)
def test_batch_norm_statistics_stay_to_the_bit(name, normed):
    model, parts = normed
    model.train()
    after = ul.unlearn(name, model, parts, seed=0, **SHARP[name]).model
    assert after.training and not torch.equal(vector(after), vector(model))
    for buffer, value in dict(model.named_buffers()).items():
        assert torch.equal(dict(after.named_buffers())[buffer], value)


# SSD


def test_ssd_is_its_equation(trained):
    model, parts = trained
    after = changed("ssd", model, parts, alpha=0.8, dampening=0.7)
    rows = {n: fisher.per_example_gradients(model, getattr(parts, n)).square().mean(0) for n in ("forget", "train")}
    by_hand = vector(model).clone()
    for j in range(len(by_hand)):
        f, d = rows["forget"][j].item(), rows["train"][j].item()
        if f > 0.8 * d:
            by_hand[j] *= min(0.7 * d / f, 1)
    assert torch.allclose(after, by_hand, rtol=1e-10)
    assert 0.05 < (by_hand != vector(model)).double().mean() < 0.95
    assert ul.unlearn("ssd", model, parts, seed=0).cost.gradient_evaluations == len(parts.train)


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_limits_of_dampening(name, trained):
    model, parts = trained
    before = vector(model)
    with pytest.warns(UserWarning, match="selects no weight"):
        assert torch.equal(changed(name, model, parts, seed=0, alpha=1e30), before)
    zeroed = changed(name, model, parts, seed=0, alpha=0.0, dampening=0.0)
    reached = fisher.fisher_diagonal(model, parts.forget, "empirical") > 0
    assert torch.equal(zeroed == 0, reached | (before == 0)) and torch.equal(zeroed[~reached], before[~reached])


def test_a_forget_set_like_the_training_set_changes_nothing(trained):
    model, parts = trained
    doubled = type(parts).of(retain=parts.train, forget=parts.train, validation=parts.validation)
    weights = vector(model)
    after = changed("ssd", model, doubled, seed=0, alpha=1.0 + 1e-9)
    assert torch.equal(after, weights)
    importance = fisher.fisher_diagonal(model, parts.train, "empirical")
    assert torch.equal(dampened(weights, importance, importance, 1.0, 0.2), weights)
    halved = dampened(weights, importance, importance, 0.9, 0.5)
    assert torch.allclose(halved, torch.where(importance > 0, 0.5 * weights, weights))


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_a_share_of_the_training_set_caps_the_selection(name, trained):
    # I_D >= |F| / |D| I_F, so no weight can matter more than |D| / |F| times as much to F.
    model, parts = trained
    with pytest.warns(UserWarning, match=r"must be below \|D\| / \|F\| = 6"):
        assert torch.equal(changed(name, model, parts, alpha=6.0 + 1e-9, dampening=0.0), vector(model))
    one = dataclasses.replace(parts, is_forget=torch.arange(len(parts.train)) == 119)
    assert not torch.equal(changed(name, model, one, alpha=6.0 + 1e-9, dampening=0.0), vector(model))


def test_dampening_never_enlarges_a_weight():
    rng = seeding.generator(0, "importance")
    weights, forget, train = torch.randn(3, 500, generator=rng, dtype=torch.float64)
    found = dampened(weights, forget.square(), train.square(), 0.3, 4.0)
    assert (found.abs() <= weights.abs()).all() and (found * weights >= 0).all()
    ratio = (4 * train.square() / forget.square()).clamp(max=1)
    chosen = forget.square() > 0.3 * train.square()
    assert torch.allclose(found, torch.where(chosen, weights * ratio, weights))


def test_the_result_does_not_depend_on_the_order(trained):
    # Squares of batch means, as released, do.
    model, parts = trained
    order = torch.randperm(len(parts.train), generator=seeding.generator(0, "order"))
    moved = dataclasses.replace(parts, train=parts.train[order], is_forget=parts.is_forget[order])
    for name in ("ssd", "lfssd", "ntk"):
        results = [changed(name, model, p, seed=0, **SHARP[name]) for p in (parts, moved)]
        assert torch.allclose(*results, rtol=1e-8, atol=1e-10)


# LFSSD


def test_lfssd_reads_no_label(trained):
    model, parts = trained
    shuffled = dataclasses.replace(parts.train, labels=parts.train.labels.roll(7))
    other = dataclasses.replace(parts, train=shuffled)
    both = [changed("lfssd", model, p, seed=0, **SHARP["lfssd"]) for p in (parts, other)]
    assert torch.equal(*both) and not torch.equal(both[0], vector(model))
    labelled = [changed("ssd", model, p, seed=0, **SHARP["ssd"]) for p in (parts, other)]
    assert not torch.equal(*labelled)


def test_the_sensitivity_of_a_linear_model_in_closed_form():
    with seeding.isolated(0, "test"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    part = split().forget
    pixels = part.pixels(dtype=torch.float64)
    logits = model(pixels).detach()
    weight = 2 * logits.abs().T @ pixels.flatten(1).abs() / len(part)
    exact = torch.cat([weight.flatten(), 2 * logits.abs().mean(0)])
    assert torch.allclose(sensitivity(model, part), exact, rtol=1e-12)


def test_sensitivity_by_rules_and_by_a_loop_agree(normed):
    model, parts = normed[0].double(), normed[1]
    part, total = parts.forget[:6], 0.0
    with models.evaluating(model):
        for i in range(6):
            size = model(part.pixels([i], dtype=torch.float64)).square().sum()
            total = total + gradients.flat(torch.autograd.grad(size, list(model.parameters()))).abs() / 6
    assert torch.allclose(sensitivity(model, part), total, rtol=1e-10, atol=1e-12)
    model.float()


# Fisher forgetting


def test_the_noise_has_the_stated_size_and_reads_no_forget_set(trained):
    model, parts = trained
    config = FisherForgetting(strength=1e-6)
    spread = deviation(fisher.fisher_diagonal(model, parts.retain, "true"), config)
    moves = torch.stack(
        [
            (changed("fisher_forgetting", model, parts, seed=s, strength=1e-6) - vector(model)) / spread
            for s in range(40)
        ]
    )
    assert abs(moves.mean()) < 4 / moves.numel() ** 0.5
    assert moves.square().mean().item() == pytest.approx(1, abs=4 * (2 / moves.numel()) ** 0.5)
    assert torch.equal(changed("fisher_forgetting", model, parts, strength=0.0), vector(model))
    cost = ul.unlearn("fisher_forgetting", model, parts, seed=0).cost
    assert cost.gradient_evaluations == len(parts.retain) and cost.products == {"vjp": 2 * len(parts.retain)}


def test_the_noise_is_the_best_trade_of_damage_against_information():
    fisher_values = torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=torch.float64)
    config = FisherForgetting(strength=0.04, damping=1e-300)
    variance = deviation(fisher_values, config).square()

    def objective(v):
        return (fisher_values * v).sum() + 0.04 * (1 / v).sum()

    best = objective(variance)
    for factor in (0.9, 0.99, 1.01, 1.1):
        for j in range(4):
            other = variance.clone()
            other[j] *= factor
            assert objective(other) > best


def test_the_labels_of_the_noise_are_the_models_own(trained):
    model, parts = trained
    right = changed("fisher_forgetting", model, parts, seed=0, **SHARP["fisher_forgetting"])
    shuffled = dataclasses.replace(parts.train, labels=parts.train.labels.roll(7))
    other = changed("fisher_forgetting", model, dataclasses.replace(parts, train=shuffled), strength=1e-4)
    assert torch.equal(other, right)


# WoodFisher


def test_the_woodbury_inverse_is_the_dense_inverse():
    rng = seeding.generator(0, "rows")
    rows, v = torch.randn(7, 20, generator=rng, dtype=torch.float64), torch.randn(20, generator=rng).double()
    dense = rows.T @ rows / 7 + 0.03 * torch.eye(20, dtype=torch.float64)
    assert torch.allclose(inverse_product(rows, v, 0.03), torch.linalg.solve(dense, v), rtol=1e-11, atol=1e-12)


def test_the_released_recursion_changes_one_direction_only():
    # Its second vector is the first gradient, only ever rescaled: the product never sees the other gradients' space.
    rng = seeding.generator(0, "rows")
    rows, v = torch.randn(7, 20, generator=rng, dtype=torch.float64), torch.randn(20, generator=rng).double()
    released, other = v.clone(), rows[0].clone()
    for g in rows[1:]:
        gain = other @ g
        released = released - (released @ g) / (7 + gain) * other
        other = other - gain / (7 + gain) * other
    change = released - v
    assert abs(torch.cosine_similarity(change, rows[0], dim=0)) > 1 - 1e-12
    exact = inverse_product(rows, v, 1.0)
    assert (released - exact).norm() > 0.3 * (v - exact).norm()
    spanned = torch.linalg.matrix_rank(torch.stack([exact - v, *rows]))
    assert spanned == 7 and torch.linalg.matrix_rank(torch.stack([exact - v, rows[0]])) == 2


def test_woodfisher_is_its_equation_and_its_limits(trained):
    model, parts = trained
    step = changed("woodfisher", model, parts, damping=0.05) - vector(model)
    rows = [fisher.per_example_gradients(model, p) for p in (parts.forget, parts.retain)]
    matrix = rows[1].T @ rows[1] / 100 + 0.05 * torch.eye(rows[1].shape[1], dtype=torch.float64)
    v = (rows[0].sum(0) - 20 / 100 * rows[1].sum(0)) / 120
    assert torch.allclose(step, torch.linalg.solve(matrix, v), rtol=1e-8, atol=1e-10)
    cost = ul.unlearn("woodfisher", model, parts, seed=0, samples=None).cost
    assert cost.gradient_evaluations == 20 + 100 and cost.products["example_gradient"] == 100
    large = changed("woodfisher", model, parts, damping=1e9, scale=1e9) - vector(model)
    assert torch.allclose(large, v, rtol=1e-5, atol=1e-9)
    drawn = [changed("woodfisher", model, parts, seed=s, samples=5) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# NTK


@pytest.mark.parametrize("features", [4, 40])
def test_the_corrections_are_exact_deletion_from_ridge_regression(features):
    rng = seeding.numpy_generator(0, "ridge")
    x, y, gone = rng.normal(size=(30, features)), rng.normal(size=30), np.arange(30) % 5 == 0

    def ridge(keep):
        return np.linalg.solve(x[keep].T @ x[keep] + 0.7 * np.eye(features), x[keep].T @ y[keep])

    rows, residuals = torch.tensor(x).view(15, 2, -1), torch.tensor(y).view(15, 2)
    forget = torch.tensor(gone.reshape(15, 2)[:, 0])
    gone = np.repeat(forget.numpy(), 2)
    found = corrections(rows, residuals, forget, 0.7)
    assert np.allclose(found[0].numpy(), ridge(~gone), atol=1e-12)
    assert np.allclose(found[1].numpy(), ridge(gone | True), atol=1e-12)


@pytest.mark.parametrize("damping", [1e-4, 0.1])
def test_scrubbing_is_the_papers_block_form(damping, trained):
    model, parts = trained
    after = changed("ntk", model, parts, seed=0, damping=damping)
    pixels = parts.train.pixels(dtype=torch.float64)
    logits, slopes = model(pixels).detach(), jacobians(model, pixels)
    residual = torch.nn.functional.one_hot(parts.train.labels, 3) - logits.softmax(1)
    rows, ridge = slopes.numpy(), damping * len(parts.train)
    j = {n: rows[getattr(parts, f"{n}_index")].reshape(-1, rows.shape[2]) for n in ("retain", "forget")}
    r = {n: residual.numpy()[getattr(parts, f"{n}_index")].reshape(-1) for n in ("retain", "forget")}
    k = {(a, b): j[a] @ j[b].T + (ridge * np.eye(len(j[a])) if a == b else 0) for a in j for b in j}
    back = k["forget", "retain"] @ np.linalg.inv(k["retain", "retain"])
    inner = np.linalg.inv(k["forget", "forget"] - back @ k["retain", "forget"])
    projected = j["forget"].T - j["retain"].T @ np.linalg.solve(k["retain", "retain"], j["retain"] @ j["forget"].T)
    step = projected @ inner @ -(r["forget"] - back @ r["retain"])
    assert np.allclose((after - vector(model)).numpy(), step, rtol=1e-7, atol=1e-8 * np.abs(step).max())


def test_large_models_are_refused_at_the_door():
    parts = split()
    model = models.build("mlp", dataset(), hidden=(1500, 600))
    with pytest.raises(ValueError, match="ntk is for small models and sets"):
        ul.unlearn("ntk", model, parts, seed=0)
    with pytest.raises(ValueError, match="lower samples"):
        fisher.check_size(1000, 10**6, "lower samples")


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("ssd", {"alpha": -1.0}),
        ("lfssd", {"dampening": float("nan")}),
        ("fisher_forgetting", {"damping": 0.0}),
        ("fisher_forgetting", {"strength": -1e-9}),
        ("woodfisher", {"samples": 0}),
        ("ntk", {"damping": 0.0}),
    ],
)
def test_errors_name_the_method(name, wrong, trained):
    with pytest.raises(ValueError, match="needs"):
        ul.unlearn(name, *trained, seed=0, **wrong)


def test_strangers_keep_frozen_and_tied_weights(normed):
    from small import stranger

    net = stranger().eval()
    for name, settings in SHARP.items():
        after = ul.unlearn(name, net, split(), seed=0, **settings).model
        assert torch.equal(state(after)["stem.weight"], state(net)["stem.weight"])
        assert after.third.weight is after.second.weight and not torch.equal(vector(after), vector(net))
