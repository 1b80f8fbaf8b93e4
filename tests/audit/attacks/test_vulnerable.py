"""Vulnerable and protected examples: the truth of either group, the winner's curse avoided, level, and refusals."""

import numpy as np
import pytest

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.attacks.vulnerable import columns, vulnerable_attack
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.state import FORGET, NEVER, state_matrix
from unlearnlib.seeding import numpy_generator

PHANTOM = Phantom()


def phantoms(k, *, models=96, examples=80, exposed=0.25, seed=0):
    """Originals and unlearned models, standardised; a share of the examples is a phantom, the rest leaves no trace."""
    design = state_matrix(models, examples, seed=seed)
    rng = numpy_generator(seed, "phantoms")
    who = np.arange(examples) < exposed * examples
    offset = 4 * rng.normal(size=examples)
    noise = rng.normal(size=(2, models, examples))
    original = offset + noise[0] + 2 * PHANTOM.mu(0) * who * (design.state != NEVER)
    kept = np.where(design.state == FORGET, PHANTOM.mu(k), 0.0) + 2 * PHANTOM.mu(0) * (design.state == 0)
    return original, offset + noise[1] + who * kept, design


def test_each_group_has_its_own_truth():
    original, unlearned, design = phantoms(5)
    found = vulnerable_attack(original, unlearned, design, size=20)
    assert set(found.vulnerable.examples) == set(range(20)) and set(found.protected.examples).isdisjoint(range(20))
    assert found.vulnerable.after.low < PHANTOM.auc(5) < found.vulnerable.after.high
    assert found.protected.after.low < 0.5 < found.protected.after.high
    assert found.vulnerable.before.value > 0.95 and found.vulnerable.after.low > 0.6
    assert found.protected.after.value < found.everybody.value < found.vulnerable.after.value
    assert found.vulnerable.exposure == pytest.approx(2 * PHANTOM.mu(0), rel=0.15)


def test_keeps_its_level():
    """Nothing was ever exposed, so the choice is noise: intervals hold 1/2 in both groups, in 200 designs."""
    missed = []
    for i in range(200):
        design = state_matrix(24, 40, seed=i)
        x = numpy_generator(i, "null").normal(size=(2, 24, 40))
        found = vulnerable_attack(*x, design, size=10, seed=i)
        missed.append([not g.after.low <= 0.5 <= g.after.high for g in (found.vulnerable, found.protected)])
    assert (np.mean(missed, axis=0) <= 0.09).all()


def test_choosing_and_attacking_on_the_same_models_would_find_ghosts():
    """The planted bug: with one set of models for both, the vulnerable look exposed where nobody is."""
    ghosts, honest = [], []
    for i in range(30):
        design = state_matrix(24, 60, seed=i)
        x = numpy_generator(i, "ghosts").normal(size=(24, 60))
        attack = lira(x, design, game="B")
        best = np.argsort(-np.nanmean(np.where(attack.is_member, x, np.nan), 0))[:10]
        ghosts.append(columns(attack, best).auc)
        honest.append(vulnerable_attack(x, x, design, size=10, seed=i).vulnerable.after.value)
    assert np.mean(ghosts) > 0.56 and np.mean(honest) == pytest.approx(0.5, abs=0.03)


def test_a_method_that_fails_the_few_is_caught_where_the_average_passes():
    original, unlearned, design = phantoms(10, examples=200, exposed=0.05, seed=3)
    found = vulnerable_attack(original, unlearned, design, size=10)
    assert found.everybody.low < 0.5 + 0.02 < found.vulnerable.after.value
    assert found.vulnerable.after.low > 0.5


def test_columns_keep_the_scores():
    x, design = numpy_generator(0, "columns").normal(size=(24, 12)), state_matrix(24, 12, seed=0)
    attack = lira(x, design, game="B")
    part = columns(attack, np.array([2, 7]))
    np.testing.assert_array_equal(part.scores, attack.scores[:, [2, 7]])
    assert part.example_auc.shape == (2,) and part.roc.n_members == int(part.is_member[part.used].sum())


def test_game_a_and_siblings():
    design = state_matrix(48, 30, siblings=2, seed=1)
    rng = numpy_generator(1, "siblings")
    original = np.repeat(rng.normal(size=(24, 30)), 2, axis=0)
    u, r = rng.normal(size=(2, 48, 30))
    found = vulnerable_attack(original, u, design, size=8, game="A", retrained=r)
    assert found.game == "A" and len(np.unique(found.vulnerable.attack.clusters)) == 12


def test_refused():
    x, design = numpy_generator(2, "refused").normal(size=(24, 12)), state_matrix(24, 12, seed=0)
    for args, options, says in (
        ((x[1:], x), {"size": 3}, "originals must be finite"),
        ((x, x * np.nan), {"size": 3}, "unlearned must be finite"),
        ((x, x), {"size": 7}, "do not fit"),
        ((x, x), {"size": 3, "choosing": 1.0}, "between 0 and 1"),
        ((x, x), {"size": 3, "choosing": 0.99}, "none is left"),
        ((x, x), {"size": 3, "choosing": 0.05}, "train more"),
    ):
        with pytest.raises(ValueError, match=says):
            vulnerable_attack(*args, design, **options)
