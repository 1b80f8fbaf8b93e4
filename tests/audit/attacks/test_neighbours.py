"""Class neighbours: the margin it is, the phantom, its level, and the unlearning that accuracy cannot see."""

import numpy as np
import pytest
from class_models import CLASSES, FORGOTTEN, NEIGHBOUR, logits
from scipy.special import softmax

from unlearnlib.audit.attacks.neighbours import neighbour_attack, neighbour_score
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.against_null import detectable_gap


def of_class(models, **options):
    z, y = logits(models, **options)
    return z[:, y == FORGOTTEN]


def test_score_is_the_log_odds_of_the_renormalised_answer():
    z = of_class(3, seed=0)
    q = np.delete(softmax(z, -1), FORGOTTEN, -1)
    q = q / q.sum(-1, keepdims=True)
    odds = q[..., NEIGHBOUR] / (1 - q[..., NEIGHBOUR])
    np.testing.assert_allclose(neighbour_score(z, FORGOTTEN, NEIGHBOUR), np.log(odds).mean(-1))
    pushed = z - 40 * np.eye(CLASSES)[FORGOTTEN]
    np.testing.assert_allclose(neighbour_score(pushed, FORGOTTEN, NEIGHBOUR), np.log(odds).mean(-1))


def test_three_classes_by_hand():
    z = np.log([[[0.2, 0.6, 0.2]], [[0.1, 0.6, 0.3]]])
    found = neighbour_attack(z[0], z, 0)
    assert found.neighbour == 1 and found.comparison.values[0] == pytest.approx(np.log(3))
    np.testing.assert_allclose(found.profile, [0, 0.75, 0.25])
    np.testing.assert_allclose(found.null_profile, [0, (3 / 4 + 2 / 3) / 2, (1 / 4 + 1 / 3) / 2])
    half = abs(3 / 4 - (3 / 4 + 2 / 3) / 2)  # of the first from the mean of both; between the two it is 1 / 12
    assert found.distances.values[0] == pytest.approx(half) and found.distances.null == pytest.approx([1 / 12] * 2)


@pytest.mark.parametrize("k", [0, 5, 10])
def test_recovers_the_phantom(k):
    """One phantom weight a model is the log-odds of the neighbour: the gap is (1 - eta)^k gap, in its interval."""
    phantom, models = Phantom(), 400
    ours, theirs = (phantom.weights(law, models, k=k, seed=k) for law in ("unlearned", "retrained"))
    found = neighbour_attack(*(np.stack([0 * w, 2 + w, 0 * w - 50], -1)[:, None] for w in (ours, theirs)), 0)
    assert found.comparison.low < phantom.gap * 0.9**k + 0 < found.comparison.high
    assert found.comparison.gap / phantom.sd == pytest.approx(phantom.mu(k), abs=0.25)


def test_keeps_its_level():
    found = [neighbour_attack(of_class(1, seed=i), of_class(8, seed=1000 + i), FORGOTTEN) for i in range(200)]
    for p in ([f.comparison.p_value for f in found], [f.distances.p_value for f in found], [f.p_value for f in found]):
        assert np.mean(np.array(p) <= 0.05) <= 0.09  # 5% and two standard errors
    assert 0.4 < np.mean([f.comparison.p_value for f in found]) < 0.6


def test_even_answers_pass_accuracy_and_fail_here():
    """The planted bug: the forgotten class is never named (accuracy 0, as retrained), but its mass is spread evenly."""
    oracles, spread_out = of_class(8, seed=1), of_class(1, seed=2, lift=0.0)
    assert (spread_out.argmax(-1) != FORGOTTEN).all() and (oracles.argmax(-1) != FORGOTTEN).all()
    found = neighbour_attack(spread_out, oracles, FORGOTTEN)
    assert found.p_value < 0.01 and found.comparison.gap < -1 and found.distances.gap > 0.2
    assert not neighbour_attack(of_class(1, seed=2), oracles, FORGOTTEN).detected()


def test_swapped_inputs_keep_the_score_and_not_the_distance():
    """The right profile on average and the wrong one for each input: half of them lifted, the others lowered."""
    oracles, u = of_class(8, seed=1), of_class(1, seed=3)
    u[:, ::2, NEIGHBOUR] += 2
    u[:, 1::2, NEIGHBOUR] -= 2
    found = neighbour_attack(u, oracles, FORGOTTEN)
    assert found.comparison.p_value > 0.05 and found.distances.p_value < 1e-3 and found.detected()


def test_power_is_the_planned_one():
    gap = detectable_gap(1, 8)
    sd = np.std(neighbour_score(of_class(400, seed=5), FORGOTTEN, NEIGHBOUR))
    found = [
        neighbour_attack(
            of_class(1, seed=i, lift=2 - gap * sd), of_class(8, seed=1000 + i), FORGOTTEN
        ).comparison.detected()
        for i in range(200)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.12)


def test_refused():
    z = of_class(3, seed=0)
    for bad, says in ((z[..., :2], "three classes"), (np.full_like(z, np.nan), "finite"), (z[:1], "two retrained")):
        with pytest.raises(ValueError, match=says):
            neighbour_attack(z, bad, FORGOTTEN)
    for number in (CLASSES, -1, 1.5, True):
        with pytest.raises(ValueError, match="no class"):
            neighbour_attack(z, z, number)
    with pytest.raises(ValueError, match="own neighbour"):
        neighbour_score(z, 1, 1)
