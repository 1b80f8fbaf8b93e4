"""Datamodels: what a model answers, as a linear function of the set that it was trained on.

    s_x(S) ~ b_x + sum_{i in S} beta_xi

s_x(S) is an output at x (a logit, a margin) of a model trained on the subset S of n examples. beta is regressed on the
outputs of m models, each trained on a random subset of one size. Ilyas et al. 2022, key ilyas2022. To delete F is then
to subtract its effect: s_x(S without F) = s_x(S) - sum_{i in F} beta_xi, the datamodel's direct answer (georgiev2025).

Limits. Where outputs are sums over the training set, beta is found exactly. Where examples act in pairs alone (XOR on a
full factorial) every beta is 0: "no change". Subsets of one size cannot tell what one more example does, whichever it
is: a constant that is common to all beta_xi is not identified, and is set so that they sum to 0. A penalty shrinks all
of beta, which no rank notices (`lds`): it is chosen by held-out squared error, and the slope of predicted on true
changes has to be looked at.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.linear_model import lasso_path
from torch import Tensor

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.tensors import check

HELD_OUT = "held-out"  # the penalty that predicts models best that were not regressed on
_RIDGES = np.logspace(-6, 2, 33)  # tried, as shares of the largest eigenvalue
_LASSOS = np.logspace(0, -3, 13)  # tried, as shares of the smallest penalty that gives 0


def subset_masks(n: int, models: int, share: float, seed: int) -> Tensor:
    """Random subsets of n examples, round(share n) in each: bool [models, n]. For `training.fit_many`.

    Raises ValueError unless each subset has between 1 and n - 1 examples.
    """
    size = round(share * n) if isinstance(share, (int, float)) and math.isfinite(share) else 0
    check(0 < size < n and models >= 1, f"a share of {share!r} of {n} examples is none or all of them: take 0.5, say")
    rng = seeding.generator(seed, "subsets")
    masks = torch.zeros(models, n, dtype=torch.bool)
    for row in masks:
        row[torch.randperm(n, generator=rng)[:size]] = True
    return masks


def lds(predicted, true) -> float:
    """The linear datamodelling score: Spearman's correlation of predicted and true outputs over subsets, mean over x.

    predicted, true   [subsets, ...]: one row a held-out subset, one column an output

    1 is a perfect order, 0 none; a column that is constant on either side counts as 0. It is a rank: scores of a
    datamodel and of a tenth of it are the same. Raises ValueError for shapes that differ, NaN, and fewer than
    three subsets.
    """
    p, t = (np.asarray(v, dtype=np.float64) for v in (predicted, true))
    check(p.shape == t.shape and p.ndim >= 2, f"predicted and true must be alike, [subsets, ...]: {p.shape}, {t.shape}")
    check(len(p) >= 3, f"a rank correlation needs three held-out subsets or more, not {len(p)}")
    check(bool(np.isfinite(p).all() and np.isfinite(t).all()), "outputs must be finite: drop the models that diverged")
    ranks = [rankdata(v.reshape(len(v), -1), axis=0) for v in (p, t)]
    a, b = (r - r.mean(0) for r in ranks)
    length = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return float(((a * b).sum(0) / np.where(length > 0, length, 1.0)).mean())


def break_even(models: float, request: float, retraining: float) -> float:
    """The number of requests from which on a datamodel is cheaper than retraining for each of them.

    The least k with models + k request <= k retraining, all in one unit of work; infinite where a request costs as much
    as retraining.
    """
    check(models >= 0 and request >= 0 and retraining > 0, "give work: models and request >= 0, retraining > 0")
    return math.inf if request >= retraining else float(max(1, math.ceil(models / (retraining - request))))


@dataclass(frozen=True, eq=False)
class Datamodel:
    """s_x(S) ~ intercept_x + sum_{i in S} weights_ix; made by `Datamodel.fit`.

    weights    [n, *outputs]: beta, the effect of each of n training examples on each output
    intercept  [*outputs]: b, the output of a model of no examples, as the line goes
    penalty    how it was regressed, such as "ridge 30"
    models     m, the number of models behind it
    checksum   of the examples, where they are known: methods refuse others
    work       of training the m models, in the unit of `Cost.work`; NaN where it is not known
    """

    weights: Tensor
    intercept: Tensor
    penalty: str
    models: int
    checksum: str | None = None
    work: float = math.nan

    @staticmethod
    def fit(
        masks: Tensor,
        outputs: Tensor,
        *,
        ridge: float | str = HELD_OUT,
        lasso: float | str | None = None,
        examples=None,
        work: float = math.nan,
    ) -> "Datamodel":
        """Regress outputs [m, ...] on masks, bool [m, n], with an intercept: one regression an output.

            ridge   min  sum_k (s_k - b - sum_{i in S_k} beta_i)^2 + ridge ||beta||_2^2
            lasso   min  (1 / 2m) sum_k (s_k - b - sum_{i in S_k} beta_i)^2 + lasso ||beta||_1

        ridge, lasso   the weight of the penalty, the same for all outputs. "held-out" takes that of the least squared
                       error on held-out models: for ridge each model in turn (in closed form), for lasso the last
                       fifth of them. A `lasso` is taken instead of `ridge`. ridge=0 is least squares, of least norm
        examples       the n training examples, whose checksum is kept: methods want it
        work           of the m models: `Tally.work` of `fit_many`

        float32 outputs are regressed in float64 and kept as float32. Memory: n x outputs. Raises ValueError for shapes
        that do not fit, fewer than three models, outputs that are not finite and penalties below 0.
        """
        x, y, shape = _checked(masks, outputs)
        check(examples is None or len(examples) == x.shape[1], f"masks are of {x.shape[1]} examples, not as given")
        middle, level = x.mean(0), y.mean(0)
        x, y = x - middle, y - level
        if lasso is not None:
            weight = _penalty("lasso", lasso) if lasso != HELD_OUT else _best_lasso(x, y)
            beta = torch.from_numpy(_lasso(x, y, [weight])[0]) if weight > 0 else _Ridge(x, y)(0.0)
            penalty = f"lasso {weight:.3g}"
        else:
            found = _Ridge(x, y)
            weight = _penalty("ridge", ridge) if ridge != HELD_OUT else found.best()
            beta, penalty = found(weight), f"ridge {weight:.3g}"
        intercept = level - middle @ beta
        dtype = outputs.dtype if outputs.dtype == torch.float64 else torch.float32
        kept = beta.reshape(-1, *shape).to(dtype), intercept.reshape(shape).to(dtype)
        return Datamodel(*kept, penalty, len(masks), None if examples is None else examples.checksum(), float(work))

    def __len__(self) -> int:
        return len(self.weights)

    def effect(self, forget) -> Tensor:
        """sum_{i in F} beta_xi [*outputs], what forgetting takes from each output; F: positions or a mask [n]."""
        return self.weights[doors.positions(forget, len(self), empty=True)].sum(0)

    def predict(self, masks: Tensor) -> Tensor:
        """b_x + sum_{i in S} beta_xi for each subset, bool [k, n] -> [k, *outputs]."""
        _check_masks(masks, len(self))
        found = masks.to(self.weights.dtype) @ self.weights.flatten(1)
        return self.intercept + found.reshape(-1, *self.intercept.shape)

    def lds(self, masks: Tensor, outputs: Tensor) -> float:
        """`lds` of the predictions for held-out subsets, bool [k, n], against the outputs [k, ...] of their models."""
        return lds(self.predict(masks), outputs)


class _Ridge:
    """Ridge regression of centred outputs y [m, o] on centred x [m, n], by one singular value decomposition."""

    def __init__(self, x: Tensor, y: Tensor):
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        rank = int((s > s[:1] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
        self._u, self._s, self._v, self._y = u[:, :rank], s[:rank], vt[:rank].T, y

    def __call__(self, weight: float) -> Tensor:
        """beta [n, o] = (x^T x + weight)^-1 x^T y, or its limit."""
        return self._v @ ((self._s / (self._s**2 + weight))[:, None] * (self._u.T @ self._y))

    def best(self) -> float:
        """The weight of the least squared error on each model in turn, when regressed on all others.

        With the hat matrix H of the fit on all, intercept included, that error is ((I - H) y)_k / (1 - H_kk).
        """
        if not len(self._s):
            return 0.0
        gram, m = self._y @ self._y.T, len(self._y)
        across, within = gram @ self._u, self._u.T @ gram @ self._u
        tried = (self._s[0] ** 2).item() * _RIDGES

        def error(weight: float) -> float:
            shrunk = self._u * (self._s**2 / (self._s**2 + weight))
            left = gram.diagonal() - 2 * (across * shrunk).sum(1) + ((shrunk @ within) * shrunk).sum(1)
            seen = 1 - 1 / m - (shrunk * self._u).sum(1)
            return float((left / seen**2).mean())

        return min(tried, key=error)


def _lasso(x: Tensor, y: Tensor, weights) -> list[np.ndarray]:
    """beta [n, o] for each penalty of `weights`, from the largest down."""
    x = np.asfortranarray(x.numpy())
    gram, paths = x.T @ x, []
    for column in y.numpy().T:
        paths.append(
            lasso_path(x, column, alphas=weights, precompute=gram, Xy=x.T @ column, tol=1e-6, max_iter=5000)[1]
        )
    return list(np.moveaxis(np.stack(paths, axis=1), 2, 0))


def _best_lasso(x: Tensor, y: Tensor) -> float:
    known = len(x) - max(1, len(x) // 5)
    largest = float((x[:known].T @ y[:known]).abs().max()) / known
    if not largest > 0:
        return 0.0
    tried = largest * _LASSOS
    betas = _lasso(x[:known], y[:known], tried)
    errors = [float((y[known:] - x[known:] @ torch.from_numpy(beta)).square().mean()) for beta in betas]
    return float(tried[int(np.argmin(errors))])


def _penalty(name: str, value) -> float:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    check(plain, f'{name} is a number of at least 0, or "{HELD_OUT}"; not {value!r}')
    return float(value)


def _check_masks(masks, n: int | None = None) -> None:
    fits = isinstance(masks, Tensor) and masks.dtype == torch.bool and masks.dim() == 2 and n in (None, masks.shape[1])
    check(fits, f"masks must be a bool tensor [models, {n or 'n'}], one row a subset: see attribution.subset_masks")


def _checked(masks: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    _check_masks(masks)
    alike = isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.shape[:1] == masks.shape[:1]
    check(alike, f"outputs must be a floating tensor with a row for each of the {len(masks)} masks")
    check(len(masks) >= 3, f"a datamodel needs three models or more, not {len(masks)}")
    check(bool(torch.isfinite(outputs).all()), "outputs must be finite: drop the models that diverged")
    return masks.double(), outputs.detach().cpu().double().flatten(1), tuple(outputs.shape[1:])
