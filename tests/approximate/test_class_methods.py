"""Boundary unlearning and UNSIR: what a class is turned into, the extra output, the noise; and who is refused."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, same, split, state, stranger
from torch import nn

import unlearnlib as ul
from unlearnlib import data, training
from unlearnlib.approximate import unsir
from unlearnlib.approximate.boundary import narrowed, nearest_other, widened
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.loop import Tally
from unlearnlib.training.recipe import Recipe

NAMES = ["boundary_shrink", "boundary_expand", "unsir"]
PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def one_class(forgotten=(1,), request: str = "class:1", **options) -> Split:
    whole = split(**options)
    return dataclasses.replace(
        whole, is_forget=torch.isin(whole.train.labels, torch.tensor(forgotten)), request=request
    )


@pytest.fixture(scope="module")
def trained():
    parts = one_class()
    return training.fit(
        models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=8, batch_size=16)
    ), parts


@pytest.mark.parametrize("name", NAMES)
def test_requests_other_than_whole_classes_are_refused(name, trained):
    model, _ = trained
    mixed = dataclasses.replace(split(), request="random:20")
    with pytest.raises(
        ValueError, match=f"^{name} forgets whole classes only: ask for class:<name>, not for random:20$"
    ):
        ul.unlearn(name, model, mixed, seed=0)
    part_of_one = one_class(request="class:1,n=3")
    part_of_one.is_forget[part_of_one.forget_index[3:]] = False
    with pytest.raises(ValueError, match="whole classes only"):
        ul.unlearn(name, model, dataclasses.replace(part_of_one), seed=0)


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_class_goes_and_the_others_stay(name, trained):
    model, parts = trained
    after = ul.unlearn(name, model, parts, seed=0, batch_size=16, lr=0.03).model
    assert training.accuracy(model, parts.forget) > 0.9 and training.accuracy(after, parts.forget) < 0.1
    assert training.accuracy(after, parts.retain) > 0.9


def test_the_neighbour_is_the_likeliest_other_class_after_a_clamped_step(trained):
    model, parts = trained
    tally = Tally()
    found = nearest_other(model, parts.forget, 0.1, tally, batch_size=7)
    pixels = parts.forget.pixels().requires_grad_(True)
    F.cross_entropy(model(pixels), parts.forget.labels).backward()
    free = pixels.detach() + 0.1 * pixels.grad.sign()
    assert free.min() < 0  # so the clamp matters
    moved = free.clamp(0, 1)
    logits = model(moved).detach()
    assert (found != parts.forget.labels).all()
    for label, row, class_ in zip(parts.forget.labels, logits, found, strict=True):
        assert row[class_] == max(v for c, v in enumerate(row) if c != label)
    assert tally == Tally(len(parts.forget), len(parts.forget))


def test_a_step_of_zero_still_never_names_the_class_itself(trained):
    model, parts = trained
    assert (training.predict(model, parts.forget).argmax(1) == parts.forget.labels).float().mean() > 0.9
    assert (nearest_other(model, parts.forget, 0.0, Tally()) != parts.forget.labels).all()


def test_shrinking_two_classes_is_relabelling():
    parts = one_class(classes=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    n = len(parts.forget)
    after = ul.unlearn("boundary_shrink", model, parts, seed=0, epochs=1, lr=0.1, batch_size=n, **PLAIN).model
    loss = F.cross_entropy(model(parts.forget.pixels()), 1 - parts.forget.labels)
    step = torch.autograd.grad(loss, model[1].weight)[0]
    assert torch.allclose(after[1].weight, model[1].weight - 0.1 * step, atol=1e-6)


def test_widening_keeps_the_outputs_and_narrowing_restores_them():
    for model in (stranger().eval(), models.build("cnn", dataset()).eval()):
        pixels = examples(5).pixels()
        head = models.head_name(model, pixels[:1])
        wide = widened(copy.deepcopy(model), head, torch.Generator().manual_seed(0))
        assert wide(pixels).shape == (5, 4) and torch.allclose(wide(pixels)[:, :3], model(pixels), atol=1e-6)
        assert same(state(narrowed(wide, head)), state(model))


def test_expanding_trains_the_shadow_class_and_drops_it(trained):
    model, parts = trained
    n = len(parts.forget)
    settings = {"seed": 0, "epochs": 1, "lr": 0.1, "batch_size": n, **PLAIN}
    after = ul.unlearn("boundary_expand", model, parts, **settings).model
    assert {k: v.shape for k, v in state(after).items()} == {k: v.shape for k, v in state(model).items()}
    head = models.head_name(model, parts.train.pixels([0]))
    wide = widened(copy.deepcopy(model), head, registry.Run(0).generator("shadow"))
    loss = F.cross_entropy(wide(parts.forget.pixels()), torch.full((n,), 3))
    slopes = torch.autograd.grad(loss, list(wide.parameters()))
    for (name, p), slope in zip(model.named_parameters(), slopes, strict=True):
        expected = p - 0.1 * slope[: len(p)]
        assert torch.allclose(after.get_parameter(name), expected, atol=1e-6), name


def test_expanding_refuses_a_network_without_a_linear_head():
    model = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(ValueError, match="last layer is a linear one"):
        ul.unlearn("boundary_expand", model, one_class(), seed=0)


def test_every_noise_picture_is_made_for_the_class_that_it_is_labelled_with(trained):
    # Defects of released code: 3 of 256 pictures used, and all labelled with one class whatever was forgotten.
    model, _ = trained
    parts = one_class((1, 2), request="class:1,2")
    config, kept = unsir.Unsir(noise_images=5, penalty=0.0), parts.retain_index
    both = unsir.impairing_set(model, parts, kept, config, registry.Run(0))
    assert len(both) == len(kept) + 10 and both.labels[-10:].tolist() == [1] * 5 + [2] * 5
    assert torch.equal(both.pixels()[: len(kept)], parts.train.pixels(kept))
    start = unsir.impairing_set(model, parts, kept, dataclasses.replace(config, noise_steps=0), registry.Run(0))
    losses = [F.cross_entropy(training.predict(model, s), s.labels, reduction="none")[-10:] for s in (start, both)]
    assert (losses[1] > losses[0]).all() and losses[1].min() > 5
    assert len(both.images[-10:].flatten(1).unique(dim=0)) == 10


def test_optimised_noise_is_what_unlearns_the_class():
    ds = data.load("digits")
    parts = data.split(ds, "class:3", seed=0)
    model = training.fit(models.build("mlp", ds, hidden=(32,)), parts.train, Recipe(epochs=10))
    known = [training.accuracy(model, parts.forget)]
    for changes in ({"noise_images": 0}, {"noise_steps": 0}, {}):
        after = ul.unlearn("unsir", model, parts, seed=0, **changes).model
        known.append(training.accuracy(after, parts.forget))
    assert known[0] > 0.9 and min(known[:3]) > 0.3 and known[3] < 0.05
    assert training.accuracy(after, parts.retain) > 0.75


def test_unsir_takes_people_only_when_told_and_then_knows_no_more_than_their_classes():
    whole = dataclasses.replace(split(), request="random:20")
    model = models.build("mlp", dataset(), hidden=(16,))
    changed = whole.train.images.clone()
    changed[whole.forget_index] = 0
    blind = dataclasses.replace(whole, train=dataclasses.replace(whole.train, images=changed))
    both = [ul.unlearn("unsir", model, parts, seed=0, whole_classes=False).model for parts in (whole, blind)]
    assert same(state(both[0]), state(both[1])) and not same(state(both[0]), state(model))
    config, kept = unsir.Unsir(noise_images=2, noise_steps=1), whole.retain_index
    made = unsir.impairing_set(model, whole, kept, config, registry.Run(0))
    assert made.labels[len(kept) :].tolist() == whole.forget.labels.unique().repeat_interleave(2).tolist()


def test_the_penalty_alone_shrinks_noise_to_the_mean_picture():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(flat[1].weight)  # a constant network: no cross-entropy gradient
    config = unsir.Unsir(noise_steps=300, penalty=1.0)
    mean, std = torch.full((1, 8, 8), 0.4), torch.full((1, 8, 8), 0.2)
    labels, rng = torch.zeros(3, dtype=torch.int64), torch.Generator().manual_seed(0)
    noise = unsir.error_maximising(flat, labels, mean, std, config, rng, Tally())
    assert torch.allclose(noise, mean.expand(3, 1, 8, 8), atol=2e-3)


def test_unsir_never_reads_the_forgotten_pictures_and_without_noise_is_fine_tuning(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 2, "lr": 0.02, "batch_size": 16}
    plain = ul.unlearn("finetune", model, parts, **settings).model
    limit = ul.unlearn("unsir", model, parts, noise_images=0, repair_epochs=0, retain_fraction=1.0, **settings)
    assert same(state(limit.model), state(plain))
