"""The sequential audit: validity at all times, the phantom, its speed, and claims that hold and that do not."""

import numpy as np
import pytest
from scipy.stats import norm

from unlearnlib.audit.attacks.sequential import BURN_IN, _bets, _rule, sequential_audit
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.seeding import numpy_generator

GRID = [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_bet_is_fair_under_the_claim_and_cannot_lose_everything():
    """On the curve itself E Z = c at every tangent: Phi(q - mu) + s a = c, so the expected factor is 1."""
    curves = np.array([0.0, 0.5, 1.0, 2.0])
    for alarm in (0.05, 0.3, 0.5):
        slope, height, bet = _bets(curves, 0.01, alarm, 1000)
        for a in (0.01, 0.2, 0.7):  # any operating point of the claimed curve lies above the tangent
            expected = norm.cdf(norm.isf(a) - curves) + slope * a
            assert (expected >= height - 1e-12).all()
        at = (alarm * 1000 + 1) / 1002
        np.testing.assert_allclose(norm.cdf(norm.isf(at) - curves) + slope * at, height)
        assert (1 + bet * (height - 1 - slope) > 0).all() and (bet >= 0).all()


def test_rule_is_half_way_and_knows_its_direction():
    rng = numpy_generator(0, "rule")
    u, r = rng.normal(-2, 1, 500), rng.normal(0, 1, 500)
    sign, cut, errors = _rule(u, r)
    assert sign == -1 and cut == pytest.approx(-1, abs=0.1)
    assert errors[0] == errors[1] == pytest.approx(norm.cdf(-1), abs=0.02)


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_bound_holds_at_all_times_at_once(mu):
    """The true curve falls in no more than 5% (and chance) of 200 runs of up to 300 pairs, looked at after each."""
    rng = numpy_generator(1, "sequential-level", int(mu))
    wrong = [
        sequential_audit(rng.normal(mu, 1, 300), rng.normal(0, 1, 300), mu, grid=[0.0]).refuted_at is not None
        for _ in range(200)
    ]
    assert np.mean(wrong) <= 0.08


def test_recovers_the_phantom_and_stops_early():
    phantom, n = Phantom(), 600
    stops = []
    for k, least in ((0, 1.2), (5, 0.5)):
        u, r = phantom.weights("unlearned", n, k=k, seed=1), phantom.weights("retrained", n, seed=2)
        found = sequential_audit(u, r)
        assert least <= found.mu <= phantom.mu(k) and found.epsilon <= phantom.epsilon(k)
        assert (np.diff(found.path) >= 0).all() and found.path[-1] == found.mu
        stops.append(found.refuted_at)
    assert stops[0] < stops[1] < 150
    null = sequential_audit(phantom.weights("unlearned", n, k=10**4, seed=1), phantom.weights("retrained", n, seed=2))
    assert null.mu == 0 and null.refuted_at is None


def test_over_forgetting_counts():
    rng = numpy_generator(3, "below")
    assert sequential_audit(rng.normal(-2, 1, 200), rng.normal(0, 1, 200)).mu > 1


def test_speed_as_stated():
    """Half of mu is refuted after about 30 pairs for mu = 2 and 90 for mu = 1."""
    for mu, pairs in ((2.0, 30), (1.0, 90)):
        rng = numpy_generator(4, "speed", int(mu))
        runs = [sequential_audit(rng.normal(mu, 1, 400), rng.normal(0, 1, 400), mu / 2, grid=[0.0]) for _ in range(30)]
        at = np.median([400 if run.refuted_at is None else run.refuted_at for run in runs])
        assert at == pytest.approx(pairs, rel=0.5)


def test_stopping_after_n_pairs_gives_the_path():
    rng = numpy_generator(5, "prefix")
    u, r = rng.normal(1.5, 1, 80), rng.normal(0, 1, 80)
    whole = sequential_audit(u, r, grid=GRID)
    assert [sequential_audit(u[:n], r[:n], grid=GRID).mu for n in (10, 40, 80)] == list(whole.path[[9, 39, 79]])
    assert (whole.wealth[:BURN_IN] == 1).all()


def test_constant_scores_refute_nothing_and_separation_does():
    assert sequential_audit(np.zeros(200), np.zeros(200)).mu == 0
    assert sequential_audit(np.ones(60), np.zeros(60)).mu > 2


def test_refused():
    for u, r, says in (
        (np.zeros(4), np.zeros(4), "more than"),
        (np.zeros(9), np.zeros(8), "pairs"),
        (np.full(9, np.nan), np.zeros(9), "finite"),
    ):
        with pytest.raises(ValueError, match=says):
            sequential_audit(u, r)
    with pytest.raises(ValueError, match="negative"):
        sequential_audit(np.zeros(9), np.zeros(9), -1)
    with pytest.raises(ValueError, match="mu >= 0"):
        sequential_audit(np.zeros(9), np.zeros(9), grid=[-1.0])
