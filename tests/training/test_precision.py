"""Precision "auto": float32 to the bit where numerics are not fast; else the faster one, measured once."""

import dataclasses
import itertools

import pytest
import torch
from small import dataset, same, state

from unlearnlib import training
from unlearnlib.store import addresses
from unlearnlib.training import models, precision
from unlearnlib.training.recipe import Recipe

AUTO = Recipe(epochs=1, batch_size=32, channels_last=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fast(monkeypatch):
    """The fast mode, in which passes take the `seconds` that the test says; `asked` lists what was measured."""
    told = {"float32": 1.0, "bfloat16": 0.5, "asked": []}

    def seconds(model, pixels, name, backward):
        told["asked"].append((name, tuple(pixels.shape), backward))
        return told[name]

    monkeypatch.setenv("UNLEARN_FAST", "1")
    monkeypatch.setattr(precision, "seconds", seconds)
    return told


def trained(**changes):
    ds = dataset(side=16)
    recipe = dataclasses.replace(AUTO, **changes)
    return state(training.fit(models.build("fastnet", ds, width=32, hidden=32), ds.train, recipe))


def test_outside_the_fast_mode_auto_is_float32_and_measures_nothing(monkeypatch):
    monkeypatch.delenv("UNLEARN_FAST", raising=False)
    monkeypatch.setattr(precision, "faster", None)  # to call it would be an error
    assert same(trained(), trained(precision="float32"))
    assert not same(trained(), trained(precision="bfloat16"))
    ds, model = dataset(n=300, side=16), models.build("fastnet", dataset(side=16))
    alone = training.predict(model, ds.train.pixels()[:300])
    assert torch.equal(alone, training.predict(model, ds.train[:300]))


@pytest.mark.parametrize("taken, expected", [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_in_the_fast_mode_auto_is_what_is_clearly_faster(fast, taken, expected):
    fast["bfloat16"] = taken
    assert same(trained(), trained(precision=expected))


def test_an_explicit_choice_is_kept_in_the_fast_mode(fast):
    full, half = trained(precision="float32"), trained(precision="bfloat16")
    assert not same(full, half) and fast["asked"] == []


def test_a_network_and_batch_are_measured_once_and_remembered(fast):
    ds = dataset(side=16)
    model, other = models.build("cnn", ds, seed=0), models.build("cnn", ds, seed=1)
    pixels = ds.train.pixels()[:32]
    for one in (model, other, model):  # other weights, same network
        assert precision.faster(one, pixels, backward=True) == "bfloat16"
    assert [name for name, *_ in fast["asked"]] == ["float32", "bfloat16"]
    fast["bfloat16"] = 2.0
    assert precision.faster(model, pixels, backward=True) == "bfloat16"  # from the cache
    assert precision.faster(model, pixels[:16], backward=True) == "float32"  # another batch
    assert precision.faster(model, pixels, backward=False) == "float32"  # without the way back
    assert precision.faster(models.build("cnn", ds, width=8), pixels, backward=True) == "float32"


def test_measuring_changes_neither_the_model_nor_the_global_generator():
    ds = dataset(side=16)
    model = models.build("resnet_bn", ds, width=8)
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    for name, backward in itertools.product(("float32", "bfloat16"), (True, False)):
        assert precision.seconds(model, ds.train.pixels()[:16], name, backward) >= 0
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_predictions_of_the_fast_mode_are_mixed_only_where_that_pays(fast):
    ds = dataset(n=300, side=16)
    model = models.build("fastnet", ds, width=32, hidden=32)
    quick = training.predict(model, ds.train)
    assert fast["asked"] == [("float32", (256, 1, 16, 16), False), ("bfloat16", (256, 1, 16, 16), False)]
    few = training.predict(model, ds.train[:100])  # less than a block: nothing to gain
    assert quick.dtype == torch.float32 and len(quick) == 300
    assert torch.equal(few, few.float()) and not torch.equal(quick[:100], few)
    assert torch.allclose(quick[:100], few, atol=0.05, rtol=0.05)
    assert all(p.is_contiguous() for p in model.parameters())


def test_fast_and_pinned_results_have_addresses_of_their_own(monkeypatch):
    monkeypatch.delenv("UNLEARN_FAST", raising=False)
    pinned = addresses.numerics()
    monkeypatch.setenv("UNLEARN_FAST", "1")
    assert addresses.numerics() != pinned
    monkeypatch.setenv("UNLEARN_FAST", "0")
    assert addresses.numerics() == pinned
