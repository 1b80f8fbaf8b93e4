"""Memorisation of single training examples, from models trained on random subsets.

    mem(x) = P[model is right on x | x was trained on] - P[model is right on x | x was left out]

High for the odd examples a model can only know by heart, near 0 for those it would get right anyway: forgetting those
changes nothing, which makes them a negative control. Feldman, arXiv 1906.05271; Feldman and Zhang, arXiv 2008.03703.
"""

from dataclasses import dataclass

import numpy as np

from unlearnlib.audit.statistics.roc import as_array, clopper_pearson
from unlearnlib.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Estimates for N examples; NaN where an example was in, or out of, every model."""

    estimate: np.ndarray  # [N], between -1 and 1
    standard_error: np.ndarray  # [N], plug-in; 0 where all answers agree, so see `interval` and `worst_case_error`
    n_in: np.ndarray  # [N] models that trained on the example
    n_out: np.ndarray
    share_in: np.ndarray  # [N] of those, how many are right on it
    share_out: np.ndarray

    @property
    def worst_case_error(self) -> np.ndarray:
        """sqrt(1/(4 n_in) + 1/(4 n_out)): .177/.125/.088/.062/.044 for 32/64/128/256/512 models at half in."""
        with np.errstate(divide="ignore"):
            return np.sqrt(0.25 / self.n_in + 0.25 / self.n_out)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Limits [N], [N] in [-1, 1]: Clopper-Pearson's of both shares, joined as in `intervals.difference`.

        They have a width where all answers agree, unlike the plug-in error.
        """
        known = (self.n_in > 0) & (self.n_out > 0)
        low, high = (np.full(self.estimate.shape, np.nan) for _ in range(2))
        p, q = self.share_in[known], self.share_out[known]
        p_low, p_high = clopper_pearson(p * self.n_in[known], self.n_in[known], level)
        q_low, q_high = clopper_pearson(q * self.n_out[known], self.n_out[known], level)
        low[known] = p - q - np.hypot(p - p_low, q_high - q)
        high[known] = p - q + np.hypot(p_high - p, q - q_low)
        return low, high


def memorisation(correct, inside) -> Memorisation:
    """Memorisation from `correct` [models, N] (answer right) and `inside` [models, N] (example trained on), boolean."""
    right, inside = as_array(correct).astype(np.float64), as_array(inside)
    if right.ndim != 2 or right.shape != inside.shape or inside.dtype != np.bool_:
        raise ValueError("correct and inside must be boolean matrices [models, examples] of one shape")
    n_in, n_out = inside.sum(0), (~inside).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_in, p_out = (right * inside).sum(0) / n_in, (right * ~inside).sum(0) / n_out
        variance = p_in * (1 - p_in) / n_in + p_out * (1 - p_out) / n_out
    return Memorisation(p_in - p_out, np.sqrt(variance), n_in, n_out, p_in, p_out)


def model_halves(n_models: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random halves of the models: one to choose examples by, one to report their memorisation with.

    Chosen and reported on the same models, the most memorised examples look more memorised than they are.
    """
    if n_models < 4:
        raise ValueError(f"halving needs four models or more, not {n_models}")
    order = numpy_generator(seed, "model-halves").permutation(n_models)
    return np.sort(order[: n_models // 2]), np.sort(order[n_models // 2 :])


def strata(estimate, size: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Indices of the `size` least, middle and most memorised examples: {"low", "mid", "high"}, disjoint.

    The middle is that of the ranks. Ties, of which there are many at 0, are broken at random: by position the lowest
    stratum of a sorted data set would be of one class. Examples with NaN are left out.
    """
    values = as_array(estimate, np.float64)
    chance = numpy_generator(seed, "strata").permutation(len(values))
    order = np.lexsort((chance, values))[: int((~np.isnan(values)).sum())]  # NaN sorts last
    if 3 * size > len(order) or size < 1:
        raise ValueError(f"three strata of {size} do not fit into {len(order)} examples with an estimate")
    start = (len(order) - size) // 2
    return {"low": order[:size], "mid": order[start : start + size], "high": order[len(order) - size :]}
