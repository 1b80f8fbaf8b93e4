"""The Gaussian one-run bound: closed forms against quadrature, its level, its power, and models it must not trust."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from unlearnlib.audit.attacks.gaussian_one_run import gaussian_one_run, gaussian_pair_delta, gaussian_pair_epsilon
from unlearnlib.audit.attacks.one_run import one_run
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.epsilon import gaussian_delta, gaussian_epsilon
from unlearnlib.seeding import numpy_generator


@pytest.mark.parametrize("pair", [(1, 1, 0, 1), (0.5, 1.5, 0, 1), (0, 0.6, 0.3, 1), (0, 2, 0, 1), (-1, 1, 0, 1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_hockey_stick_equals_quadrature(pair, epsilon):
    m1, s1, m0, s0 = pair
    p, q = norm(m1, s1).pdf, norm(m0, s0).pdf
    expected = quad(lambda x: max(p(x) - np.exp(epsilon) * q(x), 0), -15, 15, limit=500, points=np.linspace(-6, 6, 40))
    assert gaussian_pair_delta(*pair, epsilon) == pytest.approx(expected[0], abs=1e-7)


def test_equal_variances_are_the_known_case():
    for mu in (0.5, 1, 2):
        assert gaussian_pair_delta(3 + 2 * mu, 2, 3, 2, 0.7) == pytest.approx(gaussian_delta(mu, 0.7), rel=1e-9)
        assert gaussian_pair_epsilon(mu, 1, 0, 1, 1e-5) == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-6)
    assert gaussian_pair_epsilon(0, 1, 0, 1, 1e-5) == 0
    assert gaussian_pair_delta(0, 1, 0, 1, 0.1) == 0


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_keeps_its_level(mu):
    """The limit exceeds the truth in 5% of 1,000 runs of 60 canaries, withheld ones counted as right."""
    rng = numpy_generator(0, "gaussian-one-run", int(mu))
    coins = np.arange(60) % 2
    over = [gaussian_one_run(mu * coins + rng.normal(size=60), coins).mu > mu for _ in range(1000)]
    assert np.mean(over) == pytest.approx(0.05, abs=0.02)


def test_recovers_the_phantom_more_tightly_than_guesses():
    phantom, m = Phantom(), 2000
    coins = numpy_generator(1, "coins").integers(0, 2, m)
    for k in (0, 5, 10):
        w = np.where(coins, phantom.weights("unlearned", m, k=k, seed=k), phantom.weights("retrained", m, seed=100 + k))
        found = gaussian_one_run(w, coins)
        assert found.valid and 0.75 * phantom.mu(k) - 0.05 < found.mu < phantom.mu(k) + 0.02
        assert found.epsilon <= phantom.epsilon(k) + 0.1 and found.unlearning_mu == found.mu / 2
        assert found.plug_in == pytest.approx(phantom.epsilon(k), rel=0.2)
        assert found.epsilon > one_run(w, coins.astype(bool)).epsilon


@pytest.mark.parametrize(
    "make",
    [
        lambda rng, b: rng.standard_t(2, len(b)),  # heavy tails: no Gaussian
        lambda rng, b: np.where(b, 2.0, 1.0) * rng.normal(size=len(b)),  # two variances
        lambda rng, b: np.exp(2 * rng.normal(size=len(b))),
    ],
)
def test_a_bound_is_withheld_where_the_model_is_wrong(make):
    rng = numpy_generator(2, "wrong")
    coins = rng.integers(0, 2, 500)
    found = gaussian_one_run(make(rng, coins), coins)
    assert not found.valid and np.isnan([found.mu, found.epsilon, found.unlearning_mu]).all()


def test_a_flipped_sign_claims_nothing():
    """The planted bug: scores that are low for members. One-sided as stated, so the bound is 0 and not that of |d|."""
    coins = np.arange(200) % 2
    s = 2 * coins + numpy_generator(3, "sign").normal(size=200)
    assert gaussian_one_run(s, coins).mu > 1.5 and gaussian_one_run(-s, coins).mu == 0


def test_refused():
    s, b = numpy_generator(4, "refused").normal(size=40), np.arange(40) % 2
    for scores, coins, says in (
        (s[:-1], b, "one length"),
        (np.where(b, np.inf, s), b, "finite"),
        (s, b * 3, "coins"),
        (s, np.arange(40) < 5, "canaries there"),
        (b.astype(float), b, "all equal"),
    ):
        with pytest.raises(ValueError, match=says):
            gaussian_one_run(scores, coins)
    with pytest.raises(ValueError, match="delta"):
        gaussian_one_run(s, b, 0)
    with pytest.raises(ValueError, match="confidence"):
        gaussian_one_run(s, b, confidence=0.3)


@pytest.mark.parametrize("mu, m", [(20.0, 2000), (3.0, 20_000), (0.0, 20_000)])
def test_far_tails_of_the_non_central_law(mu, m):
    coins = np.arange(m) % 2
    found = gaussian_one_run(mu * coins + numpy_generator(5, "tails", m).normal(size=m), coins)
    slack = 1.645 * np.sqrt(4 / m + mu**2 / (2 * m))  # the law of d for large m
    assert found.mu == pytest.approx(max(found.estimate - slack, 0), abs=0.1 * slack + 1e-9)
