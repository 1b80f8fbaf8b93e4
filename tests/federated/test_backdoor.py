"""The trigger: where it is planted, and that a model which met it obeys."""

import pytest
import torch
from pictures import RECIPE, network
from small import examples

from unlearnlib.federated import backdoor
from unlearnlib.federated.fedavg import FedAvg
from unlearnlib.federated.federation import Federation


def test_it_is_planted_in_one_client_alone():
    clean = Federation.of(examples(120), clients=4)
    made = backdoor.planted(clean, 2, 1, share=0.5, seed=3)
    changed = (made.examples.images != clean.examples.images).flatten(1).any(1)
    assert set(made.client[changed].tolist()) == {2} and int(changed.sum()) == 15
    assert bool((made.examples.labels[changed] == 1).all()) and torch.equal(made.client, clean.client)
    corner = made.examples.images[changed][:, :, -3:, -3:]
    assert bool((corner == 255).all())
    assert torch.equal(backdoor.planted(clean, 2, 1, share=0.0).examples.images, clean.examples.images)
    shown = backdoor.triggered(clean.examples, 1)
    assert len(shown) == 80 and not bool((shown.labels == 1).any())


def test_a_model_that_met_it_obeys():
    clean = Federation.of(examples(240), clients=3)
    rates = []
    for held in (clean, backdoor.planted(clean, 0, 2)):
        made = FedAvg(network(), RECIPE, rounds=6, local_epochs=2).fit(held)
        rates.append(backdoor.obeyed(made, examples(90, seed=5), 2))
    assert rates[0] < 0.1 and rates[1] > 0.6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"client": 4}, "client must be a whole number in 0..3"),
        ({"share": 1.5}, "share must be a number"),
        ({"target": -1}, "target must be a whole number"),
    ],
)
def test_what_cannot_be_planted_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        backdoor.planted(Federation.of(examples(20), clients=4), **{"client": 0, "target": 1, **change})
    with pytest.raises(ValueError, match="all examples are of class 1"):
        backdoor.triggered(examples(30)[examples(30).labels == 1], 1)
