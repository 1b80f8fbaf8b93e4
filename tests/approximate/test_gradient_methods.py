"""Each gradient method against its equation, its limits, and the released defect that it must not repeat."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate.random_labels import wrong_labels
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def gradient(model, part) -> torch.Tensor:
    loss = F.cross_entropy(model(part.pixels()), part.labels)
    return torch.autograd.grad(loss, model[1].weight)[0]


PLAIN = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def test_finetune_takes_one_gradient_step_on_the_retain_set():
    model, parts = linear(), split()
    after = ul.unlearn("finetune", model, parts, seed=0, batch_size=100, **PLAIN).model
    assert torch.allclose(after[1].weight, model[1].weight - 0.1 * gradient(model, parts.retain), atol=1e-6)


def test_neggrad_climbs_the_forget_loss_and_only_that():
    model, parts = linear(), split()
    after = ul.unlearn("neggrad", model, parts, seed=0, batch_size=20, **PLAIN).model
    assert torch.allclose(after[1].weight, model[1].weight + 0.1 * gradient(model, parts.forget), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_neggrad_plus_balances_both_losses(alpha):
    model, parts = linear(), split(n=40, forget=20)
    after = ul.unlearn("neggrad_plus", model, parts, seed=0, batch_size=20, alpha=alpha, **PLAIN).model
    step = alpha * gradient(model, parts.retain) - (1 - alpha) * gradient(model, parts.forget)
    assert torch.allclose(after[1].weight, model[1].weight - 0.1 * step, atol=1e-6)


def test_random_labels_are_never_the_true_ones_and_uniform_over_the_others():
    labels = torch.arange(10).repeat(9_000)
    drawn = wrong_labels(labels, 10, torch.Generator().manual_seed(0))
    assert not (drawn == labels).any()
    counts = torch.bincount((drawn - labels) % 10, minlength=10)[1:]
    assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()


def test_random_labels_descend_on_wrong_labels_for_the_forget_set():
    model, parts = linear(), split()
    after = ul.unlearn("random_labels", model, parts, seed=0, batch_size=120, **PLAIN).model
    # With two wrong labels to choose from, the residual of a forgotten picture at its true label is its probability.
    weight = (model[1].weight - after[1].weight) / 0.1
    pixels, labels = parts.train.pixels(), parts.train.labels
    residual = torch.softmax(model(pixels), 1) - F.one_hot(labels, 3)
    true = residual[parts.retain_index].T @ pixels.flatten(1)[parts.retain_index] / 120
    forgotten = weight - true
    residual_f = torch.linalg.lstsq(pixels.flatten(1)[parts.forget_index].T, 120 * forgotten.T).solution
    probability = torch.softmax(model(pixels), 1)[parts.forget_index]
    at_label = residual_f.gather(1, labels[parts.forget_index][:, None])
    assert torch.allclose(at_label, probability.gather(1, labels[parts.forget_index][:, None]), atol=1e-3)


@pytest.fixture(scope="module")
def deep():
    parts = split()
    model = models.build("resnet_bn", dataset(), width=4)
    return training.fit(model, parts.train, Recipe(epochs=2, batch_size=16)), parts


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("k", [1, 3])
def test_last_layers_leave_the_others_bit_identical(name, k, deep):
    model, parts = deep
    chosen = models.tail(model, parts.train.pixels([0]), k)
    after = state(ul.unlearn(name, model, parts, seed=0, k=k, epochs=1, batch_size=16).model)
    for key, value in state(model).items():
        inside = key.rpartition(".")[0] in chosen
        if key.endswith(("weight", "bias")):
            assert torch.equal(after[key], value) != inside, key
        elif not inside:  # running statistics of the frozen norms
            assert torch.equal(after[key], value), key


def test_eu_k_draws_the_last_layers_anew_and_cf_k_does_not(deep):
    model, parts = deep
    start = {n: ul.unlearn(n, model, parts, seed=0, k=1, epochs=0).model[-1].weight for n in ("cf_k", "eu_k")}
    assert torch.equal(start["cf_k"], model[-1].weight)
    fresh = models.reinitialised(model, 0, only={str(len(model) - 1)})
    assert torch.equal(start["eu_k"], fresh[-1].weight) and not torch.equal(start["eu_k"], model[-1].weight)


def test_limits(deep):
    model, parts = deep
    count = len(models.layers(model, parts.train.pixels([0])))
    settings = {"seed": 0, "epochs": 1, "batch_size": 16}
    everything = ul.unlearn("cf_k", model, parts, k=count, **settings).model
    assert same(state(everything), state(ul.unlearn("finetune", model, parts, **settings).model))
    recipe = Recipe(epochs=2, batch_size=16)
    retrained = ul.unlearn("retrain", model, parts, seed=4, recipe=recipe).model
    assert same(state(retrained), state(training.fit(models.fresh(model, 4), parts.retain, recipe, seed=4)))


def test_retrain_starts_from_scratch_in_every_parameter(deep):
    model, parts = deep
    start = ul.unlearn("retrain", model, parts, seed=4, recipe=Recipe(epochs=0))
    constant = {name for name, p in models.fresh(model, 4).named_parameters() if p.unique().numel() == 1}
    for name, p in model.named_parameters():
        assert name in constant or not torch.equal(start.model.get_parameter(name), p), name
    assert start.certificate.kind == "exact" and start.certificate.epsilon == 0
    built = ul.unlearn(
        "retrain", model, parts, seed=4, recipe=Recipe(epochs=0), build=lambda seed: copy.deepcopy(model)
    )
    assert same(state(built.model), state(model))


def test_eu_k_of_all_layers_is_fine_tuning_of_an_untrained_network(deep):
    model, parts = deep
    count = len(models.layers(model, parts.train.pixels([0])))
    settings = {"seed": 3, "epochs": 1, "batch_size": 16}
    everything = ul.unlearn("eu_k", model, parts, k=count, **settings).model
    blank = models.reinitialised(model, 3)
    assert same(state(everything), state(ul.unlearn("finetune", blank, parts, **settings).model))


STACKED = ["finetune", "cf_k", "eu_k", "neggrad", "neggrad_plus", "random_labels", "scrub", "bad_teacher", "delete"]


@pytest.mark.parametrize("name", [*STACKED, "boundary_shrink", "boundary_expand"])
def test_programs_without_parts_really_run_stacked(name, monkeypatch):
    # That the results agree is tested for every method; a method that falls back to one at a time agrees as well.
    parts = split()
    parts = dataclasses.replace(parts, is_forget=parts.train.labels == 1)
    nets = [models.build("mlp", dataset(), hidden=(8,), seed=k) for k in range(2)]

    def alone(*_):
        raise AssertionError(f"{name} fell back to one model at a time")

    monkeypatch.setattr(registry, "_unlearn", alone)
    done = ul.unlearn_many(name, nets, [parts] * 2, seeds=[0, 1], epochs=1, batch_size=16)
    assert len(done) == 2 and not same(*(state(one.model) for one in done))
