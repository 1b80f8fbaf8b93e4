"""Inversion: the closed form of a linear softmax network, and what it does without a pull; the priors by hand."""

import pytest
import torch
import torch.nn.functional as F
from small import same, split, state, stranger
from torch import nn

from unlearnlib.approximate.zero_shot import Canvas, Inversion, inverted, total_variation
from unlearnlib.approximate.zero_shot.inversion import norm_distances
from unlearnlib.training.work import Tally


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, classes)).double()


ALONE = {"tv": 0.0, "norms": 0.0}


def test_a_linear_network_with_a_pull_has_the_pictures_of_the_closed_form():
    model, l2 = linear(), 0.05
    config = Inversion(inversion_steps=4000, inversion_lr=0.01, l2=l2, **ALONE)
    x = inverted(model, torch.arange(4), Canvas.of(model, (1, 3, 3)), config, rng()).flatten(1)
    p, w = torch.softmax(model[1](x), 1), model[1].weight.detach()
    assert torch.allclose(x, (w - p @ w) / (2 * l2), atol=1e-3)
    # a mean that is not 0 is where the pull leads: the canvas of pixels from 2 to 4, in its own units
    canvas = Canvas.of(model, (1, 3, 3), (2.0, 4.0))
    x = inverted(model, torch.arange(4), canvas, config, rng()).flatten(1)
    p, std = torch.softmax(model[1](x), 1), canvas.std.item()
    assert torch.allclose(x, 3 + std**2 * (w - p @ w) / (2 * l2), atol=1e-3)


def test_without_a_pull_pictures_run_off_and_answers_become_sure():
    model, canvas = linear(), Canvas.of(linear(), (1, 3, 3))
    near, far = (
        inverted(model, torch.arange(4), canvas, Inversion(inversion_steps=n, l2=0.0, **ALONE), rng())
        for n in (300, 1500)
    )
    assert (far.flatten(1).norm(dim=1) > 1.25 * near.flatten(1).norm(dim=1)).all()
    assert F.cross_entropy(model(far), torch.arange(4)) < F.cross_entropy(model(near), torch.arange(4)) / 3


def test_total_variation():
    ramp = torch.arange(5.0).expand(2, 3, 4, 5)  # down nothing changes, across everything by 1
    assert total_variation(torch.full((2, 3, 4, 5), 0.7)) == 0 and total_variation(ramp) == 2
    assert total_variation(ramp + 10 * torch.arange(4.0)[:, None]) == 2 * (1 + 100)
    assert total_variation(torch.rand(2, 1, 1, 1)) == 0


def test_statistics_of_batch_norms_are_compared_with_those_of_the_batch():
    model, x = stranger(), torch.rand(20, 1, 8, 8, generator=rng())
    inside = model.stem(x)
    mean, variance = inside.mean((0, 2, 3)), inside.var((0, 2, 3), unbiased=False)
    away = (mean - model.norm.running_mean).norm() + (variance - model.norm.running_var).norm()
    with norm_distances(model.eval()) as found:
        model(x)
    assert len(found) == 1 and torch.allclose(found[0], away) and away > 0.5
    model.norm.running_mean, model.norm.running_var = mean.detach(), variance.detach()
    with norm_distances(model) as found:
        model(x)
    assert found[0] < 1e-5 and not model.norm._forward_pre_hooks or len(model.norm._forward_pre_hooks) == 1
    model(x)
    assert len(found) == 1  # outside the block nobody listens


def test_the_weight_of_statistics_brings_them_nearer():
    model, canvas, labels = stranger(), Canvas.of(stranger(), (1, 8, 8)), torch.arange(3).repeat(8)
    other = model.stem(1 + 3 * torch.rand(50, 1, 8, 8, generator=rng(1)))  # what the norm has seen in training
    model.norm.running_mean, model.norm.running_var = other.mean((0, 2, 3)).detach(), other.var((0, 2, 3)).detach()

    def away(weight: float) -> float:
        config = Inversion(norms=weight, inversion_steps=60, inversion_lr=0.1)
        with norm_distances(model.eval()) as found:
            model(inverted(model, labels, canvas, config, rng()))
        return found[-1].item()

    assert away(1.0) < away(0.0) / 2


def test_the_network_is_left_as_it_was_and_answers_as_asked():
    model, tally = stranger().train(), Tally()
    before, modes = state(model), [m.training for m in model.modules()]
    labels, config = (
        torch.arange(3).repeat(100),
        Inversion(inversion_steps=60, inversion_lr=0.3, l2=0.0, **ALONE),
    )  # two chunks
    x = inverted(model, labels, Canvas.of(model, (1, 8, 8)), config, rng(), tally=tally)
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters()) and tally == Tally(300 * 60)
    start = inverted(model, labels, Canvas.of(model, (1, 8, 8)), Inversion(inversion_steps=0), rng())
    losses = [F.cross_entropy(model.eval()(pictures), labels) for pictures in (x, start)]
    assert losses[0] < losses[1] - 0.2


@pytest.mark.parametrize("wrong", [{"pictures": 0}, {"tv": -1.0}, {"inversion_lr": 0.0}, {"l2": float("inf")}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Inversion(**wrong)
    assert len(split().forget)
