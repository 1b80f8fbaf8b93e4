"""A kernel test with a relative null: is the unlearned model further from retraining than a harmless change is?

No approximate method gives the very law of a retrained model, and neither does retraining with another batch size. A
test of "the same law" therefore fails everybody once there are models enough, and says nothing about data. So three
samples of models are compared: u unlearned, r retrained, and v a *control*, models that are harmless by construction:
retrained with a change that forgets nothing and remembers nothing (another order, batch size, schedule), or plainly
other seeds.

    H_0:  D(u, r) <= D(v, r)    against    H_1:  D(u, r) > D(v, r)

D is the squared maximum mean discrepancy in the unbiased form of a kernel k, the mean of three Gaussian kernels at one
half, one and two times the median distance,

    MMD^2(u, r) = mean k(u, u') + mean k(r, r') - 2 mean k(u, r)        (over pairs of different models),

so that r's own term drops out of the difference T = D(u, r) - D(v, r). With `divergence="chi2"` k is first whitened
by the covariance operator of r: k~(x, y) = <phi(x), (C_r + lambda)^{-1} phi(y)>, and D becomes the regularised
chi-squared divergence |(C_r + lambda)^{-1/2} (mean_u - mean_r)|^2, which sees differences where r itself hardly varies.

A sample is a *model*: one row of numbers, such as its margins on the forget set. Outputs of one model on many inputs
are not independent draws of its law.

*p-value*: the larger of two. (i) Labels u and v are permuted, r stays: exact, for any numbers of models, where u and v
have one law. (ii) T over its jackknife error against Student's t with the smallest sample's degrees of freedom: for the
boundary D(u, r) = D(v, r) with different laws u and v, where (i) alone errs in 25 to 32 % of 200 runs (u and v one and
a half deviations to either side of r). Measured level at 8, 12, 24 models of a kind: 0 to .5 % at u = v = r; at that
boundary 2, 3.5, 6.5 % (MMD) and 1, 4, 3.5 % (chi2).

*Without a control* the test is the absolute one, H_0: u and r have one law, and labels u and r are permuted. Where the
control would be "retrain, other seed" it has r's law, so D(v, r) = 0 and the two null hypotheses are the same: leave it
out and give those models to r. The permutation is exact.

*Units*: T has none (k <= 1); with chi2 in units of 1 / lambda. *Power* at 8, 24 models a kind, for one number that is
shifted by 1 / 2 deviations: absolute .33, .81 / .91, 1; relative .08, .29 / .54, .96. *Cost*: kernel matrices of tens
of models (10 ms at 24); the models. *Blind to* which example is concerned, and to what the control already does: a
coarse control lets doing nothing pass. On 8 x 8 digits, with 16 models of a kind and margins of 30 forgotten pictures,
retraining with batches of 64 for 32 is as far from retraining as the original is (MMD .80 and .79); the absolute test
finds both (p .001), the relative one neither. Read `control_distance`.

Regularised f-divergence kernel tests and their relative test: Ribero, Schrab and Gretton, arXiv 2601.19755.
**Reconstruction** from the abstract and public accounts; the relative test with the jackknife follows Bounliphone et
al., arXiv 1511.04581. Deviations: MMD and chi-squared only; bandwidths are averaged, not selected.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import t as student

from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.seeding import numpy_generator

DIVERGENCES = ("mmd", "chi2")
BANDWIDTHS = (0.5, 1.0, 2.0)  # times the median distance


@dataclass(frozen=True)
class KernelTest:
    """`statistic`: T; `distance` and `control_distance`: D(u, r) and D(v, r), which may be slightly negative;
    `error`: jackknife standard error of T; `p_permuted` and `p_jackknife`, of which `p_value` is the larger. Without a
    control T is D(u, r), with chi2 whitened by u and r together, and what concerns the control is NaN. `models`: of u,
    r and v.
    """

    statistic: float
    distance: float
    control_distance: float
    error: float
    p_permuted: float
    p_jackknife: float
    divergence: str
    models: tuple[int, int, int]

    @property
    def p_value(self) -> float:
        return float(np.nanmax([self.p_permuted, self.p_jackknife]))

    def detected(self, level: float = 0.95) -> bool:
        """Is the unlearned model further from retraining than the null allows, at error 1 - `level`?"""
        return self.p_value <= 1 - level


def kernel_test(
    unlearned,
    retrained,
    control=None,
    *,
    divergence: str = "mmd",
    ridge: float = 0.1,
    permutations: int = 999,
    seed: int = 0,
) -> KernelTest:
    """Test the relative null on samples of models: `unlearned` [m, d], `retrained` [k, d], `control` [c, d].

    A row is one model, all models are independent; a vector counts as d = 1. Without `control` the null is "one law".
    `ridge`: lambda of "chi2". Raises ValueError for an unknown divergence, widths that differ, values that are not
    finite, fewer than three models of a kind, models that are all equal, and a ridge that is not positive or fewer
    than 19 permutations.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is one of {', '.join(DIVERGENCES)}, not {divergence!r}")
    if not ridge > 0 or permutations < 19:
        raise ValueError(f"needs a positive ridge and 19 permutations or more, not {ridge} and {permutations}")
    u, r = _models(unlearned, "unlearned"), _models(retrained, "retrained")
    v = r[:0] if control is None else _models(control, "control")
    if not u.shape[1] == r.shape[1] == v.shape[1]:
        raise ValueError(f"all models need the same numbers: widths {u.shape[1]}, {r.shape[1]} and {v.shape[1]}")
    m, c, k = len(u), len(v), len(r)

    def kernel(base: np.ndarray, own: np.ndarray) -> np.ndarray:
        return base if divergence == "mmd" else _whitened(base, own, ridge)

    base = _gram(np.concatenate([u, v, r]))
    gram = kernel(base, np.arange(m + c, m + c + k))
    everyone, mine = m + c + k, np.arange(m)
    rng = numpy_generator(seed, "kernel-test")
    distance = _term(gram, mine, np.arange(m + c, everyone)) + _inside(gram, np.arange(m + c, everyone))
    if control is None:
        orders = [np.arange(everyone), *(rng.permutation(everyone) for _ in range(permutations))]
        pooled = base if divergence == "mmd" else _whitened(base, np.arange(everyone), ridge)
        values = np.array([_term(pooled, o[:m], o[m:]) + _inside(pooled, o[m:]) for o in orders])
        p = float((values >= values[0] - 1e-12).mean())
        whole = float(values[0])
        return KernelTest(whole, whole, math.nan, math.nan, p, math.nan, divergence, (m, k, 0))
    first = np.arange(m + c) < m
    shuffled = np.concatenate([first[None], rng.permuted(np.tile(first, (permutations, 1)), axis=1)])
    values = _gaps(gram[: m + c, : m + c], gram[: m + c, m + c :].mean(1), shuffled)
    error = _jackknife(base, m, c, kernel)
    p_jackknife = float(student.sf(values[0] / error, min(m, c, k) - 1)) if error > 0 else 1.0
    p_permuted = float((values >= values[0] - 1e-12).mean())
    models = (m, k, c)
    return KernelTest(
        float(values[0]), distance, distance - float(values[0]), error, p_permuted, p_jackknife, divergence, models
    )


def _models(values, name: str) -> np.ndarray:
    x = as_array(values, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) < 3 or x.shape[1] == 0:
        raise ValueError(f"{name} must be [models, numbers] of three models or more, not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has values that are not finite: drop or repair those models")
    return x


def _inside(gram: np.ndarray, r: np.ndarray) -> float:
    block, n = gram[np.ix_(r, r)], len(r)
    return float((block.sum() - np.trace(block)) / (n * (n - 1)))


def _gram(x: np.ndarray) -> np.ndarray:
    squares = cdist(x, x, "sqeuclidean")
    median = np.median(squares[np.triu_indices(len(x), 1)])
    if median == 0:
        raise ValueError("most models are equal to each other: there is no distance to measure them by")
    return np.mean([np.exp(-squares / (2 * median * b**2)) for b in BANDWIDTHS], axis=0)


def _whitened(gram: np.ndarray, own: np.ndarray, ridge: float) -> np.ndarray:
    """<phi(x), (C + ridge)^{-1} phi(y)> for all pairs, C the centred covariance of the `own` rows (Woodbury)."""
    n = len(own)
    centre = np.eye(n) - 1 / n
    half = gram[:, own] @ centre
    middle = np.linalg.inv(ridge * np.eye(n) + centre @ gram[np.ix_(own, own)] @ centre / n)
    return (gram - half @ middle @ half.T / n) / ridge


def _gaps(inner: np.ndarray, to_r: np.ndarray, first: np.ndarray) -> np.ndarray:
    """T for each row of `first` [permutations, m + c], bool: who counts as unlearned."""
    inner = inner - np.diag(np.diag(inner))
    total = np.zeros(len(first))
    for side, sign in ((first, 1), (~first, -1)):
        w, n = side.astype(np.float64), side[0].sum()
        total += sign * (((w @ inner) * w).sum(1) / (n * (n - 1)) - 2 * w @ to_r / n)
    return total


def _jackknife(base: np.ndarray, m: int, c: int, kernel: Callable) -> float:
    """Standard error of T: sum over the three samples of (n - 1) / n times the spread of T without one model.

    `kernel(base, own)` makes the kernel matrix, anew where a retrained model, one of `own`, is left out.
    """
    n = len(base)
    everyone = np.arange(n)
    whole = kernel(base, everyone[m + c :])
    variance = 0.0
    for start, stop in ((0, m), (m, m + c), (m + c, n)):
        left = []
        for out in range(start, stop):
            stay = everyone != out
            gram = whole if out < m + c else kernel(base, everyone[m + c :][stay[m + c :]])
            u, v, r = (everyone[side][stay[side]] for side in (slice(m), slice(m, m + c), slice(m + c, n)))
            left.append(sum(sign * _term(gram, w, r) for w, sign in ((u, 1), (v, -1))))
        variance += (len(left) - 1) / len(left) * float(((np.array(left) - np.mean(left)) ** 2).sum())
    return float(np.sqrt(variance))


def _term(gram: np.ndarray, w: np.ndarray, r: np.ndarray) -> float:
    """D(w, r) without the term of r alone."""
    block, n = gram[np.ix_(w, w)], len(w)
    return float((block.sum() - np.trace(block)) / (n * (n - 1)) - 2 * gram[np.ix_(w, r)].mean())
