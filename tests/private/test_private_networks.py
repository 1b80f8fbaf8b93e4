"""Per-example clipped gradients equal a loop over examples, by the layer rules and by vmap."""

import copy
import math
import warnings

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


class Elsewhere(nn.Module):
    """The weight of a layer is used a second time, by a function: the layer's hook sees one of the two."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x):
        x = torch.tanh(self.inner(x.flatten(1)))
        return self.head(F.linear(x, self.inner.weight.T, self.inner.bias))


class Bypassed(Elsewhere):
    """The layer is never called; its weight is."""

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x.flatten(1), self.inner.weight, self.inner.bias)))


class Ignored(Elsewhere):
    """The layer is called, its output thrown away, and its weight used by a function."""

    def forward(self, x):
        x = x.flatten(1)
        self.inner(x)
        return self.head(torch.tanh(F.linear(x, self.inner.weight, self.inner.bias)))


class Penalised(Elsewhere):
    """A weight enters the output by its norm."""

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x.flatten(1)))) * (1 + self.head.weight.square().mean())


class Tied(Elsewhere):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(64, 64)
        self.other.weight = self.inner.weight

    def forward(self, x):
        return self.head(torch.tanh(self.other(torch.tanh(self.inner(x.flatten(1))))))


class Mixing(Elsewhere):
    """Examples of a batch see each other: only what each gives alone has a norm of its own."""

    def forward(self, x):
        x = torch.tanh(self.inner(x.flatten(1)))
        return self.head(x - x.mean(0, keepdim=True) / 2)


def hooked():
    """A hook of the user's doubles a layer's output: what leaves the layer is not what its weights made."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 3))
    net[1].register_forward_hook(lambda layer, inputs, output: 2 * output)
    return net


def reparametrised():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 3))
    nn.utils.parametrizations.weight_norm(net[1])
    return net


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
    everything = [
        conv,
        inplace,
        same,
        frozen,
        Shared(),
        Own(),
        Tokens(),
        Elsewhere(),
        Bypassed(),
        Ignored(),
        Penalised(),
    ]
    everything += [Tied(), Mixing(), hooked(), reparametrised()]
    return {name: net.double() for name, net in zip(NAMES, everything, strict=True)}


NAMES = [
    "conv",
    "inplace",
    "same",
    "frozen",
    "shared",
    "own",
    "tokens",
    "elsewhere",
    "bypassed",
    "ignored",
    "penalised",
]
NAMES += ["tied", "mixing", "hooked", "weight norm"]
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
@pytest.mark.parametrize("rules", [None, False])
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


class Copied(nn.Module):
    """A weight kept aside in a list: neither a hook nor functional_call can follow it."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 3)
        self.aside = [self.inner.weight]

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x.flatten(1), self.aside[0])))


class Counting(nn.Module):
    """A buffer that adds up what it sees."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.seen += x.detach().flatten(1).sum(0).to(self.seen.dtype)
        return self.head(x.flatten(1))


def test_what_cannot_be_followed_is_refused(case):
    _, images, labels = case
    with pytest.raises(ValueError, match="miss a part of 'inner.weight'"):
        clipped_gradients(Copied().double(), images, labels, 1.0)
    counting = Counting()
    with pytest.raises(ValueError, match="buffer 'seen'"):
        clipped_gradients(counting, images.float(), labels, 1.0)
    assert not counting.seen.any() and counting.training
    dropped = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    state = torch.get_rng_state()
    assert networks.check_gradients(dropped, images, labels) and torch.equal(torch.get_rng_state(), state)


def test_batchnorm_is_refused():
    with pytest.raises(ValueError, match="'1' is a BatchNorm"):
        check_separable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 3)))
    with pytest.raises(ValueError, match="normalised by a hook"):
        check_separable(old)
    with pytest.raises(ValueError, match="no trainable"):
        check_separable(nn.ReLU())
