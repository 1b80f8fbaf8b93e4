"""Copies and untrained networks: every reparametrised network is copied, and drawn anew or refused."""

import copy

import pytest
import torch
from small import dataset, examples, same, split, state, stranger
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")

QUICK = Recipe(epochs=2, batch_size=16, lr=1e-2)


def plain(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.ReLU(), nn.Linear(144, 3))


def with_layer(change) -> nn.Sequential:
    model = plain()
    for k in (0, 4):
        change(model[k])
    return model


class Moving(nn.Module):
    """Centres by a mean that it keeps itself, which nothing resets."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((64,), 3.0))

    def forward(self, x):
        return x.flatten(1) * self.scale


class Inert(nn.Linear):
    """Its reset does nothing."""

    def reset_parameters(self):
        if not hasattr(self, "ready"):
            super().reset_parameters()
            self.ready = True


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    model[4].weight = model[3].weight
    return model


def built(change=lambda model: None):
    model = models.build("cnn", dataset(), width=4, hidden=8)
    change(model)
    return model


def tie(model):
    model.insert(len(model) - 1, nn.Linear(8, 8))
    model.insert(len(model) - 1, nn.Linear(8, 8))
    model[-2].weight = model[-3].weight


RENEWED = {
    "plain": plain,
    "stranger": stranger,
    "tied": tied,
    "weight norm, old": lambda: with_layer(old_weight_norm),
    "weight norm, old, of all": lambda: with_layer(lambda layer: old_weight_norm(layer, dim=None)),
    "weight norm": lambda: with_layer(parametrizations.weight_norm),
    "orthogonal": lambda: with_layer(lambda m: parametrizations.orthogonal(m) if isinstance(m, nn.Linear) else m),
    "constant buffer": lambda: nn.Sequential(Constant(), nn.Linear(64, 3)),
    "built": built,
    "built, weight norm, old": lambda: built(lambda model: old_weight_norm(model[-1])),
    "built, weight norm": lambda: built(lambda model: parametrizations.weight_norm(model[1])),
    "built, tied": lambda: built(tie),
    "double": lambda: plain().double(),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(1, 1), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3)),
}
REFUSED = {
    "pruned": lambda: with_layer(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "built, pruned": lambda: built(lambda model: prune.random_unstructured(model[-1], "weight", 0.5)),
    "spectral norm, old": lambda: with_layer(old_spectral_norm),
    "spectral norm": lambda: with_layer(parametrizations.spectral_norm),
    "moving buffer": lambda: nn.Sequential(Moving(), nn.Linear(64, 3)),
    "inert reset": lambda: nn.Sequential(nn.Flatten(), Inert(64, 3)),
}


def two_trained(make):
    """The same network after two different trainings, frozen parts alike."""
    start = make()
    return [training.fit(start, examples(n=64, seed=s), QUICK, seed=s) for s in (1, 2)]


@pytest.mark.parametrize("kind", RENEWED)
def test_retraining_from_two_trained_starts_gives_the_same_bits(kind):
    first, second = two_trained(RENEWED[kind])
    assert not same(state(first), state(second))
    parts = split()
    results = [ul.unlearn("retrain", m, parts, seed=3, recipe=QUICK) for m in (first, second)]
    assert same(*(state(r.model) for r in results)) and results[0].certificate.kind == "exact"
    trainable = {n for n, p in first.named_parameters() if p.requires_grad}
    blank = models.fresh(first, 3)
    assert {n for n, p in blank.named_parameters() if p.requires_grad} == trainable
    again = ul.unlearn("retrain", results[0].model, parts, seed=3, recipe=QUICK)  # of our own result
    assert same(state(again.model), state(results[0].model))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_keep_trained_values_is_refused(kind):
    first, _ = two_trained(REFUSED[kind])
    before = state(first)
    with pytest.raises(ValueError, match="give build=, a function of the seed") as refused:
        ul.unlearn("retrain", first, split(), seed=3, recipe=QUICK)
    assert "\n" not in str(refused.value) and same(state(first), before)
    done = ul.unlearn("retrain", first, split(), seed=3, recipe=QUICK, build=lambda seed: REFUSED[kind]())
    assert done.certificate.kind == "exact"


def test_a_weight_normed_layer_is_drawn_from_the_law_of_the_plain_one():
    model = training.fit(with_layer(old_weight_norm), examples(), QUICK)
    new = models.reinitialised(model, 5)
    for k in (0, 4):
        weight = torch._weight_norm(new[k].weight_v, new[k].weight_g, 0)
        bound = new[k].weight_v[0].numel() ** -0.5
        assert 0.9 * bound < weight.abs().max() <= bound * 1.0001
    pixels = examples(n=3).pixels()
    with models.evaluating(new), torch.no_grad():
        assert torch.isfinite(new(pixels)).all()


@pytest.mark.parametrize(
    "make",
    [
        RENEWED["weight norm, old"],
        RENEWED["weight norm"],
        REFUSED["pruned"],
        REFUSED["spectral norm"],
        REFUSED["spectral norm, old"],
    ],
)
@pytest.mark.parametrize("name", ["finetune", "scrub", "ssd", "neggrad", "cf_k"])
def test_reparametrised_networks_are_trained_copied_and_unlearnt_again(make, name):
    model, parts = make(), split()
    model(parts.train.pixels([0, 1])).sum().backward()  # what it computed last is no leaf
    model = training.fit(model, parts.train, QUICK)
    options = {} if name == "ssd" else {"epochs": 1, "batch_size": 16}
    once = ul.unlearn(name, model, parts, seed=0, **options).model
    twice = ul.unlearn(name, once, parts, seed=0, **options).model
    copy.deepcopy(twice)
    assert all(torch.isfinite(v).all() for v in state(twice).values())
    if name != "ssd":
        assert not same(state(once), state(model))
    before, after = state(model), state(twice)
    assert all(torch.equal(after[name], before[name]) for name in before if name.endswith("_mask"))


def test_frozen_norms_keep_their_statistics_in_a_fresh_network():
    model = training.fit(built_norm(), examples(), QUICK)
    model[1].requires_grad_(False), model[2].requires_grad_(False)
    for made in (models.fresh(model, 1), models.reinitialised(model, 1)):
        assert torch.equal(made[2].running_mean, model[2].running_mean)
        assert torch.equal(made[1].weight, model[1].weight)
        assert not torch.equal(made[-1].weight, model[-1].weight)


def built_norm():
    return models.build("resnet_bn", dataset(), width=4)


def test_fresh_networks_have_the_precision_of_the_trained_one():
    model = built_norm().double()
    assert {v.dtype for v in state(models.fresh(model, 1)).values()} == {v.dtype for v in state(model).values()}


def test_cf_k_trains_the_weights_of_a_parametrised_head():
    model, parts = with_layer(parametrizations.weight_norm), split()
    model = training.fit(model, parts.train, QUICK)
    after = state(ul.unlearn("cf_k", model, parts, seed=0, k=1, epochs=1, batch_size=16).model)
    moved = {n for n, v in state(model).items() if not torch.equal(v, after[n])}
    assert moved == {"4.bias", *(f"4.parametrizations.weight.original{i}" for i in (0, 1))}
