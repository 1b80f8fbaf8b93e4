"""The state matrix: balance, independence, siblings, and the leak which an unbalanced design fakes."""

import numpy as np
import pytest

from unlearnlib.audit.statistics.roc import roc
from unlearnlib.audit.statistics.state import FORGET, NEVER, RETAIN, STATES, check_state, imbalance, state_matrix
from unlearnlib.seeding import numpy_generator


def counts(state):
    return np.stack([(state == code).sum(0) for code in (RETAIN, FORGET, NEVER)])


@pytest.mark.parametrize("models", [3, 30, 31, 32])
def test_every_example_is_in_every_state_equally_often(models):
    c = counts(state_matrix(models, 500, seed=0).state)
    assert (c.sum(0) == models).all() and np.ptp(c, axis=0).max() <= 1
    if models % 3:  # who gets the spare model is random, so that the states stay balanced on average
        assert np.ptp(c.mean(1)) < 0.2


def test_two_states_and_their_codes():
    s = state_matrix(64, 300, states=("retain", "never"), seed=1).state
    assert set(np.unique(s)) == {RETAIN, NEVER} and ((s == NEVER).sum(0) == 32).all()
    s = state_matrix(7, 300, states=("forget", "never"), seed=1).state
    assert set(np.unique(s)) == {FORGET, NEVER} and np.isin((s == NEVER).sum(0), (3, 4)).all()
    s = state_matrix(8, 300, states=("retain", "forget"), seed=1).state
    assert ((s == FORGET).sum(0) == 4).all() and not (s == NEVER).any()


def test_the_seed_fixes_the_matrix():
    a, b, c = (state_matrix(12, 40, seed=s).state for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_models_and_examples_are_independent_of_each_other():
    s = (state_matrix(30, 20_000, seed=0).state == FORGET).astype(float)
    correlation = np.corrcoef(s)
    # counts without replacement: two models of one column are correlated by -1/(models - 1) and by nothing else
    off = correlation[~np.eye(30, dtype=bool)]
    assert abs(off.mean() + 1 / 29) < 1e-3 and np.abs(off + 1 / 29).max() < 5 / np.sqrt(20_000)
    assert np.abs(s.mean(1) - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 20_000)


def test_siblings_share_their_training_examples_and_differ_in_what_they_forget():
    design = state_matrix(24, 2000, siblings=2, seed=0)
    np.testing.assert_array_equal(design.parents, np.repeat(np.arange(12), 2))
    np.testing.assert_array_equal(design.trained[::2], design.trained[1::2])
    assert (design.state[::2] != design.state[1::2]).any(0).mean() > 0.9
    c = counts(design.state)
    assert (c == 8).all()


def test_forget_and_retain_sets_partition_what_was_trained():
    design = state_matrix(9, 100, seed=0)
    both = np.concatenate([design.forget_set(4), design.retain_set(4)])
    np.testing.assert_array_equal(np.sort(both), np.flatnonzero(design.trained[4]))


def test_an_unbalanced_design_fakes_a_leak_and_imbalance_names_it():
    """No model learns anything here; examples differ in difficulty, and easy ones are more often members."""
    rng = numpy_generator(0, "unbalanced")
    difficulty = rng.normal(0, 3, 400)
    s = difficulty + rng.normal(size=(60, 400))
    balanced = state_matrix(60, 400, states=("forget", "never"), seed=0).state
    skewed = np.where(rng.random((60, 400)) < np.where(difficulty > 0, 0.7, 0.3), FORGET, NEVER)
    assert roc(s.ravel(), (skewed == FORGET).ravel()).auc > 0.65
    assert abs(roc(s.ravel(), (balanced == FORGET).ravel()).auc - 0.5) < 0.01
    assert imbalance(balanced).max() == 0 and np.median(imbalance(skewed)) > 0.3


@pytest.mark.parametrize(
    "arguments",
    [
        dict(models=2),
        dict(models=10, siblings=3),
        dict(models=6, siblings=3),
        dict(models=9, states=("retain",)),
        dict(models=9, states=("retain", "retain")),
        dict(models=9, states=("retain", "kept")),
    ],
)
def test_bad_designs_are_refused_in_one_line(arguments):
    with pytest.raises(ValueError) as error:
        state_matrix(examples=5, seed=0, **arguments)
    assert "\n" not in str(error.value)


def test_check_state_takes_the_design_or_its_matrix():
    design = state_matrix(3, 4, seed=0)
    np.testing.assert_array_equal(check_state(design), check_state(design.state))
    with pytest.raises(ValueError, match="codes"):
        check_state(np.full((2, 2), 3))
    assert STATES[FORGET] == "forget" and STATES[NEVER] == "never" and STATES[RETAIN] == "retain"
