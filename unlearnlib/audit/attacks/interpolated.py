"""Interpolated approximate measurement (IAM): a completeness score for each example from one reference model.

Between the signal of reference models that never saw x (generalisation) and that of the original, which did (fitting),
lie hypothetical models that saw "a fraction alpha of x":

    v_alpha = out + alpha (original - out),    alpha in [0, 1]
    fitting(x) = sum_alpha alpha F_alpha(unlearned signal) / sum_alpha alpha,    completeness = 1 - fitting

F_alpha is the distribution function of a Gumbel or a normal law fitted by moments to v_alpha. An unlearned model
that still answers like the original lies above all of them (completeness near 0), one that answers like a model
that never saw x lies below nearly all (completeness near 1).

Wang et al., arXiv 2506.06112. Deviations: each F_alpha is weighted with its own alpha, where the released code pairs
it with the next one; alpha = 1, whose spread is that of the originals alone, is left out of the mean there and here.
"""

import numpy as np
from scipy.special import ndtr

from unlearnlib.audit.statistics.roc import as_array

GRID = 100  # values of alpha, as released


def iam(unlearned, original, out, *, law: str = "gumbel", spread: str = "pooled", grid: int = GRID) -> np.ndarray:
    """Completeness [examples] in [0, 1]: low if the unlearned model still fits x, high if it never seems to have.

    `unlearned`, `original` [examples] and `out` [models, examples] are signals that grow with fitting, say margins.
    `law` is "gumbel" or "normal". `spread` "pooled" takes at each alpha one standard deviation over models *and*
    examples, as published; that includes how much examples differ, so it needs many examples of a kind. "example"
    takes each example's own deviation over two or more reference models.

    Raises ValueError for shapes that do not fit, values that are not finite, and "example" with a single model.
    """
    u, o = as_array(unlearned, np.float64), as_array(original, np.float64)
    v = np.atleast_2d(as_array(out, np.float64))
    if u.ndim != 1 or u.shape != o.shape or v.ndim != 2 or v.shape[1] != len(u):
        raise ValueError(
            f"signals must be [examples] twice and [models, examples], not {u.shape}, {o.shape}, {v.shape}"
        )
    if not all(np.isfinite(part).all() for part in (u, o, v)):
        raise ValueError("signals contain values that are not finite: clip the margins first")
    if law not in ("gumbel", "normal") or spread not in ("pooled", "example") or grid < 2:
        raise ValueError("law is 'gumbel' or 'normal', spread 'pooled' or 'example', grid two or more")
    if spread == "example" and len(v) < 2:
        raise ValueError("spread 'example' needs two reference models or more: use 'pooled'")

    alphas = np.linspace(0, 1, grid)[:-1]
    mean = v.mean(0)
    fitting = np.zeros(len(u))
    for alpha in alphas:
        centre = mean + alpha * (o - mean)
        # the original is one model, so the deviation within an example comes from the reference models alone
        deviation = np.std(v + alpha * (o - v)) if spread == "pooled" else (1 - alpha) * v.std(0)
        fitting += alpha * _distribution((u - centre) / np.maximum(deviation, 1e-12), law)
    return 1 - fitting / alphas.sum() if alphas.sum() > 0 else np.full(len(u), np.nan)


def _distribution(z: np.ndarray, law: str) -> np.ndarray:
    """Distribution function of the law with mean 0 and variance 1."""
    if law == "normal":
        return ndtr(z)
    beta = np.sqrt(6) / np.pi
    return np.exp(-np.exp(-np.clip((z + np.euler_gamma * beta) / beta, -700, None)))
