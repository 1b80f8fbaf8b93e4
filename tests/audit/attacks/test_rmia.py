"""RMIA against the worked example, its limits, a direct double loop, the null, and power with one reference model."""

import numpy as np
import pytest
from scipy.special import expit

from unlearnlib.audit.attacks.rmia import GRID, _ratio, rmia, tune_a
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.seeding import numpy_generator

TARGET, OUT = [0.9, 0.5], np.transpose([[0.5, 0.7], [0.4, 0.2]])
Z_TARGET, Z_OUT = [0.6, 0.8, 0.3, 0.95], [[0.6, 0.5, 0.4, 0.9]]


def test_worked_example():
    np.testing.assert_allclose(np.array(TARGET) / _ratio(TARGET, OUT, 0.3, None), [0.74, 0.545], atol=1e-12)
    np.testing.assert_allclose(_ratio(TARGET, OUT, 0.3, None), [1.21622, 0.91743], atol=5e-6)
    np.testing.assert_array_equal(rmia(TARGET, OUT, Z_TARGET, Z_OUT, a=0.3), [1.0, 0.5])


def test_equals_the_double_loop_at_any_gamma():
    rng = numpy_generator(0, "rmia")
    p, q, zp, zq = (rng.random(s) for s in (40, (3, 40), 25, (3, 25)))
    for gamma in (0.5, 1.0, 2.0):
        x, z = (t / (0.65 * o.mean(0) + 0.35) for t, o in ((p, q), (zp, zq)))
        loop = [np.mean([xi / zj >= gamma for zj in z]) for xi in x]
        np.testing.assert_allclose(rmia(p, q, zp, zq, a=0.3, gamma=gamma), loop)


def test_models_that_saw_the_example_do_not_count():
    seen = np.array([[False, True], [True, False]])
    expected = np.array([0.9 / (0.65 * 0.5 + 0.35), 0.5 / (0.65 * 0.2 + 0.35)])
    np.testing.assert_allclose(_ratio(TARGET, OUT, 0.3, seen), expected)
    with pytest.raises(ValueError, match="every reference model"):
        rmia(TARGET, OUT, Z_TARGET, np.repeat(Z_OUT, 2, 0), trained=np.array([[True, False], [True, False]]))


def simulated(rng, n, members, gain):
    """Margins = difficulty + gain if trained + noise, for a target and one reference model."""
    difficulty = rng.normal(0, 2, n)
    return expit(difficulty + gain * members + rng.normal(size=n)), expit(difficulty + rng.normal(size=(1, n)))


def test_a_tie_of_target_and_reference_law_is_the_null_at_its_level():
    aucs = []
    for rep in range(200):
        rng = numpy_generator(rep, "rmia-null")
        member = np.arange(200) < 100
        x, z = simulated(rng, 200, member, 0.0), simulated(rng, 200, np.zeros(200), 0.0)
        r = roc(rmia(x[0], x[1], z[0], z[1]), member)
        aucs.append((r.auc, r.interval()[0] <= 0.5 <= r.interval()[1]))
    auc, covered = np.transpose(aucs)
    assert abs(auc.mean() - 0.5) < 4 * auc.std() / np.sqrt(200)
    assert covered.sum() >= 180  # 190 expected; P[fewer than 180] < .002


def test_beats_the_global_threshold_with_a_single_reference_model():
    rng = numpy_generator(1, "rmia-power")
    member = np.arange(10_000) < 5000
    x, z = simulated(rng, 10_000, member, 1.5), simulated(rng, 2000, np.zeros(2000), 0.0)
    attack, threshold = roc(rmia(x[0], x[1], z[0], z[1]), member), roc(x[0], member)
    assert attack.interval(0.999)[0] > threshold.interval(0.999)[1]


def test_tuning_on_a_paired_model_finds_the_best_of_the_grid():
    rng = numpy_generator(2, "rmia-tune")
    member = np.arange(1000) < 500
    x, z = simulated(rng, 1000, member, 1.5), simulated(rng, 500, np.zeros(500), 0.0)
    best = tune_a(x[0], member, x[1], z[0], z[1])
    areas = {a: roc(rmia(x[0], x[1], z[0], z[1], a=a), member).auc for a in GRID}
    assert areas[best] == max(areas.values())


@pytest.mark.parametrize(
    "change",
    [
        dict(target=[-0.1, 0.5]),
        dict(out=[[2.3, 0.1]]),
        dict(a=1.5),
        dict(gamma=0.0),
        dict(out=[[0.5]]),
        dict(target=[]),
    ],
)
def test_refuses(change):
    arguments = dict(target=TARGET, out=OUT, z_target=Z_TARGET, z_out=Z_OUT) | change
    with pytest.raises(ValueError):
        rmia(**arguments)
