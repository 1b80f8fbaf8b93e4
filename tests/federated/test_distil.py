"""Subtraction and distillation: conservation, the limit of no lesson, public labels that are not read."""

from dataclasses import replace

import torch
from pictures import fitted, state
from small import examples

PUBLIC = examples(40, seed=9)


def test_what_is_subtracted_is_what_was_added():
    """w' = w_0 + the sum of what the others brought in, with their old shares."""
    made = fitted(double=True, alpha=1.0)
    wanted, total = made._start.clone(), 96
    for r in made._history:
        wanted += sum(r.sizes[k] / total * r.updates[k] for k in (0, 2, 3))
    made.forget(clients=1, by="distil", epochs=0)
    assert torch.allclose(made._weights, wanted, atol=1e-14)


def test_two_requests_subtract_what_one_does():
    one, two = fitted(double=True), fitted(double=True)
    one.forget(clients=[1, 3], by="distil", epochs=0)
    two.forget(clients=1, by="distil", epochs=0)
    two.forget(clients=3, by="distil", epochs=0)
    assert torch.allclose(one._weights, two._weights, atol=1e-14)


def test_labels_are_not_read_and_nobody_is_asked():
    ends = []
    for labels in (PUBLIC.labels, torch.zeros_like(PUBLIC.labels)):
        made = fitted()
        receipt = made.forget(clients=1, by="distil", public=replace(PUBLIC, labels=labels), epochs=3, batch_size=8)
        ends.append(state(made))
    assert torch.equal(*ends) and receipt.touched["client updates"] == 0
    assert receipt.touched["evaluations at the server"] == 40 + 3 * 40 and receipt.cost.work == 40 + 3 * 3 * 40


def test_the_student_moves_to_the_teacher():
    original = fitted()
    teacher = torch.log_softmax(original.logits(PUBLIC.images) / 3, 1)

    def apart(epochs):
        made = original.branch()
        made.forget(clients=1, by="distil", public=PUBLIC, epochs=epochs, batch_size=8)
        student = torch.log_softmax(made.logits(PUBLIC.images) / 3, 1)
        return (teacher.exp() * (teacher - student)).sum(1).mean().item()

    assert apart(40) < 0.2 * apart(0)
