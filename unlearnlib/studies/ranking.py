"""The leaderboard: methods ranked by the audits that can see, with what the ranks are worth.

    board = studies.leaderboard(rows)        # rows of `audit.battery`, `audit.shadow_audit`, ..., of several seeds
    board.table                              # one line a method, best first; board.proxies beside

*Score.* For each training seed s, method m and ranking audit a (U-LiRA by its AUC, KLoM by its mean over the forget
set), d_msa is the distance to what a perfect method would get: |AUC - that of the retrained models|, or from 1/2 where
none was audited; KLoM itself. With the scale c_a = median over methods of the mean of d,

    score_ms = mean over a of d_msa / c_a,    low for good; a score of 1 is that of a middling method.

*Ranks.* Methods are compared in pairs, within seeds: D_mk = mean over s of (score_ms - score_ks), with its standard
error e_mk. All pairs at once are different where |D_mk| > q e_mk. From eight seeds on q is the quantile `level` of
max over pairs of |D* - D| / e* over resamples of seeds; below it Student's with n - 1 degrees of freedom at
(1 - level) / pairs (Bonferroni), as resamples of few seeds repeat one seed too often. Then

    rank from 1 + (methods that are surely better)    to    methods - (methods that are surely worse),

and with probability `level` all these intervals hold together. Methods that cannot be told apart overlap. Where a pair
differs by the same number in every seed, nothing is known of its spread, and it counts as not told apart: values of one
audit that were copied to every seed rank nothing.

*Damage* is beside, not in the rank: the gap in test accuracy to retraining. *Duels*: the score less that of the
original, and less that of fine-tuning at equal cost (the one whose cost is nearest, within a factor of 1.5), with
Student's interval over seeds. *Proxies*: every other audit in the rows with a gap to retraining; Spearman's correlation
over methods of its mean |gap| with the score, and its interval, tanh(artanh r -+ z sqrt((1 + r^2 / 2) / (M - 3))), for
five methods or more (Bonett and Wright, Psychometrika 2000).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr, t

from unlearnlib.audit.statistics.intervals import t_interval
from unlearnlib.seeding import numpy_generator
from unlearnlib.studies.settings import ORIGINAL, RETRAIN

# ranking audits: what `audit` says -> statistic and game
RANKING = {"lira": ("AUC", "B"), "klom": ("mean", "A")}
RESAMPLED = 8  # seeds from which they are resampled
RESAMPLES = 2000
EQUAL_COST = 1.5
NEEDED = (
    *("method", "audit", "game", "subset", "statistic", "value", "retrain_value", "gap"),
    *("seed_train", "valid_flag", "cost_frac_retrain"),
)
SETTING = ("dataset", "arch", "forget_kind")  # a board is of one of each
NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """`table`, one line a method, best first: method, score, rank_low, rank_high, one column for each ranking audit
    (mean distance), damage with damage_low and damage_high, cost, and for each duel ("original", "fine-tuning") the
    difference, its limits and a word: "wins", "loses", "draw", or "" where there is no opponent.

    `proxies`: audit, statistic, subset, correlation, low, high, methods. `seeds`: on which all methods were audited.
    `scores` [ranked methods, seeds], in the order of the table. `order` [ranked, ranked]: +1 where the method of the
    row is surely worse than that of the column, -1 where it is surely better, 0 where they are not told apart; rank
    intervals of any subset of the methods follow from it and hold as well. None with one seed.
    """

    table: pd.DataFrame
    proxies: pd.DataFrame
    seeds: tuple
    level: float
    scores: pd.DataFrame
    order: np.ndarray | None


def leaderboard(rows: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> Leaderboard:
    """Rank the methods in `rows`, the tidy table of audits over training seeds. `seed` serves the resampling.

    Retraining is what the others are measured by and has no line; the original and "retrain, other seed" have one. A
    method that lacks a ranking audit is at the end, without score and rank. With one seed there are scores and no
    ranks: rank_low and rank_high are NaN.

    Raises ValueError for missing columns, rows of several settings, no U-LiRA and no KLoM in the rows, fewer than two
    methods with a score, no seed that they share, and a level outside (0, 1).
    """
    if missing := [c for c in NEEDED if c not in rows]:
        raise ValueError(f"rows lack {', '.join(missing)}: give the rows of audit.battery or studies.run")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}")
    if several := [c for c in SETTING if c in rows and rows[c].nunique() > 1]:
        raise ValueError(f"rows have several values of {', '.join(several)}: rank one setting at a time")
    rows = rows[rows["valid_flag"].astype(bool) & (rows["method"] != RETRAIN)]
    distances = {name: d for kind in RANKING if (d := _distances(rows, kind)) is not None for name in [d.name]}
    if not distances:
        raise ValueError("no valid U-LiRA or KLoM on the forget set in the rows: run audit.shadow_audit, or more seeds")
    scores = _scores(distances)
    means = scores.mean(axis=1).sort_values(kind="stable")
    scores = scores.loc[means.index]
    order = _order(scores.to_numpy(), level, seed)
    low, high = _ranks(order) if order is not None else (NAN, NAN)
    table = pd.DataFrame({"method": means.index, "score": means.to_numpy(), "rank_low": low, "rank_high": high})
    unranked = [m for m in dict.fromkeys(rows["method"]) if m not in means.index]
    table = pd.concat([table, pd.DataFrame({"method": unranked})], ignore_index=True)
    for name, d in distances.items():
        table[name] = d.mean(axis=1).reindex(table["method"]).to_numpy()
    table = pd.concat([table, _damage(rows, table["method"], level)], axis=1)
    cost = rows.groupby("method")["cost_frac_retrain"].mean().reindex(table["method"])
    table["cost"] = cost.to_numpy()
    for name, opponents in (("original", _original(table)), ("fine-tuning", _tuned(cost))):
        table = pd.concat([table, _duels(name, table["method"], opponents, scores, level)], axis=1)
    ranked_by = {d.attrs["audit"] for d in distances.values()}
    return Leaderboard(table, _proxies(rows, means, ranked_by, level), tuple(scores.columns), level, scores, order)


def _distances(rows: pd.DataFrame, kind: str) -> "pd.DataFrame | None":
    """Distance to a perfect method, [methods, seeds], by the statistic and game of RANKING; None without rows."""
    statistic, game = RANKING[kind]
    mine = rows["audit"].str.lower().str.replace("-", "").str.contains(kind) & (rows["subset"] == "forget")
    found = rows[mine & (rows["statistic"] == statistic) & (rows["game"] == game)]
    if found.empty:
        return None
    names = found.groupby("audit", sort=False)["method"].nunique()
    found = found[found["audit"] == names.idxmax()]  # of several estimators the one that most methods have
    value = found["value"]
    if kind == "lira":
        value = (value - found["retrain_value"].fillna(0.5)).abs()
    d = found.assign(d=value).pivot_table(index="method", columns="seed_train", values="d", sort=False)
    d.attrs["audit"] = d.name = names.idxmax()
    return d


def _scores(distances: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Scores [methods, seeds] of the methods that have every ranking audit, on the seeds that all of these have."""
    parts = list(distances.values())
    methods = [m for m in parts[0].index if all(m in d.index for d in parts)]
    seeds = [s for s in parts[0].columns if all(s in d.columns and d.loc[methods, s].notna().all() for d in parts)]
    if len(methods) < 2 or not seeds:
        raise ValueError(
            f"{len(methods)} methods and {len(seeds)} seeds have every ranking audit: ranks need two methods that were"
            " audited on the same seeds"
        )
    kept = [d.loc[methods, seeds] for d in parts]
    scales = [float(np.median(d.mean(axis=1))) or 1.0 for d in kept]
    return sum(d / scale for d, scale in zip(kept, scales, strict=True)) / len(kept)


def _ranks(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank intervals from what is sure of the pairs."""
    return 1.0 + (order > 0).sum(1), len(order) - (order < 0).sum(1).astype(float)


def _order(scores: np.ndarray, level: float, seed: int) -> np.ndarray | None:
    """Which pairs of methods [methods, seeds] are surely different, all at once; None with one seed."""
    methods, seeds = scores.shape
    if seeds < 2:
        return None
    differences = scores[:, None] - scores[None]  # [methods, methods, seeds]
    pairs = np.triu_indices(methods, 1)
    d = differences[pairs]
    mean, error = _mean_and_error(d)
    known = error > 1e-9 * (np.abs(mean) + np.abs(scores).max())
    if seeds < RESAMPLED:
        cut = t.isf((1 - level) / 2 / len(mean), seeds - 1)
    else:
        rng = numpy_generator(seed, "leaderboard")
        times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).T  # how often each seed was drawn
        away = d[known] - mean[known, None]
        drawn = away @ times / seeds
        e = np.sqrt(np.maximum((away**2 @ times / seeds - drawn**2) / (seeds - 1), 0))
        ratios = np.abs(drawn) / np.where(e > 1e-6 * error[known, None], e, np.inf)
        cut = np.quantile(ratios.max(axis=0, initial=0.0), level)
    sure = np.zeros((methods, methods))
    sure[pairs] = np.where(known & (np.abs(mean) > cut * error), np.sign(mean), 0)
    return sure - sure.T


def _mean_and_error(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return d.mean(1), d.std(1, ddof=1) / math.sqrt(d.shape[1])


def _damage(rows: pd.DataFrame, methods: pd.Series, level: float) -> pd.DataFrame:
    """Gap in test accuracy to retraining; negative for damage."""
    test = rows[(rows["audit"] == "accuracy") & (rows["statistic"] == "TA") & rows["gap"].notna()]
    gaps = test.groupby(["method", "seed_train"])["gap"].mean()
    known = set(gaps.index.get_level_values(0))
    ends = [t_interval(gaps[m], level).ends if m in known else (NAN,) * 3 for m in methods]
    return pd.DataFrame(ends, columns=["damage", "damage_low", "damage_high"])


def _original(table: pd.DataFrame) -> dict[str, str]:
    return {m: ORIGINAL for m in table["method"] if m != ORIGINAL}


def _tuned(cost: pd.Series) -> dict[str, str]:
    """For each method the fine-tuning whose cost is nearest on a scale of ratios, within a factor of EQUAL_COST."""
    tuned = {m: c for m, c in cost.items() if m.startswith("finetune") and c > 0}
    found = {}
    for method, own in cost.items():
        away = {m: abs(math.log(c / own)) for m, c in tuned.items() if own > 0 and m != method}
        if away and min(away.values()) <= math.log(EQUAL_COST):
            found[method] = min(away, key=away.get)
    return found


def _duels(name: str, methods, opponents: dict[str, str], scores: pd.DataFrame, level: float) -> pd.DataFrame:
    lines = []
    for method in methods:
        other = opponents.get(method)
        if method not in scores.index or other not in scores.index:
            lines.append((NAN, NAN, NAN, ""))
            continue
        gap = t_interval(scores.loc[method] - scores.loc[other], level)
        word = "wins" if gap.high < 0 else "loses" if gap.low > 0 else "draw"
        lines.append((*gap.ends, word))
    return pd.DataFrame(lines, columns=[f"{name}: {c}" for c in ("difference", "low", "high", "duel")])


def _proxies(rows: pd.DataFrame, scores: pd.Series, ranked_by: set[str], level: float) -> pd.DataFrame:
    """Spearman's correlation of each other audit's mean |gap| with the score, over methods."""
    others = rows[~rows["audit"].isin(ranked_by) & rows["gap"].notna() & rows["method"].isin(scores.index)]
    others = others[others["audit"] != "cost"] if len(others) else others
    found = []
    for (audit, statistic, subset), part in others.groupby(["audit", "statistic", "subset"], sort=False):
        gaps = part["gap"].abs().groupby(part["method"]).mean()
        if len(gaps) < 3 or gaps.nunique() < 2:
            continue
        r, n = float(spearmanr(gaps, scores.reindex(gaps.index))[0]), len(gaps)
        low = high = NAN
        if n >= 5:
            half = norm.ppf(0.5 + level / 2) * math.sqrt((1 + r**2 / 2) / (n - 3))
            centre = math.atanh(min(max(r, -1 + 1e-9), 1 - 1e-9))
            low, high = math.tanh(centre - half), math.tanh(centre + half)
        line = {"audit": audit, "statistic": statistic, "subset": subset, "correlation": r}
        found.append({**line, "low": low, "high": high, "methods": n})
    columns = ["audit", "statistic", "subset", "correlation", "low", "high", "methods"]
    return pd.DataFrame(found, columns=columns).sort_values("correlation", ascending=False, ignore_index=True)
