"""The Gaussian one-run bound: epsilon from one model, from the sizes of the canaries' scores and not from guesses.

As in `one_run`, each of m canaries enters the training set by a fair coin of its own, one model is trained (and
unlearns), and every canary gets a score. A guess "in" or "out" throws away how clear the case was. Where scores are
sums of many small contributions, as are inner products of a canary's gradient with the noisy updates of private
training, those of canaries that were in and out are close to two Gaussians, and a comparison of these uses all of each
score:

    in ~ N(m_1, s^2), out ~ N(m_0, s^2):    mu = (m_1 - m_0) / s,    epsilon = that of the curve G_mu at delta.

With n_1 and n_0 canaries and the pooled deviation s, d sqrt(n_1 n_0 / (n_1 + n_0)), d = (mean_1 - mean_0) / s, has the
non-central t law with parameter mu sqrt(n_1 n_0 / (n_1 + n_0)) and n_1 + n_0 - 2 degrees of freedom, so that the mu at
which it would be exceeded with probability 1 - confidence is an exact lower limit.

*What it rests on*: scores that are Gaussian, of one variance, and independent given the coins. The first two are tested
(`normal_p`, `variance_p`), and where one fails at 1 % the bound is withheld (NaN, `valid` False): heavy tails can give
a large d without any epsilon. Tests do not prove; a mechanism that is not Gaussian may be more private than this bound
says. So it is an estimate under a model, not a certificate: that is `one_run`.

*What it says about unlearning*: M(b) and M(b') that are each mu'-close to the model without canaries are 2 mu'-close to
each other, so unlearning has mu' >= mu / 2 (`unlearning_mu`).

*Direction*: larger is worse. *Null*: scores that know nothing of the coins exceed mu = 0 with probability 1 -
confidence. *Power*: 80 % at mu = 2.5 / sqrt(m / 4), which is .16 with 1,000 canaries. *Cost*: one training, one
unlearning.

Agrawal et al., arXiv 2606.12733. **Reconstruction** from the abstract: a pair of one-dimensional Gaussians and the
closed form of their hockey-stick divergence. Deviations: the interval is exact in m and not asymptotic, and of one
variance; the plug-in epsilon of two variances stands beside it (`plug_in`).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import f, nct, shapiro

from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.audit.statistics.roc import as_array

SUSPECT = 0.01  # p-value of the tests of the model below which the bound is withheld
FEWEST = 8  # canaries a side


@dataclass(frozen=True)
class GaussianOneRun:
    """`mu`: lower limit at `confidence` of the distance of the two Gaussians, `epsilon` its value at `delta`; NaN where
    the scores contradict the model (`valid` False). `estimate`: d itself; `plug_in`: the epsilon of the two fitted
    Gaussians with variances of their own, an estimate without a level."""

    mu: float
    epsilon: float
    unlearning_mu: float
    estimate: float
    plug_in: float
    valid: bool
    normal_p: float
    variance_p: float
    canaries: int
    delta: float
    confidence: float


def gaussian_one_run(scores, included, delta: float = 1e-5, confidence: float = 0.95) -> GaussianOneRun:
    """Audit one model by the scores [m] of its canaries, high for "was included", and the coins `included` [m].

    Raises ValueError for scores that are not finite or all equal, shapes that differ, coins that are not 0 and 1, fewer
    than FEWEST canaries a side, and delta or confidence out of range.
    """
    s, b = as_array(scores, np.float64), as_array(included)
    if s.ndim != 1 or s.shape != b.shape or not np.isfinite(s).all():
        raise ValueError("scores and included must be vectors of one length, the scores finite")
    if not np.isin(b, (0, 1)).all():
        raise ValueError("included must be the coins: booleans, or 0 and 1")
    if not 0 < delta < 1 or not 0.5 <= confidence < 1:
        raise ValueError(f"delta must lie in (0, 1) and confidence in [1/2, 1), not {delta} and {confidence}")
    inside, outside = s[b.astype(bool)], s[~b.astype(bool)]
    sizes = len(inside), len(outside)
    if min(sizes) < FEWEST:
        raise ValueError(f"a Gaussian on either side needs {FEWEST} canaries there or more, not {sizes}")
    variances = inside.var(ddof=1), outside.var(ddof=1)
    if min(variances) <= 1e-24 * max(np.abs(s).max(), 1e-300) ** 2:
        raise ValueError("the scores of one side are all equal: no Gaussian fits them, use one_run")
    pooled = math.sqrt(sum((n - 1) * v for n, v in zip(sizes, variances, strict=True)) / (sum(sizes) - 2))
    d = float(inside.mean() - outside.mean()) / pooled
    ratio = variances[0] / variances[1]
    freedom = sizes[0] - 1, sizes[1] - 1
    variance_p = float(2 * min(f.sf(ratio, *freedom), f.cdf(ratio, *freedom)))
    residuals = (side[:4000] - side.mean() for side in (inside, outside))
    normal_p = min(1.0, 2 * min(float(shapiro(x).pvalue) for x in residuals))
    valid = min(variance_p, normal_p) > SUSPECT
    mu = _lower_limit(d, sizes, confidence) if valid else math.nan
    epsilon = gaussian_epsilon(mu, delta) if valid else math.nan
    sds = math.sqrt(variances[0]), math.sqrt(variances[1])
    plug_in = gaussian_pair_epsilon(float(inside.mean()), sds[0], float(outside.mean()), sds[1], delta)
    return GaussianOneRun(mu, epsilon, mu / 2, d, plug_in, valid, normal_p, variance_p, len(s), delta, confidence)


def _lower_limit(d: float, sizes: tuple[int, int], confidence: float) -> float:
    root = math.sqrt(sizes[0] * sizes[1] / sum(sizes))
    freedom, statistic = sum(sizes) - 2, d * root

    def excess(mu: float) -> float:
        return float(nct.sf(statistic, freedom, mu * root)) - (1 - confidence)

    return 0.0 if excess(0.0) >= 0 else float(brentq(excess, 0.0, max(d, 1e-12), xtol=1e-9))


def gaussian_pair_delta(m1: float, s1: float, m0: float, s0: float, epsilon: float) -> float:
    """Hockey-stick divergence sup_A P(A) - e^epsilon Q(A) of P = N(m1, s1^2) from Q = N(m0, s0^2), in closed form.

    log p - log q is a quadratic in x; A is where it exceeds epsilon: a half-line (s1 = s0), the outside of an interval
    (s1 > s0) or its inside, or nothing.
    """
    if min(s1, s0) <= 0:
        raise ValueError(f"standard deviations must be positive, not {s1} and {s0}")
    a = (1 / s0**2 - 1 / s1**2) / 2
    b = m1 / s1**2 - m0 / s0**2
    c = math.log(s0 / s1) - m1**2 / (2 * s1**2) + m0**2 / (2 * s0**2) - epsilon

    def mass(low: float, high: float) -> float:
        p, q = (float(ndtr((high - m) / s) - ndtr((low - m) / s)) for m, s in ((m1, s1), (m0, s0)))
        return p - math.exp(min(epsilon, 700)) * q

    if abs(a) < 1e-14 / min(s1, s0) ** 2:
        if b == 0:
            return max(0.0, 1 - math.exp(epsilon))
        return max(0.0, mass(-c / b, math.inf) if b > 0 else mass(-math.inf, -c / b))
    root = b * b - 4 * a * c
    if root <= 0:
        return max(0.0, 1 - math.exp(min(epsilon, 700))) if a > 0 else 0.0
    low, high = sorted(((-b - math.sqrt(root)) / (2 * a), (-b + math.sqrt(root)) / (2 * a)))
    return max(0.0, mass(low, high) if a < 0 else mass(-math.inf, low) + mass(high, math.inf))


def gaussian_pair_epsilon(m1: float, s1: float, m0: float, s0: float, delta: float) -> float:
    """The epsilon >= 0 at which neither of two Gaussians is further than `delta` from the other (hockey-stick)."""

    def excess(epsilon: float) -> float:
        return max(gaussian_pair_delta(m1, s1, m0, s0, epsilon), gaussian_pair_delta(m0, s0, m1, s1, epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))
