"""RMIA: a membership attack that needs one to four reference models, by ranking x against unrelated examples z.

    ratio(x) = p_target(x) / pbar(x),    pbar(x) = ((1 + a) mean of p_out(x) + 1 - a) / 2
    score(x) = share of population examples z with ratio(x) / ratio(z) >= gamma

p is the probability of the label. Reference models that never saw x know p_out; `a` in [0, 1] stands in for the
missing models that did: a = 1 says that they do no better than p_out, a = 0 that they are certain. The mean over both
kinds of models is then linear in p_out.

Zarifzadeh et al., arXiv 2312.03262. Deviation: reference models that were trained on x are left out of its mean, where
the released code sorts and keeps the largest, counting models that saw x as zeros.
"""

import numpy as np

from unlearnlib.audit.statistics.roc import as_array, roc

GRID = tuple(i / 10 for i in range(11))  # of a, as released


def rmia(target, out, z_target, z_out, *, a: float = 0.3, gamma: float = 1.0, trained=None) -> np.ndarray:
    """Scores [examples] in [0, 1], high for members.

    `target` [examples] are probabilities under the model in question, `out` [models, examples] under the reference
    models; `z_target` [population] and `z_out` [models, population] the same for examples which none of the models
    was trained on. `trained` bool [models, examples] marks reference models that did see x; they do not count for it.

    Probabilities, not losses: higher must mean better fitted. Raises ValueError for values outside [0, 1], for shapes
    that do not fit, for `a` outside [0, 1], gamma <= 0, and for an example that every reference model has seen.
    """
    x = _ratio(target, out, a, trained)
    z = np.sort(_ratio(z_target, z_out, a, None))
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, not {gamma}")
    return np.searchsorted(z, x / gamma, side="right") / len(z)


def tune_a(paired, member, out, z_paired, z_out, *, trained=None, grid=GRID) -> float:
    """The `a` whose attack on a paired model has the largest AUC; the smallest such value where several tie.

    `paired` [examples] are probabilities under one further model whose members `member` [examples] are known. That
    model tunes the attack, so it must not be among the models which are then attacked.
    """
    areas = [roc(rmia(paired, out, z_paired, z_out, a=a, trained=trained), member).auc for a in grid]
    return float(grid[int(np.argmax(areas))])


def _ratio(target, out, a: float, trained) -> np.ndarray:
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], not {a}")
    p, q = as_array(target, np.float64), np.atleast_2d(as_array(out, np.float64))
    if p.ndim != 1 or q.ndim != 2 or q.shape[1] != len(p) or len(p) == 0:
        raise ValueError(f"probabilities must be [examples] and [models, examples], not {p.shape} and {q.shape}")
    if not all(((v >= 0) & (v <= 1)).all() for v in (p, q)):
        raise ValueError("RMIA takes probabilities of the label in [0, 1]; these are not (losses or logits?)")
    seen = np.zeros(q.shape, bool) if trained is None else as_array(trained).astype(bool)
    if seen.shape != q.shape:
        raise ValueError(f"trained must be [models, examples] {q.shape}, not {seen.shape}")
    unseen = (~seen).sum(0)
    if (unseen == 0).any():
        raise ValueError(f"every reference model saw {int((unseen == 0).sum())} of the examples: leave those out")
    mean = np.where(seen, 0, q).sum(0) / unseen
    return p / np.maximum(((1 + a) * mean + 1 - a) / 2, 1e-300)
