"""Networks: initialisation by seed alone, and the handles that methods use on any network."""

import copy

import pytest
import torch
from small import Stranger, dataset, examples, same, state, stranger
from torch import nn

from unlearnlib.training import models

OWN = ["mlp", "cnn", "fastnet", "resnet_bn", "resnet_gn"]


@pytest.mark.parametrize("side, channels", [(8, 1), (28, 1), (32, 3), (64, 3)])
@pytest.mark.parametrize("name", OWN)
def test_own_networks_fit_every_picture_size(name, side, channels):
    ds = dataset(n=12, side=side, channels=channels)
    assert models.build(name, ds)(ds.train.pixels()).shape == (12, 3)


def test_a_whitened_network_needs_nine_pixels():
    with pytest.raises(ValueError, match="pooling leaves no pixel"):
        models.build("whitened", dataset(side=8))
    assert models.build("whitened", dataset(side=9), widths=(8, 8, 8))(dataset(side=9).train.pixels()).shape[1] == 3


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generator():
    ds = dataset()
    before = torch.get_rng_state()
    first = state(models.build("cnn", ds, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert same(first, state(models.build("cnn", ds, seed=5)))
    assert not same(first, state(models.build("cnn", ds, seed=6)))


def test_normalisation_makes_training_pixels_standard():
    ds = dataset()
    out = models.build("mlp", ds)[0](ds.train.pixels())
    assert out.mean().abs() < 1e-5 and (out.std(correction=0) - 1).abs() < 1e-3


def test_errors_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet_bn'"):
        models.build("resnet_bm", dataset())
    with pytest.raises(ValueError, match="unknown option 'widht'; it takes: width, hidden"):
        models.build("cnn", dataset(), widht=3)
    with pytest.raises(ValueError, match="size=224"):
        models.build("alexnet", dataset())


def test_torchvision_by_name_on_grey_pictures():
    model = models.build("resnet18", dataset(side=32), seed=1)
    assert model(examples(n=2, side=32).pixels()).shape == (2, 3)


def test_layers_follow_the_data_not_the_order_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(64, 4)

        def forward(self, x):
            return self.last(self.first(x.flatten(1)))

    pixels = examples(n=1).pixels()
    assert models.layers(Backwards(), pixels) == ["first", "last"]
    assert models.head_name(Backwards(), pixels) == "last"
    assert models.tail(stranger(), pixels, 2) == {"third", "head"}
    with pytest.raises(ValueError, match="between 1 and 2"):
        models.tail(Backwards(), pixels, 3)


def test_features_are_the_input_of_the_head_and_modes_are_restored():
    ds, net = dataset(), stranger()
    net.drop.eval()
    modes = [m.training for m in net.modules()]
    found = models.features(net, ds.train.pixels())
    assert [m.training for m in net.modules()] == modes
    with models.evaluating(net), torch.no_grad():
        assert torch.allclose(net.head(found), net(ds.train.pixels()), atol=1e-6)


def test_reinitialised_changes_every_trainable_parameter_and_no_frozen_one():
    trained = copy.deepcopy(stranger())
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(1)
    before = state(trained)
    after = dict(models.reinitialised(trained, 3).named_parameters())
    assert same(state(trained), before)
    for name, p in trained.named_parameters():
        assert torch.equal(after[name], p) == name.startswith("stem"), name
    assert after.keys() == dict(trained.named_parameters()).keys()  # weights are still tied


def test_reinitialised_refuses_what_it_cannot_reset():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="Own has parameters but no reset_parameters: give build="):
        models.reinitialised(nn.Sequential(nn.Linear(2, 2), Own()), 0)


def test_fresh_has_the_law_of_build_also_where_reset_parameters_would_not():
    ds = dataset(side=32)
    model = models.build("resnet18", ds, seed=0)
    assert same(state(models.fresh(model, 7)), state(models.build("resnet18", ds, seed=7)))
    # torchvision draws convolutions from another law than nn.Conv2d.reset_parameters does
    reset = models.reinitialised(model, 7).backbone.conv1.weight.std()
    assert abs(reset / models.fresh(model, 7).backbone.conv1.weight.std() - 1) > 0.3


def test_fresh_keeps_frozen_parameters_flags_and_modes():
    model = models.build("cnn", dataset(), seed=0)
    model[1].requires_grad_(False)
    model.eval()
    fresh = models.fresh(model, 1)
    assert torch.equal(fresh[1].weight, model[1].weight) and not fresh[1].weight.requires_grad
    assert not torch.equal(fresh[-1].weight, model[-1].weight) and not fresh.training


def test_tap_refuses_a_missing_layer():
    with pytest.raises(ValueError, match="no layer 'nope'"):
        models.FeatureTap(Stranger(), examples(n=1).pixels(), "nope")
