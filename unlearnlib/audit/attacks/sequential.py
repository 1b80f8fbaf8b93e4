"""Sequential audit of f-differential privacy: train models until the claim is refuted, and stop there.

A claim "unlearned and retrained models are f-close" bounds what any rule can do with one model: if it calls a retrained
model unlearned with probability a, it misses an unlearned one with probability b >= f(a), f the trade-off curve, convex
and falling. An audit with a number of models fixed beforehand wastes most of them where the claim is grossly wrong and
ends in doubt where it is nearly right. Here pairs (one unlearned, one retrained model) come one after another, and
the audit may stop after each.

The curve lies above each of its tangents, b + s a >= c with slope -s. For a rule and a tangent that were chosen from
earlier pairs alone, the loss of the next pair

    Z = 1[unlearned model missed] + s 1[retrained model called unlearned],    0 <= Z <= 1 + s,    E Z >= c under the
    claim,

so that a bet of a share l of one's wealth against it, 0 <= l <= 1 / (1 + s - c), gives a wealth

    W_n = prod_{t <= n} (1 + l_t (c_t - Z_t)),    with P[ W_n >= 1 / alpha for some n ] <= alpha under the claim

(Ville's inequality). The bound is exact for any number of pairs, and for stopping at will. The largest mu whose
Gaussian curve G_mu(a) = Phi(Phi^-1(1 - a) - mu) has been refuted so far is a lower bound that holds at all times at
once, with confidence 1 - alpha; and so is the epsilon that G_mu has at a given delta.

*Direction*: larger mu is worse. *Units*: standard deviations between two Gaussians; epsilon in nats. *Null*: unlearned
models that are retrained ones are refuted at mu = 0 with probability alpha at most. *Power*: the median run on
Gaussian scores mu apart refutes mu = 0 after 13, 26 and 80 pairs for mu = 2, 1 and 1/2, and mu / 2 after 37, 90 and
370. Measured false refutations in 400 runs of 300 pairs: 1.5 % at mu = 0, .3 % at mu = 1. *Cost*: pairs of independent
models, each from an original of its own; none is wasted, since the audit is free to stop.

Kutta, Dunsche, Wei and Zikas, arXiv 2602.06518. **Reconstruction** from the abstract and the published code.
Deviations: the authors compare error rates, in a band of width q sigma sqrt(log(20 + n / burn-in) / n) with q
simulated from a Gaussian random walk, on all pairs, those that the rule was fitted on included; that is asymptotic in
the burn-in. Betting on fresh pairs (Gonzalez et al., arXiv 2509.07055, do so for epsilon and delta) has its level with
few models, too.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.audit.statistics.roc import as_array

BURN_IN = 4  # pairs that the first rule is fitted on, and that nothing is bet on
CAP = 0.8  # of the largest bet that cannot lose everything


@dataclass(frozen=True, eq=False)
class SequentialAudit:
    """`mu`: the largest Gaussian curve refuted by the end, 0 if none; `path` [n]: the same after each pair.

    `pairs`: how many there were; `refuted_at`: after how many the claim `claimed` fell, None where it stands.
    `wealth` [n]: of the bets against the claim.
    """

    mu: float
    path: np.ndarray
    pairs: int
    claimed: float
    refuted_at: int | None
    wealth: np.ndarray
    delta: float
    confidence: float

    @property
    def epsilon(self) -> float:
        """The epsilon at `delta` of the Gaussian curve `mu`; a statement about mechanisms whose curve is Gaussian."""
        return gaussian_epsilon(self.mu, self.delta)


def sequential_audit(
    unlearned, retrained, claimed: float = 0.0, *, delta: float = 1e-5, confidence: float = 0.95, grid=None
) -> SequentialAudit:
    """Audit the claim "`claimed`-Gaussian unlearning" on pairs of scores, in the order in which they came.

    `unlearned` [n] and `retrained` [n]: one score a model, such as the margin of one example or a mean over a forget
    set. Pair t is one model of either kind; all models are independent. The direction of the rule is learned, so
    over-forgetting is found, too. `grid`: the values of mu that are tested beside the claim, by default 0 to 6 in steps
    of .1; each is tested by itself, and a curve that is refuted refutes those below it.

    Raises ValueError for scores that are NaN or infinite, lengths that differ, fewer than BURN_IN + 1 pairs, a negative
    claim, and confidence or delta out of range.
    """
    u, r = as_array(unlearned, np.float64), as_array(retrained, np.float64)
    if u.ndim != 1 or u.shape != r.shape or len(u) <= BURN_IN:
        raise ValueError(f"needs pairs of scores, more than {BURN_IN} of them, not {u.shape} and {r.shape}")
    if not (np.isfinite(u).all() and np.isfinite(r).all()):
        raise ValueError("scores are not finite: drop or repair those models, in pairs")
    if claimed < 0 or not 0 < confidence < 1 or not 0 < delta < 1:
        raise ValueError(f"claimed must not be negative, delta and confidence lie in (0, 1): {claimed}, {delta}")
    curves = np.unique(np.append(np.arange(0, 6.05, 0.1) if grid is None else as_array(grid, np.float64), claimed))
    if curves[0] < 0:
        raise ValueError("a Gaussian curve has mu >= 0: give a grid without negative values")
    wealth = np.ones((len(u), len(curves)))
    for t in range(BURN_IN, len(u)):
        sign, cut, errors = _rule(u[:t], r[:t])
        miss, alarm = sign * u[t] <= sign * cut, sign * r[t] > sign * cut
        slope, height, bet = _bets(curves, *errors, t)
        wealth[t] = wealth[t - 1] * (1 + bet * (height - miss - slope * alarm))
    refuted = np.maximum.accumulate(wealth, axis=0) >= 1 / (1 - confidence)
    path = np.where(refuted, curves, 0.0).max(1)
    fallen = np.flatnonzero(refuted[:, np.searchsorted(curves, claimed)])
    at = int(fallen[0]) + 1 if len(fallen) else None
    own = wealth[:, np.searchsorted(curves, claimed)]
    return SequentialAudit(float(path[-1]), path, len(u), float(claimed), at, own, delta, confidence)


def _rule(u: np.ndarray, r: np.ndarray) -> tuple[int, float, tuple[float, float]]:
    """Direction, threshold half way between the means, and the errors (miss, false alarm) that two Gaussians of one
    variance, fitted to the earlier pairs, would give there."""
    gap = u.mean() - r.mean()
    sign = 1 if gap >= 0 else -1
    sd = np.sqrt((u.var(ddof=1) + r.var(ddof=1)) / 2)
    half = abs(gap) / (2 * sd) if sd > 0 else (np.inf if gap else 0.0)
    error = float(ndtr(-half))
    return sign, float((u.mean() + r.mean()) / 2), (error, error)


def _bets(curves: np.ndarray, miss: float, alarm: float, seen: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each curve the tangent at `alarm` (slope s and height c) and the bet that would have grown fastest.

    With G_mu'(a) = -exp(mu q - mu^2 / 2), q = Phi^-1(1 - a). The bet maximises the expected logarithm of the wealth in
    its second-order expansion, E(c - Z) / E(c - Z)^2, at error rates that are drawn in towards 1/2 by one pair in
    either direction; it is 0 where the claim is not expected to fail.
    """
    a, b = ((error * seen + 1) / (seen + 2) for error in (alarm, miss))
    q = -ndtri(a)
    slope = np.exp(curves * q - curves**2 / 2)
    height = ndtr(q - curves) + slope * a
    gain = height - b - slope * a
    square = gain**2 + b * (1 - b) + slope**2 * a * (1 - a)
    most = CAP / np.maximum(1 + slope - height, 1e-12)
    return slope, height, np.clip(gain / square, 0, most)
