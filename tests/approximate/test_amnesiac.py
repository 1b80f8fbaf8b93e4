"""Amnesiac unlearning: recording changes nothing, and subtraction returns where the equation says."""

import copy
import dataclasses

import pytest
import torch
from small import dataset, same, split, state, stranger

import unlearnlib as ul
from unlearnlib import seeding, training
from unlearnlib.approximate.amnesiac import fit_recording, taken_back
from unlearnlib.training import models
from unlearnlib.training.batches import Batch, minibatches
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, optimiser="sgd", lr=0.05, schedule="constant")


def network(seed: int = 0):
    return models.build("mlp", dataset(), hidden=(8,), seed=seed)


@pytest.fixture(scope="module")
def recorded():
    parts = split()
    return *fit_recording(network(), parts.train, RECIPE, 3), parts


def forgetting(parts, where):
    mask = torch.zeros(len(parts.train), dtype=torch.bool)
    mask[where] = True
    return dataclasses.replace(parts, is_forget=mask)


def apart(first, second) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ["mlp", "resnet_bn"])
def test_recording_trains_as_fit_does_and_leaves_the_model_alone(name):
    parts, start = split(), models.build(name, dataset())
    before = state(start)
    trained, _ = fit_recording(start, parts.train, RECIPE, 5)
    assert same(state(trained), state(training.fit(start, parts.train, RECIPE, 5))) and same(state(start), before)


def test_without_any_update_the_weights_are_the_initial_ones(recorded):
    model, record, parts = recorded
    back = taken_back(copy.deepcopy(model), record, torch.arange(len(parts.train)))
    assert apart(back, network()) < 1e-6 < apart(model, network())


def test_an_example_of_the_last_batch_takes_back_that_batch():
    parts, recipe = split(), dataclasses.replace(RECIPE, epochs=1)
    model, record = fit_recording(network(), parts.train, recipe, 3)
    order = list(minibatches(len(parts.train), 16, 1, seeding.generator(3, "order")))
    target = forgetting(parts, order[-1][:3])
    done = ul.unlearn("amnesiac", model, target, seed=0, record=record, epochs=0).model
    stream = (Batch(i, parts.train.labels[i]) for i in order[:-1])
    shorter = training.descend(network(), parts.train, stream, recipe, len(order) - 1, seed=3)
    assert apart(done, shorter) < 1e-7 < apart(model, shorter)


def test_exactly_the_touched_batches_are_taken_back(recorded):
    model, record, parts = recorded
    forget = torch.tensor([4, 77])
    touched = [bool(torch.isin(b, forget).any()) for b in record.batches]
    assert 2 <= sum(touched) <= 4 < len(touched) == 14
    total = sum(u for u, t in zip(record.updates, touched, strict=True) if t)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    done = ul.unlearn("amnesiac", model, forgetting(parts, forget), seed=0, record=record, epochs=0)
    after = torch.nn.utils.parameters_to_vector(done.model.parameters()).detach()
    assert torch.allclose(after, before - total, atol=1e-7) and not torch.equal(after, before)
    assert done.cost.gradient_evaluations == 0


def test_an_example_that_training_dropped_takes_nothing_back():
    parts, recipe = split(), dataclasses.replace(RECIPE, epochs=1)
    model, record = fit_recording(network(), parts.train, recipe, 3)
    (unseen,) = torch.where(~torch.isin(torch.arange(120), torch.cat(record.batches)))
    assert len(unseen) == 120 % 16
    done = ul.unlearn("amnesiac", model, forgetting(parts, unseen), seed=0, record=record, epochs=0).model
    assert same(state(done), state(model))


def test_the_record_holds_the_batches_of_candidates_only(recorded):
    _, whole, parts = recorded
    model, record = fit_recording(network(), parts.train, RECIPE, 3, candidates=torch.tensor([4]))
    assert all((b == 4).any() for b in record.batches) and 1 <= len(record.batches) <= RECIPE.epochs < len(
        whole.batches
    )
    both = [
        ul.unlearn("amnesiac", model, forgetting(parts, [4]), seed=0, record=r, epochs=0).model for r in (whole, record)
    ]
    assert same(*map(state, both))


def test_repair_follows_and_reads_the_retain_set_only(recorded):
    model, record, parts = recorded
    target = forgetting(parts, [4, 77])
    raw = ul.unlearn("amnesiac", model, target, seed=0, record=record, epochs=0).model
    repaired = ul.unlearn("amnesiac", model, target, seed=6, record=record, epochs=1, batch_size=16)
    plain = ul.unlearn("finetune", raw, target, seed=6, epochs=1, batch_size=16)
    assert same(state(repaired.model), state(plain.model))
    many = ul.unlearn_many("amnesiac", [model, model], [target, target], seeds=[6, 7], record=record, batch_size=16)
    assert apart(many[0].model, repaired.model) < 2e-6


def test_errors_say_what_to_do(recorded):
    model, record, parts = recorded
    with pytest.raises(ValueError, match="train with amnesiac.fit_recording"):
        ul.unlearn("amnesiac", model, parts, seed=0)
    other = dataclasses.replace(parts, train=split(n=120, forget=30).train)
    with pytest.raises(ValueError, match="record is of other examples"):
        ul.unlearn("amnesiac", model, other, seed=0, record=record)
    _, few = fit_recording(network(), parts.train, dataclasses.replace(RECIPE, epochs=0), candidates=torch.tensor([1]))
    with pytest.raises(ValueError, match="lacks some of the forget set"):
        ul.unlearn("amnesiac", model, parts, seed=0, record=few)
    with pytest.raises(ValueError, match="another network"):
        ul.unlearn("amnesiac", models.build("mlp", dataset(), hidden=(9,)), parts, seed=0, record=record)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strangers_network_keeps_its_frozen_and_tied_weights(dtype):
    parts, net = split(), stranger()
    trained, record = fit_recording(net, parts.train, RECIPE, 0)
    trained = trained.to(dtype)
    before = state(trained)
    after = ul.unlearn("amnesiac", trained, parts, seed=0, record=record, epochs=1).model
    assert same(state(trained), before) and torch.equal(after.stem.weight, trained.stem.weight)
    assert after.third.weight is after.second.weight and after.head.weight.dtype == dtype


@pytest.mark.parametrize("keep_last", [False, True])
def test_recording_is_training(keep_last):
    parts, recipe = split(n=70, forget=10), Recipe(epochs=2, batch_size=16, keep_last=keep_last)
    model = models.build("mlp", dataset(), hidden=(4,))
    recorded, record = fit_recording(model, parts.train, recipe, seed=3, progress=False)
    assert same(state(recorded), state(training.fit(model, parts.train, recipe, seed=3, progress=False)))
    assert len(record.batches) == training.steps_of(70, recipe)


@pytest.mark.parametrize("candidates", [[1.5], [True, False], [70], [-1], "all"])
def test_candidates_are_positions(candidates):
    parts = split(n=70, forget=10)
    with pytest.raises(ValueError, match="position|mask"):
        fit_recording(models.build("mlp", dataset()), parts.train, Recipe(epochs=1), candidates=candidates)
