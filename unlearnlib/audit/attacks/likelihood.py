"""Gaussian fits to the margins of models, from which others can be left out, and the log ratio of two of them.

A fit is a count, a mean and a centred sum of squares. Leaving a part out of a whole is the inverse of merging samples:

    n' = n - m,    mean' = mean + (m / n') (mean - mean_part),
    SS' = SS - SS_part - (m n / n') (mean - mean_part)^2

(Chan, Golub and LeVeque, American Statistician 1983), so that every model can be the target against all others without
a refit. All arrays broadcast to [models, examples].
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, polygamma
from scipy.stats import rankdata

BLOCK = 512  # columns that fit the cache together


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred sum of squares of samples, one for each example."""

    n: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, chosen: np.ndarray | None = None) -> "Moments":
        """Of the chosen entries (default: all) of each column of x [models, examples]; of none the mean is x[0]."""
        columns = [slice(i, i + BLOCK) for i in range(0, x.shape[1], BLOCK)]
        parts = [_sums(x[:, c], None if chosen is None else chosen[:, c]) for c in columns]
        n, mean, squares = np.concatenate(parts, axis=1)
        return cls(n, x[0] + mean, np.maximum(squares - n * mean**2, 0))

    @classmethod
    def of_clusters(cls, x: np.ndarray, chosen: np.ndarray, clusters: np.ndarray) -> "Moments":
        """For each row of x, of the chosen entries in the rows of its cluster, its own included."""
        if len(np.unique(clusters)) == len(clusters):
            return cls(chosen.astype(np.float64), x, np.zeros(1))
        together = (clusters[:, None] == clusters).astype(np.float64)
        offset = x - x[0]
        n, total, squares = (together @ (chosen * part) for part in (np.ones_like(x), offset, offset**2))
        mean = total / np.maximum(n, 1)
        return cls(n, x[0] + mean, np.maximum(squares - n * mean**2, 0))

    def without(self, part: "Moments") -> "Moments":
        """What is left of the sample when `part`, which belongs to it, is taken out."""
        rest = self.n - part.n
        gap = self.mean - part.mean
        share = part.n / np.maximum(rest, 1)
        squares = self.squares - part.squares - share * self.n * gap**2
        return Moments(rest, self.mean + share * gap, np.maximum(squares, 0))

    @property
    def freedom(self) -> np.ndarray:
        return np.maximum(self.n - 1, 0)


def _sums(x: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
    """Count, mean and sum of squares [3, examples] of the chosen entries, about the first row against cancellation."""
    offset = x - x[0]
    if chosen is None:
        n, taken = np.full(x.shape[1], float(len(x))), offset
    else:
        taken = chosen.astype(np.float64)
        n = taken.sum(0)
        taken *= offset
    return np.stack([n, taken.sum(0) / np.maximum(n, 1), np.einsum("mi,mi->i", taken, offset)])


def log_ratio(x: np.ndarray, first: Moments, second: Moments, priors: tuple[float, float, float], variance: str):
    """log p_first - log p_second of each entry of x [models, examples]; NaN where a side has fewer than two models.

    With one variance for both sides the distances are scaled by n / (n + 1), the error of the mean: E (s - mean)^2 =
    sigma^2 (1 + 1/n), so that leaving a target out of its own side, which makes that side smaller by one, would
    otherwise push an attack on noise below AUC 1/2.
    """
    f2, n2 = (x - first.mean) ** 2, (x - second.mean) ** 2
    floor = 1e-12 * np.maximum(f2, n2).max(0) + 1e-24  # all margins equal: no evidence either way
    with np.errstate(divide="ignore", invalid="ignore"):
        if variance in ("example", "unequal"):
            strengths = priors[:2] if variance == "unequal" else (0.0, 0.0)
            v_f, v_n = (
                np.maximum(shrunk(side.squares, side.freedom if strength else side.n, strength), floor)
                for side, strength in zip((first, second), strengths, strict=True)
            )
            ratio = 0.5 * (n2 / v_n - f2 / v_f + np.log(v_n / v_f))
        else:
            strength = priors[2] if variance == "shared" else np.inf
            v = shrunk(first.squares + second.squares, first.freedom + second.freedom, strength)
            f2 *= first.n / (first.n + 1)
            n2 *= second.n / (second.n + 1)
            ratio = 0.5 * (n2 - f2) / np.maximum(v, floor)
    return np.where(np.minimum(first.n, second.n) >= 2, ratio, np.nan)


def shrunk(squares: np.ndarray, freedom: np.ndarray, strength: float) -> np.ndarray:
    """Variances shrunk towards the pool of their row: (d0 s0^2 + sum of squares) / (d0 + degrees of freedom)."""
    if strength == 0:
        return squares / freedom
    pool = squares.sum(-1, keepdims=True) / np.maximum(freedom.sum(-1, keepdims=True), 1)
    if np.isinf(strength):
        return pool
    return (strength * pool + squares) / np.maximum(strength + freedom, 1e-12)


def prior_strengths(first: Moments, second: Moments) -> tuple[float, float, float]:
    """Degrees of freedom of the prior on the variances of the first side, of the second, and of both together."""
    both = first.squares + second.squares, first.freedom + second.freedom
    return (*(prior_strength(side.squares, side.freedom) for side in (first, second)), prior_strength(*both))


def prior_strength(squares: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of the prior on variances, by moments of their logarithms; infinite if all seem equal.

    Var log s^2 = trigamma(d/2) + trigamma(d0/2). Smyth, SAGMB 2004.
    """
    good = (freedom >= 1) & (squares > 0)
    if good.sum() < 3:
        return np.inf
    logs = np.log(squares[good] / freedom[good])
    excess = logs.var(ddof=1) - polygamma(1, freedom[good] / 2).mean()
    if excess <= polygamma(1, 5e5):
        return np.inf
    return 2 * math.exp(brentq(lambda u: polygamma(1, math.exp(u)) - excess, math.log(1e-4), math.log(1e6)))


def normal_scores(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Phi^-1(rank / (n + 1)) of each entry of x [models, examples] among those `inside` of its column; ties share.

    Which of them are members plays no part, so exchangeable entries stay exchangeable. Outside the value is 0.
    """
    ranks = rankdata(np.where(inside, x, np.inf), axis=0)
    tied = inside & np.isposinf(x)  # ties with what stands in for the others: their own ranks are the last ones
    ranks = np.where(tied, inside.sum(0) - (tied.sum(0) - 1) / 2, ranks)
    return np.where(inside, ndtri(np.where(inside, ranks / (inside.sum(0) + 1), 0.5)), 0.0)
