"""How many models and examples an audit needs to see an effect of a given size: to be asked before anything is trained.

Write alpha = 1 - level for the error, two-sided, and beta = 1 - power.

    rank attacks       effect = AUC - 1/2, one model. With n examples a side and Gaussian scores that lie
                       mu = sqrt(2) Phi^-1(AUC) apart, the smallest n with

                           effect >= z_{1-alpha/2} s_0(n) + z_{1-beta} s_1(n),    s_0^2 = (2n + 1) / (12 n^2),
                           s_1^2 = (A (1 - A) + 2 (n - 1) (Q - A^2)) / n^2,    Q = P[N_1, N_2 < mu / sqrt 2], corr. 1/2

                       (Hanley and McNeil, Radiology 1982, with Q of the Gaussian model). What differs between whole
                       models is not in it.
    one number a model effect = gap in standard deviations of one retrained model; n candidates and n retrained models,
                       by the non-central t of `statistics.against_null.detectable_gap`
    U-LiRA             effect = the gap of the margins of *one* example, in their standard deviations. Student's t of n
                       against n models at error alpha / examples (Bonferroni), so that the statement holds for all
                       examples that are searched, at once
    KLoM               effect = KL in nats (Gaussian, mu = sqrt(2 effect)), the same in each independent example; n
                       unlearned against n retrained models. No closed form: 400 simulated audits and nulls a size
    one-run            effect = share of right guesses - 1/2; one model, n canaries, exact binomial power
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, multivariate_normal, nct, norm, t

from unlearnlib.audit.distances.klom import klom
from unlearnlib.audit.statistics.against_null import detectable_gap
from unlearnlib.seeding import numpy_generator

RANKS = {"loss rank": 0, "calibrated margin": 1, "RMIA": 4}  # with the retrained models that they take
NUMBERS = ("forget accuracy", "relearn time", "transfer", "prototypical relearning", "neighbour attack", "kernel test")
AUDITS = (*RANKS, *NUMBERS, "U-LiRA", "KLoM", "one-run")
MOST = 10**7
SIMULATED = 400
MOST_SIMULATED = 512


@dataclass(frozen=True)
class Plan:
    """`candidates`: unlearned models, each from an original of its own; `retrained`: models to compare them with;
    `examples`: forgotten ones, and as many unseen ones for a rank attack; canaries for the one-run audit."""

    audit: str
    effect: float
    level: float
    power: float
    candidates: int
    retrained: int
    examples: int


def plan(
    audit: str, *, effect: float, level: float = 0.95, power: float = 0.8, examples: int = 1, seed: int = 0
) -> Plan:
    """The smallest audit that finds `effect` with probability `power`, and a perfect method with 1 - `level`.

    `effect` is in the units of the audit (see the head of this module), above 0. `examples` is how many are searched by
    U-LiRA and averaged by KLoM; the others say themselves how many they need. `seed` serves KLoM's simulation.

    Raises ValueError for an unknown audit, an effect that it cannot have (an AUC above 1), a level outside (0, 1), a
    power that is not between 1 - level and 1, examples below 1, and an effect too small for any practical size.
    """
    if audit not in AUDITS:
        raise ValueError(f"unknown audit {audit!r}: {', '.join(AUDITS)}")
    if not 0 < level < 1 or not 1 - level < power < 1:
        raise ValueError(f"needs a level in (0, 1) and a power between 1 - level and 1, not {level} and {power}")
    largest = 0.5 if audit in RANKS or audit == "one-run" else math.inf
    if not 0 < effect < largest:
        raise ValueError(f"the effect of {audit!r} lies between 0 and {largest:g}, not {effect}")
    if isinstance(examples, bool) or examples != int(examples) or examples < 1:
        raise ValueError(f"examples must be a whole number above 0, not {examples!r}")
    if audit in RANKS:
        n = _smallest(lambda n: _rank_power(n, effect, level) >= power, 2, MOST, audit, effect)
        return Plan(audit, effect, level, power, 1, RANKS[audit], n)
    if audit == "one-run":
        return Plan(audit, effect, level, power, 1, 0, _canaries(effect, level, power))
    if audit in NUMBERS:
        n = _smallest(lambda n: detectable_gap(n, n, level, power) <= effect, 2, MOST, audit, effect)
    elif audit == "U-LiRA":
        error = (1 - level) / examples
        n = _smallest(lambda n: _t_power(n, effect, error) >= power, 2, MOST, audit, effect)
    else:
        n = _smallest(
            lambda n: _klom_power(n, effect, examples, level, seed) >= power, 4, MOST_SIMULATED, audit, effect
        )
    return Plan(audit, effect, level, power, n, n, examples)


def _smallest(enough, low: int, most: int, audit: str, effect: float) -> int:
    """The smallest whole number from `low` on that is enough, which all larger ones are, too."""
    high = low
    while not enough(high):
        if high >= most:
            raise ValueError(
                f"{audit} cannot see an effect of {effect:g} with {most} models or examples: ask for a larger one"
            )
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low if enough(low) else high


def _rank_power(n: int, effect: float, level: float) -> float:
    area = 0.5 + effect
    both = float(multivariate_normal.cdf([norm.ppf(area)] * 2, mean=[0, 0], cov=[[1, 0.5], [0.5, 1]]))
    null = math.sqrt((2 * n + 1) / 12) / n
    own = math.sqrt(area * (1 - area) + 2 * (n - 1) * max(both - area**2, 0.0)) / n
    return float(norm.cdf((effect - norm.ppf(0.5 + level / 2) * null) / own))


def _t_power(n: int, effect: float, error: float) -> float:
    cut, shift = t.isf(error / 2, 2 * n - 2), effect * math.sqrt(n / 2)
    return float(nct.sf(cut, 2 * n - 2, shift))


def _klom_power(n: int, effect: float, examples: int, level: float, seed: int) -> float:
    """The share of simulated audits whose mean KLoM exceeds the quantile `level` of simulated nulls."""
    rng = numpy_generator(seed, "plan-klom", str(n))
    shape, mu = (n, examples), math.sqrt(2 * effect)

    def scores(shift: float) -> np.ndarray:
        draws = ((rng.normal(size=shape) + shift, rng.normal(size=shape)) for _ in range(SIMULATED))
        return np.array([klom(u, o, estimator="gaussian").mean for u, o in draws])

    return float((scores(mu) > np.quantile(scores(0.0), level)).mean())


def _canaries(effect: float, level: float, power: float) -> int:
    """The smallest m from which on the exact test of fair coins has the power: it saws, so the last failure counts."""
    rough = ((norm.ppf(level) * 0.5 + norm.ppf(power) * math.sqrt(0.25 - effect**2)) / effect) ** 2
    if rough > MOST:
        raise ValueError(f"one-run cannot see an effect of {effect:g} with {MOST} canaries: ask for a larger one")
    m = np.arange(1, int(2 * rough) + 50)
    cut = binom.isf(1 - level, m, 0.5)  # P[V > cut] <= 1 - level
    failed = np.flatnonzero(binom.sf(cut, m, 0.5 + effect) < power)
    return int(m[failed[-1]] + 1) if len(failed) else 1
