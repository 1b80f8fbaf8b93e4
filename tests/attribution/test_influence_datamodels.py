"""The stand-in from curvature: to first order the influence step, averaged over models, a datamodel like any other."""

import copy

import pytest
import torch
from small import dataset, examples, same, split, state

import unlearnlib as ul
from unlearnlib import attribution, training
from unlearnlib.approximate.curvature.products import jvp
from unlearnlib.approximate.gradients import weights
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


@pytest.fixture(scope="module")
def known():
    parts = split(n=60, forget=6)
    nets = [models.build("mlp", dataset(), seed=k, hidden=(6,)) for k in range(2)]
    return [
        training.fit(net, parts.train, Recipe(epochs=3, batch_size=16), k).double() for k, net in enumerate(nets)
    ], parts


@pytest.mark.parametrize("damping", [1e-3, 1e-1])
def test_its_effect_is_that_of_the_influence_step_to_first_order(known, damping):
    (model, _), parts = known
    queries = examples(n=9, seed=4)
    found = attribution.influence_datamodel([model], parts.train, queries, damping=damping)
    stepped = ul.unlearn("influence", model, parts, seed=0, solver="ekfac", damping=damping).model
    change = jvp(model, queries, weights(stepped) - weights(model))
    assert torch.allclose(-found.effect(parts.forget_index), change, rtol=1e-8, atol=1e-10)
    assert change.abs().max() > 1e-4


def test_models_are_averaged_and_the_whole_training_set_gives_their_answers(known):
    nets, parts = known
    before = [state(net) for net in nets]
    both = attribution.influence_datamodel(nets, parts.train)
    each = [attribution.influence_datamodel([net], parts.train) for net in nets]
    assert torch.allclose(both.weights, (each[0].weights + each[1].weights) / 2, atol=1e-12)
    whole = both.predict(torch.ones(1, 60, dtype=torch.bool))[0]
    with torch.no_grad():
        answers = [net(parts.train.pixels(dtype=torch.float64)) for net in nets]
    assert torch.allclose(whole, (answers[0] + answers[1]) / 2, atol=1e-12)
    assert both.models == 2 and both.checksum == parts.train.checksum() and both.work > 0
    assert all(same(state(net), old) for net, old in zip(nets, before, strict=True))


def test_it_can_be_matched(known):
    (model, _), parts = known
    made = attribution.influence_datamodel([model], parts.train)
    done = ul.unlearn("datamodel_matching", model, parts, seed=0, datamodel=made, epochs=60, lr=1e-2)
    where = parts.forget_index
    with torch.no_grad():
        start, end = (m(parts.train[where].pixels(dtype=torch.float64)) for m in (model, done.model))
    wanted = start - made.effect(where)[where]
    assert (end - wanted).norm() < 0.5 * (start - wanted).norm()


def test_what_it_cannot_do_is_refused(known):
    (model, _), parts = known
    with pytest.raises(ValueError, match="at least one model"):
        attribution.influence_datamodel([], parts.train)
    with pytest.raises(ValueError, match="damping > 0"):
        attribution.influence_datamodel([copy.deepcopy(model)], parts.train, damping=0.0)
