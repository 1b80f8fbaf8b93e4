"""LiRA for 128 models x 10,000 examples, against a loop over examples that fits and evaluates with scipy.

Both sides of a row do the same work on the same margins, one after the other within each repetition; their scores must
agree to 1e-9. CPU time of one thread.

    python benchmarks lira
"""

import numpy as np
from _ratios import row, timed
from scipy.stats import norm

from unlearnlib.audit.attacks.lira import lira, shadow_attack
from unlearnlib.audit.statistics.state import FORGET, NEVER, state_matrix
from unlearnlib.seeding import numpy_generator

MODELS, EXAMPLES, GOAL = 128, 10_000, 200
LOOP_EXAMPLES = 40  # of the leave-one-out loop, whose time is linear in them; all of them take minutes


def log_ratio(target: float, inside: np.ndarray, outside: np.ndarray) -> float:
    """log N(target; inside) - log N(target; outside), fitted on the spot."""
    fitted = norm.logpdf(target, inside.mean(), inside.std() + 1e-30)
    return fitted - norm.logpdf(target, outside.mean(), outside.std() + 1e-30)


def one_target_loop(target: np.ndarray, shadow: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Online LiRA on one target model [examples], example by example."""
    out = np.empty(len(target))
    for i, value in enumerate(target):
        out[i] = log_ratio(value, shadow[trained[:, i], i], shadow[~trained[:, i], i])
    return out


def every_target_loop(s: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Leave-one-out LiRA on all models [models, examples], pair by pair."""
    out = np.empty(s.shape)
    for i in range(s.shape[1]):
        for m in range(len(s)):
            others = np.arange(len(s)) != m
            inside, outside = (s[others & (state[:, i] == code), i] for code in (FORGET, NEVER))
            out[m, i] = log_ratio(s[m, i], inside, outside)
    return out


def run(repeats: int = 3) -> list[dict]:
    """Ratios of CPU time, loop over library: median, lowest and highest of the repetitions."""
    rng = numpy_generator(0, "benchmark-lira")
    design = state_matrix(MODELS, EXAMPLES, states=("forget", "never"), seed=0)
    s = 3 * rng.normal(size=EXAMPLES) + rng.normal(size=(MODELS, EXAMPLES))
    target, trained = 3 * rng.normal(size=EXAMPLES), design.state == FORGET
    few = slice(0, LOOP_EXAMPLES)

    shadow_attack(target, s, trained), lira(s, design, game="B", variance="example")  # warm up
    one, every = [], []
    for _ in range(repeats):
        slow, expected = timed(lambda: one_target_loop(target, s, trained))
        fast = [timed(lambda: shadow_attack(target, s, trained)) for _ in range(5)]
        assert np.abs(fast[0][1] - expected).max() < 1e-9
        one.append(slow / float(np.median([seconds for seconds, _ in fast])))

        slow, expected = timed(lambda: every_target_loop(s[:, few], design.state[:, few]))
        fast_seconds, attack = timed(lambda: lira(s, design, game="B", variance="example"))
        assert np.abs(attack.scores[:, few] - expected).max() < 1e-9
        every.append(slow * (EXAMPLES / LOOP_EXAMPLES) / fast_seconds)
    return [
        row(f"LiRA, one target, {MODELS} shadow models x {EXAMPLES}", one, GOAL),
        row(f"LiRA, {MODELS} targets leave-one-out x {EXAMPLES}, with per-example AUC", every, GOAL),
    ]
