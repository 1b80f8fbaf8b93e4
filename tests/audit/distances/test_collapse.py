"""What features know about the task and about people: on features whose answer is known."""

import numpy as np
import pytest
from scipy.stats import norm

from unlearnlib.audit.distances import collapse


def test_verification_finds_people_who_have_corners_of_their_own():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(4), 10)
    corners = np.eye(4)[people] * 5
    assert collapse.verification_auc(corners + rng.normal(size=(40, 4)) * 0.01, people) == 1.0
    null = [collapse.verification_auc(rng.normal(size=(40, 8)), people) for _ in range(40)]
    assert abs(np.mean(null) - 0.5) < 0.02
    with pytest.raises(ValueError, match="different people"):
        collapse.verification_auc(corners, np.zeros(40))


def test_verification_of_one_dimension_has_a_closed_form():
    # two people at +1 and -1: a pair agrees when its two signs agree, and noise of deviation s flips one with
    # probability p; the cosine in one dimension is the product of the signs, so the AUC is 1 - 2 p (1 - p)
    rng, s = np.random.default_rng(1), 0.8
    people = np.repeat([0, 1], 600)
    x = np.where(people == 0, 1.0, -1.0) + s * rng.normal(size=1200)
    p = norm.cdf(-1 / s)
    agree = p**2 + (1 - p) ** 2
    expected = agree * agree + 0.5 * (2 * agree * (1 - agree))  # ties count one half
    assert collapse.verification_auc(x[:, None], people) == pytest.approx(expected, abs=0.01)


def test_energy_share_of_known_moves():
    basis = np.eye(5)[:2]
    moves = np.array([[3.0, 0, 4.0, 0, 0], [0, 0, 0, 0, 0]])
    assert collapse.energy_share(moves, basis) == pytest.approx(9 / 25)
    random = np.random.default_rng(0).normal(size=(4000, 5))
    assert collapse.energy_share(random, basis) == pytest.approx(2 / 5, abs=0.02)
    assert np.isnan(collapse.energy_share(np.zeros((2, 5)), basis))
    with pytest.raises(ValueError, match="orthonormal"):
        collapse.energy_share(moves, 2 * basis)


def test_directions_are_those_between_the_means():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 50)
    centres = np.array([[0.0, 0, 0, 0], [2, 0, 0, 0], [0, 3, 0, 0]])
    x = centres[labels]
    basis = collapse.directions(x, labels)
    assert basis.shape == (2, 4) and np.abs(basis[:, 2:]).max() < 1e-12
    left = collapse.without(basis, [[1.0, 0, 0, 0]])
    assert left.shape == (1, 4) and np.abs(left[0]) == pytest.approx([0, 1, 0, 0], abs=1e-9)
    assert collapse.without(basis, np.eye(4)[:2]).shape == (0, 4)
    assert collapse.span(np.stack([x[60], 2 * x[60] + 1e-15 * rng.normal(size=4)])).shape == (1, 4)


def test_the_audit_tells_a_collapsed_task_from_a_kept_one():
    rng = np.random.default_rng(0)
    y, z, people = rng.integers(0, 2, 400), rng.integers(0, 2, 300), np.repeat(np.arange(6), 10)
    kept = [rng.normal(size=(n, 6)) for n in (400, 300, 60)]
    for part, labels in zip(kept, (y, z), strict=False):
        part[:, 0] += 3.0 * labels
    kept[2][:, 1:] += np.eye(6)[people][:, 1:] * 4
    gone = [part.copy() for part in kept]
    for part in gone[:2]:
        part[:, 0] = rng.normal(size=len(part))
    found = [collapse.feature_audit(f[0], y, f[1], z, f[2], people, retrained=kept[1]) for f in (kept, gone)]
    assert found[0].task > 0.9 and abs(found[1].task - 0.5) < 0.08
    assert found[0].fisher > 20 * found[1].fisher
    assert found[0].cka == pytest.approx(1) and found[1].cka < 0.99
    assert found[0].verification == found[1].verification > 0.8


def test_an_encoder_that_answers_the_same_to_everything_has_lost_it_all():
    people, y = np.repeat(np.arange(6), 10), np.arange(60) % 2
    rng, dead = np.random.default_rng(0), np.zeros((60, 4))
    found = collapse.feature_audit(dead, y, dead, y, dead, people, retrained=rng.normal(size=(60, 4)))
    assert (found.task, found.fisher, found.verification, found.cka) == (0.5, 0.0, 0.5, 0.0)
