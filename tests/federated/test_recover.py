"""FedRecover: true curvature is retraining, the secant equation, and what corrections are worth."""

import math

import pytest
import torch
from pictures import fitted, state
from quadratic import LR, Quadratic, learner, weights

from unlearnlib.federated import recover as room
from unlearnlib.federated.recover import curved, threshold


def test_with_the_true_curvature_it_is_retraining(monkeypatch):
    clients = Quadratic()

    def exact(r, client, now, pairs):
        return r.updates[client] - LR * clients.H[client] @ (now - r.weights)

    made, retrained = learner(clients), learner(clients)
    retrained.forget(clients=2)
    monkeypatch.setattr(room, "_estimated", exact)
    monkeypatch.setattr(room, "threshold", lambda *_: math.inf)
    clients.asked.clear()
    made.forget(clients=2, by="recover", warm=2, every=20, final=0)
    assert clients.asked.count(0) == 2  # the two rounds of warming up, and never again
    assert torch.allclose(weights(made), weights(retrained), rtol=0, atol=1e-14)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_secant_equation_holds_for_the_last_pair(m):
    rng = torch.Generator().manual_seed(m)
    root = torch.randn(9, 9, generator=rng, dtype=torch.float64)
    H, S = root @ root.T, torch.randn(9, m, generator=rng, dtype=torch.float64)
    assert torch.allclose(curved(S, H @ S, S[:, -1]), (H @ S)[:, -1], atol=1e-9)
    assert torch.allclose(curved(S, -H @ S, S[:, -1]), (-H @ S)[:, -1], atol=1e-9)  # updates, whose sign is the other
    if m > 1:  # and for no other
        assert (curved(S, H @ S, S[:, 0]) - (H @ S)[:, 0]).norm() > 0.01 * (H @ S)[:, 0].norm()


def test_it_is_bfgs_from_a_scaled_identity():
    """The compact form against the recursion B <- B - B s s'B / s'Bs + y y' / y's, pair after pair."""
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=rng, dtype=torch.float64)
    S = torch.randn(7, 3, generator=rng, dtype=torch.float64)
    Y = root @ root.T @ S
    B = (S[:, -1] @ Y[:, -1]) / (S[:, -1] @ S[:, -1]) * torch.eye(7, dtype=torch.float64)
    for s, y in zip(S.T, Y.T, strict=True):
        B = B - torch.outer(B @ s, B @ s) / (s @ B @ s) + torch.outer(y, y) / (y @ s)
    d = torch.randn(7, generator=rng, dtype=torch.float64)
    assert torch.allclose(curved(S, Y, d), B @ d, atol=1e-10)


def test_corrections_bring_it_near_to_retraining(monkeypatch):
    monkeypatch.setattr(room, "threshold", lambda *_: math.inf)
    clients = Quadratic()
    original = learner(clients, rounds=40)
    retrained = original.branch()
    retrained.forget(clients=2)

    def off(**options):
        made = original.branch()
        share = made.forget(clients=2, by="recover", **options).touched["client updates"] / (3 * 40)
        return (weights(made) - weights(retrained)).norm().item(), share

    nothing = (weights(original) - weights(retrained)).norm().item()
    corrected, share = off(warm=5, every=10, final=2)
    alone, less = off(warm=2, every=100, final=0)
    assert corrected < 0.1 * nothing and corrected < alone and less < share < 0.35


def test_asked_in_every_round_it_is_retraining_bit_for_bit():
    made, other = fitted(), fitted()
    made.forget(clients=1, by="recover", every=1)
    other.forget(clients=1)
    assert torch.equal(state(made), state(other))


def test_a_class_touches_everybody_and_is_a_retraining():
    made, other = fitted(), fitted()
    receipt = made.forget(label=1, by="recover", warm=1, every=50, final=0)
    other.forget(label=1)
    assert torch.equal(state(made), state(other)) and receipt.touched["client updates"] == 3 * 4


def test_an_abnormal_estimate_is_asked_for(monkeypatch):
    clients = Quadratic()
    made = learner(clients)

    def wild(r, client, now, pairs):
        return r.updates[client] + (1e6 if client == 1 else 0)

    monkeypatch.setattr(room, "_estimated", wild)
    clients.asked.clear()
    made.forget(clients=2, by="recover", warm=2, every=20, final=0)
    assert clients.asked.count(1) == 8 and clients.asked.count(0) == 2


def test_the_threshold_is_the_largest_of_the_rounds():
    made = learner(Quadratic(), rounds=3)
    sizes = [torch.cat([r.updates[k].abs() for k in (0, 1)]).sort(descending=True).values for r in made._history]
    assert threshold(made._history, [0, 1], 0.0) == max(float(s[0]) for s in sizes)
    assert threshold(made._history, [0, 1], 1.0) == 0.0
    assert threshold(made._history, [0, 1], 2 / 12) == max(float(s[2]) for s in sizes)
