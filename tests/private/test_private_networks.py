"""Per-example clipped gradients equal a loop over examples, by the layer rules and by vmap."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlearnlib import seeding
from unlearnlib.private import networks
from unlearnlib.private.networks import check_separable, clipped_gradients


class Shared(nn.Module):
    """One linear layer used twice: its two contributions must add before the norm is taken."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Own(nn.Module):
    """A parameter that belongs to no known layer."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.full((64,), 0.7)), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(x.flatten(1) * self.scale)


class Tokens(nn.Module):
    """Linear layers on [B, T, C] and a LayerNorm, as in a transformer."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.embed(x[:, 0]))).mean(1))


def networks_to_check():
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, dilation=2, padding=2, groups=2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )
    inplace = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(inplace=True), nn.Linear(7, 3))
    same = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3))
    frozen[1].weight.requires_grad_(False)
    everything = [conv, inplace, same, frozen, Shared(), Own(), Tokens()]
    return {name: net.double() for name, net in zip(NAMES, everything, strict=True)}


NAMES = ["conv", "inplace", "same", "frozen", "shared", "own", "tokens"]
BY_RULES = {"conv", "frozen", "tokens"}


@pytest.fixture(scope="module")
def case():
    with seeding.isolated(0, "networks"):
        nets = networks_to_check()
        images, labels = torch.randn(13, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (13,))
    return nets, images, labels


def loop(model, images, labels, clip, keep=None):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    sums, norms = {name: torch.zeros_like(p) for name, p in named}, []
    for x, y in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        gradients = torch.autograd.grad(loss, [p for _, p in named])
        gradients = [g * keep[n] if keep and n in keep else g for (n, _), g in zip(named, gradients, strict=True)]
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        norms.append(norm)
        for (name, _), g in zip(named, gradients, strict=True):
            sums[name] += g * min(1.0, clip / norm)
    return sums, torch.tensor(norms, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rules", [True, False])
def test_equal_to_a_loop(case, name, rules):
    nets, images, labels = case
    model = nets[name]
    expected, norms = loop(model, images, labels, 0.8)
    assert float(norms.min()) < float(norms.max())
    clip = float(norms.median())  # some examples are clipped, some are not
    expected, norms = loop(model, images, labels, clip)
    sums, measured = clipped_gradients(model, images, labels, clip, chunk=5, rules=rules)
    assert torch.allclose(measured, norms, rtol=1e-10)
    assert sums.keys() == expected.keys()
    for key in sums:
        assert torch.allclose(sums[key], expected[key], rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize("name", NAMES)
def test_rules_are_taken_where_they_apply(case, name, monkeypatch):
    """A network that needs vmap and one that does not are told apart; a wrong guess would be slow or wrong."""
    nets, images, labels = case
    used = []
    original = networks._by_vmap
    monkeypatch.setattr(networks, "_by_vmap", lambda *a: used.append(1) or original(*a))
    clipped_gradients(nets[name], images, labels, 1.0)
    assert bool(used) == (name not in BY_RULES)


@pytest.mark.parametrize("rules", [True, False])
def test_masked_entries_count_neither_in_norms_nor_in_sums(case, rules):
    nets, images, labels = case
    model = nets["conv"]
    rng = seeding.generator(1)
    keep = {n: torch.rand(p.shape, generator=rng) < 0.4 for n, p in model.named_parameters() if p.ndim > 1}
    expected, norms = loop(model, images, labels, 0.5, keep)
    sums, measured = clipped_gradients(model, images, labels, 0.5, keep=keep, rules=rules)
    assert torch.allclose(measured, norms, rtol=1e-10)
    for key in sums:
        assert torch.allclose(sums[key], expected[key], rtol=1e-9, atol=1e-12), key
        if key in keep:
            assert not sums[key][~keep[key]].any()


def test_the_sum_never_moves_further_than_the_clip_norm(case):
    """Sensitivity: adding one example changes the sum by at most C."""
    nets, images, labels = case
    whole, _ = clipped_gradients(nets["conv"], images, labels, 0.3)
    for i in range(len(images)):
        kept = [j for j in range(len(images)) if j != i]
        rest, _ = clipped_gradients(nets["conv"], images[kept], labels[kept], 0.3)
        change = math.sqrt(sum(float((whole[k] - rest[k]).square().sum()) for k in whole))
        assert change <= 0.3 + 1e-12


def test_empty_batch_gives_zeros(case):
    nets, images, labels = case
    sums, norms = clipped_gradients(nets["conv"], images[:0], labels[:0], 1.0)
    assert norms.shape == (0,) and not any(g.any() for g in sums.values())


def test_infinite_clip_is_the_ordinary_gradient(case):
    nets, images, labels = case
    model = nets["tokens"]
    sums, _ = clipped_gradients(model, images, labels, math.inf)
    ordinary = torch.autograd.grad(F.cross_entropy(model(images), labels, reduction="sum"), list(model.parameters()))
    for total, g in zip(sums.values(), ordinary, strict=True):
        assert torch.allclose(total, g, atol=1e-12)


def test_nothing_is_left_on_the_model(case):
    nets, images, labels = case
    model = nets["conv"].train()
    before = copy.deepcopy(model.state_dict())
    clipped_gradients(model, images, labels, 1.0)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_batchnorm_is_refused():
    with pytest.raises(ValueError, match="'1' is a BatchNorm"):
        check_separable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    with pytest.raises(ValueError, match="no trainable"):
        check_separable(nn.ReLU())
