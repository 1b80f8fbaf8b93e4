"""Stacks: what is more than its class is trained one by one, and equal to `fit` in value."""

import copy

import numpy as np
import pytest
import torch
from small import dataset, examples, state
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from unlearnlib import training
from unlearnlib.training import models, stacking
from unlearnlib.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")

SGD = Recipe(epochs=2, batch_size=16, optimiser="sgd", lr=0.05, schedule="constant")


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 0.5


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3))


def extra(layer):
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias) * 0.5


CHANGES = {
    "weight norm, old": old_weight_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm, old": old_spectral_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "forward hook": lambda layer: layer.register_forward_hook(lambda module, inputs, output: output * 0.5),
    "pre-hook": lambda layer: layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,)),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda m, grads, _: (grads[0] * 0.5,)),
    "attribute": extra,
    "buffer": lambda layer: layer.register_buffer("more", torch.ones(1)),
    "parameter": lambda layer: layer.register_parameter("more", nn.Parameter(torch.ones(1))),
}


def changed(kind: str):
    def build(seed: int):
        model = network(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            CHANGES[kind](model[4])
        return model.double()

    return build


def equal_to_fit(build, ds, recipe=SGD, exact=True):
    masks = torch.ones(3, len(ds), dtype=torch.bool)
    many = training.fit_many(build, ds, masks, recipe, [0, 1, 2])
    for seed, model in enumerate(many):
        alone = training.fit(build(seed), ds, recipe, seed)
        for name, value in state(alone).items():
            assert torch.allclose(state(model)[name], value, atol=0 if exact else 1e-9, rtol=0), name


@pytest.mark.parametrize("kind", CHANGES)
def test_a_layer_that_is_more_than_its_class_is_not_stacked(kind):
    build, ds = changed(kind), examples(n=48)
    with pytest.raises(stacking.Unstackable):
        stacking.Stack([build(0), build(1)], ds.pixels([0]))
    equal_to_fit(build, ds)


def test_plain_networks_are_stacked():
    ds = examples(n=48)
    stacking.Stack([network(0), network(1)], ds.pixels([0]))
    equal_to_fit(lambda seed: network(seed).double(), ds, exact=False)


def subclassed(seed):
    model = network(seed)
    model[6] = Scaled(6, 3)
    return model


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.linear = nn.Flatten(), nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(nn.functional.dropout(self.flat(x), 0.5, self.training))


class TrainOnly(nn.Module):
    """Another function in train mode, which a look in eval mode does not see."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 6), nn.Linear(6, 3)

    def forward(self, x):
        hidden = self.first(x.flatten(1))
        if self.training:
            hidden = hidden - hidden.mean(1, keepdim=True)  # over what, in a stack, are all models' units
        return self.second(hidden)


@pytest.mark.parametrize(
    "make",
    [
        subclassed,
        lambda seed: Dropping(),
        lambda seed: TrainOnly(),
        lambda seed: nn.Sequential(nn.Dropout(0.3), network(seed)),
    ],
    ids=["subclass", "functional dropout", "train mode", "dropout"],
)
def test_what_a_stack_would_learn_otherwise_is_trained_alone(make):
    built = [make(seed) for seed in range(3)]
    with pytest.raises(stacking.Unstackable):
        stacking.Stack(built[:2], examples(n=2).pixels([0]))
    equal_to_fit(lambda seed: copy.deepcopy(built[seed]), examples(n=48))


def test_models_that_differ_in_what_is_frozen_are_not_stacked():
    built = [network(0), network(1)]
    built[1][4].requires_grad_(False)
    with pytest.raises(stacking.Unstackable, match="differs between the models"):
        stacking.Stack(built, examples(n=1).pixels())
    momentum = [network(0), network(1)]
    momentum[1][1].momentum = 0.5
    with pytest.raises(stacking.Unstackable, match="does not compute what the models do"):
        stacking.Stack(momentum, examples(n=1).pixels())


def test_pruned_networks_keep_their_zeros():
    ds = dataset()

    def build(seed):
        model = models.build("mlp", ds, seed=seed)
        prune.random_unstructured(model[2], "weight", 0.5)
        return model

    trained = training.fit_many(build, ds.train, torch.ones(2, 120, dtype=torch.bool), SGD, [0, 1])
    for model in trained:
        model(ds.train.pixels([0]))
        assert (model[2].weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("masks", [None, [[True] * 120, [True]], torch.ones(2, 120), torch.ones(1, 120, dtype=bool)])
def test_masks_have_a_door(masks):
    with pytest.raises(ValueError, match=r"^masks must be bool \[2, 120\], not"):
        training.fit_many(lambda seed: nn.Flatten(), dataset().train, masks, SGD, [0, 1])


def test_masks_may_be_an_array():
    masks = np.arange(120) < np.array([[60], [120]])
    made = training.fit_many(
        lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), dataset().train, masks, SGD, [0, 1]
    )
    assert len(made) == 2
