"""Trainings from a configuration: the learner that the accountant is told of, and a cache that changes nothing."""

import pytest
import torch

from unlearnlib.private import accounting, classifiers
from unlearnlib.private.classifiers import PrivateTraining, private_network, train
from unlearnlib.private.dpsgd import DpSgd
from unlearnlib.store import cache

LITTLE = PrivateTraining("linear", 2.0, epochs=2, expected_batch=25)


def test_a_training_is_made_once_and_found_again(threes_eights, tmp_path, monkeypatch):
    examples, test = threes_eights[0][:100], threes_eights[1]
    with cache.using(tmp_path):
        first = train(LITTLE, examples, 2, seed=0)
        other = train(LITTLE, examples, 2, seed=1)
        fewer = train(LITTLE, examples[:99], 2, seed=0)
        monkeypatch.setattr(DpSgd, "fit", lambda *a: pytest.fail("trained again"))
        again = train(LITTLE, examples, 2, seed=0)
    assert torch.equal(first.logits(test.images), again.logits(test.images))
    for another in (other, fewer):
        assert not torch.equal(first.logits(test.images), another.logits(test.images))


def test_it_is_the_learner_itself(threes_eights, tmp_path):
    examples, test = threes_eights[0][:100], threes_eights[1]
    with cache.using(tmp_path):
        done = train(LITTLE, examples, 2, seed=3)
    learner = LITTLE.learner((1, 28, 28), 2, 3).fit(examples)
    assert torch.equal(done.logits(test.images), learner.logits(test.images))
    assert list(done.phases) == learner.state.phases == [accounting.Phase(2.0, 0.25, 8)]
    assert done.spent(1e-5) == accounting.spent(learner.state.phases, 1e-5)


@pytest.mark.parametrize("name", classifiers.NETWORKS)
def test_networks_depend_on_the_seed_alone(name):
    state = torch.get_rng_state()
    first, second, other = (private_network(name, (1, 28, 28), 10, seed) for seed in (0, 0, 1))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert first(images).shape == (3, 10) and torch.equal(first(images), second(images))
    assert not torch.equal(first(images), other(images)) and torch.equal(torch.get_rng_state(), state)
    assert float(first[0].mean) == float(first[0].std) == 0.5  # constants, not statistics of the data


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="network must be one of"):
        PrivateTraining("resnet")
