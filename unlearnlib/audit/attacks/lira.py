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
On margins with heavy tails the fitted Gaussians are too wide: for Student's t(2) shifted by 1 the default reaches AUC
.631/.655/.673 with 8/16/32 models a side, `variance="robust"` .660/.681/.689. On Gaussian margins it loses
.005/.002/.001.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata, t

from unlearnlib.audit.attacks.likelihood import Moments, log_ratio, normal_scores, prior_strengths
from unlearnlib.audit.statistics.intervals import Interval, on_logit_scale, two_way_variance
from unlearnlib.audit.statistics.roc import Roc, as_array, inverted_hanley_mcneil, roc
from unlearnlib.audit.statistics.state import FORGET, NEVER, RETAIN, check_state, imbalance

GAMES = {"A": (FORGET, FORGET), "B": (FORGET, NEVER), "retain": (RETAIN, NEVER)}
VARIANCES = ("shared", "pooled", "robust", "example", "unequal")
POOL_AT = 4  # models a side up to which "shared" pools
FEWEST_MODELS = {"example": 16, "unequal": 32}  # a side: below, an attack on noise is biased or the sigmas are noise


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
        each pair is summed within originals and within examples (`intervals.two_way_variance`), with Student's quantile
        at the smaller number of clusters less one. An AUC of 0 or 1, or with all scores tied, has no such variance;
        there the clusters count as the sizes of an ordinary ROC, halved as each comparison takes two.
        """
        r, truth = self.roc, self.is_member[self.used]
        influence = np.zeros(self.scores.shape)
        cells = np.empty(len(truth))
        cells[truth] = (r.member_placements - r.auc) / r.n_members
        cells[~truth] = (r.nonmember_placements - r.auc) / r.n_nonmembers
        influence[self.used] = cells
        variance = two_way_variance(influence, self.clusters)
        g = len(np.unique(self.clusters))
        fewer = min(g, influence.shape[1])
        if not 0 < r.auc < 1 or variance == 0:
            half = max(fewer // 2, 1)
            return Interval(r.auc, *inverted_hanley_mcneil(r.auc, half, half, level), g, "two-way clusters")
        spread = t.ppf(0.5 + level / 2, max(fewer - 1, 1)) * np.sqrt(variance)
        return Interval(r.auc, *on_logit_scale(r.auc, float(spread)), g, "two-way clusters")


def lira(scores, state, *, game: str, parents=None, variance: str = "shared", retrained=None) -> Lira:
    """Attack every model on every example of a state matrix.

    `scores` [models, examples] or [models, examples, queries] are margins, `state` [models, examples] the design (see
    `state.state_matrix`), `parents` [models] the original of each model (default: all different; taken from `state`
    where that is a StateMatrix). Game A also takes `retrained`, margins of the same shape: row m of it is retrained
    without the forget set of row m. With several queries (augmentations) the log ratios are averaged.

    `variance`: "shared" - per example, one sigma for both hypotheses, shrunk towards the pool by empirical Bayes, and
    pooled outright with four models a side or fewer; "pooled" - one sigma for all examples; "robust" - margins are
    first replaced by their normal scores (ranks) among the models of the game, example by example, then pooled: for
    heavy tails, and infinite margins rank; "example" - one sigma for each example and hypothesis, as in the first LiRA
    code: its attack on noise has AUC .34/.43/.476/.490 with 3/4/6/8 models a side, because a target leaves its own side
    smaller, so it needs 16; "unequal" - the same, shrunk, which sees changes of variance but needs 32.

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
    s = _margins(scores, design.shape, "scores", variance)
    _, clusters = np.unique(as_array(parents), return_inverse=True)
    if clusters.shape != design.shape[:1]:
        raise ValueError(f"parents must name the original of each of {len(design)} models")

    first, second = GAMES[game]
    member, other = design == first, design == second
    if game == "A":
        nobody = np.zeros_like(member)
        member, other = np.concatenate([member, nobody]), np.concatenate([nobody, other])
        s = np.concatenate([s, _margins(retrained, design.shape, "retrained", variance)])
        clusters = np.tile(clusters, 2)
    a_side = int(min(np.median(member.sum(0)), np.median(other.sum(0))))
    if a_side < 2:
        raise ValueError(f"game {game} needs two models or more on either side of each example; the median is {a_side}")
    fewest = FEWEST_MODELS.get(variance, 0)
    if a_side < fewest:
        raise ValueError(f"variance {variance!r} needs {fewest} models a side, not {a_side}: use 'shared'")
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
    if not (np.isfinite(x).all() and np.isfinite(target).all()):
        raise ValueError("margins contain values that are not finite: clip the margins first")
    inside = Moments.of(x, chosen)
    fits = [inside] if sides == 1 else [inside, Moments.of(x).without(inside)]
    return target, *(_fit(m, variance) for m in fits)


def _fit(m: Moments, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum-likelihood sigma [examples]; examples without a model get the average fit of the others."""
    empty = m.n == 0
    if empty.all():
        raise ValueError("one side has no shadow model for any example")
    mean, sigma = m.mean, np.sqrt(m.squares / np.maximum(m.n, 1))
    if empty.any():
        mean, sigma = (np.where(empty, v[~empty].mean(), v) for v in (mean, sigma))
    return mean, np.sqrt(m.squares.sum() / m.n.sum()) if variance == "pooled" else sigma


def _log_density(target: np.ndarray, fit: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, sigma = fit[0], fit[1] + 1e-30
    return -0.5 * ((target - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)


def _margins(values, shape: tuple[int, ...], name: str, variance: str) -> np.ndarray:
    """Margins as float64 [models, examples, queries]."""
    x = as_array(values, np.float64)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[:2] != shape or x.shape[2] == 0:
        raise ValueError(f"{name} must be [models, examples] like state {shape}, with an optional axis of queries")
    if np.isnan(x).any() or (variance != "robust" and np.isinf(x).any()):
        raise ValueError(f"{name} contains values that are not finite: clip the margins first, or rank them ('robust')")
    return x


def _attack(x, member, other, clusters, variance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sigma_F / sigma_N [examples], leave-one-out log ratios and cross-fitted log ratios [rows, examples]."""
    sides = (member, other)
    if variance == "robust":
        x = normal_scores(x, member | other)
    wholes = [Moments.of(x, side) for side in sides]
    rests = [whole.without(Moments.of_clusters(x, side, clusters)) for whole, side in zip(wholes, sides, strict=True)]
    left_out = log_ratio(x, *rests, prior_strengths(*wholes), variance)

    crossed = np.full(x.shape, np.nan)
    even = clusters % 2 == 0
    for fitted, scored in ((~even, even), (even, ~even)):
        if fitted.any() and scored.any():
            halves = [Moments.of(x[fitted], side[fitted]) for side in sides]
            crossed[scored] = log_ratio(x[scored], *halves, prior_strengths(*halves), variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        sigmas = [np.sqrt(whole.squares / (whole.n - 1)) for whole in wholes]
        ratio = sigmas[0] / sigmas[1]
    return ratio, *(np.where(member | other, scores, np.nan) for scores in (left_out, crossed))


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
