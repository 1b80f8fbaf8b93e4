"""Certified lower bounds on the epsilon of differential privacy or unlearning, from an attack's errors.

If the laws of two models are (epsilon, delta)-close, every rule that tells them apart has

    FPR + e^epsilon FNR >= 1 - delta    and    FNR + e^epsilon FPR >= 1 - delta,

so that measured errors bound epsilon from below. Replacing the rates by upper Clopper-Pearson limits makes the bound
hold with a stated confidence. Members are draws from one law, non-members from the other: for unlearning, margins of
unlearned and of retrained models on one example. What is bounded is the epsilon of that pair under an honest
algorithm; the many examples of a forget set are many bounds, of which the largest needs its own correction.

Kairouz et al., ICML 2015 (the region of errors); Jagielski et al., arXiv 2006.07709 (audit with Clopper-Pearson).
"""

import math

import numpy as np

from unlearnlib.audit.statistics.roc import as_array, clopper_pearson
from unlearnlib.private import gaussian
from unlearnlib.seeding import numpy_generator


def _from_rates(fnr, fpr, delta: float):
    """max over the two orders of log(1 - delta - one rate) - log(the other); -inf where neither is defined."""
    fnr, fpr = np.asarray(fnr, float), np.asarray(fpr, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        orders = [np.log(1 - delta - a) - np.log(b) for a, b in ((fpr, fnr), (fnr, fpr))]
    return np.fmax(*(np.where(np.isnan(e), -np.inf, e) for e in orders))


def plug_in_epsilon(false_negatives, members, false_positives, nonmembers, delta: float = 1e-5):
    """Epsilon at the measured rates, at least 0: an estimate, biased upwards once rules are searched."""
    rates = np.asarray(false_negatives) / members, np.asarray(false_positives) / nonmembers
    return _scalar(np.maximum(_from_rates(*rates, delta), 0))


def epsilon_lower_bound(
    false_negatives, members, false_positives, nonmembers, delta: float = 1e-5, confidence: float = 0.95
):
    """Epsilon that is exceeded with the given confidence, for one rule fixed in advance. Counts, or arrays of counts.

    Both rates are replaced by one-sided Clopper-Pearson limits at half the error each; never negative. Raises
    ValueError for counts outside 0..n, delta outside [0, 1) and confidence outside (0, 1).
    """
    _check(delta, confidence)
    level = 1 - (1 - confidence) / 2
    fnr = clopper_pearson(false_negatives, members, level, sides=1)[1]
    fpr = clopper_pearson(false_positives, nonmembers, level, sides=1)[1]
    return _scalar(np.maximum(_from_rates(fnr, fpr, delta), 0))


def max_certifiable(n, delta: float = 1e-5, confidence: float = 0.95):
    """The bound of an attack without a single error on n models of either kind: what n can certify at best."""
    return epsilon_lower_bound(np.zeros_like(n), n, np.zeros_like(n), n, delta, confidence)


def epsilon_from_scores(
    members,
    nonmembers,
    delta: float = 1e-5,
    confidence: float = 0.95,
    *,
    thresholds: str | float = "ranks",
    two_sided: bool = True,
    seed: int = 0,
) -> float:
    """Certified lower bound from scores [n], [m] of the two kinds, with the search for a threshold paid for.

    "ranks": thresholds are the non-members' order statistics at ranks n/2, n/4, ..., 1 from either end, and the
    error is split evenly between them (Bonferroni). The limit stays exact there: the chance that a non-member lies
    above the j-th smallest of n is Beta(n - j + 1, j), and members are independent of it. Thresholds chosen with the
    help of the members, such as the corners of the ROC, are not covered by a correction for the corners alone.
    "split": the best threshold on one random half is certified on the other.
    A number is one threshold, fixed before the scores were seen.

    `two_sided` also tries the reversed rule (members score *lower*, as in over-forgetting) at half the error.
    """
    _check(delta, confidence)
    s, other = as_array(members, np.float64), as_array(nonmembers, np.float64)
    if s.ndim != 1 or other.ndim != 1 or min(len(s), len(other)) < 2 or np.isnan(s).any() or np.isnan(other).any():
        raise ValueError("members and nonmembers must be vectors of two scores or more, without NaN")
    if isinstance(thresholds, str) and thresholds not in ("ranks", "split"):
        raise ValueError(f"thresholds is 'ranks', 'split' or a number, not {thresholds!r}")
    error = (1 - confidence) / (2 if two_sided else 1)
    signs = (1, -1) if two_sided else (1,)

    if thresholds == "split":
        rng = numpy_generator(seed, "epsilon-split")
        (s, held_s), (other, held_other) = (_halves(v, rng) for v in (s, other))
    best = 0.0
    for sign in signs:
        if isinstance(thresholds, str):
            alarms = np.sort(_ranks(len(other)))
            cuts = np.sort(sign * other)[len(other) - alarms - 1]  # exactly `alarms` non-members lie above each
        else:
            cuts = np.array([sign * float(thresholds)])
            alarms = (sign * other[:, None] > cuts).sum(0)
        misses = (sign * s[:, None] <= cuts).sum(0)
        level = 1 - error / (len(cuts) if thresholds == "ranks" else 1)
        bounds = epsilon_lower_bound(misses, len(s), alarms, len(other), delta, level)
        if thresholds == "split":
            cut = cuts[np.argmax(bounds)]
            misses, alarms = (sign * held_s <= cut).sum(), (sign * held_other > cut).sum()
            bounds = epsilon_lower_bound(misses, len(held_s), alarms, len(held_other), delta, 1 - error)
        best = max(best, float(np.max(bounds)))
    return best


def gaussian_delta(mu: float, epsilon) -> float | np.ndarray:
    """delta(epsilon) between N(mu, 1) and N(0, 1): Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu).

    Balle and Wang, arXiv 1805.06530. `mu` is sensitivity over noise, 1/sigma.
    """
    return gaussian.gaussian_delta(epsilon, 1.0, mu)


def gaussian_epsilon(mu: float, delta: float = 1e-5) -> float:
    """The epsilon >= 0 at which `gaussian_delta` is `delta`: the exact privacy of two unit Gaussians mu apart.

    0 where delta alone covers their difference. Raises ValueError for mu < 0 and delta outside (0, 1).
    """
    if mu < 0 or not 0 < delta < 1:
        raise ValueError(f"needs mu >= 0 and delta in (0, 1), not {mu} and {delta}")
    return gaussian.gdp_epsilon(mu, delta) if mu > 0 else 0.0


def _ranks(n: int) -> np.ndarray:
    """n/2, n/4, ... down to 1 alarms among n, and n less as many."""
    parts = np.rint(n / 2.0 ** np.arange(1, int(math.log2(n)) + 1)).astype(int)
    return np.unique(np.concatenate([parts, n - parts]))


def _halves(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(len(v))
    return v[order[: len(v) // 2]], v[order[len(v) // 2 :]]


def _check(delta: float, confidence: float) -> None:
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError(f"delta must lie in [0, 1) and confidence in (0, 1), not {delta} and {confidence}")


def _scalar(values: np.ndarray):
    return float(values) if np.ndim(values) == 0 else values
