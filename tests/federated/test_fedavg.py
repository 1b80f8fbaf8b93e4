"""Federated averaging: its closed forms, its refusals, what forgetting leaves of it."""

import pytest
import torch
from pictures import RECIPE, fitted, network, parts, state
from quadratic import LR, Point, Quadratic, learner, weights
from small import examples, stranger
from torch import nn

from unlearnlib import federated
from unlearnlib.federated.arrivals import online
from unlearnlib.federated.fedavg import FedAvg
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.unlearning import METHODS, methods
from unlearnlib.federated.vectors import filled, vector
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied

PUBLIC = examples(24, seed=9)
WAYS = {name: {"public": PUBLIC, "epochs": 2} if name == "distil" else {} for name in METHODS}


def test_one_step_of_everybody_is_one_step_on_everything():
    """Full batches, one local step, shares by size: the gradient of the union."""
    whole = Recipe(1, 1000, "sgd", 0.3, 0.0, 0.0, "constant")
    made = FedAvg(network(double=True), whole, rounds=3, local_epochs=1).fit(parts(3, n=100))  # 34, 33 and 33
    central = network(double=True)
    for _ in range(3):
        loss = nn.functional.cross_entropy(central(examples(100).pixels(dtype=torch.float64)), examples(100).labels)
        loss.backward()
        with torch.no_grad():
            for p in central.parameters():
                p -= 0.3 * p.grad
                p.grad = None
    assert torch.allclose(vector(made.model), vector(central), rtol=0, atol=1e-14)


def test_rounds_are_the_equation():
    clients, w = Quadratic(), Point().w.detach().clone()
    for _ in range(8):
        w = w + sum(clients.step(k, w) for k in range(4)) / 4
    made = learner(clients)
    assert torch.allclose(weights(made), w, rtol=0, atol=1e-15) and LR == 0.2
    moved = sum(r.average() for r in made._history)
    assert torch.allclose(Point().w + moved, weights(made), rtol=0, atol=1e-14)
    assert made.stored_bytes == 8 * (4 + 1) * 6 * 8 and made.bytes_sent == 8 * 4 * 2 * 6 * 8


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}, {"norm": True}, {"double": True, "norm": True}])
def test_a_retraining_equals_a_training_without_those_that_left_bit_for_bit(options):
    made = fitted(**options)
    gone = made._federation.members[1]
    receipt = made.forget(clients=1, by="retrain")
    assert torch.equal(state(made), state(fitted(**options, without=gone)))
    assert receipt.certificate.kind == "exact" and made.clients == (0, 2, 3)
    assert receipt.touched["clients"] == 1 and receipt.touched["examples"] == len(gone)


@pytest.mark.parametrize("asked", [{"indices": [3, 50, 51]}, {"label": 2}, {"clients": [0, 2]}])
def test_examples_classes_and_several_clients_are_forgotten_in_the_same_way(asked):
    made = fitted()
    if "indices" in asked:
        gone = asked["indices"]
    elif "label" in asked:
        gone = (made._federation.examples.labels == 2).nonzero().flatten()
    else:
        gone = torch.cat([made._federation.members[k] for k in asked["clients"]])
    made.forget(**asked)
    assert torch.equal(state(made), state(fitted(without=gone)))
    other = fitted()
    receipt = other.forget(**asked, rounds=2)  # the control carries no certificate
    assert receipt.certificate is None and other.trained_rounds == 2


def test_one_request_after_another_is_one_request():
    made = fitted()
    made.forget(clients=3)
    made.forget(indices=made._federation.members[0][:4])
    gone = torch.cat([made._federation.members[3], made._federation.members[0][:4]])
    assert torch.equal(state(made), state(fitted(without=gone)))


def test_requests_between_rounds():
    seen = []
    made = fitted()  # of three rounds
    for t, receipts in online(made, parts(), {2: [{"clients": 1}, {"indices": [0]}]}, by="retrain"):
        seen.append((t, len(receipts)))
    gone = torch.cat([made._federation.members[1], torch.tensor([0])]).unique()
    assert seen == [(1, 0), (2, 2), (3, 0)] and torch.equal(state(made), state(fitted(without=gone)))
    left = fitted()
    *_, (_, receipts) = online(left, parts(), {3: [{"clients": 1}]}, by="finetune", rounds=0)
    assert torch.equal(state(left), state(fitted())) and left.clients == (0, 2, 3)
    assert receipts[0].cost.work == 0 and receipts[0].certificate is None
    with pytest.raises(ValueError, match="time must be a whole number in 1..3"):
        next(online(made, parts(), {4: []}))
    with pytest.raises(ValueError, match="lists of what forget takes"):
        next(online(made, parts(), {1: {"clients": 1}}))


@pytest.mark.parametrize("by", METHODS)
def test_a_method_is_seeded_and_disturbs_nothing(by):
    made = fitted()
    before, now = state(made), torch.random.get_rng_state()
    branches = [made.branch() for _ in range(3)]
    receipts = [b.forget(clients=2, by=by, seed=s, **WAYS[by]) for b, s in zip(branches, (0, 0, 1), strict=True)]
    assert torch.equal(torch.random.get_rng_state(), now) and torch.equal(state(made), before)
    assert torch.equal(state(branches[0]), state(branches[1])) and not torch.equal(state(branches[0]), before)
    assert made.clients == (0, 1, 2, 3) and branches[0].clients == (0, 1, 3)
    assert (receipts[0].certificate is None) == (by != "retrain")
    assert receipts[0].touched == receipts[1].touched
    with pytest.raises(ValueError, match="client 2 has left already"):
        branches[0].forget(clients=2)
    assert not any(2 in r.updates for r in branches[0]._history)


@pytest.mark.parametrize("by", [name for name in METHODS if name != "distil"])
def test_every_method_but_distillation_takes_examples_and_classes(by):
    for asked in ({"indices": [0, 5]}, {"label": 1}):
        made = fitted()
        made.forget(**asked, by=by)
        assert made.clients == (0, 1, 2, 3) and not torch.equal(state(made), state(fitted()))


def test_the_work_is_what_was_done():
    """96 examples of four clients: 24 each, three batches of eight in each of two epochs."""
    made = fitted()
    assert made.cost.work == 3 * 3 * 4 * 48
    P = vector(made.model).numel()
    receipt = made.forget(clients=0, by="finetune", rounds=2)
    assert receipt.cost.work == 3 * 2 * 3 * 48
    assert receipt.touched == {
        **{"clients": 1, "examples": 24, "rounds": 2, "client updates": 6, "evaluations at clients": 2 * 3 * 48},
        **{"evaluations at the server": 0, "bytes sent": 6 * 2 * 4 * P, "stored bytes read": 0},
    }


def test_a_learner_that_keeps_nothing_can_only_retrain():
    made = fitted(keep="nothing")
    assert made.stored_bytes == 0
    for by in ("eraser", "recover", "ascent", "distil"):
        with pytest.raises(ValueError, match='keep="updates"'):
            made.forget(clients=1, by=by, **WAYS[by])
    made.forget(clients=1)
    assert torch.equal(state(made), state(fitted(without=made._federation.members[1])))


def test_strangers_networks_are_trained():
    frozen = stranger()
    before = copied(frozen)
    made = FedAvg(frozen, RECIPE, rounds=2, local_epochs=1).fit(parts())
    assert torch.equal(made.model.stem.weight, before.stem.weight)  # frozen, so never sent
    assert made.model.third.weight is made.model.second.weight
    assert not torch.equal(made.model.norm.running_mean, before.norm.running_mean)
    for p, q in zip(frozen.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)
    assert made.logits(examples(5).images).shape == (5, 3)


def test_a_vector_goes_back_where_it_came_from():
    for model in (network(norm=True), stranger()):
        values = torch.arange(vector(model).numel(), dtype=torch.float32)
        assert torch.equal(vector(filled(model, values)), values)
        with pytest.raises(ValueError, match="another architecture"):
            filled(model, values[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "one of clients=, indices= and label=, not none"),
        ({"clients": 1, "label": 2}, "not clients and label"),
        ({"clients": 9}, "positions run from 0 to 3"),
        ({"clients": [0, 1, 2, 3]}, "would forget every example"),
        ({"clients": [1, 1]}, "given twice"),
        ({"clients": 1.0}, "one-dimensional integers"),
        ({"indices": [96]}, "out of range"),
        ({"indices": []}, "no position is given"),
        ({"label": 7}, "nobody holds an example of class 7"),
        ({"label": -1}, "label must be a whole number"),
        ({"clients": 1, "by": "federaser"}, "did you mean 'eraser'"),
        ({"clients": 1, "by": None}, "known are retrain"),
        ({"clients": 1, "by": "eraser", "intervall": 2}, "did you mean 'interval'"),
        ({"clients": 1, "by": "eraser", "interval": 0}, "interval must be a whole number of at least 1"),
        ({"clients": 1, "by": "eraser", "share": 2.0}, "share must be a number of 0 or more, and 1 at most"),
        ({"clients": 1, "by": "ascent", "radius": 0}, "radius must be a number above 0"),
        ({"clients": 1, "by": "ascent", "lr": float("nan")}, "lr must be a number above 0"),
        ({"clients": 1, "by": "recover", "pairs": 0}, "pairs must be a whole number"),
        ({"clients": 1, "by": "distil"}, "needs pictures of the server's own"),
        ({"clients": 1, "by": "distil", "public": examples(4, side=6)}, "each image must have shape"),
        ({"clients": 1, "by": "distil", "public": examples(4)[:0]}, "holds no pictures"),
        ({"indices": [1], "by": "distil", "public": PUBLIC}, "subtracts what whole clients sent"),
        ({"clients": 1, "seed": -1}, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_forgotten_is_refused_in_one_line_and_changes_nothing(change, said):
    made = fitted()
    before = state(made)
    with pytest.raises(ValueError, match=said) as error:
        made.forget(**change)
    assert "\n" not in str(error.value) and torch.equal(state(made), before) and made.clients == (0, 1, 2, 3)


def test_a_method_that_diverges_changes_nothing():
    made = fitted()
    before = state(made)
    with pytest.raises(ValueError, match="not finite"):
        made.forget(clients=1, by="distil", public=PUBLIC, lr=1e30, epochs=3)
    assert torch.equal(state(made), before) and made.clients == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 0}, "rounds must be a whole number"),
        ({"local_epochs": 1.5}, "local_epochs must be a whole number"),
        ({"recipe": "sgd"}, "must be a training.Recipe"),
        ({"keep": "all"}, "keep must be one of updates, nothing"),
        ({"engine": "ray"}, "engine must be one of stacked, processes"),
        ({"engine": "flower"}, "inside a Flower ServerApp"),
        ({"engine": 3}, "or have updates"),
        ({"cluster": "tcp://x:1"}, 'engine="processes"'),
        ({"seed": True}, "seed must be a whole number"),
        ({"model": nn.Flatten()}, "no trainable parameter"),
    ],
)
def test_what_cannot_train_is_refused_in_one_line(change, said):
    given = {"model": network(), "recipe": RECIPE, **change}
    with pytest.raises(ValueError, match=said) as error:
        FedAvg(given.pop("model"), given.pop("recipe"), **given)
    assert "\n" not in str(error.value)


def test_a_learner_says_what_it_needs():
    untrained = FedAvg(network(), RECIPE)
    for call in (lambda: untrained.forget(clients=0), lambda: untrained.logits(examples(2).images), untrained.branch):
        with pytest.raises(ValueError, match="call fit"):
            call()
    with pytest.raises(ValueError, match="fit takes a federation, not Examples"):
        untrained.fit(examples())
    with pytest.raises(ValueError, match="cannot take pictures"):
        untrained.fit(Federation.of(examples(side=6), clients=3))
    with pytest.raises(ValueError, match="each image must have shape"):
        fitted().logits(examples(2, side=6).images)


def test_the_table_of_methods():
    table = methods()
    assert list(table.name) == list(METHODS) and "interval=2" in table.set_index("name").defaults["eraser"]


def test_the_public_names_stay_what_they_are_whatever_was_imported():
    assert federated.online is online and federated.FedAvg is FedAvg and federated.Federation is Federation
    assert set(federated.__all__) >= {"DpFedAvg", "FedAvg", "Federation", "methods", "online", "planted"}
