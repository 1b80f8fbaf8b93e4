"""One number a model, candidates against retrained models: the comparison behind every audit that needs few models.

Many audits reduce a model to one number: an accuracy after an attack, a similarity, a mean log-odds. Such a number says
nothing by itself; what counts is where it lies among the same numbers of retrained models, which differ among
themselves because training is random. With M candidates v and K retrained models r, independent of each other,

    gap = mean v - mean r,    t = gap / sqrt(s_v^2 / M + s_r^2 / K)      (Welch; Student's prediction t for M = 1, where
                                                                          s_v is taken to be s_r)

*Null*: candidates and retrained models are draws of one law; then t is Student's where the numbers are Gaussian, and
close to it where they are means over many examples (on 8 x 8 digits, one of 51 retrained networks beside eight others
is detected by the audits that use it in 4.6 to 7 % of draws at 5 %). *Power*: see `detectable_gap`. *Cost*: K
retrained models, shared by all candidates. Unlearned models of one original share its training and are not
independent: give one an original.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from unlearnlib.audit.statistics.roc import as_array


@dataclass(frozen=True, eq=False)
class AgainstNull:
    """`values` [M] of the candidates beside `null` [K] of the retrained models.

    `gap`: difference of their means, with limits `low` and `high`; `p_value`: two-sided; `z`: the gap over the standard
    deviation of one retrained model. Where no number differs from its group's, there is no spread to compare with:
    limits and `z` are NaN, and `p_value` is that of a rank test, 2 / C(K + M, M), or 1 for a gap of 0.
    """

    values: np.ndarray
    null: np.ndarray
    gap: float
    low: float
    high: float
    p_value: float
    z: float

    def detected(self, level: float = 0.95) -> bool:
        """Is the gap one that retraining gives with probability 1 - `level` at most?"""
        return self.p_value <= 1 - level


def against_null(values, null, level: float = 0.95) -> AgainstNull:
    """Compare the numbers `values` [M] (or one number) of candidates with those of K >= 2 retrained models.

    Raises ValueError for fewer than two retrained models, no candidate, numbers that are not finite, and a level
    outside (0, 1).
    """
    v, r = np.atleast_1d(as_array(values, np.float64)), np.atleast_1d(as_array(null, np.float64))
    if v.ndim != 1 or r.ndim != 1 or len(v) < 1 or len(r) < 2:
        raise ValueError(
            f"give one number a model: one candidate or more and two retrained models or more, not {v.shape}"
            f" and {r.shape}"
        )
    if not (np.isfinite(v).all() and np.isfinite(r).all()):
        raise ValueError("a model's number is not finite: drop or repair that model before comparing")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}")
    gap, own = float(v.mean() - r.mean()), float(r.var(ddof=1))
    parts = (own if len(v) == 1 else float(v.var(ddof=1))) / len(v), own / len(r)
    error, scale = math.sqrt(sum(parts)), max(np.abs(v).max(), np.abs(r).max())
    if error <= 1e-12 * scale:
        same = abs(gap) <= 1e-12 * scale
        rank = 1.0 if same else min(2 / math.comb(len(v) + len(r), len(v)), 1.0)
        return AgainstNull(v, r, gap, math.nan, math.nan, rank, 0.0 if same else math.nan)
    freedom = len(r) - 1 if len(v) == 1 else _welch(parts, (len(v), len(r)))
    half = float(t.ppf(0.5 + level / 2, freedom)) * error
    z = gap / math.sqrt(own) if own > 0 else math.nan
    return AgainstNull(v, r, gap, gap - half, gap + half, float(2 * t.sf(abs(gap) / error, freedom)), z)


def _welch(parts: tuple[float, float], sizes: tuple[int, int]) -> float:
    return sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, sizes, strict=True))


def detectable_gap(candidates: int, retrained: int, level: float = 0.95, power: float = 0.8) -> float:
    """The gap, in standard deviations of one retrained model, that is found with probability `power`.

    Both groups have that deviation, so t has K + M - 2 degrees of freedom (K - 1 for one candidate) and is non-central
    with parameter gap / sqrt(1/M + 1/K). One candidate is seen at 20 deviations beside 2 retrained models, at 6.5
    beside 3, at 3.5 beside 8 and at 3.1 beside 16; 8 candidates beside 8 at 1.5.
    """
    if candidates < 1 or retrained < 2 or not 0 < level < 1 or not 1 - level < power < 1:
        raise ValueError(
            "needs a candidate, two retrained models, a level in (0, 1) and a power between its error and 1"
        )
    freedom = retrained - 1 if candidates == 1 else retrained + candidates - 2
    spread = np.sqrt(chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)  # of the estimated deviation
    cut = float(t.ppf(0.5 + level / 2, freedom)) * spread
    reach = float(cut.max()) + 10
    found = brentq(lambda d: (norm.cdf(d - cut) + norm.cdf(-d - cut)).mean() - power, 0.0, reach)
    return float(found * math.sqrt(1 / candidates + 1 / retrained))
