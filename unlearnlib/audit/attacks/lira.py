"""LiRA and U-LiRA: a likelihood-ratio test for each example, from models that had it and models that did not.

For example x with margin s in the model under attack, and Gaussians fitted to the margins of other models,

    score(x) = log N(s; mu_F, sigma_F) - log N(s; mu_N, sigma_N)

in log space, high for "was trained on x". One threshold then sweeps all pairs (model, example). Which models stand
behind F and N is the *game*; results of different games are not comparable.

    A       efficacy: unlearned models that forgot x against models retrained without x; damage counts, too
    B       privacy: inside unlearned models, forgotten x against never-trained x; damage alone is no leak
    retain  inside one set of models, retained x against never-trained x: the classic attack

Every model serves as target and as shadow model of the others. A target and all its siblings (models unlearned from
the same original) leave the fits of its own score; with the target among its own shadow models an attack on noise
reaches AUC .68/.62/.59/.56 at 8/16/32/64 models a side.

Carlini et al., arXiv 2112.03570 (LiRA); Hayes et al., arXiv 2403.01218 (U-LiRA). Deviations: one variance for both
hypotheses by default, which is far stronger with few models, and means instead of medians, which can be left out of.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, polygamma
from scipy.stats import rankdata, t

from unlearnlib.audit.statistics.intervals import Interval
from unlearnlib.audit.statistics.roc import Roc, as_array, roc
from unlearnlib.audit.statistics.state import FORGET, NEVER, RETAIN, check_state, imbalance

GAMES = {"A": (FORGET, FORGET), "B": (FORGET, NEVER), "retain": (RETAIN, NEVER)}
VARIANCES = ("shared", "pooled", "example", "unequal")
POOL_AT = 4  # models a side up to which "shared" pools
BLOCK = 512  # columns that fit the cache together
UNEQUAL_FROM = 32  # models a side from which sigma_F and sigma_N can be told apart


@dataclass(frozen=True, eq=False)
class Lira:
    """Scores of all targets. Rows are models; in game A the unlearned models come first, then their retrains.

    `scores` [rows, examples]: the log-likelihood ratio, NaN where the pair is not in the game or a fit is impossible.
    `is_member` [rows, examples]; `clusters` [rows]: the original behind each row.
    `sigma_ratio` [examples]: sigma_F / sigma_N; a pure change of variance shows here and not in an equal-sigma score.
    `example_auc`, `example_advantage` [examples]: of the attack on one example, fitted on every other original and
    scored on the rest and vice versa, so that they average 1/2 and 0 under the null (left-one-out scores of a single
    example compare low: its members and non-members stand in each other's fits). NaN without enough models.
    `imbalance` [examples]: see `state.imbalance`; 0 throughout in a balanced design.
    """

    game: str
    variance: str
    scores: np.ndarray
    is_member: np.ndarray
    clusters: np.ndarray
    sigma_ratio: np.ndarray
    example_auc: np.ndarray
    example_advantage: np.ndarray
    imbalance: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Bool [rows, examples]: the pairs that have a score."""
        return ~np.isnan(self.scores)

    @cached_property
    def roc(self) -> Roc:
        """The ROC of all pairs under one threshold."""
        return roc(self.scores[self.used], self.is_member[self.used])

    @property
    def auc(self) -> float:
        return self.roc.auc

    def interval(self, level: float = 0.95) -> Interval:
        """Interval of `auc`, clustered by original and by example, on the logit scale.

        Pairs that share a model or an example are dependent, so DeLong's interval is too narrow. Here the influence of
        each pair is summed within originals and within examples: V = V_originals + V_examples - V_pairs, with Student's
        quantile at the smaller number of clusters less one. Cameron, Gelbach and Miller, JBES 2011.
        """
        r, truth = self.roc, self.is_member[self.used]
        influence = np.zeros(self.scores.shape)
        cells = np.empty(len(truth))
        cells[truth] = (r.member_placements - r.auc) / r.n_members
        cells[~truth] = (r.nonmember_placements - r.auc) / r.n_nonmembers
        influence[self.used] = cells
        by_original = np.bincount(self.clusters, influence.sum(1))
        by_example = influence.sum(0)
        g, h = len(np.unique(self.clusters)), len(by_example)
        parts = [(by_original, g), (by_example, h)]
        variance = sum((v**2).sum() * n / max(n - 1, 1) for v, n in parts) - (cells**2).sum()
        variance = max(variance, (cells**2).sum())  # as if pairs were independent: the least that can be claimed
        if not 0 < r.auc < 1 or variance == 0:
            return Interval(r.auc, *r.interval(level), g, "two-way clusters")
        half = t.ppf(0.5 + level / 2, max(min(g, h) - 1, 1)) * math.sqrt(variance) / (r.auc * (1 - r.auc))
        low, high = expit(logit(r.auc) + np.array([-half, half]))
        return Interval(r.auc, float(low), float(high), g, "two-way clusters")


def lira(scores, state, *, game: str, parents=None, variance: str = "shared", retrained=None) -> Lira:
    """Attack every model on every example of a state matrix.

    `scores` [models, examples] or [models, examples, queries] are margins, `state` [models, examples] the design (see
    `state.state_matrix`), `parents` [models] the original of each model (default: all different; taken from `state`
    where that is a StateMatrix). Game A also takes `retrained`, margins of the same shape: row m of it is retrained
    without the forget set of row m. With several queries (augmentations) the log ratios are averaged.

    `variance`: "shared" - per example, one sigma for both hypotheses, shrunk towards the pool by empirical Bayes, and
    pooled outright with four models a side or fewer; "pooled" - one sigma for all examples; "example" - one sigma for
    each example and hypothesis, as in the first LiRA code, weak and biased with few models; "unequal" - the same,
    shrunk, which sees changes of variance but needs 32 models a side.

    Everything is vectorised: leaving models out subtracts from sums and sums of squares.

    Raises ValueError for an unknown game or variance, shapes that do not fit, margins that are not finite, game A
    without `retrained`, other games with it, and designs with too few models a side.
    """
    if game not in GAMES or variance not in VARIANCES:
        raise ValueError(f"game is one of {', '.join(GAMES)} and variance one of {', '.join(VARIANCES)}")
    if (retrained is None) == (game == "A"):
        raise ValueError("game A compares with `retrained` margins; games B and retain take none")
    design = check_state(state)
    if parents is None:
        parents = getattr(state, "parents", np.arange(len(design)))
    s = _margins(scores, design.shape, "scores")
    _, clusters = np.unique(as_array(parents), return_inverse=True)
    if clusters.shape != design.shape[:1]:
        raise ValueError(f"parents must name the original of each of {len(design)} models")

    first, second = GAMES[game]
    member, other = design == first, design == second
    if game == "A":
        nobody = np.zeros_like(member)
        member, other = np.concatenate([member, nobody]), np.concatenate([nobody, other])
        s = np.concatenate([s, _margins(retrained, design.shape, "retrained")])
        clusters = np.tile(clusters, 2)
    a_side = int(min(np.median(member.sum(0)), np.median(other.sum(0))))
    if a_side < 2:
        raise ValueError(f"game {game} needs two models or more on either side of each example; the median is {a_side}")
    if variance == "unequal" and a_side < UNEQUAL_FROM:
        raise ValueError(f"variance 'unequal' needs {UNEQUAL_FROM} models a side, not {a_side}: use 'shared'")
    mode = "pooled" if variance == "shared" and a_side <= POOL_AT else variance

    queries = [_attack(s[..., q], member, other, clusters, mode) for q in range(s.shape[-1])]
    ratio, llr, crossed = (sum(parts) / len(queries) for parts in zip(*queries, strict=True))
    if np.isnan(llr[member]).all() or np.isnan(llr[other]).all():
        raise ValueError("no pair has two other models a side once siblings are left out: train more originals")
    auc, advantage = _per_example(crossed, member, other, clusters % 2)
    skew = np.zeros(design.shape[1]) if game == "A" else imbalance(design, first, second)
    return Lira(game, mode, llr, member, clusters, ratio, auc, advantage, skew)


def gaussian_log_density(target, shadow, chosen, variance: str = "example") -> np.ndarray:
    """log N(target; mu, sigma), mu and sigma fitted for each example to the chosen shadow models.

    `target` [..., examples], `shadow` [models, examples], `chosen` bool [models, examples]. `variance` "example"
    takes each example's own sigma, "pooled" one for all. Maximum-likelihood fits (divisor n); examples without a
    chosen model get the average fit of the others. The offline attack on a target outside the shadow models is
    `-gaussian_log_density(target, shadow, ~trained)`.
    """
    return _log_density(*_shadows(target, shadow, chosen, variance, sides=1))


def shadow_attack(target, shadow, trained, variance: str = "example") -> np.ndarray:
    """Online LiRA on target models that are not among the shadow models: log p_in - log p_out [..., examples].

    `target` [..., examples], `shadow` and `trained` [models, examples]. See `gaussian_log_density` for the fits.
    """
    target, inside, outside = _shadows(target, shadow, trained, variance, sides=2)
    return _log_density(target, inside) - _log_density(target, outside)


def _shadows(target, shadow, chosen, variance: str, sides: int):
    """The target margins, and (mean, sigma) [examples] of the chosen shadow models and, for two sides, the others."""
    if variance not in ("example", "pooled"):
        raise ValueError(f"variance is 'example' or 'pooled', not {variance!r}")
    target, x, chosen = as_array(target, np.float64), as_array(shadow, np.float64), as_array(chosen)
    if x.ndim != 2 or chosen.shape != x.shape or target.shape[-1:] != x.shape[1:]:
        raise ValueError(f"needs [..., examples] and twice [models, examples], not {target.shape}, {x.shape}")
    fits = []
    for n, mean, squares in _fits(x, chosen)[:sides]:
        empty = n == 0
        if empty.all():
            raise ValueError("one side has no shadow model for any example")
        sigma = np.sqrt(squares / np.maximum(n, 1))
        if empty.any():
            mean, sigma = (np.where(empty, v[~empty].mean(), v) for v in (mean, sigma))
        fits.append((mean, np.sqrt(squares.sum() / n.sum()) if variance == "pooled" else sigma))
    return target, *fits


def _log_density(target: np.ndarray, fit: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, sigma = fit[0], fit[1] + 1e-30
    return -0.5 * ((target - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)


def _margins(values, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Margins as float64 [models, examples, queries]."""
    x = as_array(values, np.float64)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[:2] != shape:
        raise ValueError(f"{name} must be [models, examples] like state {shape}, with an optional axis of queries")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} contains values that are not finite: clip the margins first")
    return x


Fit = tuple[np.ndarray, np.ndarray, np.ndarray]  # count, mean, centred sum of squares [examples]


def _fits(x: np.ndarray, chosen: np.ndarray) -> list[Fit]:
    """The fit to each column of x over the chosen rows, and over the others.

    One pass, in blocks of columns that stay in the cache; sums are taken about the first row, against cancellation.
    """
    rows, columns = x.shape
    sums = np.empty((2, 3, columns))
    buffers = np.empty((2, rows, min(columns, BLOCK)))
    for start in range(0, columns, BLOCK):
        part = slice(start, min(start + BLOCK, columns))
        d, w = buffers[:, :, : part.stop - start]
        np.subtract(x[:, part], x[0, part], out=d)
        w[...] = chosen[:, part]
        sums[0, 0, part], sums[1, 1, part] = w.sum(0), d.sum(0)
        sums[0, 1, part] = np.einsum("mi,mi->i", w, d)
        sums[0, 2, part] = np.einsum("mi,mi,mi->i", w, d, d)
        sums[1, 2, part] = np.einsum("mi,mi->i", d, d)
    sums[1, 0] = rows
    sums[1] -= sums[0]
    fits = []
    for n, total, squares in sums:
        offset = total / np.maximum(n, 1)
        fits.append((n, x[0] + offset, np.maximum(squares - total * offset, 0)))
    return fits


@dataclass(frozen=True, eq=False)
class _Side:
    """One hypothesis seen by the targets: how many models stand behind it, the distance of the target from their mean,
    and their centred sum of squares; arrays that broadcast to [rows, examples]."""

    n: np.ndarray
    distance: np.ndarray
    squares: np.ndarray


def _held_out(x: np.ndarray, fit: Fit) -> _Side:
    """Targets x [rows, examples] that took no part in the fit."""
    return _Side(fit[0][None], x - fit[1], fit[2][None])


def _left_out(x: np.ndarray, chosen: np.ndarray, clusters: np.ndarray, fit: Fit) -> _Side:
    """Each row of x against the fit to the chosen rows, once the rows of its own cluster have left it."""
    n, mean, squares = fit
    d = x - mean
    own_n = chosen.astype(np.float64)
    own_sum = own_n * d
    own_squares = own_sum * d
    if len(np.unique(clusters)) < len(clusters):
        together = (clusters[:, None] == clusters[None, :]).astype(np.float64)
        own_n, own_sum, own_squares = together @ own_n, together @ own_sum, together @ own_squares
    rest = n - own_n
    shift = own_sum / np.maximum(rest, 1)  # the mean moves by minus this
    d += shift
    shift *= shift
    shift *= rest
    return _Side(rest, d, np.maximum(squares - own_squares - shift, 0))


def _log_ratio(f: _Side, n: _Side, priors: tuple[float, float, float], mode: str) -> np.ndarray:
    """log p_F - log p_N for each target. Equal-sigma distances are scaled by n/(n+1), the error of their mean.

    E (s - mean of n)^2 = sigma^2 (1 + 1/n), so that leaving a target out of its own side, which makes that side
    smaller by one, would otherwise push an attack on noise below AUC 1/2.
    """
    dof_f, dof_n = np.maximum(f.n - 1, 0), np.maximum(n.n - 1, 0)
    f2, n2 = f.distance**2, n.distance**2
    floor = 1e-12 * np.maximum(f2, n2).max(0) + 1e-24  # all margins equal: no evidence either way
    with np.errstate(divide="ignore", invalid="ignore"):
        if mode in ("example", "unequal"):
            v_f, v_n = f.squares / f.n, n.squares / n.n
            if mode == "unequal":
                v_f, v_n = _shrink(f.squares, dof_f, priors[0]), _shrink(n.squares, dof_n, priors[1])
            v_f, v_n = np.maximum(v_f, floor), np.maximum(v_n, floor)
            llr = 0.5 * (n2 / v_n - f2 / v_f + np.log(v_n / v_f))
        else:
            strength = np.inf if mode == "pooled" else priors[2]
            v = np.maximum(_shrink(f.squares + n.squares, dof_f + dof_n, strength), floor)
            f2 *= f.n / (f.n + 1)
            n2 *= n.n / (n.n + 1)
            llr = 0.5 * (n2 - f2) / v
    return np.where(np.minimum(f.n, n.n) >= 2, llr, np.nan)


def _shrink(squares: np.ndarray, dof: np.ndarray, strength: float) -> np.ndarray:
    """Variances shrunk towards the pool of their row: (d0 s0^2 + sum of squares) / (d0 + degrees of freedom)."""
    pool = squares.sum(1, keepdims=True) / np.maximum(dof.sum(1, keepdims=True), 1)
    if np.isinf(strength):
        return np.broadcast_to(pool, squares.shape)
    return (strength * pool + squares) / np.maximum(strength + dof, 1e-12)


def _prior_strength(squares: np.ndarray, dof: np.ndarray) -> float:
    """Degrees of freedom of the prior on variances, by moments of their logarithms; infinite if all seem equal.

    Var log s^2 = trigamma(d/2) + trigamma(d0/2). Smyth, SAGMB 2004.
    """
    good = (dof >= 1) & (squares > 0)
    if good.sum() < 3:
        return np.inf
    logs = np.log(squares[good] / dof[good])
    excess = logs.var(ddof=1) - polygamma(1, dof[good] / 2).mean()
    if excess <= polygamma(1, 5e5):
        return np.inf
    return 2 * math.exp(brentq(lambda u: polygamma(1, math.exp(u)) - excess, math.log(1e-4), math.log(1e6)))


def _attack(x, member, other, clusters, mode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sigma_F / sigma_N [examples], leave-one-out log ratios and cross-fitted log ratios [rows, examples]."""
    sides = (member, other)
    fits = [_fits(x, side)[0] for side in sides]
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma_ratio = np.sqrt(fits[0][2] / (fits[0][0] - 1)) / np.sqrt(fits[1][2] / (fits[1][0] - 1))
    left = [_left_out(x, side, clusters, fit) for side, fit in zip(sides, fits, strict=True)]
    llr = _log_ratio(*left, _priors(fits), mode)

    crossed = np.full(x.shape, np.nan)
    even = clusters % 2 == 0
    for train, score in ((~even, even), (even, ~even)):
        if train.any() and score.any():
            halves = [_fits(x[train], side[train])[0] for side in sides]
            crossed[score] = _log_ratio(*(_held_out(x[score], fit) for fit in halves), _priors(halves), mode)
    return sigma_ratio, *(np.where(member | other, ratios, np.nan) for ratios in (llr, crossed))


def _priors(fits: list[Fit]) -> tuple[float, float, float]:
    """Prior strengths of the variances of F, of N, and of both taken together."""
    (n_f, _, q_f), (n_n, _, q_n) = fits
    dof_f, dof_n = np.maximum(n_f - 1, 0), np.maximum(n_n - 1, 0)
    return _prior_strength(q_f, dof_f), _prior_strength(q_n, dof_n), _prior_strength(q_f + q_n, dof_f + dof_n)


def _per_example(llr, member, other, fold) -> tuple[np.ndarray, np.ndarray]:
    """AUC and TPR - FPR at threshold 0 of each column, within folds, averaged over them."""
    areas, gains = [], []
    for half in (0, 1):
        rows = fold == half
        part, known = llr[rows], ~np.isnan(llr[rows])
        f, n = member[rows] & known, other[rows] & known
        n_f, n_n = f.sum(0), n.sum(0)
        if not rows.any():
            areas.append(np.full(llr.shape[1], np.nan))
            gains.append(areas[-1])
            continue
        ranks = rankdata(np.where(known, part, np.inf), axis=0)
        sign = np.where(known, 1 + np.sign(part), 0) / 2  # a score of exactly 0 is a coin flip
        with np.errstate(divide="ignore", invalid="ignore"):
            areas.append(((ranks * f).sum(0) - n_f * (n_f + 1) / 2) / (n_f * n_n))
            gains.append((sign * f).sum(0) / n_f - (sign * n).sum(0) / n_n)
    return np.mean(areas, axis=0), np.mean(gains, axis=0)
