"""One Gaussian: the trade-off of N(mu, 1) against N(0, 1), exactly. The audits and the accountants share it.

    delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu),    mu = sensitivity / sigma        (key balle2018)

By hand, because dp-accounting is an extra that audits do without, and its searches stop at 1e-9; the tests compare.
What is found by a search is rounded to the safe side: epsilon and sigma are never below the exact values.
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr

from unlearnlib.private.checks import check_budget, check_positive

_SLACK = 1e-10  # relative, above the tolerance of the searches and the rounding of delta


def gaussian_delta(epsilon, sigma: float, sensitivity: float = 1.0):
    """Smallest delta of the Gaussian mechanism at `epsilon`, a number or an array: the formula above, exact."""
    check_positive(sigma=sigma, sensitivity=sensitivity)
    mu = sensitivity / sigma
    check_positive(**{"sensitivity / sigma": mu})
    eps = np.asarray(epsilon, dtype=float)
    first, second = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
    found = np.exp(first) * -np.expm1(np.minimum(second - first, 0.0))
    return float(found) if found.ndim == 0 else found


def _excess(epsilon: float, sigma: float, sensitivity: float, delta: float) -> float:
    """log(delta(epsilon) / delta): of the sign of the difference, and well scaled however small delta is."""
    return math.log(max(gaussian_delta(epsilon, sigma, sensitivity), 1e-300) / delta)


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """Smallest noise std that makes a query of L2 `sensitivity` (epsilon, delta)-DP: the analytic Gaussian mechanism.

    The root of `gaussian_delta(epsilon, sigma, sensitivity) = delta` (key balle2018). Linear in the sensitivity.
    """
    check_budget(epsilon, delta)
    check_positive(sensitivity=sensitivity)
    root = brentq(lambda s: _excess(epsilon, math.exp(s), 1.0, delta), -30.0, 30.0, xtol=1e-14)
    return math.exp(root) * sensitivity * (1 + _SLACK)


def gaussian_epsilon(sigma: float, delta: float, sensitivity: float = 1.0) -> float:
    """Smallest epsilon of the Gaussian mechanism at `delta`; a group of k examples has k times the sensitivity."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, not {delta!r}")
    if gaussian_delta(0.0, sigma, sensitivity) <= delta:
        return 0.0
    mu = sensitivity / sigma
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1  # the bound of concentrated DP, and one more
    root = brentq(lambda e: _excess(e, sigma, sensitivity, delta), 0.0, high, xtol=1e-13)
    return float(root * (1 + _SLACK) + 1e-12)


def gdp_epsilon(mu: float, delta: float, size: int = 1) -> float:
    """epsilon of mu-GDP at `delta` for a group of `size`: a group of k is k mu-GDP, exactly."""
    check_positive(mu=mu, size=size)
    return gaussian_epsilon(1.0, delta, mu * size)


def laplace_delta(epsilon: float, scale_epsilon: float) -> float:
    """delta at `epsilon` of the Laplace mechanism that is (e, 0)-DP, e = `scale_epsilon`: 1 - e^{(epsilon - e)/2}."""
    check_positive(scale_epsilon=scale_epsilon)
    return -math.expm1((epsilon - scale_epsilon) / 2) if epsilon < scale_epsilon else 0.0
