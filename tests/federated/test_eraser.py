"""FedEraser: what it must be where calibration changes nothing, and by hand where it does."""

import torch
from pictures import fitted, state
from quadratic import LR, Point, Quadratic, learner, weights

from unlearnlib.federated.eraser import calibrated


def test_a_client_that_answers_as_the_others_leaves_no_trace():
    """The null client: with everything kept and calibrated in full, original = FedEraser = retraining."""
    original = learner(Quadratic().with_null())
    erased, retrained = original.branch(), original.branch()
    erased.forget(clients=0, by="eraser", interval=1, share=1.0)
    retrained.forget(clients=0)
    for other in (erased, retrained):
        assert torch.allclose(weights(other), weights(original), rtol=0, atol=1e-14)
    ordinary = learner(Quadratic())
    moved = ordinary.branch()
    moved.forget(clients=0)
    assert (weights(moved) - weights(ordinary)).norm() > 0.05  # a client with a pull of its own does leave one


def test_without_calibration_stored_updates_are_added_up():
    made = fitted(double=True)
    wanted = made._start + sum(sum(r.updates[k] for k in (0, 1, 3)) / 3 for r in made._history)
    receipt = made.forget(clients=2, by="eraser", interval=1, share=0)
    assert torch.allclose(made._weights, wanted, rtol=0, atol=1e-14)
    assert receipt.touched["client updates"] == 0 and receipt.cost.work == 0


def test_replaying_by_hand():
    """Every second of eight rounds: the first as stored, then stored lengths along new directions."""
    clients, w = Quadratic(), Point().w.detach().clone()
    made = learner(clients)
    for j, t in enumerate((0, 2, 4, 6)):
        move = []
        for k in (0, 1, 3):
            old, new = made._history[t].updates[k], clients.step(k, w)
            move.append(old if j == 0 else new / new.norm() * old.norm())
        w = w + sum(move) / 3
    clients.asked.clear()
    made.forget(clients=2, by="eraser", interval=2)
    assert torch.allclose(weights(made), w, rtol=0, atol=1e-14)
    assert clients.asked == [0, 1, 3] * 3 and made.trained_rounds == 8


def test_lengths_are_those_that_were_stored():
    old, new = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    turned = calibrated(old, new)
    assert torch.allclose(turned.norm(), old.norm()) and torch.allclose(turned / turned.norm(), new / new.norm())
    assert torch.equal(calibrated(old, torch.zeros(50)), torch.zeros(50))


def test_the_length_as_released_is_the_pull_of_the_one_that_leaves():
    """The planted defect: subtracting the model after the round gives every client the same wrong length."""
    clients = Quadratic()
    made, w = learner(clients), Point().w.detach()
    after = w + sum(clients.step(k, w) for k in range(4)) / 4  # the global model after the round
    right = [made._history[0].updates[k] for k in (0, 1, 3)]
    released = sum(w + u - after for u in right) / 3
    pull = (clients.step(2, w) - sum(right) / 3) / 4
    assert torch.allclose(released, -pull, atol=1e-14)
    assert released.norm() < 0.5 * (sum(right) / 3).norm() and LR == 0.2


def test_a_share_of_the_local_epochs_is_run():
    one, two = fitted(), fitted()
    half = one.forget(clients=1, by="eraser", interval=1, share=0.5)
    full = two.forget(clients=1, by="eraser", interval=1, share=1.0)
    assert 2 * half.cost.work == full.cost.work == 3 * 2 * 3 * 48  # two of three rounds are calibrated
    assert not torch.equal(state(one), state(two))
