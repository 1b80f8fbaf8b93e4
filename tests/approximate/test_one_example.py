"""A single forgotten example, in a network with batch norm: every method works, or says in one line why not."""

import dataclasses

import pytest
import torch
from small import asked, dataset, ingredients, same, split, state

import unlearnlib as ul
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models

SHORT = {"epochs": 1, "iterations": 6, "noise_steps": 2}
FEW = {"gkt": {"rounds": 2, "batch_size": 16, "threshold": 1.0, "width": 8}}
NAMES = sorted(set(HOMES) - {"retrain", "amnesiac", "dlfd_as_released"})


@pytest.fixture(scope="module")
def one():
    return split(n=60, forget=1), models.build("resnet_bn", dataset(), width=4).eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("published", [False, True])
def test_one_forgotten_example(name, published, one):
    parts, net = asked(name, one[0]), one[1]
    known = {f.name for f in dataclasses.fields(registry.find(name).config)}
    row = registry.find(name).published if published else {}
    settings = {**row, **{k: v for k, v in SHORT.items() if k in known and k != "iterations"}}
    settings |= FEW.get(name, {})
    if row.get("iterations"):
        settings["iterations"] = 6
    made = ul.unlearn(name, net, parts, seed=0, **settings, **ingredients(name, parts)).model
    assert not made.training and all(torch.isfinite(v).all() for v in state(made).values())
    # The first three may find that no weight matters to it alone, lotus that it is answered as badly as unseen ones.
    if name not in ("ssd", "assd", "lfssd", "lotus"):
        assert not same(state(made), state(net))


def test_the_released_dlfd_refuses_it(one):
    with pytest.raises(ValueError, match="needs 10 forgotten"):
        ul.unlearn("dlfd_as_released", one[1], one[0], seed=0)


@pytest.mark.parametrize("name", ["delete", "scrub", "bad_teacher", "neggrad_plus"])
def test_many_at_once_with_augmented_pictures_are_those_one_by_one(name):
    """Teachers that are asked about each step's pictures, and batches in sections, run stacked as well."""
    parts, options = split(n=60, forget=20), {"epochs": 1, "batch_size": 16, "augment": "flip-crop-zero"}
    nets = [models.build("mlp", dataset(), seed=k, hidden=(8,)).double() for k in range(2)]
    gone = [torch.arange(60) % 3 == k for k in range(2)]
    splits = [Split(parts.train, g, parts.validation, None, "given", 0, None) for g in gone]
    many = ul.unlearn_many(name, nets, splits, seeds=[1, 2], **options)
    for net, part, seed, result in zip(nets, splits, [1, 2], many, strict=True):
        alone = ul.unlearn(name, net, part, seed=seed, **options)
        for key, value in state(alone.model).items():
            assert torch.allclose(state(result.model)[key], value, atol=1e-9), key
        assert result.cost.work == alone.cost.work
