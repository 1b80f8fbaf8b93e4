"""Audits of many models at once, in the tidy schema: distributions for one forget set, and the state matrix.

Two designs that must not be compared with each other. `ensemble_audit` has one forget set and many seeds: unlearned
against retrained models, example by example. `shadow_audit` has a state matrix, in which every model has a forget set
of its own, and attacks with U-LiRA; its game B is the headline of a verdict.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import t

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.attacks.streisand import advantage, tail_mass
from unlearnlib.audit.distances.forgetting_quality import DELTA, SPLITS, forgetting_quality, forgetting_quality_null
from unlearnlib.audit.distances.klom import klom, klom_null
from unlearnlib.audit.statistics.epsilon import epsilon_from_scores
from unlearnlib.audit.statistics.roc import as_array, finite
from unlearnlib.audit.statistics.state import FORGET, NEVER, check_state
from unlearnlib.audit.verdicts.tidy import NAN, Estimate, row, table
from unlearnlib.seeding import numpy_generator

FEWEST = 8  # unlearned models, and pairs of oracles, below which distributions are not compared
FEWEST_BINNED = 50  # below it the published KLoM is all noise floor
TAIL = 0.05
TPR_AT = (0.001, 0.01, 0.1)


UNKNOWN_PARENTS = "unlearnings of one original are not independent: say with `parents` which original each came from"


def ensemble_estimates(
    unlearned, oracles, *, subset: str, parents=None, seed: int = 0
) -> list[tuple[Estimate, list[Estimate]]]:
    """Estimates from margins [models, examples] of unlearned and retrained models, each with the same under the null.

    `parents` [models] names the original of each unlearned model. Models unlearned from one original share its training
    run and are no independent draws, so the first of each original stands for its siblings. Without `parents` nothing
    is certified: the bound on epsilon is invalid. Oracles are independent of each other and of the unlearned models:
    each trained from a seed of its own.

    Everything that depends on the number of models uses n against n, n = min(unlearned, oracles / 2), and its null n
    oracles against n others over random splits. Empty where n is below FEWEST. Raises ValueError for NaN.
    """
    u, o = as_array(unlearned, np.float64), as_array(oracles, np.float64)
    if u.ndim != 2 or o.ndim != 2 or u.shape[1] != o.shape[1] or np.isnan(u).any() or np.isnan(o).any():
        raise ValueError(f"margins must be [models, examples] twice, without NaN, not {u.shape} and {o.shape}")
    u, o = finite(u, o)
    if parents is not None:
        u = u[_one_of_each(as_array(parents), len(u))]
    n = min(len(u), len(o) // 2)
    if n < FEWEST:
        return []
    rng = numpy_generator(seed, "ensemble", subset)
    some = u[np.sort(rng.permutation(len(u))[:n])]
    splits = [rng.permutation(len(o)) for _ in range(SPLITS)]
    halves = [(o[i[:n]], o[i[n : 2 * n]]) for i in splits]
    base = dict(game="A", subset=subset, n_models=n, n_examples=u.shape[1], shadow_k=n)
    found: list[tuple[Estimate, list[Estimate]]] = []

    def add(audit: str, statistic: str, value: float, null, direction: str = "lower", **more) -> None:
        def estimate(v) -> Estimate:
            settings = {**base, "direction": direction, "target": "retrain", **more}
            return Estimate(audit=audit, statistic=statistic, value=float(v), **settings)

        found.append((estimate(value), [estimate(v) for v in null]))

    for estimator in ("binned", "gaussian", "ks"):
        few = estimator == "binned" and n < FEWEST_BINNED
        reason = f"{n} models: the binned estimate needs {FEWEST_BINNED} to rise above its floor" if few else ""
        own, null = klom(some, halves[0][0], estimator=estimator), klom_null(o, estimator=estimator, n=n, seed=seed)
        name, more = f"KLoM ({estimator})", dict(valid=not few, reason=reason)
        add(name, "mean", own.mean, null.means, **more)
        add(name, "P95", own.p95, null.p95s, **more)

    own = advantage(some, halves[0][0])
    null = [advantage(a, b) for a, b in halves]
    for statistic, measure in (("median", np.median), ("P95", _p95), ("max", np.max)):
        add("per-example advantage", statistic, measure(own), [measure(v) for v in null])
    add("per-example advantage", "share above null P95", (own > _p95(np.concatenate(null))).mean(), [])

    if subset == "forget":
        quality = forgetting_quality(some, halves[0][0]).quality
        floor = forgetting_quality_null(o, n=n, seed=seed)
        add("forgetting quality", "F", quality, floor, "higher", delta=DELTA)
        # one of the examples leaks this much, at 95% for all of them together; two-sided
        confidence = 1 - 0.05 / u.shape[1]
        bound, state = NAN, dict(valid=False, reason=UNKNOWN_PARENTS)
        if parents is not None:
            columns = zip(u.T, o.T, strict=True)
            bound, state = max(epsilon_from_scores(*pair, DELTA, confidence) for pair in columns), {}
        more = dict(delta=DELTA, ci_method="Clopper-Pearson, Bonferroni", **state)
        add("epsilon", "certified lower bound, max", bound, [], **more)
    if len(o) // 2 >= round(1 / TAIL) - 1:
        tails = tail_mass(u, o, q=TAIL, seed=seed)
        for side, label in (("below", "mass below q05"), ("above", "mass above q95")):
            own, excess = tails.interval(side), tails.excess(side)
            ends = dict(low=own.low, high=own.high, gap_low=excess.low, gap_high=excess.high, ci_method=own.method)
            ends["n_models"] = len(u)
            add("Streisand", label, own.value, [getattr(tails, f"null_{side}")], "target", **ends)
    return found


def _one_of_each(parents: np.ndarray, models: int) -> np.ndarray:
    """Rows of the first model of each original, in order."""
    if parents.shape != (models,):
        raise ValueError(f"parents must name the original of each of {models} unlearned models, not {parents.shape}")
    return np.sort(np.unique(parents, return_index=True)[1])


def ensemble_audit(
    unlearned,
    oracles,
    *,
    parents=None,
    subset: str = "forget",
    tags: Mapping[str, object] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """`ensemble_estimates` as tidy rows. `unlearned` and `oracles` are margins [models, examples] of one subset.

    `parents` [models] names the original of each unlearned model; without it no epsilon is certified.
    """
    found = ensemble_estimates(unlearned, oracles, subset=subset, parents=parents, seed=seed)
    described = {**dict(tags or {}), "seed_eval": seed}
    return table([row(e, retrained=null, tags=described) for e, null in found])


def shadow_audit(
    scores,
    state,
    *,
    parents=None,
    retrained=None,
    variance: str = "shared",
    tags: Mapping[str, object] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """U-LiRA on a state matrix, as tidy rows: game B, the harm to retained examples, and game A with `retrained`.

    `scores`, `retrained` are margins [models, examples] under the design `state` [models, examples]; see `lira.lira`.
    With `retrained` (row m without the forget set of row m) the same games run on the retrained models give the null.
    """
    described = {**dict(tags or {}), "seed_eval": seed}
    settings = dict(parents=parents, variance=variance)
    rows = []
    for game in ("B", "retain", "A") if retrained is not None else ("B", "retain"):
        attack = lira(scores, state, game=game, retrained=retrained if game == "A" else None, **settings)
        null, failed = [], ""
        if retrained is not None and game != "A":
            control = lira(retrained, state, game=game, **settings)
            null, failed = _lira_estimates(control, game), _fails_its_null(control, game)
        for e in _lira_estimates(attack, game):
            e = replace(e, valid=False, reason=failed) if failed else e
            same = [n for n in null if n.key == e.key]
            band = {"null_lo": same[0].low, "null_hi": same[0].high} if same else {}
            rows.append({**row(e, retrained=same, tags=described), **band})
    code = check_state(state)
    if parents is None:
        parents = getattr(state, "parents", np.arange(len(code)))
    own, control = (None if m is None else _shift(m, code, as_array(parents)) for m in (scores, retrained))
    rows.append(row(own, retrained=[] if control is None else [control], tags=described))
    return table(rows)


def _shift(scores, code: np.ndarray, parents: np.ndarray) -> Estimate:
    """Mean over examples of d = (mean forgotten - mean never seen) / sd. The AUC of U-LiRA has no sign; this has.

    Its variance is that of the sums of all deviations from these means within one original, which counts what a
    training run shifts for all examples at once, plus what the d of examples differ by beyond the noise of their own.
    """
    s = as_array(scores, np.float64)
    s = s if s.ndim == 2 else s.mean(2)
    named = dict(n_models=len(s), target="0", ci_method="t over originals")
    sides = [code == which for which in (FORGET, NEVER)]
    usable = np.minimum(*(side.sum(0) for side in sides)) > 1
    if not usable.any():
        reason = "no example was forgotten by two models and never seen by two others"
        return Estimate("U-LiRA", "B", "forget", "shift", NAN, valid=False, reason=reason, **named)
    s, (f, n) = s[:, usable], (side[:, usable] for side in sides)
    (mean_f, var_f), (mean_n, var_n) = (_moments(s, side) for side in (f, n))
    sd = np.maximum(np.sqrt((var_f + var_n) / 2), 1e-12)
    d = (mean_f - mean_n) / sd
    deviation = np.where(f, (s - mean_f) / f.sum(0), 0) - np.where(n, (s - mean_n) / n.sum(0), 0)
    influence = deviation / (sd * len(d))
    by_original = np.bincount(np.unique(parents, return_inverse=True)[1], influence.sum(1))
    g = len(by_original)
    variance = (by_original**2).sum() * g / max(g - 1, 1)
    if len(d) > 1:
        variance += max(d.var(ddof=1) / len(d) - (influence**2).sum(), 0.0)
    value, half = float(d.mean()), float(t.ppf(0.975, max(g - 1, 1)) * np.sqrt(variance))
    ends = dict(low=value - half, high=value + half, n_examples=len(d))
    return Estimate("U-LiRA", "B", "forget", "shift", value, **ends, **named)


def _moments(s: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the chosen entries of each column."""
    count = chosen.sum(0)
    mean = np.where(chosen, s, 0).sum(0) / count
    return mean, np.where(chosen, (s - mean) ** 2, 0).sum(0) / (count - 1)


def _fails_its_null(control, game: str) -> str:
    """In game B a retrained model knows neither side, so an attack that tells them apart has a defect of its own."""
    low, high = (control.interval(0.99).low, control.interval(0.99).high)
    if game != "B" or low <= 0.5 <= high:
        return ""
    return f"the attack fails its null: AUC {control.auc:.3f} on retrained models, which saw neither side"


def _lira_estimates(attack, game: str) -> list[Estimate]:
    r, interval = attack.roc, attack.interval()
    base = dict(
        audit="U-LiRA",
        game="A" if game == "A" else "B",
        subset="retain" if game == "retain" else "forget",
        target="0.5",
        n_models=len(attack.scores),
        n_examples=attack.scores.shape[1],
        n_pos=r.n_members,
        n_neg=r.n_nonmembers,
        shadow_k=float(np.median(attack.used.sum(0)) / 2),
        variance_mode=attack.variance,
        threshold_source="shadow models",
    )
    result = [
        Estimate(statistic="AUC", value=r.auc, low=interval.low, high=interval.high, ci_method=interval.method, **base)
    ]
    for alpha in TPR_AT:
        if r.n_nonmembers * alpha >= 10:
            result.append(
                Estimate(
                    statistic="TPR",
                    value=r.tpr_at(alpha),
                    alpha=alpha,
                    **{**base, "direction": "lower", "target": "retrain"},
                )
            )
    own = attack.example_advantage[~np.isnan(attack.example_advantage)]
    for statistic, measure in (("advantage median", np.median), ("advantage P95", _p95), ("advantage max", np.max)):
        state = {} if len(own) else dict(valid=False, reason="too few models for an attack on single examples")
        value = float(measure(own)) if len(own) else NAN
        result.append(
            Estimate(statistic=statistic, value=value, **{**base, "direction": "lower", "target": "0", **state})
        )
    ratio = attack.sigma_ratio[np.isfinite(attack.sigma_ratio)]
    if len(ratio):
        result.append(
            Estimate(statistic="sigma ratio median", value=float(np.median(ratio)), **{**base, "target": "retrain"})
        )
    return result


def _p95(values) -> float:
    return float(np.quantile(values, 0.95))
