"""SalUn, SFRon and L1-sparse: what may move, by how much, and the limits; and the gradients that masks are made of."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, split, state, stranger
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate import gradients
from unlearnlib.approximate.dose import bounds
from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.l1_sparse import L1Sparse
from unlearnlib.approximate.sfron import SFRon, _importance, adaptive
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.loop import Tally
from unlearnlib.training.recipe import Recipe

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def trained():
    parts = split()
    return training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3)), parts


def vector(model) -> torch.Tensor:
    return gradients.flat(p.detach() for p in model.parameters())


def full_gradient(model, part) -> torch.Tensor:
    loss = F.cross_entropy(model(part.pixels()), part.labels)
    return gradients.flat(torch.autograd.grad(loss, list(model.parameters())))


def test_the_gradient_of_a_set_does_not_depend_on_the_batch_size(trained):
    model, parts = trained
    exact = full_gradient(model, parts.forget)
    tally = Tally()
    for size in (1, 7, 64):
        found = gradients.mean_gradient(model, parts.forget, batch_size=size, tally=tally)
        assert torch.allclose(found, exact, atol=1e-6)
    assert tally.gradient_evaluations == 3 * len(parts.forget)


def test_example_gradients_are_those_of_single_examples():
    model, part = stranger().eval(), split().forget[:6]
    rows = gradients.example_gradients(model, part.pixels(), part.labels)
    parameters = list(gradients.trainable(model).values())
    for i, row in enumerate(rows):
        loss = F.cross_entropy(model(part.pixels([i])), part.labels[i : i + 1])
        assert torch.allclose(row, gradients.flat(torch.autograd.grad(loss, parameters)), atol=1e-6)
    assert torch.allclose(fisher_diagonal(model, part, "empirical"), rows.square().mean(0), atol=1e-7)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5])
def test_masked_weights_stay_bit_identical_under_momentum_and_weight_decay(fraction, trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 3, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 16}
    before, after = vector(model), vector(ul.unlearn("salun", model, parts, fraction=fraction, **settings).model)
    allowed = full_gradient(model, parts.forget).abs().sort(descending=True).indices[: round(fraction * len(before))]
    moved = (before != after).nonzero().flatten()
    assert set(moved.tolist()) <= set(allowed.tolist()) and len(moved) >= 0.95 * len(allowed)


def test_masking_the_gradient_alone_would_leak(trained, monkeypatch):
    # The defect of released code: weight decay moves what only the gradient mask protects.
    model, parts = trained
    monkeypatch.setattr(bounds.Bounds, "after_step", lambda *_: False)
    after = ul.unlearn("salun", model, parts, seed=0, fraction=0.5, epochs=1, weight_decay=0.1).model
    assert (vector(after) != vector(model)).float().mean() > 0.9


def test_salun_with_every_weight_is_random_labels(trained):
    model, parts = trained
    settings = {"seed": 2, "epochs": 2, "batch_size": 16}
    both = [
        ul.unlearn(n, model, parts, **kw, **settings) for n, kw in (("salun", {"fraction": 1}), ("random_labels", {}))
    ]
    assert same(*(state(b.model) for b in both))
    assert both[0].cost.gradient_evaluations == both[1].cost.gradient_evaluations + len(parts.forget)


def test_weights_without_any_gradient_do_not_swell_the_mask():
    # Pixels that are always black: their weights tie at zero, and a threshold at the median would let all through.
    parts = split()
    dark = parts.train.images.clone()
    dark[:, :, 3:] = 0
    parts = type(parts)(
        type(parts.train)(dark, parts.train.labels), parts.is_forget, parts.validation, None, "given", 0
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
    after = ul.unlearn("salun", model, parts, seed=0, epochs=1, fraction=0.5, weight_decay=0.1).model
    assert int((after[1].weight != model[1].weight).sum()) == 96


def test_l1_sparse_takes_the_gradient_of_its_penalty():
    model, parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), split()
    after = ul.unlearn("l1_sparse", model, parts, seed=0, epochs=1, lr=0.1, batch_size=100, gamma=0.02, **PLAIN).model
    step = full_gradient(model, parts.retain) + 0.02 * vector(model).sign()
    assert torch.allclose(vector(after), vector(model) - 0.1 * step, atol=1e-6)


def test_the_penalty_falls_linearly_over_the_epochs(trained):
    model, parts = trained
    program = registry.find("l1_sparse").function(
        copy.deepcopy(model), parts, L1Sparse(epochs=4, batch_size=50, gamma=0.8), registry.Run(0)
    )
    (part,), size, seen = program.parts, vector(model).abs().sum(), []
    for step in range(program.steps):
        seen.append((part.penalty(model) / size).item())
        part.after_step(model, step)
    assert seen == pytest.approx([0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])


def test_l1_sparse_without_penalty_is_fine_tuning_and_with_one_is_sparser(trained):
    model, parts = trained
    settings = {"seed": 1, "epochs": 4, "batch_size": 20}
    plain = ul.unlearn("finetune", model, parts, **settings).model
    assert same(state(ul.unlearn("l1_sparse", model, parts, gamma=0.0, **settings).model), state(plain))
    sparse = ul.unlearn("l1_sparse", model, parts, gamma=0.01, **settings).model
    small = [(vector(m).abs() < 0.01).float().mean().item() for m in (plain, sparse)]
    assert small[1] > 1.5 * small[0]


def test_sfron_weighs_the_best_known_most():
    losses = torch.tensor([0.01, 0.04, 1.0])
    assert torch.allclose(adaptive(losses, 0.5), torch.tensor([10.0, 5.0, 1.0]) / 16)
    assert torch.allclose(adaptive(losses, 0.0), torch.full((3,), 1 / 3))
    assert torch.isfinite(adaptive(torch.tensor([0.0, 1.0]), 0.5)).all()


@pytest.mark.parametrize("slow_rate", [0.0, 0.3, 1.0])
def test_a_cycle_of_sfron(slow_rate):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    parts, before = split(), vector(model)
    settings = {"epochs": 2, "batch_size": 100, "forget_every": 2, "alpha": 3.0, "clip": 0.5, "adaptivity": 0.5}
    done = ul.unlearn("sfron", model, parts, seed=0, lr=0.1, slow_rate=slow_rate, **settings, **PLAIN)
    rows = [gradients.example_gradients(model, p.pixels(), p.labels) for p in (parts.forget, parts.retain)]
    mask = rows[0].square().mean(0) >= rows[1].square().mean(0)
    losses = F.cross_entropy(model(parts.forget.pixels()), parts.forget.labels, reduction="none").detach()
    climb = mask * (adaptive(losses, 0.5) @ rows[0]) * 3.0
    climb = climb * min(1, 0.5 / climb.norm())
    fast = copy.deepcopy(model)
    nn.utils.vector_to_parameters(before + 0.1 * climb, fast.parameters())
    for _ in range(2):
        nn.utils.vector_to_parameters(vector(fast) - 0.1 * full_gradient(fast, parts.retain), fast.parameters())
    # A slow rate of one, as released, is no averaging at all: this test tells the three apart.
    assert torch.allclose(vector(done.model), before + slow_rate * (vector(fast) - before), atol=2e-6)
    assert done.cost.gradient_evaluations == 120 + 20 + 200


def test_sfron_without_forgetting_is_fine_tuning(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 2, "batch_size": 20, **PLAIN}
    sfron = ul.unlearn("sfron", model, parts, alpha=0.0, slow_rate=1.0, **settings).model
    plain = ul.unlearn("finetune", model, parts, **settings).model
    assert torch.allclose(vector(sfron), vector(plain), atol=1e-6)


def test_a_slow_rate_moves_the_model_also_where_the_last_cycle_is_short(trained):
    model, parts = trained  # five retain steps of twenty, two to a cycle: the last cycle has one
    settings = {"seed": 0, "epochs": 1, "batch_size": 20, "forget_every": 2, "alpha": 1.0, **PLAIN}
    whole, none = (ul.unlearn("sfron", model, parts, slow_rate=r, **settings).model for r in (1.0, 0.0))
    assert same(state(none), state(model)) and not same(state(whole), state(model))


def test_the_released_importance_is_the_mean_over_groups():
    """Squared gradients of the mean losses of groups: of one, two or three groups of a set that are all alike."""
    model, parts = models.build("mlp", dataset(), hidden=(4,)), split(n=40, forget=1)
    one = parts.train[[0] * 4]
    found = [_importance(model, one[[0] * n], SFRon(group_size=4), registry.Run(0)) for n in (4, 8, 12)]
    assert found[0].max() > 0 and all(torch.allclose(found[0], f, rtol=1e-5) for f in found)


@pytest.mark.parametrize("schedule, ends", [("step-decay", (7, 14)), ("constant", None), ("cosine", None)])
def test_a_rate_that_falls_by_epochs_falls_after_passes_over_the_retain_set(schedule, ends):
    """Six retain steps a pass, and one forgetting step before every sixth of them."""
    parts, model = split(n=116, forget=20), models.build("mlp", dataset(), hidden=(4,))
    decay = {"milestones": (1,), "factor": 0.1} if schedule == "step-decay" else {}
    config = registry.configure("sfron", epochs=2, batch_size=16, forget_every=6, schedule=schedule, **decay)
    program = registry.find("sfron").function(model, parts, config, registry.Run(0))
    total = sum(1 for _ in program.batches)
    assert total == 14 and (program.steps == ends if ends else program.steps[-1] == 14)
