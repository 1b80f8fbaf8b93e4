"""The phantom's closed forms, and every audit run on it: each must find the known answer within its own interval."""

import dp_accounting
import numpy as np
import pytest
from scipy.stats import kstest, norm

from unlearnlib.audit.attacks.interpolated import iam
from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.attacks.one_run import one_run, one_run_gaussian_epsilon
from unlearnlib.audit.distances.forgetting_quality import forgetting_quality, forgetting_quality_null
from unlearnlib.audit.distances.klom import klom, klom_null
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.epsilon import epsilon_from_scores, epsilon_lower_bound, gaussian_epsilon
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.audit.statistics.state import FORGET, NEVER, RETAIN, state_matrix
from unlearnlib.seeding import numpy_generator

PHANTOM = Phantom()
STEPS = (0, 5, 10, 20, 40)
TABLE = {
    0: (0.9160, 1.900, 9.687),
    5: (0.7922, 0.6625, 5.156),
    10: (0.6846, 0.2310, 2.814),
    20: (0.5665, 0.0281, 0.874),
    40: (0.5081, 0.0004, 0.088),
}
SURE = 0.995  # of one interval, so that ten of them hold together with 95%


# closed forms


def test_closed_forms():
    assert PHANTOM.sd == pytest.approx(0.051299, abs=5e-7)
    for k, (auc, kl, epsilon) in TABLE.items():
        assert PHANTOM.auc(k) == pytest.approx(auc, abs=5e-5)
        assert PHANTOM.kl(k) == pytest.approx(kl, abs=5e-4 if k < 5 else 5e-5)
        assert PHANTOM.epsilon(k) == pytest.approx(epsilon, abs=5e-4)
        exact = dp_accounting.get_epsilon_gaussian(1 / PHANTOM.mu(k), 1e-5)
        assert PHANTOM.epsilon(k) == pytest.approx(exact, abs=1e-6)
    assert PHANTOM.mu(10**6) == 0 == PHANTOM.kl(10**6) and PHANTOM.auc(10**6) == 0.5


def test_closed_forms_of_the_roc():
    """Two unit Gaussians one and two apart."""
    for mu, auc, low, lower, accuracy in ((1, 0.7602, 0.0924, 0.0183, 0.6915), (2, 0.9214, 0.3721, 0.1378, 0.8413)):
        p = Phantom(gap=mu * PHANTOM.sd)
        assert p.auc(0) == pytest.approx(auc, abs=5e-4)
        assert (p.tpr(0, 0.01), p.tpr(0, 0.001)) == pytest.approx((low, lower), abs=5e-5)
        assert (1 + p.advantage(0)) / 2 == pytest.approx(accuracy, abs=5e-5)
        p = Phantom(gap=-mu * PHANTOM.sd)  # the sign does not matter to an attacker
        assert p.auc(0) == pytest.approx(auc, abs=5e-4)


def test_simulated_steps_have_the_closed_law():
    for k in (0, 1, 10):
        w = PHANTOM.weights("unlearned", 20_000, k=k, seed=k)
        assert kstest(w, norm(PHANTOM.gap * 0.9**k, PHANTOM.sd).cdf).pvalue > 1e-3
    assert kstest(PHANTOM.weights("original", 20_000), norm(PHANTOM.gap, PHANTOM.sd).cdf).pvalue > 1e-3
    assert kstest(PHANTOM.weights("retrained", 20_000), norm(0, PHANTOM.sd).cdf).pvalue > 1e-3


def test_margins_follow_the_state():
    design = state_matrix(60, 3000, seed=0)
    unlearned, retrained = PHANTOM.margins(design, k=5, difficulty=0.0)
    for scores, at_forget in ((unlearned, PHANTOM.gap * 0.9**5), (retrained, 0.0)):
        for code, centre in ((RETAIN, PHANTOM.gap), (FORGET, at_forget), (NEVER, 0.0)):
            x = scores[design.state == code]
            assert kstest(x[::6], norm(centre, PHANTOM.sd).cdf).pvalue > 1e-3
    again = PHANTOM.margins(design, k=5, difficulty=0.0)
    np.testing.assert_array_equal(unlearned, again[0])
    easy = PHANTOM.margins(design, k=5)[0].mean(0).std()
    assert easy == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("bad", [dict(eta=0.0), dict(eta=1.5), dict(noise=0.0)])
def test_refuses(bad):
    with pytest.raises(ValueError):
        Phantom(**bad)
    with pytest.raises(ValueError, match="law"):
        PHANTOM.weights("finetuned", 3)


# every audit on it


@pytest.mark.parametrize("k", STEPS)
def test_roc(k):
    w = np.concatenate([PHANTOM.weights("unlearned", 4000, k=k, seed=k), PHANTOM.weights("retrained", 4000, seed=k)])
    r = roc(w, np.arange(8000) < 4000)
    low, high = r.interval(SURE)
    assert low <= PHANTOM.auc(k) <= high
    low, high = r.interval_at(0.01, SURE)
    # the threshold is estimated, too: allow its Clopper-Pearson range of false positives
    assert low <= PHANTOM.tpr(k, 0.015) and PHANTOM.tpr(k, 0.006) <= high


@pytest.mark.parametrize("k", STEPS)
def test_lira_in_both_games(k):
    """600 models, so that what is lost by estimating the means (about 1/K of d'^2) is below the interval."""
    design = state_matrix(900, 40, seed=1)
    unlearned, retrained = PHANTOM.margins(design, k=k, seed=k)
    for r in (lira(unlearned, design, game="B"), lira(unlearned, design, game="A", retrained=retrained)):
        interval = r.interval(SURE)
        assert interval.low <= PHANTOM.auc(k) <= interval.high
        assert interval.high - interval.low < 0.05
        error = r.example_advantage.std() / np.sqrt(40)
        assert abs(r.example_advantage.mean() - PHANTOM.advantage(k)) < 3 * error + 0.01  # .01: sign of a tiny gap
    kept = lira(unlearned, design, game="retain").interval(SURE)
    assert kept.low <= PHANTOM.auc(0) <= kept.high  # what is retained stays as exposed as it was


@pytest.mark.parametrize("k", STEPS)
def test_klom_minus_its_null(k):
    u, o = PHANTOM.weights("unlearned", (4000, 40), k=k, seed=1), PHANTOM.weights("retrained", (8000, 40), seed=2)
    for estimator in ("gaussian", "binned"):
        found, null = klom(u, o[:4000], estimator=estimator), klom_null(o, estimator=estimator, splits=3)
        error = np.hypot(found.values.std() / np.sqrt(40), null.means.std() / np.sqrt(3))
        assert abs(found.mean - null.mean - PHANTOM.kl(k)) < norm.isf((1 - SURE) / 2) * error
    wasserstein = klom(u, o[:4000], estimator="wasserstein").mean
    assert wasserstein == pytest.approx(PHANTOM.mu(k) * PHANTOM.sd, abs=0.04 * PHANTOM.sd)
    assert klom(u, o[:4000], estimator="ks").mean == pytest.approx(PHANTOM.advantage(k), abs=0.025)


@pytest.mark.parametrize("k", STEPS)
def test_forgetting_quality_and_its_null(k):
    """eps at delta = .1 is what many thousands of models resolve; the plug-in estimate is biased upwards."""
    u, o = PHANTOM.weights("unlearned", (40_000, 6), k=k, seed=3), PHANTOM.weights("retrained", (40_000, 6), seed=4)
    found = forgetting_quality(u, o, delta=0.1, rules="single")
    truth, error = PHANTOM.epsilon(k, 0.1), found.epsilon.std() / np.sqrt(6)
    assert truth - 3 * error <= np.mean(found.epsilon) <= truth + 3 * error + 0.05

    # the published rules depend on the unit of the margin: measure it in standard deviations
    u, o = (PHANTOM.weights(law, (768, 40), k=k, seed=5) / PHANTOM.sd for law in ("unlearned", "retrained"))
    null = forgetting_quality_null(o[:512], splits=4)
    quality = forgetting_quality(u[:256], o[512:]).quality
    if k == 40:
        assert abs(quality - null.mean()) < 4 * null.std(ddof=1)
    elif k <= 10:
        assert quality < 0.7 * null.min()


@pytest.mark.parametrize("k", STEPS)
def test_certified_epsilon_never_exceeds_the_truth(k):
    u, o = (PHANTOM.weights(law, (512, 60), k=k, seed=5) for law in ("unlearned", "retrained"))
    bounds = np.array([epsilon_from_scores(u[:, i], o[:, i], confidence=SURE) for i in range(60)])
    assert bounds.max() <= PHANTOM.epsilon(k)
    cut = PHANTOM.mu(k) * PHANTOM.sd / 2  # one threshold fixed in advance
    fixed = epsilon_lower_bound((u <= cut).sum(0), 512, (o > cut).sum(0), 512, confidence=SURE)
    assert fixed.max() <= PHANTOM.epsilon(k)
    if k == 0:
        assert np.median(bounds) > 1.5 and np.median(fixed) > 1


@pytest.mark.parametrize("k", STEPS)
def test_one_run_never_exceeds_the_truth(k):
    """Each canary has a weight of its own: the map is mu_k-Gaussian in one of them."""
    b = numpy_generator(k, "phantom-coins").random(2000) < 0.5
    s = np.where(b, PHANTOM.weights("unlearned", 2000, k=k, seed=6), PHANTOM.weights("retrained", 2000, seed=7))
    r = one_run(s, b, confidence=SURE)
    assert r.epsilon <= PHANTOM.epsilon(k)
    gaussian = one_run_gaussian_epsilon(2000, r.guesses, r.correct, 1e-5, 1 - (1 - SURE) / len(r.tried))
    assert r.epsilon <= gaussian <= PHANTOM.epsilon(k)
    assert r.unlearning_epsilon <= gaussian_epsilon(PHANTOM.mu(k) * np.sqrt(b.sum()))
    if k <= 10:
        assert r.epsilon > PHANTOM.epsilon(k) / 5 and r.unlearning_epsilon > 10 * r.epsilon


def test_completeness_rises_with_the_steps():
    o = PHANTOM.weights("retrained", (4, 400), seed=9)
    original = PHANTOM.weights("original", 400, seed=9)
    mean = [iam(PHANTOM.weights("unlearned", 400, k=k, seed=k), original, o).mean() for k in STEPS]
    assert (np.diff(mean) > 0).all()
