"""SCRUB, bad teacher and DELETE: the divergences against torch's own, the teachers' silence, and the limits."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.approximate.delete import without_class
from unlearnlib.approximate.scrub import _Rewind
from unlearnlib.approximate.steps import matched_mean
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally

PLAIN = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def linear(seed: int = 0, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def divergence(teacher, student, pixels, temperature: float = 1.0):
    """T^2 KL(teacher || student), the mean over examples of the sum over classes, by torch."""
    logs = torch.log_softmax(student(pixels) / temperature, 1)
    with torch.no_grad():
        target = torch.softmax(teacher(pixels) / temperature, 1)
    return temperature**2 * F.kl_div(logs, target, reduction="batchmean")


def stepped(model, loss, lr: float = 0.1):
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.sub_(lr * g)


def close(first: nn.Module, second: nn.Module, atol: float = 2e-6) -> bool:
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_scrub_follows_its_equation_for_three_epochs():
    teacher, parts = linear(), split()
    settings = {"epochs": 3, "forget_epochs": 2, "alpha": 0.7, "gamma": 0.9, "temperature": 3.0}
    done = ul.unlearn("scrub", teacher, parts, seed=0, batch_size=100, forget_batch_size=20, **settings, **PLAIN)
    student = copy.deepcopy(teacher)
    retain, forget = parts.retain.pixels(), parts.forget.pixels()
    for epoch in range(3):
        if epoch < 2:
            stepped(student, -divergence(teacher, student, forget, 3.0))
        labelled = F.cross_entropy(student(retain), parts.retain.labels)
        stepped(student, 0.9 * labelled + 0.7 * divergence(teacher, student, retain, 3.0))
    assert close(done.model, student)
    assert not close(done.model, teacher, atol=1e-3)  # an optimiser that holds the teacher moves nobody


def test_scrub_obeys_and_disobeys_its_teacher(trained):
    # A student that shares the teacher's weights has no divergence at all, and so only fine-tunes.
    model, parts = trained
    forget = parts.forget.pixels()
    settings = {"epochs": 2, "batch_size": 100, "forget_batch_size": 5, "lr": 0.1}
    far = [
        divergence(model, ul.unlearn("scrub", model, parts, seed=0, forget_epochs=e, **settings).model, forget).item()
        for e in (0, 2)
    ]
    assert far[1] > 2 * far[0] > 0


def test_the_first_forgetting_pass_of_scrub_has_no_gradient(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 1, "alpha": 0.0, "gamma": 0.0, **PLAIN}
    assert close(ul.unlearn("scrub", model, parts, forget_epochs=1, **settings).model, model, atol=1e-6)


def test_scrub_without_its_teacher_is_fine_tuning(trained):
    model, parts = trained
    settings = {"seed": 3, "epochs": 2, "batch_size": 16}
    scrub = ul.unlearn("scrub", model, parts, forget_epochs=0, alpha=0.0, gamma=1.0, **settings)
    assert same(state(scrub.model), state(ul.unlearn("finetune", model, parts, **settings).model))
    assert scrub.cost.forward_evaluations == len(parts.train)


def test_scrub_r_rewinds_to_the_epoch_nearest_the_validation_error(memorised):
    model, parts = memorised
    settings = {"seed": 0, "forget_epochs": 3, "forget_batch_size": 5, "batch_size": 20, "lr": 0.02}
    each = [ul.unlearn("scrub", model, parts, epochs=e, **settings).model for e in range(1, 5)]
    errors = [1 - training.accuracy(m, parts.forget) for m in each]
    wrong = (training.predict(each[-1], parts.validation).argmax(1) != parts.validation.labels).float()
    wanted = matched_mean(wrong, parts.validation.labels, parts.forget.labels)
    distances = [abs(error - wanted) for error in errors]
    best = max(i for i in range(4) if distances[i] == min(distances))
    assert best != 3 and errors[3] > errors[best]  # else there is nothing to rewind
    rewound = ul.unlearn("scrub_r", model, parts, epochs=4, **settings).model
    assert same(state(rewound), state(each[best]))


def test_the_rewind_is_to_the_first_of_the_nearest_errors_and_weighs_classes_as_the_forget_set_does():
    """F is of class 0, and its errors are 2/8, 3/8, 5/8, 6/8. Of validation class 0 errs 1/2, and class 1 always."""
    parts, model = split(), nn.Linear(1, 1)
    forget = dataclasses.replace(parts.forget, labels=torch.zeros(20, dtype=torch.int64))
    held_out = dataclasses.replace(parts.validation, labels=torch.arange(24) % 2)
    rewind = _Rewind(SimpleNamespace(forget=forget, validation=held_out), (1, 2, 3, 4), Tally())

    def wrong(model, examples):
        if examples is forget:
            return torch.full((20,), model.bias.item())
        return torch.where(examples.labels == 0, 0.5, 1.0)

    rewind._wrong = wrong
    for step, error in enumerate((0.25, 0.375, 0.625, 0.75)):
        nn.init.constant_(model.bias, error)
        rewind.after_step(model, step)
    assert rewind.rewound(model).bias.item() == 0.375


def test_scrub_r_needs_validation_examples_of_the_forgotten_classes(trained):
    model, parts = trained
    for held_out in (parts.validation[:0], parts.validation[parts.validation.labels == 0]):
        lacking = dataclasses.replace(parts, validation=held_out, is_forget=parts.train.labels == 1)
        with pytest.raises(ValueError, match="needs validation examples of the forgotten classes"):
            ul.unlearn("scrub_r", model, lacking, seed=0)


def test_the_validation_error_weighs_classes_as_the_forget_set_does():
    values, labels = torch.tensor([1.0, 0.0, 0.5, 0.7]), torch.tensor([0, 0, 1, 3])
    assert matched_mean(values, labels, torch.tensor([0, 1, 1, 1])) == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    assert matched_mean(values, labels, torch.tensor([1, 2])) == 0.5  # nobody knows class 2
    with pytest.raises(ValueError, match="no example of a forgotten class"):
        matched_mean(values, labels, torch.tensor([4]))


def test_bad_teacher_takes_the_gradient_of_the_mixed_divergence():
    teacher, parts = linear(), split()
    settings = {"epochs": 1, "batch_size": 120, "retain_fraction": 1.0, "temperature": 2.0, **PLAIN}
    after = ul.unlearn("bad_teacher", teacher, parts, seed=5, build=lambda seed: linear(seed + 1), **settings).model
    student = copy.deepcopy(teacher)
    loss = 20 / 120 * divergence(linear(6), student, parts.forget.pixels(), 2.0)
    loss = loss + 100 / 120 * divergence(teacher, student, parts.retain.pixels(), 2.0)
    before = copy.deepcopy(student)
    stepped(student, loss)
    assert close(after, student)
    # reduction="mean" divides by the number of classes too: a third of the step, which must not pass
    assert not close(after, before, atol=0.5 * (student[1].weight - before[1].weight).abs().max().item())


def test_a_bad_teacher_that_is_the_original_teaches_nothing(trained):
    model, parts = trained
    settings = {"seed": 0, "epochs": 2, "momentum": 0.0, "weight_decay": 0.0}
    done = ul.unlearn("bad_teacher", model, parts, build=lambda seed: copy.deepcopy(model), **settings)
    assert close(done.model, model, atol=1e-6)


def test_bad_teacher_reads_the_share_of_the_retain_set_that_it_is_given(trained):
    model, parts = trained
    done = ul.unlearn("bad_teacher", model, parts, seed=0, epochs=1, batch_size=10, retain_fraction=0.3)
    assert done.cost.gradient_evaluations == 50 and done.cost.forward_evaluations == 50


@pytest.mark.parametrize("name", ["scrub", "bad_teacher", "delete"])
def test_the_mode_of_the_given_model_does_not_matter(name):
    parts, settings = split(), {"seed": 0, "epochs": 1, "batch_size": 16}
    model = training.fit(models.build("resnet_bn", dataset(), width=4), parts.train, Recipe(epochs=1))
    first = ul.unlearn(name, model.eval(), parts, **settings).model
    assert same(state(first), state(ul.unlearn(name, model.train(), parts, **settings).model))


def test_delete_removes_the_true_class_and_keeps_the_proportions_of_the_others():
    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    target, full = without_class(logits, labels), torch.softmax(logits, 1)
    own = F.one_hot(labels, 4).bool()
    assert torch.equal(target[own], torch.zeros(50))
    others = full.masked_fill(own, 0)
    assert torch.allclose(target, others / others.sum(1, keepdim=True), atol=1e-6)


def test_delete_descends_on_its_target_alone():
    model, parts = linear(), split()
    after = ul.unlearn("delete", model, parts, seed=0, epochs=1, batch_size=20, **PLAIN).model
    pixels = parts.forget.pixels()
    residual = torch.softmax(model(pixels), 1) - without_class(model(pixels), parts.forget.labels)
    assert torch.allclose(after[1].weight, model[1].weight - 0.1 * residual.T @ pixels.flatten(1) / 20, atol=1e-6)


def test_delete_of_two_classes_is_relabelling():
    model, parts = linear(classes=2), split(classes=2)
    after = ul.unlearn("delete", model, parts, seed=0, epochs=1, batch_size=20, **PLAIN).model
    relabelled = copy.deepcopy(model)
    stepped(relabelled, F.cross_entropy(relabelled(parts.forget.pixels()), 1 - parts.forget.labels))
    assert close(after, relabelled)


def test_published_optimisers_can_be_asked_for(trained):
    model, parts = trained
    settings = {"epochs": 2, "forget_epochs": 1, "optimiser": "adamw", "lr": 5e-4, "weight_decay": 0.1}
    after = ul.unlearn("scrub", model, parts, seed=0, batch_size=100, **settings).model
    step = max((a - b).abs().max().item() for a, b in zip(after.parameters(), model.parameters(), strict=True))
    assert 5e-4 < step < 3 * 5e-4 * 1.1  # three steps of Adam, each of about lr
