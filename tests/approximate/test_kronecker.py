"""Which layers are blocks of K-FAC: those whose gradient is what their inputs and output gradients make of it."""

import pytest
import torch
import torch.nn.functional as F
from small import examples, split
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import curvature
from unlearnlib.approximate.curvature import kronecker
from unlearnlib.approximate.curvature.products import jacobians
from unlearnlib.approximate.gradients import example_gradients, pulled_back

DATA = examples(23)


class Plain(nn.Module):
    """Two linear layers; subclasses use the first in other ways."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def hidden(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.head(self.hidden(x.flatten(1)))


class AlsoFunctional(Plain):
    def hidden(self, x):
        return torch.tanh(self.first(x)) + torch.tanh(F.linear(x.flip(1), self.first.weight))


class OnlyFunctional(Plain):
    def hidden(self, x):
        return torch.tanh(F.linear(x, self.first.weight, self.first.bias))


class PlacesFirst(Plain):
    """Rows of the picture come first, so the first dimension of the layer's input is not the batch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 5)

    def hidden(self, x):
        rows = x.unflatten(1, (8, 8)).transpose(0, 1)
        return torch.tanh(self.first(rows)).sum(0)


class Penalised(Plain):
    """The weight has a part in the logits beside its layer."""

    def forward(self, x):
        return super().forward(x) + self.first.weight.sum(1)[:3] * x.mean((1, 2, 3))[:, None]


class Unread(Plain):
    """A layer that runs and has no part in the logits."""

    def hidden(self, x):
        self.head(torch.zeros(len(x), 5).to(x))
        return super().hidden(x)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 64) / 8)

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight)


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind().double().eval()


@pytest.mark.parametrize(
    "kind, blocks",
    [
        (Plain, ["first", "head"]),
        (AlsoFunctional, ["head"]),
        (OnlyFunctional, ["head"]),
        (PlacesFirst, ["head"]),
        (Penalised, ["head"]),
        (Unread, ["first"]),
    ],
)
def test_a_weight_with_another_use_is_no_block_and_the_trace_is_right(kind, blocks):
    net = made(kind)
    found, exact = curvature.ekfac(net, DATA), curvature.Curvature(net, DATA).dense()
    assert [block.layer for block in found.blocks] == blocks
    assert torch.allclose(found.dense().diagonal().sum(), exact.diagonal().sum(), rtol=1e-10)
    held = [n for n in found.like if n not in found.diagonal]
    start = {n: sum(p.numel() for p in list(found.like.values())[:k]) for k, n in enumerate(found.like)}
    for name, values in found.diagonal.items():
        at = slice(start[name], start[name] + values.numel())
        assert torch.allclose(values.flatten(), exact.diagonal()[at], atol=1e-12), (name, held)


def test_without_the_trial_the_trace_would_be_wrong(monkeypatch):
    monkeypatch.setattr(kronecker, "_explained", lambda model, examples, layers: set(layers))
    net = made(AlsoFunctional)
    found, exact = curvature.ekfac(net, DATA), curvature.Curvature(net, DATA).dense()
    assert found.dense().diagonal().sum() < 0.95 * exact.diagonal().sum()


@pytest.mark.parametrize("solver", ["kfac", "ekfac"])
def test_a_network_without_a_block_is_refused_in_one_line(solver):
    with pytest.raises(ValueError, match="need a linear or convolutional layer") as refused:
        ul.unlearn("influence", made(Bare).float(), split(), seed=0, solver=solver)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="need a linear or convolutional layer"):
        ul.unlearn("rescaled_influence", made(Bare).float(), split(), seed=0, solver=solver)


def by_hand(net, pixels):
    rows = []
    for picture in pixels:
        logits = net(picture[None])[0]
        each = [torch.autograd.grad(z, list(net.parameters()), retain_graph=True) for z in logits]
        rows.append(torch.stack([torch.cat([g.flatten() for g in one]) for one in each]))
    return torch.stack(rows)


@pytest.mark.parametrize("activation", [nn.PReLU, lambda: nn.PReLU(5), nn.RReLU])
def test_activations_that_vmap_does_not_know(activation):
    """PReLU has a weight and breaks under two batch dimensions, RReLU under one."""
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), activation(), nn.Linear(5, 3)))
    pixels, labels = DATA.pixels(slice(0, 3), dtype=torch.float64), DATA.labels[:3]  # as many as classes
    rows = by_hand(net, pixels)
    assert torch.allclose(jacobians(net, pixels), rows, atol=1e-12)
    v = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pulled_back(net, pixels, v), torch.einsum("bc,bcp->bp", v, rows), atol=1e-12)
    with torch.no_grad():
        errors = net(pixels).softmax(1) - F.one_hot(labels, 3)
    assert torch.allclose(example_gradients(net, pixels, labels), torch.einsum("bc,bcp->bp", errors, rows), atol=1e-12)
    for name in ("ntk", "rescaled_influence", "woodfisher"):
        assert ul.unlearn(name, net, split(), seed=0).cost.work > 0
