"""The frozen copy of a network: the same numbers as the model's, which stays as it was."""

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, state, stranger
from torch import nn

from unlearnlib import dlfd
from unlearnlib.dlfd import frozen as module
from unlearnlib.dlfd.frozen import convolution_matrix, foldable, frozen
from unlearnlib.training import models


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with statistics and affine weights in its norms that are not those of an untrained network."""
    rng = torch.Generator().manual_seed(seed)
    model = model.double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in ((norm.running_mean, -1), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, -1)):
                if tensor is not None:
                    tensor.data = low + torch.rand(tensor.shape, generator=rng, dtype=torch.float64)
    return model


def pictures(side: int = 8, n: int = 5) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def passes(model: nn.Module, images: torch.Tensor, layer: str | None) -> list[torch.Tensor]:
    """Logits, features, and the gradient of something that needs both."""
    images = images.clone().requires_grad_(True)
    with models.evaluating(model), models.FeatureTap(model, images, layer) as tap:
        logits, features = tap(images)
        return [logits, features, torch.autograd.grad(logits.square().sum() + features.square().sum(), images)[0]]


def gap(model: nn.Module, images: torch.Tensor, layer: str | None = None) -> float:
    """The largest difference between the model and its frozen copy."""
    pairs = zip(passes(model, images, layer), passes(frozen(model, layer), images, layer), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


class Cases(nn.Module):
    """conv -> norm -> relu -> head, with one thing about it that the folding must notice."""

    def __init__(self, case: str = "plain"):
        super().__init__()
        self.case = case
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, affine=case != "not affine", track_running_stats=case != "no statistics")
        self.conv2, self.norm2 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, 3)
        if case in ("shared weights", "shared weights read"):
            self.conv2.weight = self.conv.weight

    def forward(self, x):
        before = self.conv(x)
        y = self.norm(before)
        if self.case == "two readers":
            y = y + before
        if self.case == "one norm for two":
            y = y + self.norm(self.conv2(x))
        if self.case == "one convolution for two":
            y = y + self.norm2(self.conv(x))
        if self.case in ("shared weights", "shared weights read"):
            y = y + self.norm2(self.conv2(x))
        if self.case in ("weights read", "shared weights read"):
            weight = self.conv.weight if self.case == "weights read" else self.conv2.weight
            y = y + F.conv2d(x, weight, padding=1)
        if self.case == "statistics read":
            y = y - self.norm.running_mean.reshape(-1, 1, 1) * x
        if self.case == "control flow" and y.mean() > -1e9:
            y = 2 * y
        return self.head(torch.relu(y).flatten(1))


FOLDED = {
    "plain": [("conv", "norm")],
    "not affine": [("conv", "norm")],
    "statistics read": [("conv", "norm")],
    "shared weights": [("conv", "norm"), ("conv2", "norm2")],
    "shared weights read": [],
    "one norm for two": [],
    "one convolution for two": [],
    "two readers": [],
    "weights read": [],
    "control flow": [],
    "no statistics": [],
}


@pytest.mark.parametrize("name", ["mlp", "cnn", "fastnet", "resnet_bn", "resnet_gn", "resnet18"])
def test_the_copy_computes_what_the_model_computes(name):
    side = 32 if name == "resnet18" else 8
    model = lived_in(models.build(name, dataset(side=side)))
    assert gap(model, pictures(side)) < 1e-10
    norms = sum(type(m) is nn.BatchNorm2d for m in model.modules())
    assert len(foldable(model)) == (0 if name == "fastnet" else norms)  # which pools between the two
    assert gap(lived_in(stranger()), pictures()) < 1e-10


@pytest.mark.parametrize("case", FOLDED)
def test_it_folds_only_where_nothing_else_depends_on_it(case):
    model = lived_in(Cases(case))
    assert foldable(model) == FOLDED[case]
    assert gap(model, pictures()) < 1e-10


def test_the_tapped_layer_keeps_its_input():
    model = lived_in(Cases())
    for layer in ("conv", "norm", "head"):
        assert gap(model, pictures(), layer) < 1e-10


@pytest.mark.parametrize("statistic", ["running_mean", "running_var", "weight", "bias"])
def test_a_forgotten_statistic_would_be_seen(statistic, monkeypatch):
    right = module._fold

    def wrong(conv, norm):
        setattr(norm, statistic, type(getattr(norm, statistic))(torch.ones(4).double() * (statistic == "running_var")))
        right(conv, norm)

    monkeypatch.setattr(module, "_fold", wrong)
    assert gap(lived_in(Cases()), pictures()) > 0.01


@pytest.mark.parametrize(
    "size, kernel, stride, padding",
    [
        ((2, 2), 3, 1, 1),
        ((1, 1), 3, 2, 1),
        ((3, 2), (3, 2), (2, 1), (1, 0)),
        ((2, 3), (5, 3), 1, (2, 3)),
        ((3, 3), 3, 1, 0),
    ],
)
def test_the_matrix_is_the_convolution(size, kernel, stride, padding):
    conv = nn.Conv2d(3, 4, kernel, stride, padding).double()
    x = torch.randn(6, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = convolution_matrix(conv.weight, size, conv.stride, conv.padding)
    found = torch.einsum("rsohwi,bihw->bors", matrix, x) + conv.bias[:, None, None]
    assert torch.allclose(found, conv(x), atol=1e-12)
    assert torch.allclose(frozen(conv)(x), conv(x), atol=1e-12)


def test_a_convolution_of_another_kind_or_of_maps_of_changing_size():
    rng = torch.Generator().manual_seed(0)
    for options in ({"groups": 2}, {"dilation": 2, "padding": 2}, {"padding_mode": "circular", "padding": 1}):
        conv = nn.Conv2d(4, 4, 3, **{"padding": 1, **options}).double()
        x = torch.randn(2, 4, 2, 2, generator=rng, dtype=torch.float64)
        assert torch.equal(frozen(conv)(x), conv(x))
    conv = nn.Conv2d(4, 2, 3, padding="same", bias=False).double()
    still = frozen(conv)
    for side in (1, 2, 3, 4, 1):
        x = torch.randn(2, 4, side, side, generator=rng, dtype=torch.float64)
        assert torch.allclose(still(x), conv(x), atol=1e-12)
    plain = nn.Conv2d(4, 2, 3, padding=1).double()
    still = frozen(plain)
    for side in (1, 2, 3, 4, 1):
        x = torch.randn(2, 4, side, side, generator=rng, dtype=torch.float64)
        assert torch.allclose(still(x), plain(x), atol=1e-12)


def test_the_model_stays_as_it_was():
    model, images = lived_in(models.build("resnet_bn", dataset())).train(), pictures()
    next(model.parameters()).requires_grad_(False)
    trainable = [p.requires_grad for p in model.parameters()]
    with models.FeatureTap(model, images) as tap:
        tap(images)  # the tap now holds features with a graph
        before, own = state(model), tap._features
        still = frozen(model, lower=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            still(images.float())
        assert tap._features is own and still is not model
        assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 1
    assert same(state(model), before) and all(m.training for m in model.modules())
    assert trainable == [p.requires_grad for p in model.parameters()]
    assert {type(m) for m in model.modules()}.isdisjoint({module._Convolution, module._Folded})


def test_what_cannot_be_copied_or_is_watched_is_used_as_it_is():
    model = Cases()
    handle = model.conv.register_forward_hook(lambda *_: None)
    assert frozen(model) is model
    handle.remove()
    model.remembered = 2 * model.conv.weight
    assert frozen(model) is model
    model.remembered = None
    assert frozen(model) is not model


def test_half_precision_is_that_of_autocast():
    images = pictures().float()
    model = lived_in(models.build("cnn", dataset())).float()
    still = frozen(model, lower=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(still(images), model(images))  # no norm to fold: the very same casts
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    norms = lived_in(models.build("resnet_bn", dataset())).float()
    exact = frozen(norms)(images)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        errors = [(net(images).float() - exact).abs().max() for net in (frozen(norms, lower=True), norms.eval())]
    assert errors[0] < 3 * errors[1] + 1e-3


def test_the_perturbation_is_the_same_with_and_without_the_copy(monkeypatch):
    model = lived_in(models.build("resnet_bn", dataset())).float()
    before, images = state(model), pictures(n=12).float()
    features = models.features(model, images[6:])

    def moved() -> torch.Tensor:
        with models.FeatureTap(model, images) as tap:
            options = dict(steps=3, step=0.02, transport_weight=3.0, ce_weight=1.0)
            limits = torch.tensor(0.0), torch.tensor(1.0)
            labels = torch.arange(6) % 3
            return dlfd.perturb(model, images[:6], labels, features, tap=tap, limits=limits, **options)[0]

    with_copy = moved()
    monkeypatch.setattr("unlearnlib.dlfd.perturbation.frozen", lambda model, *_, **__: model)
    without = moved()
    assert not torch.equal(without, images[:6])
    assert ((with_copy - images[:6]).sign() == (without - images[:6]).sign()).float().mean() > 0.99
    assert same(state(model), before)
