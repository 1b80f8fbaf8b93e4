"""The whitened stem: what it computes, from whose pictures, and that nothing else moves it."""

from dataclasses import replace

import pytest
import torch
from small import dataset, same, state
from torch import nn

from unlearnlib import training
from unlearnlib.data.splits import split
from unlearnlib.methods.registry import unlearn
from unlearnlib.training import models, weights
from unlearnlib.training.networks import Whitening
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=16, optimiser="sgd", lr=0.05, vector_rate=8.0, lookahead=True, augment="alternate")


def network(ds, seed=0):
    return models.build("whitened", ds, seed=seed, widths=(8, 8))


def stem(model):
    return model[1].weight


@pytest.fixture(scope="module")
def ds():
    return dataset(n=120, side=12, channels=3)


@pytest.fixture(scope="module")
def original(ds):
    return training.fit(network(ds), ds.train, RECIPE, seed=1)


def test_patches_of_the_pictures_it_learnt_from_come_out_white():
    rng = torch.Generator().manual_seed(0)
    mixed = torch.einsum("cd,bdhw->bchw", torch.randn(3, 3, generator=rng), torch.randn(40, 3, 16, 16, generator=rng))
    layer = Whitening(3)
    layer.learn(mixed, Whitening.GIVEN)
    out = layer(mixed)
    axes = out[:, :12].transpose(0, 1).flatten(1)
    assert torch.allclose(axes @ axes.T / axes.shape[1], torch.eye(12), atol=0.02)
    assert torch.allclose(out[:, 12:], -out[:, :12])


def test_before_any_picture_the_filters_are_single_pixels_and_no_batch_in_eval_mode_changes_them(ds):
    model = network(ds).eval()
    model(ds.train.pixels())
    assert torch.equal(model[1].weight.flatten(1).abs().sum(1), torch.ones(24)) and not model[1].source


def test_the_first_batch_of_training_sets_it_once(ds, original):
    assert int(original[1].source) == Whitening.TRAINING and not network(ds)[1].source
    again = training.fit(original, ds.train[:30], RECIPE, seed=2)
    assert torch.equal(stem(again), stem(original))


def test_a_retraining_takes_it_from_retained_pictures_alone(ds, original):
    divided = split(ds, "random:0.3", 0)
    retrained = unlearn("retrain", original, divided, seed=3, recipe=RECIPE).model
    blinded = divided.train.images.clone()
    blinded[divided.is_forget] = 0
    blind = replace(divided, train=replace(divided.train, images=blinded))
    same_again = unlearn("retrain", original, blind, seed=3, recipe=RECIPE).model
    assert same(state(retrained), state(same_again))
    assert not torch.equal(stem(retrained), stem(original))


@pytest.mark.parametrize("name", ["finetune", "neggrad_plus", "salun", "fisher_forgetting"])
def test_unlearning_leaves_it(ds, original, name):
    found = unlearn(name, original, split(ds, "random:0.3", 0), seed=3).model
    assert torch.equal(stem(found), stem(original)) and not same(state(found), state(original))


def test_fresh_forgets_it_unless_its_pictures_were_chosen(ds, original):
    for made in (models.fresh(original, 5), models.reinitialised(original, 5, example=ds.train.pixels([0]))):
        assert torch.equal(stem(made), stem(network(ds))) and not made[1].source
    public = models.whitened(original, ds.test.pixels())
    assert int(public[1].source) == Whitening.GIVEN and not torch.equal(stem(public), stem(original))
    for made in (models.fresh(public, 5), models.reinitialised(public, 5, example=ds.train.pixels([0]))):
        assert torch.equal(stem(made), stem(public))
        assert torch.equal(stem(training.fit(made, ds.train, RECIPE)), stem(public))
    with pytest.raises(ValueError, match="no whitened stem"):
        models.whitened(models.build("mlp", ds), ds.test.pixels())


def test_an_untrained_network_is_drawn_anew_too(ds):
    hooked = network(ds)
    hooked[2] = nn.Identity()  # so that it is not built again but reset
    made = models.fresh(hooked, 5, ds.train.pixels([0]))
    assert not made[1].source


def test_weights_on_disk_hold_it(ds, original, tmp_path):
    weights.save(original, tmp_path / "w.safetensors")
    assert same(state(weights.load(network(ds, 9), tmp_path / "w.safetensors")), state(original))


def test_many_are_trained_one_at_a_time_each_with_its_own(ds):
    masks = torch.ones(2, len(ds.train), dtype=torch.bool)
    masks[1, :30] = False
    many = training.fit_many(lambda seed: network(ds, seed), ds.train, masks, RECIPE, [1, 2], progress=False)
    alone = training.fit(network(ds, 2), ds.train[masks[1]], RECIPE, seed=2)
    assert torch.equal(stem(many[1]), stem(alone)) and not torch.equal(stem(many[0]), stem(many[1]))


def test_the_network_begins_as_the_identity_on_its_channels(ds):
    conv = network(ds)[3]
    assert torch.equal(conv.weight[:8, :8, 1, 1], torch.eye(8)) and not conv.weight[:8, :, 0].any()
