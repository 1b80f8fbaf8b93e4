"""The ledger that all private learners share: which indices are accepted, and what a refusal leaves behind."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from unlearnlib.private.perturbation import OutputPerturbation


@pytest.fixture
def learner(threes_eights):
    return OutputPerturbation(lam=0.1).fit(threes_eights[0][:50])


@pytest.mark.parametrize(
    "indices, message",
    [
        ([], "no position"),
        ([1, 1], "given twice"),
        ([50], "out of range"),
        ([-1], "out of range"),
        (np.ones(50, dtype=bool), "every example"),
        ([True], "mask must have 50"),
        ([0.5], "integers from 0 to 49"),
        (range(50), "every example"),
    ],
)
def test_bad_indices(learner, indices, message):
    with pytest.raises(ValueError, match=message):
        learner.forget(indices)
    assert len(learner.retained()) == 50


def test_positions_keep_their_numbers(learner, threes_eights):
    learner.forget(torch.tensor([3]))
    learner.forget(np.array([4, 0]))
    with pytest.raises(ValueError, match="already forgotten"):
        learner.forget([3])
    kept = [i for i in range(50) if i not in (0, 3, 4)]
    assert learner.retained().checksum() == threes_eights[0][kept].checksum()


def test_hyperparameters_are_frozen(learner):
    with pytest.raises(FrozenInstanceError):
        learner.epsilon = 100.0


def test_fit_again_starts_over(learner, threes_eights):
    first = learner.state.published
    learner.forget([1])
    learner.fit(threes_eights[0][:50])
    assert torch.equal(learner.state.published, first) and len(learner.retained()) == 50
