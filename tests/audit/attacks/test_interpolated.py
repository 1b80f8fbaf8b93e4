"""IAM: monotone in the unlearned signal, its two ends, scipy's laws, and the pitfall of the pooled spread."""

import numpy as np
import pytest
from scipy.stats import gumbel_r, norm

from unlearnlib.audit.attacks.interpolated import _distribution, iam
from unlearnlib.seeding import numpy_generator


def signals(n=400, models=4, gap=6.0, noise=1.0):
    rng = numpy_generator(0, "iam")
    difficulty = rng.normal(0, 0.5, n)
    out = difficulty + noise * rng.normal(size=(models, n))
    return out, difficulty + gap


@pytest.mark.parametrize("law", ["gumbel", "normal"])
@pytest.mark.parametrize("spread", ["pooled", "example"])
def test_monotone_and_ordered_at_its_ends(law, spread):
    out, original = signals()
    at = [iam(out.mean(0) + f * (original - out.mean(0)), original, out, law=law, spread=spread) for f in
          np.linspace(-0.5, 1.5, 9)]  # fmt: skip
    assert (np.diff(at, axis=0) <= 1e-12).all()
    unlearned_is_out, unlearned_is_original = at[2].mean(), at[6].mean()
    assert unlearned_is_out > 0.8 and unlearned_is_original < 0.2
    assert (np.array(at) >= 0).all() and (np.array(at) <= 1).all()


def test_a_never_seen_example_and_an_unchanged_model_have_their_closed_forms():
    """Far from all interpolations F is 0 or 1; with a tight law the score is the share of alpha-mass above."""
    out, original = np.zeros((1, 50)), np.full(50, 10.0)
    assert iam(np.full(50, -1e3), original, out).min() == pytest.approx(1.0)
    assert iam(np.full(50, 1e3), original, out).max() == pytest.approx(0.0)
    # identical examples: the pooled spread is 0, F_alpha a step at 10 alpha; half way leaves 1 - 1/4 of the mass
    alphas = np.linspace(0, 1, 100)[:-1]
    expected = alphas[10 * alphas > 5].sum() / alphas.sum()
    np.testing.assert_allclose(iam(np.full(50, 5.0), original, out), expected, atol=1e-9)
    assert expected == pytest.approx(0.75, abs=0.01)


def test_laws_match_scipy_by_moments():
    z = np.linspace(-4, 6, 50)
    beta = np.sqrt(6) / np.pi
    np.testing.assert_allclose(_distribution(z, "gumbel"), gumbel_r.cdf(z, -beta * np.euler_gamma, beta), atol=1e-12)
    np.testing.assert_allclose(_distribution(z, "normal"), norm.cdf(z), atol=1e-12)
    assert np.isfinite(_distribution(np.array([-1e9, 1e9]), "gumbel")).all()


def test_one_reference_model_separates_kept_from_forgotten():
    out, original = signals(models=1)
    rng = numpy_generator(1, "iam")
    kept = iam(original + rng.normal(size=400), original, out)
    forgotten = iam(original - 6 + rng.normal(size=400), original, out)
    assert forgotten.mean() - kept.mean() > 0.6 and (forgotten > np.quantile(kept, 0.95)).mean() > 0.95


def test_the_pooled_spread_takes_differences_between_examples_for_noise():
    """Same gaps, same noise, but examples that differ a lot: the pooled law blurs, each example's own does not."""
    rng = numpy_generator(2, "iam")
    difficulty = rng.normal(0, 20, 400)
    out, original = difficulty + rng.normal(size=(8, 400)), difficulty + 6
    gap = {}
    for spread in ("pooled", "example"):
        gap[spread] = np.mean(
            iam(difficulty, original, out, spread=spread) - iam(original, original, out, spread=spread)
        )
    assert gap["example"] > 0.9 and gap["pooled"] < 0.4


@pytest.mark.parametrize(
    "change",
    [
        dict(law="beta"),
        dict(spread="fixed"),
        dict(grid=1),
        dict(unlearned=[1.0]),
        dict(unlearned=[np.inf, 0.0]),
        dict(spread="example"),
    ],
)
def test_refuses(change):
    arguments = dict(unlearned=[0.0, 1.0], original=[2.0, 3.0], out=[[0.0, 1.0]]) | change
    with pytest.raises(ValueError):
        iam(**arguments)
