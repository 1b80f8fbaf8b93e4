"""Client-level privacy: its limits, its sensitivity, its accountant, and what ten clients cannot have."""

import math
from dataclasses import replace

import pytest
import torch
from pictures import RECIPE, fitted, network, parts
from small import examples
from torch import nn

from unlearnlib.federated.private import DpFedAvg, summed
from unlearnlib.federated.vectors import vector
from unlearnlib.private import accounting
from unlearnlib.private.accounting import Phase


def private(**options):
    given = {"rounds": 3, "local_epochs": 2, **options}
    return DpFedAvg(network(double=True), RECIPE, **given)


def test_without_noise_bound_and_sampling_it_is_federated_averaging():
    made = private(noise_multiplier=0.0, clip=math.inf).fit(parts())
    assert torch.allclose(vector(made.state.model), fitted(double=True)._weights, rtol=0, atol=1e-14)


def test_a_client_moves_the_sum_by_its_bound_at_most():
    rng = torch.Generator().manual_seed(0)
    updates = [scale * torch.randn(40, generator=rng, dtype=torch.float64) for scale in (0.01, 1, 30, 1000)]
    like = torch.zeros(40, dtype=torch.float64)
    for k in range(4):
        apart = summed(updates, 0.7, like) - summed(updates[:k] + updates[k + 1 :], 0.7, like)
        assert apart.norm() <= 0.7 * (1 + 1e-12)
    assert torch.allclose(summed(updates[:1], 0.7, like), updates[0])  # below the bound nothing is changed
    assert torch.equal(summed([], 0.7, like), like)  # nobody was drawn


def test_the_noise_is_that_of_the_equation():
    """Local steps of no length leave the noise alone: z C / (q N) a coordinate and round."""
    still = replace(RECIPE, lr=0.0)
    made = DpFedAvg(network(double=True), still, rounds=4, clip=0.5, noise_multiplier=3.0, rate=0.5).fit(parts())
    moved = vector(made.state.model) - vector(network(double=True))
    assert moved.std().item() == pytest.approx(3.0 * 0.5 / (0.5 * 4) * 2, rel=0.1)


def test_the_accountant_is_that_of_dp_sgd_with_clients_for_examples():
    made = private(noise_multiplier=2.0, rate=0.5, rounds=7, delta=1e-3).fit(parts())
    assert made.spent().epsilon == accounting.epsilon(2.0, 0.5, 7, 1e-3)
    assert "client" in str(made.spent())
    one = made.forget(1)
    assert one.certificate.epsilon == pytest.approx(made.spent().epsilon) and one.cost.work == 0
    two = made.forget([0])
    assert two.certificate.epsilon == pytest.approx(accounting.group_epsilon([Phase(2.0, 0.5, 7)], 1e-3, 2))
    assert two.certificate.epsilon > one.certificate.epsilon
    with pytest.raises(ValueError, match="already forgotten"):
        made.forget(1)


def test_no_noise_has_no_guarantee():
    made = private(noise_multiplier=0.0).fit(parts())
    assert made.forget(2).certificate is None
    with pytest.raises(ValueError, match="no privacy"):
        made.spent()


def test_draws_are_seeded():
    ends = [vector(private(seed=s, rate=0.5).fit(parts()).state.model) for s in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clip": 0}, "clip must be a number above 0"),
        ({"clip": math.inf}, "clip must be a number above 0"),
        ({"noise_multiplier": -1}, "noise_multiplier must be"),
        ({"rate": 0}, "rate must be a number above 0"),
        ({"delta": 2.0}, "delta must be a number above 0, and 1 at most"),
        ({"rounds": 0}, "rounds must be a whole number"),
        ({"engine": "ray"}, "engine must be"),
    ],
)
def test_what_cannot_be_private_is_refused_in_one_line(change, said):
    with pytest.raises(ValueError, match=said) as error:
        private(**change)
    assert "\n" not in str(error.value)


def test_norms_that_mix_examples_are_refused_and_so_is_no_federation():
    with pytest.raises(ValueError):
        DpFedAvg(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)), RECIPE)
    with pytest.raises(ValueError, match="takes a federation"):
        private().fit(examples())
    with pytest.raises(ValueError, match="call fit"):
        private().logits(examples().images)
