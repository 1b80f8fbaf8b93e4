"""What all methods without data must do: read no picture, forget a whole class, refuse what they cannot forget."""

import dataclasses

import pytest
import torch
from small import dataset, examples, same, split, state

import unlearnlib as ul
from unlearnlib.data.examples import Split
from unlearnlib.methods import common, registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import Recipe, fit, models, predict

BLIND = [name for name in HOMES if registry.find(name).reads == "none"]
QUICK = {
    "noise": {"steps": 60},
    "inversion": {"steps": 60, "inversion_steps": 30},
    "recall": {"rounds": 15, "inversion_steps": 30},
    "gkt": {"rounds": 15, "threshold": 0.05, "retries": 2000},
}


def one_class(n: int = 120) -> Split:
    every = examples(n)
    gone = every.labels == 1
    return Split.of(retain=every[~gone], forget=every[gone], validation=examples(24, seed=3), test=examples(60, seed=1))


@pytest.fixture(scope="module")
def trained():
    parts = one_class()
    model = models.build("cnn", dataset(), width=4, hidden=8)
    return fit(model, parts.train, Recipe(epochs=8, batch_size=16, lr=0.05), seed=0, progress=False), parts


def accuracies(model, parts) -> tuple[float, float]:
    right, gone = predict(model, parts.test).argmax(1) == parts.test.labels, parts.test.labels == 1
    return right[gone].float().mean().item(), right[~gone].float().mean().item()


def test_there_are_such_methods():
    assert set(QUICK) == set(BLIND)


@pytest.mark.parametrize("name", BLIND)
def test_pictures_of_nan_change_no_bit(name, trained):
    model, parts = trained
    seen = ul.unlearn(name, model, parts, seed=0, **QUICK[name])
    images = torch.randint(0, 256, parts.train.images.shape, generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    others = dataclasses.replace(parts, train=dataclasses.replace(parts.train, images=images))
    for again in (common.blinded(parts), others):
        assert same(state(seen.model), state(ul.unlearn(name, model, again, seed=0, **QUICK[name]).model))
    assert not same(state(seen.model), state(ul.unlearn(name, model, parts, seed=1, **QUICK[name]).model))
    assert seen.cost.work > 0


@pytest.mark.parametrize("name", [n for n in BLIND if n != "gkt"])  # whose student starts from nothing
def test_the_class_goes_and_the_others_stay(name, trained):
    model, parts = trained
    assert min(accuracies(model, parts)) > 0.95
    forgotten, kept = accuracies(ul.unlearn(name, model, parts, seed=0, **QUICK[name]).model, parts)
    assert forgotten < 0.1 and kept > 0.9


@pytest.mark.parametrize("name", BLIND)
def test_requests_that_are_not_whole_classes_are_refused(name, trained):
    model, parts = trained
    everything = split()  # the forget set has all classes
    with pytest.raises(ValueError, match="no other class is left"):
        ul.unlearn(name, model, everything, seed=0, **QUICK[name])
    part = dataclasses.replace(everything, request="random:0.1")
    with pytest.raises(ValueError, match="forgets whole classes only"):
        ul.unlearn(name, model, part, seed=0, **QUICK[name])
    assert parts.request == "given"
