"""Bounds under what models and callers bring: other precisions, ties, frozen layers, buffers, parts of their own."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from dosing import divergence, vector
from small import dataset, same, split, state, stranger
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate import dose
from unlearnlib.methods import registry
from unlearnlib.methods.registry import Program
from unlearnlib.training import models
from unlearnlib.training.loop import Part
from unlearnlib.training.recipe import Recipe

BOUNDS = (dose.SaliencyMask(0.5), dose.BallProjection(0.05), dose.GradientProjection(), dose.KLTrustRegion(1e-4))
NOTHING = (dose.SaliencyMask(0), dose.BallProjection(0))


@pytest.fixture(scope="module")
def normed():
    parts = split()
    return training.fit(models.build("resnet_bn", dataset(), width=4), parts.train, Recipe(epochs=2)), parts


@pytest.fixture(scope="module")
def whole(normed):
    model, parts = normed
    return model, dataclasses.replace(parts, is_forget=parts.train.labels == 0)


def moved(old, new) -> float:
    pairs = zip(old.parameters(), new.parameters(), strict=True)
    return math.sqrt(sum((b.double() - a.double()).square().sum().item() for a, b in pairs))


def check(old, new, parts, radius=0.05, delta=1e-4, share=0.5) -> None:
    pairs = list(zip(old.parameters(), new.parameters(), strict=True))
    free = sum(p.numel() for p in old.parameters() if p.requires_grad)
    assert 0 < moved(old, new) <= radius and divergence(old, new, parts.retain) <= delta
    assert 0 < sum((a != b).sum().item() for a, b in pairs) <= round(share * free)
    assert all(torch.equal(a, b) for a, b in pairs if not a.requires_grad)
    assert all(torch.equal(a, b) for a, b in zip(old.buffers(), new.buffers(), strict=True))


@pytest.mark.parametrize("method", ["delete", "boundary_shrink", "boundary_expand", "neggrad_plus"])
@pytest.mark.parametrize("part", BOUNDS, ids=lambda part: type(part).__name__)
def test_at_rate_nought_the_whole_state_is_bit_identical(method, part, whole):
    # Without a bound, the statistics of norms alone move delete from 100 % of the class to a quarter.
    model, parts = whole
    settings = {"seed": 0, "epochs": 2, "lr": 0.0}
    assert same(state(ul.unlearn(method, model, parts, parts=(part,), **settings).model), state(model))
    if method != "boundary_expand":
        free = ul.unlearn(method, model, parts, **settings).model
        assert same({n: p for n, p in free.named_parameters()}, {n: p for n, p in model.named_parameters()})
        assert not same(state(free), state(model))


@pytest.mark.parametrize(
    "method", ["neggrad", "scrub_r", "sfron", "orthograd", "salun", "l1_sparse", "boundary_expand"]
)
@pytest.mark.parametrize("part", NOTHING, ids=lambda part: type(part).__name__)
def test_a_bound_of_nought_changes_nothing_at_any_rate(method, part, whole, normed):
    model, parts = whole if method == "boundary_expand" else normed
    after = ul.unlearn(method, model, parts, seed=0, epochs=1, lr=0.5, parts=(part,)).model
    assert same(state(after), state(model))


def test_answers_stay_within_a_millionth_statistics_included(whole):
    model, parts = whole
    settings = {"seed": 0, "lr": 0.05, "parts": (dose.KLTrustRegion(1e-6, batch_size=32, iterations=5),)}
    after = ul.unlearn("delete", model, parts, **settings).model
    assert 1e-8 < divergence(model, after, parts.retain) <= 1e-6
    with torch.no_grad():  # nor does anybody see more who counts in single precision
        before, now = (torch.log_softmax(m.eval()(parts.retain.pixels()), 1) for m in (model, after))
    assert F.kl_div(now, before, reduction="batchmean", log_target=True) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("chosen", [BOUNDS, (dose.BallProjection(0.05),), (dose.BallProjection(2e-3),)], ids=len)
def test_bounds_hold_in_the_precision_of_the_model(dtype, chosen, normed):
    model, parts = copy.deepcopy(normed[0]).to(dtype), normed[1]
    after = ul.unlearn("neggrad", model, parts, seed=0, epochs=4, batch_size=10, lr=0.1, parts=chosen).model
    assert {p.dtype for p in after.parameters()} == {dtype}
    if chosen is BOUNDS:
        assert 0 < divergence(model, after, parts.retain) <= 1e-4
        assert moved(model, after) <= 0.05 and (vector(after) != vector(model)).double().mean() <= 0.5001
    else:
        assert 0.2 * chosen[0].radius < moved(model, after) <= chosen[0].radius


def test_ties_frozen_layers_and_dropout():
    parts = split()
    model = training.fit(stranger(), parts.train, Recipe(epochs=2))
    for method in ("neggrad_plus", "scrub_r", "salun"):
        after = ul.unlearn(method, model, parts, seed=0, epochs=1, lr=0.05, batch_size=20, parts=BOUNDS).model
        assert after.second.weight is after.third.weight
        check(model, after, parts)


@pytest.mark.parametrize("method", ["neggrad", "scrub", "sfron", "orthograd", "delete"])
def test_one_forgotten_example(method, normed):
    model, parts = normed
    one = dataclasses.replace(parts, is_forget=torch.arange(len(parts.train)) == 3)
    settings = {"seed": 0, "epochs": 1, "batch_size": 1 if method == "neggrad" else 32, "lr": 0.1}
    for chosen in (BOUNDS[:3], BOUNDS):
        after = ul.unlearn(method, model, one, parts=chosen, **settings).model
        assert moved(model, after) <= 0.05


def test_without_a_norm_and_in_any_order():
    parts = split()
    model = training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3))
    settings = {"seed": 0, "epochs": 2, "batch_size": 10, "lr": 0.05}
    ends = [ul.unlearn("neggrad", model, parts, parts=p, **settings).model for p in itertools.permutations(BOUNDS)]
    check(model, ends[0], parts)
    assert all(same(state(end), state(ends[0])) for end in ends)


def test_of_two_parts_alike_the_tighter_one_holds(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 2, "batch_size": 10, "lr": 0.05}

    def ended(*chosen):
        return state(ul.unlearn("neggrad", model, parts, parts=chosen, **settings).model)

    for tight, loose in (
        (dose.SaliencyMask(0.2), dose.SaliencyMask(0.6)),
        (dose.BallProjection(0.02), dose.BallProjection(0.1)),
        (dose.KLTrustRegion(1e-5), dose.KLTrustRegion(1e-3)),
        (dose.EarlyStop(1), dose.EarlyStop(1)),
        (dose.BoundedLoss(0.5), dose.BoundedLoss(5.0)),
    ):
        assert same(ended(tight, loose), ended(tight)) and same(ended(loose, tight), ended(tight))
    added = [ended(dose.L2SP(1.0), dose.L2SP(2.0)), ended(dose.L2SP(3.0))]
    twice = [ended(dose.GradientProjection(), dose.GradientProjection()), ended(dose.GradientProjection())]
    for first, second in (added, twice):
        assert all(torch.allclose(first[k], second[k], atol=1e-6) for k in first)


class Shaking(Part):
    """A stranger's part that moves every weight after every step."""

    @torch.no_grad()
    def after_step(self, model, step):
        for p in model.parameters():
            p.add_(0.5)
        return False


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_part_of_the_callers_own_cannot_undo_a_bound(place, trained):
    model, parts = trained
    chosen = (*BOUNDS[:place], Shaking(), *BOUNDS[place:])
    check(model, ul.unlearn("neggrad", model, parts, seed=0, epochs=1, lr=0.1, parts=chosen).model, parts)


def test_what_other_layers_keep_in_buffers_is_kept():
    parts = split()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 8))
        model = nn.Sequential(
            nn.InstanceNorm2d(1, affine=True, track_running_stats=True), nn.Flatten(), spectral, nn.Linear(8, 3)
        )
    model.eval()
    for settings in (
        {"lr": 0.0, "parts": (dose.GradientProjection(),)},
        {"lr": 0.1, "parts": (dose.BallProjection(0),)},
    ):
        after = ul.unlearn("neggrad", model, parts, seed=0, epochs=2, **settings).model
        assert same(state(after), state(model))


def test_a_method_that_changes_weights_after_its_last_step_is_refused(trained, monkeypatch):
    model, parts = trained

    def shifted(trained):
        with torch.no_grad():
            trained[2].weight.add_(0.1)
        return trained

    plain = registry.find("neggrad")

    def odd(model, split, config, run) -> Program:
        return dataclasses.replace(plain.function(model, split, config, run), finish=shifted)

    monkeypatch.setitem(registry._registered, "odd", dataclasses.replace(plain, name="odd", function=odd))
    for part in (BOUNDS[0], BOUNDS[1], BOUNDS[3]):
        with pytest.raises(ValueError, match=f"^{type(part).__name__} cannot bound a method that changes weights"):
            ul.unlearn("odd", model, parts, seed=0, parts=(part,))
    ul.unlearn("odd", model, parts, seed=0, parts=(dose.L2SP(1.0),))


def test_what_parts_cost_is_counted(trained):
    model, parts = trained  # 20 to forget, 100 retained, 24 for validation
    settings = {"seed": 0, "epochs": 3, "batch_size": 20}
    bare = ul.unlearn("neggrad", model, parts, **settings).cost
    assert (bare.gradient_evaluations, bare.forward_evaluations) == (60, 0)
    for part, gradients, forwards in (
        (dose.L2SP(1.0), 0, 0),
        (dose.BallProjection(1.0), 0, 0),
        (dose.BoundedLoss(9.0), 0, 0),
        (dose.SaliencyMask(), 20, 0),
        (dose.GradientProjection(40), 3 * 40, 0),
        (dose.EarlyStop(3), 0, 24 + 20),
    ):
        cost = ul.unlearn("neggrad", model, parts, parts=(part,), **settings).cost
        assert (cost.gradient_evaluations - 60, cost.forward_evaluations) == (gradients, forwards), part
    cost = ul.unlearn("neggrad", model, parts, parts=(dose.EWC(1.0),), **settings).cost
    assert cost.work > bare.work + 100
    trust = dose.KLTrustRegion(1e-3, batch_size=40, damping=0.1, iterations=4)  # no step is shortened
    cost = ul.unlearn("neggrad", model, parts, parts=(trust,), **settings).cost
    assert cost.forward_evaluations == 100 * (1 + 3 + 2)  # the start, each step, what is returned
    assert cost.work - bare.work - 600 >= 3 * 4 * 40 * 3  # four products a step, at least a gradient each
