"""Modes: which norms keep their statistics in training, what one example means to a batch norm, and who is restored."""

import copy

import pytest
import torch
from small import dataset, examples, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.training import models
from unlearnlib.training.batches import Batch
from unlearnlib.training.modes import norms_frozen, resting, training_mode
from unlearnlib.training.recipe import Recipe


def network(*, affine: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(144, 6), nn.BatchNorm1d(6, affine=affine), nn.ReLU(), nn.Linear(6, 3))


class Backwards(nn.Module):
    """Registered from the output to the input."""

    def __init__(self):
        super().__init__()
        self.head, self.flat = nn.Linear(6, 3), nn.BatchNorm1d(6, affine=False)
        self.middle, self.norm, self.stem = nn.Linear(144, 6), nn.BatchNorm2d(4, affine=False), nn.Conv2d(1, 4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x))).flatten(1)
        return self.head(torch.relu(self.flat(self.middle(x))))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "model, expected",
    [
        (network(), set()),
        (network(affine=True), set()),
        (frozen(network(), "0"), {"1"}),
        (frozen(network(), "0", "4"), {"1", "5"}),
        (frozen(network(), "4"), set()),  # something trainable comes before it
        (frozen(network(affine=True), "0"), set()),  # its own parameters train
        (frozen(network(affine=True), "0", "1"), {"1"}),
        (frozen(Backwards(), "stem"), {"norm"}),
        (frozen(Backwards(), "stem", "middle"), {"norm", "flat"}),
        (frozen(Backwards(), "head"), set()),
        (
            nn.Sequential(nn.BatchNorm2d(1, affine=False), network()),
            set(),
        ),  # a norm on pixels, in a network that trains
        (frozen(nn.Sequential(nn.BatchNorm2d(1, affine=False), network()), "1.7"), set()),  # a fixed head
        (frozen(nn.Sequential(nn.BatchNorm2d(1, affine=False), network()), "1.0"), {"0", "1.1"}),
    ],
)
def test_norms_rest_in_a_frozen_part(model, expected):
    assert resting(model, examples(n=1).pixels()) == expected
    before, modes = state(model), [m.training for m in model.modules()]
    with training_mode(model, examples(n=1).pixels()):
        model(examples(n=9).pixels())
    moved = {n.rpartition(".")[0] for n, v in state(model).items() if not torch.equal(v, before[n])}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert moved == norms - expected and [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("made", [network, Backwards])
def test_cf_k_keeps_the_statistics_of_norms_without_parameters(made):
    parts, model = split(), made()
    model = training.fit(model, parts.train, Recipe(epochs=1))
    after = state(ul.unlearn("cf_k", model, parts, seed=0, k=1, epochs=2, batch_size=16).model)
    moved = {n for n, v in state(model).items() if not torch.equal(v, after[n])}
    assert moved == {"7.weight", "7.bias"} if made is network else moved == {"head.weight", "head.bias"}


def test_one_value_a_channel_is_normed_by_running_statistics_and_leaves_them():
    model = training.fit(network(affine=True), examples(), Recipe(epochs=1))
    one = examples(n=1)
    before = state(model)
    after = training.descend(copy.deepcopy(model), one, [Batch(torch.tensor([0]), one.labels)], Recipe(), 1, seed=0)
    found = state(after)
    assert same(
        {k: found[k] for k in found if k.startswith("5.running")},
        {k: before[k] for k in found if k.startswith("5.running")},
    )
    assert not torch.equal(found["1.running_mean"], before["1.running_mean"])  # 36 values a channel: as ever
    with training_mode(model):
        seen = model(one.pixels())
        model[1].eval(), model[5].eval()
        pooled = nn.functional.batch_norm(
            model[0](one.pixels()), None, None, model[1].weight, model[1].bias, training=True
        )
        assert torch.allclose(seen, model[2:](pooled), atol=1e-6)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="without running statistics cannot take one example"), training_mode(bare):
        bare(one.pixels())


@pytest.mark.parametrize(
    "name", ["neggrad", "scrub", "sfron", "orthograd", "delete", "salun", "random_labels", "neggrad_plus"]
)
def test_one_forgotten_example_and_batch_norm(name):
    parts = split(forget=1)
    model = models.build("fastnet", dataset(), width=8, hidden=8)
    options = {"parts": ()} if name == "neggrad" else {}
    done = ul.unlearn(name, model, parts, seed=0, epochs=1, batch_size=33, **options)
    assert all(torch.isfinite(v).all() for v in state(done.model).values())


def test_an_incomplete_batch_of_one_is_a_step():
    ds, model = examples(n=33), models.build("fastnet", dataset(), width=8, hidden=8)
    tally = training.Tally()
    training.fit(model, ds, Recipe(epochs=2, batch_size=16, keep_last=True), tally=tally)
    assert tally.gradient_evaluations == 66


def test_frozen_norms_are_in_eval_mode_whatever_trains():
    model = network(affine=True)
    before = state(model)
    with norms_frozen(), training_mode(model):
        assert not model[1].training and model[0].training
        model(examples().pixels())
    assert same(state(model), before)
    with norms_frozen(), norms_frozen(False), training_mode(model):
        assert model[1].training


def test_copies_made_inside_take_no_hook_along():
    model = network()
    with training_mode(model):
        twin = models.copied(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())
