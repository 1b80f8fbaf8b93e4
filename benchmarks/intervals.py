"""Coverage of the audits' intervals, and power of the verdict, by simulation at laws whose truth is known.

Each row is the share of repetitions in which an interval that states 95% holds the truth (or, for the certified bounds
and the verdict, what its name says), with the Clopper-Pearson limits of that share. The quick versions are tests.

    python benchmarks intervals
"""

import numpy as np
from _ratios import row
from scipy.stats import norm, t

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.attacks.membership import loss_attack
from unlearnlib.audit.attacks.one_run import one_run
from unlearnlib.audit.attacks.streisand import tail_mass
from unlearnlib.audit.statistics.epsilon import epsilon_from_scores, gaussian_epsilon
from unlearnlib.audit.statistics.intervals import Interval, cluster_bootstrap, difference, t_interval
from unlearnlib.audit.statistics.roc import clopper_pearson, roc
from unlearnlib.audit.statistics.state import state_matrix
from unlearnlib.audit.verdicts.verdict import RESIDUAL, verdict
from unlearnlib.seeding import numpy_generator

DRAWS = 500  # repetitions of each case, times the repeats asked for
DELTA = 0.1  # large, so that 100 scores a side can reach the truth
STATED, LEAST = 0.95, 0.93  # what intervals state; what they must reach, for the error of the simulation


def held(interval, truth: float) -> bool:
    low, high = (interval.low, interval.high) if isinstance(interval, Interval) else interval
    return low <= truth <= high


def sides(rng, m: int, n: int, shift: float):
    """ROC of m members N(shift, 1) and n others N(0, 1)."""
    return roc(rng.normal(np.repeat([shift, 0.0], [m, n])), np.arange(m + n) < m)


def tpr(members: int, nonmembers: int, fpr: float, shift: float):
    truth = norm.sf(norm.isf(fpr) - shift)
    return lambda rng: held(sides(rng, members, nonmembers, shift).interval_at(fpr), truth)


def auc(m: int, n: int, shift: float):
    return lambda rng: held(sides(rng, m, n, shift).interval(), norm.cdf(shift / np.sqrt(2)))


def share(seeds: int, examples: int, p: float):
    def case(rng) -> bool:
        return held(t_interval(rng.binomial(examples, p, seeds) / examples, bounds=(0, 1), count=examples), p)

    return case


def gap(rng) -> bool:
    """Of two shares near their end, six seeds each."""
    both = (t_interval(rng.binomial(100, p, 6) / 100, bounds=(0, 1), count=100) for p in (0.97, 0.9))
    return held(difference(*both), 0.07)


def attack(n: int, shift: float):
    def case(rng) -> bool:
        found = loss_attack(rng.normal(-shift, 1, n), rng.normal(size=n), seed=int(rng.integers(2**31)))
        return held((found.low, found.high), norm.cdf(shift / 2))

    return case


def many(rng) -> bool:
    """U-LiRA on 18 models without a leak, each with an offset of its own."""
    s = 3 * rng.normal(size=60) + rng.normal(size=(18, 60)) + 0.5 * rng.normal(size=(18, 1))
    return held(lira(s, state_matrix(18, 60, seed=int(rng.integers(2**31))), game="B").interval(), 0.5)


def tails(rng) -> bool:
    u, o = (rng.normal(size=(n, 30)) + 0.5 * rng.normal(size=(n, 1)) for n in (20, 40))
    return held(tail_mass(u, o, seed=int(rng.integers(2**31))).excess("below"), 0.0)


def bootstrap(rng) -> bool:
    s = rng.normal(size=(8, 1)) + rng.normal(size=(8, 20))
    return held(cluster_bootstrap(np.mean, s, resamples=300, seed=int(rng.integers(2**31))), 0.0)


def certified(rng) -> bool:
    """The bound from scores does not exceed the truth."""
    return epsilon_from_scores(rng.normal(1, 1, 100), rng.normal(size=100), DELTA) <= gaussian_epsilon(1.0, DELTA)


def one(rng) -> bool:
    """Nor does that of one run, on scores rounded to ties."""
    coins = rng.random(100) < 0.5
    found = one_run(np.round(2 * (0.5 * coins + rng.normal(size=100))), coins, 1e-3, guesses=(100, 25))
    return found.epsilon <= gaussian_epsilon(0.5, 1e-3)


def audit(rng, effect: float):
    """The verdict from six seeds of a method and six of its null."""
    leak, null = t_interval(rng.normal(effect, 1, 6)), t_interval(rng.normal(size=6))
    error = leak.half_width / t.ppf(0.975, 5)
    return verdict(leak, (null.low, null.high), Interval(0.0, -1.0, 1.0, 6, ""), standard_error=error)


CASES = {
    "AUC, 10 and 10": auc(10, 10, 1.0),
    "AUC .983, 30 and 100": auc(30, 100, 3.0),
    "TPR at FPR 10 %, 1000 and 100": tpr(1000, 100, 0.1, 1.0),
    "TPR at FPR 1 %, 1000 and 1000": tpr(1000, 1000, 0.01, 1.0),
    "share .99 of 100, 3 seeds": share(3, 100, 0.99),
    "share .5 of 50, 5 seeds": share(5, 50, 0.5),
    "difference of shares .97 and .90": gap,
    "loss attack, 50 and 50, no leak": attack(50, 0.0),
    "loss attack, 50 and 50, accuracy .994": attack(50, 5.0),
    "U-LiRA, 18 models": many,
    "mass below the band": tails,
    "bootstrap over 8 models": bootstrap,
    "certified epsilon, 100 and 100": certified,
    "one run, tied scores": one,
}


def run(repeats: int = 3) -> list[dict]:
    """Share of repetitions with its limits, one row a case."""
    rows = []
    for name, case in CASES.items():
        hits = [case(numpy_generator(i, "coverage", name)) for i in range(DRAWS * repeats)]
        rows.append(_row(name, hits, LEAST, f"of intervals that state {STATED:.0%}"))
    stated = np.mean([audit(numpy_generator(i, "stated"), 0.0).mde for i in range(DRAWS)])
    hits = [RESIDUAL in audit(numpy_generator(i, "power"), stated).labels for i in range(DRAWS * repeats)]
    return [*rows, _row("verdict at its smallest detectable effect", hits, 0.78, "of audits find it, .80 stated")]


def _row(name: str, hits: list[bool], goal: float, unit: str) -> dict:
    low, high = clopper_pearson(sum(hits), len(hits))
    return {**row(name, [np.mean(hits)], goal, unit), "low": low, "high": high}
