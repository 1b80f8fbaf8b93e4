"""LiRA and U-LiRA: a likelihood-ratio test for each example, from models that had it and models that did not.

For example x with margin s in the model under attack, and Gaussians fitted to the margins of other models,

    score(x) = log N(s; mu_F, sigma_F) - log N(s; mu_N, sigma_N)

in log space, high for "was trained on x". One threshold then sweeps all pairs (model, example). Which models stand
behind F and N is the *game*; results of different games are not comparable.

    A       efficacy: unlearned models that forgot x against models retrained without x. Any difference counts, damage too
    B       privacy: inside unlearned models, forgotten x against never-trained x. Damage alone is no leak
    retain  inside one set of models, retained x against never-trained x: the classic attack, and the harm to neighbours

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

from unlearnlib.audit.intervals import Interval
from unlearnlib.audit.roc import Roc, as_array, roc
from unlearnlib.audit.state import FORGET, NEVER, RETAIN, check_state, imbalance

GAMES = {"A": (FORGET, FORGET), "B": (FORGET, NEVER), "retain": (RETAIN, NEVER)}
VARIANCES = ("shared", "pooled", "example", "unequal")
POOL_AT = 4  # models a side up to which "shared" pools
UNEQUAL_FROM = 32  # models a side from which sigma_F and sigma_N can be told apart


@dataclass(frozen=True, eq=False)
class Lira:
    """Scores of all targets. Rows are models; in game A the unlearned models come first, then their retrains.

    `scores` [rows, examples]: the log-likelihood ratio, NaN where the pair is not in the game or a fit is impossible.
    `is_member` [rows, examples]; `clusters` [rows]: the original behind each row.
    `sigma_ratio` [examples]: sigma_F / sigma_N; a pure change of variance shows here and not in an equal-sigma score.
    `example_auc`, `example_advantage` [examples]: of the attack on one example, fitted on every other original and
    scored on the rest and vice versa, so that both average 1/2 and 0 under the null. NaN without enough models.
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
    codes = [design]
    if game == "A":
        s = np.concatenate([s, _margins(retrained, design.shape, "retrained")])
        codes.append(design)
    _, clusters = np.unique(as_array(parents), return_inverse=True)
    if clusters.shape != design.shape[:1]:
        raise ValueError(f"parents must name the original of each of {len(design)} models")
    clusters = np.tile(clusters, len(codes))

    first, second = GAMES[game]
    member = np.concatenate([design == first] + [np.zeros_like(d, bool) for d in codes[1:]])
    other = np.concatenate([np.zeros_like(design, bool), design == second]) if game == "A" else design == second
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
    if variance not in ("example", "pooled"):
        raise ValueError(f"variance is 'example' or 'pooled', not {variance!r}")
    x, target = as_array(shadow, np.float64), as_array(target, np.float64)
    n, mean, squares = _fit(x, as_array(chosen).astype(np.float64))
    empty = n == 0
    if empty.all():
        raise ValueError("no shadow model is chosen for any example")
    sigma = np.sqrt(squares.sum() / n.sum()) if variance == "pooled" else np.sqrt(squares / np.maximum(n, 1))
    if empty.any():
        mean = np.where(empty, mean[~empty].mean(), mean)
        sigma = sigma if variance == "pooled" else np.where(empty, sigma[~empty].mean(), sigma)
    sigma = sigma + 1e-30
    return -0.5 * ((target - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)


def shadow_attack(target, shadow, trained, variance: str = "example") -> np.ndarray:
    """Online LiRA on target models that are not among the shadow models: log p_in - log p_out [..., examples].

    `target` [..., examples], `shadow` and `trained` [models, examples]. See `gaussian_log_density` for the fits.
    """
    chosen = as_array(trained).astype(bool)
    inside = gaussian_log_density(target, shadow, chosen, variance)
    return inside - gaussian_log_density(target, shadow, ~chosen, variance)


def _margins(values, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Margins as float64 [models, examples, queries]."""
    x = as_array(values, np.float64)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[:2] != shape:
        raise ValueError(f"{name} must be [models, examples] like state {shape}, with an optional axis of queries")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} contains values that are not finite: clip the margins first")
    return x


def _fit(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and centred sum of squares [examples] of the weighted rows of x; in blocks that fit the cache."""
    out = np.empty((3, x.shape[1]))
    for start in range(0, x.shape[1], 512):
        part = slice(start, start + 512)
        w, shift = weight[:, part], x[0, part]
        d = x[:, part] - shift
        n = w.sum(0)
        wd = w * d
        total = wd.sum(0)
        offset = total / np.maximum(n, 1)
        out[:, part] = n, shift + offset, np.maximum(np.einsum("mi,mi->i", wd, d) - total * offset, 0)
    return out[0], out[1], out[2]


@dataclass(frozen=True, eq=False)
class _Side:
    """One hypothesis seen by each target: count, distance of the target from the mean, centred sum of squares."""

    n: np.ndarray
    distance: np.ndarray
    squares: np.ndarray


def _side(x: np.ndarray, chosen: np.ndarray, clusters: np.ndarray, leave_out: bool) -> _Side:
    """Fit the chosen rows; with `leave_out`, for each row without the rows of its own cluster."""
    w = chosen.astype(np.float64)
    n, mean, squares = _fit(x, w)
    d = x - mean
    if not leave_out:
        return _Side(np.broadcast_to(n, d.shape), d, np.broadcast_to(squares, d.shape))
    wd = w * d
    own = [w, wd, wd * d]
    if len(np.unique(clusters)) < len(clusters):
        indicator = (clusters[:, None] == clusters[None, :]).astype(np.float64)
        own = [indicator @ part for part in own]
    rest = n - own[0]
    shift = -own[1] / np.maximum(rest, 1)  # of the mean, once the cluster has left
    return _Side(rest, d - shift, np.maximum(squares - own[2] - rest * shift**2, 0))


def _log_ratio(f: _Side, n: _Side, prior: tuple[float, float, float], mode: str, floor: np.ndarray) -> np.ndarray:
    """log p_F - log p_N for each target. Equal-sigma distances are scaled by n/(n+1), the error of their mean.

    E (s - mean of n)^2 = sigma^2 (1 + 1/n), so that leaving a target out of its own side, which makes that side
    smaller by one, would otherwise push an attack on noise below AUC 1/2.
    """
    fewest = np.minimum(f.n, n.n)
    dof_f, dof_n = np.maximum(f.n - 1, 0), np.maximum(n.n - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if mode in ("example", "unequal"):
            v_f, v_n = f.squares / f.n, n.squares / n.n
            if mode == "unequal":
                v_f = _shrink(f.squares, dof_f, prior[0])
                v_n = _shrink(n.squares, dof_n, prior[1])
            v_f, v_n = np.maximum(v_f, floor), np.maximum(v_n, floor)
            llr = 0.5 * (n.distance**2 / v_n - f.distance**2 / v_f + np.log(v_n / v_f))
        else:
            strength = np.inf if mode == "pooled" else prior[2]
            v = np.maximum(_shrink(f.squares + n.squares, dof_f + dof_n, strength), floor)
            llr = 0.5 * (n.distance**2 * n.n / (n.n + 1) - f.distance**2 * f.n / (f.n + 1)) / v
    return np.where(fewest >= 2, llr, np.nan)


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
    used = member | other

    def ratios(rows: np.ndarray, targets: np.ndarray, leave_out: bool) -> tuple[np.ndarray, _Side, _Side]:
        # In cross-fitting, rows are one half of the originals and targets the other half.
        full_f, full_n = (_fit(x, (side & rows[:, None]).astype(np.float64)) for side in (member, other))
        dofs = [np.maximum(fit[0] - 1, 0) for fit in (full_f, full_n)]
        prior = (
            _prior_strength(full_f[2], dofs[0]),
            _prior_strength(full_n[2], dofs[1]),
            _prior_strength(full_f[2] + full_n[2], dofs[0] + dofs[1]),
        )
        sides = [_side(x, side & rows[:, None], clusters, leave_out) for side in (member, other)]
        floor = 1e-12 * np.maximum(np.abs(sides[0].distance), np.abs(sides[1].distance)).max(0) ** 2 + 1e-24
        llr = _log_ratio(*sides, prior, mode, floor)
        return np.where(used & targets[:, None], llr, np.nan), full_f, full_n

    everyone = np.ones(len(x), bool)
    llr, (n_f, _, q_f), (n_n, _, q_n) = ratios(everyone, everyone, leave_out=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma_ratio = np.sqrt(q_f / (n_f - 1)) / np.sqrt(q_n / (n_n - 1))
    even = clusters % 2 == 0
    crossed = np.where(even[:, None], ratios(~even, even, False)[0], ratios(even, ~even, False)[0])
    return sigma_ratio, llr, crossed


def _per_example(llr, member, other, fold) -> tuple[np.ndarray, np.ndarray]:
    """AUC and TPR - FPR at threshold 0 of each column, within folds, averaged over them."""
    areas, gains = [], []
    for half in (0, 1):
        f, n = (side & (fold == half)[:, None] & ~np.isnan(llr) for side in (member, other))
        n_f, n_n = f.sum(0), n.sum(0)
        ranks = rankdata(np.where(f | n, llr, np.inf), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            areas.append(((ranks * f).sum(0) - n_f * (n_f + 1) / 2) / (n_f * n_n))
            sign = (1 + np.sign(np.where(f | n, llr, 0))) / 2  # a score of exactly 0 is a coin flip
            gains.append((sign * f).sum(0) / n_f - (sign * n).sum(0) / n_n)
    return np.mean(areas, axis=0), np.mean(gains, axis=0)
