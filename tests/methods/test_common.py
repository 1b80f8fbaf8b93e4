"""What every method understands: frozen norms, augmentation, smoothing; and what one that reads nothing sees."""

import dataclasses
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, ingredients, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.data.examples import Split
from unlearnlib.methods import common, registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models
from unlearnlib.training.batches import Batch
from unlearnlib.training.recipe import Recipe

BY_RATE = sorted(n for n in HOMES if hasattr(registry.configure(n), "lr") and n not in ("amnesiac", "unrolled_sgd"))
# eu_k and gkt start anew, unsir and fcs have more than one rate, the others change weights before they descend
RESTLESS = ("eu_k", "unsir", "gkt", "fcs", "msg", "cfw", "prmq", "ct", "kde", "rni")
STILL = [n for n in BY_RATE if n not in RESTLESS]
OPTIONS = {
    "dlfd": {"noise_steps": 2},
    "dlfd_as_released": {"noise_steps": 2},
}


@pytest.fixture(scope="module")
def trained():
    parts = whole_class()
    model = models.build("resnet_bn", dataset(), width=4)
    return training.fit(model, parts.train, Recipe(epochs=2, batch_size=16)), parts


def whole_class() -> Split:
    """Class 2 is forgotten, so that every method takes the request."""
    everything, held_out = examples(n=120), examples(n=60, seed=3)
    gone = everything.labels == 2
    parts = {"retain": everything[~gone], "forget": everything[gone], "validation": held_out, "test": held_out}
    return Split.of(**parts)


def quick(name: str) -> dict:
    fields = {f.name for f in dataclasses.fields(registry.find(name).config)}
    given = {"epochs": 2, "batch_size": 16, "lr": 0.0, "weight_decay": 0.0}
    return {k: v for k, v in {**given, **OPTIONS.get(name, {})}.items() if k in fields}


@pytest.mark.parametrize("name", STILL)
def test_frozen_norms_and_rate_zero_change_no_bit(name, trained):
    model, parts = trained
    done = ul.unlearn(name, model, parts, seed=0, freeze_norms=True, **quick(name), **ingredients(name, parts))
    assert same(state(done.model), state(model)) and done.config.freeze_norms is True


def test_without_frozen_norms_the_statistics_move_and_with_them_only_weights_do(trained):
    model, parts = trained
    norms = {n for n in state(model) if "running" in n or "num_batches" in n}
    settings = {"seed": 0, "epochs": 2, "batch_size": 16}
    loose = state(ul.unlearn("delete", model, parts, lr=0.0, weight_decay=0.0, **settings).model)
    assert {n for n, v in state(model).items() if not torch.equal(v, loose[n])} == norms
    held = state(ul.unlearn("delete", model, parts, lr=0.1, freeze_norms=True, **settings).model)
    moved = {n for n, v in state(model).items() if not torch.equal(v, held[n])}
    assert moved and not moved & norms


@pytest.mark.parametrize("name", ["eu_k", "unsir", "finetune", "neggrad", "dlfd"])
def test_frozen_norms_keep_their_statistics_at_any_rate(name, trained):
    model, parts = trained
    given = {**quick(name), "lr": 0.05}
    found = state(ul.unlearn(name, model, parts, seed=0, freeze_norms=True, **given).model)
    assert all(torch.equal(found[n], v) for n, v in state(model).items() if "running" in n or "num_batches" in n)
    assert not same(found, state(model))


def test_many_at_once_with_frozen_norms_equal_one_at_a_time():
    parts, nets = split(), [models.build("resnet_bn", dataset(), seed=s, width=4).double() for s in (0, 1)]
    settings = {"epochs": 1, "batch_size": 16, "freeze_norms": True, "augment": "flip-crop", "label_smoothing": 0.1}
    many = ul.unlearn_many("finetune", nets, [parts, parts], seeds=[3, 4], **settings)
    for net, seed, done in zip(nets, (3, 4), many, strict=True):
        alone = state(ul.unlearn("finetune", net, parts, seed=seed, **settings).model)
        assert all(torch.allclose(v, alone[n], atol=1e-10) for n, v in state(done.model).items())


def test_a_loop_that_moves_statistics_although_they_are_frozen_is_caught(trained, monkeypatch):
    def careless(model, parts, config, run):
        model.train()
        model(parts.train.pixels())
        return model

    made = registry.Method("careless", "toy", "retain", "none", "none", careless, Plain)
    monkeypatch.setitem(registry._registered, "careless", made)
    model, parts = trained
    ul.unlearn("careless", model, parts, seed=0)
    with pytest.raises(RuntimeError, match="careless moved the statistics of"):
        ul.unlearn("careless", model, parts, seed=0, freeze_norms=True)


def test_retraining_has_no_statistics_to_freeze(trained):
    model, parts = trained
    with pytest.raises(ValueError, match="retraining starts anew"):
        ul.unlearn("retrain", model, parts, seed=0, freeze_norms=True)


def test_common_hyper_parameters_are_checked_listed_and_pickled():
    config = registry.configure("scrub", freeze_norms=True, augment="flip", alpha=0.25)
    assert pickle.loads(pickle.dumps(config)) == config and config.alpha == 0.25
    assert "freeze_norms=False" in ul.methods().set_index("name").loc["ssd", "defaults"]
    assert all("freeze_norms=False" in defaults for defaults in ul.methods().defaults)
    for wrong, message in (
        ({"freeze_norms": 1}, "True or False"),
        ({"augment": "rotate"}, "augment must be one of"),
        ({"label_smoothing": "0.1"}, "from 0 to 1"),
        ({"label_smoothing": 2}, "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.configure("finetune", **wrong)
    with pytest.raises(ValueError, match="ssd has no hyper-parameter 'augment'"):
        registry.configure("ssd", augment="flip")
    published = registry.find("scrub").published
    assert published["augment"] == "none" and published["label_smoothing"] == 0.0


@dataclass(frozen=True)
class Plain:
    steps: int = 1


def test_programs_descend_by_the_augmentation_and_labels_that_are_asked_for(trained):
    model, parts = trained
    recipe = registry.configure("finetune", epochs=2, batch_size=16).recipe()
    asked = dataclasses.replace(recipe, augment="flip-crop", label_smoothing=0.2)
    made = {"augment": "flip-crop", "label_smoothing": 0.2}
    done = ul.unlearn("finetune", model, parts, seed=1, epochs=2, batch_size=16, **made)
    rng = registry.Run(1).generator("order")
    order = training.minibatches(len(parts.retain_index), 16, 2, rng)
    where, labels = parts.retain_index, parts.train.labels
    batches = [Batch(where[i], labels[where[i]]) for i in order]
    by_hand = training.descend(models.copied(model), parts.train, batches, asked, len(batches), seed=1)
    assert same(state(done.model), state(by_hand))
    plain = ul.unlearn("finetune", model, parts, seed=1, epochs=2, batch_size=16)
    assert not same(state(plain.model), state(done.model))


@pytest.mark.parametrize("name", ["scrub", "unsir", "dlfd", "salun", "delete", "cf_k"])
def test_augmentation_and_smoothing_reach_every_loop(name, trained):
    model, parts = trained
    given = {**quick(name), "lr": 0.02}
    results = [
        state(ul.unlearn(name, model, parts, seed=0, **given, **more).model)
        for more in ({}, {"augment": "shift"}, {"label_smoothing": 0.3})
    ]
    assert not same(results[0], results[1])
    soft_alone = name == "delete"  # it reads no label
    assert same(results[0], results[2]) == soft_alone


# A method that reads nothing.


@pytest.fixture
def nothing(monkeypatch):
    """Zero-shot: pictures of its own, labels drawn among those of the retain set; `peek` breaks the promise."""

    def zero_shot(model, parts, config, run):
        seen.append(parts)
        if config.peek == "pixels":
            parts.train.pixels([0])
        rng, kept = run.generator("noise"), parts.retain.labels.unique()
        noise = torch.rand(16, *parts.train.shape, generator=rng)
        if config.peek == "images":
            noise[0] = parts.forget.images[0]
        if config.peek == "validation":
            noise[0] = parts.validation.images[0]
        labels = kept[torch.randint(len(kept), (16,), generator=rng)]
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        with training.training_mode(model):
            for _ in range(3):
                optimiser.zero_grad()
                F.cross_entropy(model(noise), labels).backward()
                optimiser.step()
        return model

    @dataclass(frozen=True)
    class Peek:
        peek: str = ""

    seen: list[Split] = []
    made = registry.Method("zero_shot", "toy", "none", "none", "none", zero_shot, Peek)
    monkeypatch.setitem(registry._registered, "zero_shot", made)
    return seen


def test_a_method_that_reads_none_sees_no_picture(nothing, trained):
    model, parts = trained
    done = ul.unlearn("zero_shot", model, parts, seed=0)
    assert not same(state(done.model), state(model))
    (shown,) = nothing
    for part in (shown.train, shown.retain, shown.forget, shown.validation):
        assert torch.isnan(part.images).all() and part.shape == (1, 8, 8)
    assert shown.test is None and torch.equal(shown.forget.labels, parts.forget.labels)
    images = torch.full_like(parts.train.images, 255)  # any other pictures: the same bits
    other = dataclasses.replace(parts, train=dataclasses.replace(parts.train, images=images))
    assert same(state(ul.unlearn("zero_shot", model, other, seed=0).model), state(done.model))
    many = ul.unlearn_many("zero_shot", [model, model], [parts, parts], seeds=[0, 1])
    assert same(state(many[0].model), state(done.model))


def test_pictures_that_are_nan_change_no_bit_of_a_method_that_reads_none(nothing, trained):
    model, parts = trained
    blank = common.blinded(parts)
    results = [ul.unlearn("zero_shot", model, p, seed=0) for p in (parts, blank)]
    assert same(*(state(r.model) for r in results))


@pytest.mark.parametrize(
    "peek, error", [("pixels", ValueError), ("images", ArithmeticError), ("validation", ArithmeticError)]
)
def test_a_method_that_reads_although_it_says_none_is_caught(peek, error, nothing, trained):
    with pytest.raises(error, match='reads="none"|not finite'):
        ul.unlearn("zero_shot", *trained, seed=0, peek=peek)


def test_what_a_method_reads_is_one_of_four():
    with pytest.raises(ValueError, match="reads is one of"):
        registry.Method("toy", "toy", "everything", "none", "none", None, Plain)


# Precision.


def toy(monkeypatch, change):
    made = registry.Method("toy", "toy", "retain", "none", "none", lambda m, s, c, r: change(m), Plain)
    monkeypatch.setitem(registry._registered, "toy", made)


@pytest.mark.parametrize(
    "dtype, size", [(torch.float16, 1e5), (torch.float32, float("inf")), (torch.float64, float("inf"))]
)
def test_divergence_is_judged_in_the_precision_of_what_is_returned(dtype, size, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(dtype)

    def grown(working):
        with torch.no_grad():
            working[1].bias.fill_(size)
        return working

    toy(monkeypatch, grown)
    with pytest.raises(training.Diverged, match="bias is not finite"):
        ul.unlearn("toy", model, split(), seed=0)


@pytest.mark.parametrize("name", ["finetune", "scrub", "newton", "ssd", "fisher_forgetting", "neggrad_plus", "salun"])
def test_a_double_model_is_worked_on_in_double_and_frozen_layers_keep_their_bits(name):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3)]
    model = nn.Sequential(*layers).double()
    model[0].requires_grad_(False), model[1].requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-12 * torch.rand_like(p))  # digits that single precision does not have
        model[1].running_mean.add_(1e-12)
    seen = []
    function = registry.find(name).function
    spy = dataclasses.replace(registry.find(name), function=lambda m, *rest: (seen.append(m), function(m, *rest))[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._registered, name, spy)
        after = state(ul.unlearn(name, model, split(), seed=0).model)
    assert {v.dtype for v in state(seen[0]).values() if v.is_floating_point()} == {torch.float64}
    for key, value in state(model).items():
        assert value.dtype == after[key].dtype
        assert torch.equal(value, after[key]) or not key.startswith(("0.", "1.")), key
    assert not same(state(model), after) or name == "ssd"  # which by default finds nothing to dampen here
