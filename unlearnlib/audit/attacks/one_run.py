"""One-run audit: a lower bound on epsilon from one training and one unlearning.

Each of m canaries enters the training set, or not, by a fair coin b_i of its own. One model is trained on D and the
canaries with b_i = 1, and then unlearns exactly those. An attacker sees the model and guesses r of the coins. If the
map from coins to model is (epsilon, delta)-differentially private, the number V of right guesses obeys

    P[V >= v] <= beta + 2 m delta max_i (P[v > B >= v - i]) / i,    beta = P[B >= v],  B ~ Bin(r, e^eps / (1 + e^eps)).

Steinke, Nasr and Jagielski, arXiv 2305.08846 (theorem 5.2 for fixed guesses); Mahloujifar, Melis and Chaudhuri,
arXiv 2410.22235 (the recursion for a whole trade-off curve).

*What it says about unlearning.* Let the unlearned model M(b) be (eps, delta)-close to the model A(D) that never saw a
canary, whatever b was. A(D) knows nothing of b, so guesses from it are coin flips, and for the event "v right"

    P[V >= v] <= e^eps P[Bin(r, 1/2) >= v] + delta,    hence  eps >= log((alpha - delta) / P[Bin(r, 1/2) >= v])

at error alpha. The bound concerns the removal of the whole canary set. It is never below the one through privacy of
the map itself: M(b) and M(b') are then (2 eps, (1 + e^eps) delta)-close, which gives half of the first bound.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom

from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.audit.statistics.roc import as_array


@dataclass(frozen=True)
class OneRun:
    """`epsilon`: of the map from coins to model, for one canary; `unlearning_epsilon`: between the unlearned model and
    the one that never saw the canaries, for all of them together. Lower bounds, each at `confidence` by itself.
    `guesses`, `correct`: of the number of guesses that gave `epsilon`; `tried`: all numbers of guesses paid for.
    Canaries passed over because of ties count among `guesses` and not as correct.
    """

    epsilon: float
    unlearning_epsilon: float
    canaries: int
    guesses: int
    correct: int
    tried: tuple[int, ...]
    delta: float
    confidence: float


def one_run(
    scores, included, delta: float = 1e-5, confidence: float = 0.95, *, guesses=None, two_sided: bool = True
) -> OneRun:
    """Audit one model by its scores on m canaries.

    `scores` [m] are high for "was included", `included` [m] the coins, tossed independently for each canary. With r
    guesses the r/2 highest scores are called included and the r/2 lowest not, or with `two_sided=False` the r highest
    included; the rest is passed over. `guesses` is a number, or several between which the error is split; it must not
    depend on `included`. Default: m, m/2, m/4, ... down to 8.

    Equal scores are told apart by nothing but their positions, which may follow the coins. So a group of ties that a
    cut would divide is passed over as a whole, while the bound still pays for r guesses: r' < r of them are right less
    often, Bin(r', q) <= Bin(r, q), so it stays valid. All scores equal: nothing is guessed, and both bounds are 0.

    Raises ValueError for scores that are NaN, shapes that differ, fewer than 2 canaries, guesses outside 1..m, and
    delta or confidence out of range.
    """
    s, b = as_array(scores, np.float64), as_array(included)
    if s.ndim != 1 or s.shape != b.shape or len(s) < 2 or np.isnan(s).any():
        raise ValueError("scores and included must be vectors of one length, two or more, without NaN")
    if b.dtype != np.bool_ and not np.isin(b, (0, 1)).all():
        raise ValueError("included must be boolean, or 0 and 1")
    b, m = b.astype(bool), len(s)
    if guesses is None:
        guesses = [m // 2**j for j in range(m.bit_length()) if m // 2**j >= min(8, m)]
    tried = tuple(int(r) for r in np.atleast_1d(guesses))
    if not tried or not all(1 <= r <= m for r in tried):
        raise ValueError(f"guesses must lie in 1..{m}, not {tried}")

    falling = np.sort(s)[::-1]
    error = (1 - confidence) / len(tried)
    best = (-1.0, 0, 0)
    forgetting = 0.0
    for r in tried:
        up = (r + 1) // 2 if two_sided else r
        right = int(b[_beyond(s, falling, up)].sum() + (~b[_beyond(-s, -falling[::-1], r - up)]).sum())
        best = max(best, (one_run_epsilon(m, r, right, delta, 1 - error), r, right))
        forgetting = max(forgetting, unlearning_epsilon(r, right, delta, 1 - error))
    return OneRun(best[0], forgetting, m, best[1], best[2], tried, delta, confidence)


def _beyond(scores: np.ndarray, falling: np.ndarray, k: int) -> np.ndarray:
    """Bool: the `k` highest scores, less those that tie with the next one; `falling` are the scores in that order."""
    return scores > falling[k] if k < len(falling) else np.ones(len(scores), bool)


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The largest probability, under any (epsilon, delta)-private map, of `correct` right guesses or more."""
    q = expit(epsilon)
    beta = binom.sf(correct - 1, guesses, q)
    if delta == 0 or correct == 0:
        return float(beta)
    i = np.arange(1, correct + 1)
    spread = ((binom.sf(correct - 1 - i, guesses, q) - beta) / i).max()
    return float(min(beta + 2 * canaries * delta * spread, 1.0))


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float = 1e-5, confidence: float = 0.95) -> float:
    """The largest epsilon that `correct` of `guesses` refutes; 0 if none. For one number of guesses, set in advance."""
    _check(canaries, guesses, correct, delta, confidence)
    return _largest(lambda e: one_run_p_value(canaries, guesses, correct, e, delta) - (1 - confidence))


def unlearning_epsilon(guesses: int, correct: int, delta: float = 1e-5, confidence: float = 0.95) -> float:
    """log((alpha - delta) / P[Bin(guesses, 1/2) >= correct]), at least 0: see the head of this module."""
    _check(guesses, guesses, correct, delta, confidence)
    alpha = 1 - confidence - delta
    return max(0.0, float(math.log(alpha) - binom.logsf(correct - 1, guesses, 0.5))) if alpha > 0 else 0.0


def one_run_gaussian_epsilon(
    canaries: int, guesses: int, correct: int, delta: float = 1e-5, confidence: float = 0.95
) -> float:
    """As `one_run_epsilon` for Gaussian mechanisms: refutes mu-Gaussian privacy and converts the largest such mu.

    With f the trade-off curve and p_l = P[V = l] / m, let R_i = sum over l >= i of l p_l and H_i = sum over l >= i of
    (r - l) p_l. Swapping the coin of one right guess makes it wrong, so R_i <= 1 - f(H_{i-1}) for every i. Starting
    from P[V = v] = alpha and using each inequality with equality gives the least total mass R_0 + H_0 = r/m * P[any];
    if it exceeds r/m the curve is refuted. Far tighter than the (epsilon, delta) bound, but a statement about
    mechanisms whose curve is Gaussian: another mechanism may have a smaller epsilon at this delta.
    """
    _check(canaries, guesses, correct, delta, confidence)
    if delta == 0:
        raise ValueError("a Gaussian mechanism has no epsilon at delta = 0: give a positive delta")
    mu = _largest(lambda u: guesses / canaries - _least_mass(canaries, guesses, correct, u, 1 - confidence))
    return gaussian_epsilon(mu, delta)


def _least_mass(canaries: int, guesses: int, correct: int, mu: float, alpha: float) -> float:
    r, h = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        if r >= 1:  # more than all the probability there is
            return 2.0
        needed = ndtr(ndtri(r) - mu)  # 1 - f(H) >= R  <=>  H >= Phi(Phi^-1(R) - mu)
        if needed <= h:  # r and h stay as they are from here on
            break
        r, h = r + i / (guesses - i) * (needed - h), needed
    return r + h


def _largest(objective) -> float:
    """The root of a function that is negative where the parameter is refuted and increasing; 0 if nothing is."""
    if objective(0.0) >= 0:
        return 0.0
    high = 1.0
    while objective(high) < 0:
        high *= 2
    return float(brentq(objective, 0.0 if high == 1.0 else high / 2, high, xtol=1e-10))


def _check(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> None:
    if not 0 <= correct <= guesses <= canaries or guesses < 1:
        raise ValueError(f"needs 0 <= correct <= guesses <= canaries, not {correct}, {guesses}, {canaries}")
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError(f"delta must lie in [0, 1) and confidence in (0, 1), not {delta} and {confidence}")
