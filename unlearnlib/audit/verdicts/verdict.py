"""The verdict rule, in one place. Five labels, and none of them says "forgotten".

    residual                        the leakage interval lies above the null
    over-forgotten                  it lies below, or forgotten examples score conspicuously low (Streisand)
    damaged                         the utility gap's interval lies below 0
    no leakage detected above MDE   none of these; the smallest effect that could have been seen is stated
    undecided: no valid attack      none of these, and the attack failed its own null, or had too little to go on

Absence of evidence is reported with its resolution. Before "no leakage detected" may be *claimed* for a method, one
distributional audit (KLoM or epsilon) and one audit by construction (canary, interclass confusion, Gaussian poison)
must agree: `supported`.
"""

import math
from dataclasses import dataclass, replace

import pandas as pd
from scipy.optimize import brentq
from scipy.stats import t

from unlearnlib.audit.statistics.intervals import Interval, disjoint_effect

RESIDUAL = "residual"
OVER_FORGOTTEN = "over-forgotten"
DAMAGED = "damaged"
NOTHING_FOUND = "no leakage detected above MDE"
UNDECIDED = "undecided: no valid attack"
LABELS = (RESIDUAL, OVER_FORGOTTEN, DAMAGED, NOTHING_FOUND, UNDECIDED)

# where the headline comes from, strongest first: (audit, game, statistic)
HEADLINES = (
    ("U-LiRA", "B", "AUC"),
    ("RMIA", "B", "AUC"),
    ("calibrated margin", "B", "AUC"),
    ("loss rank", "B", "AUC"),
)
COSTS = {  # what each takes beside the unlearned model
    "U-LiRA": "a state matrix of 16 models or more (audit.shadow_audit)",
    "RMIA": "one retrained model or more",
    "calibrated margin": "one retrained model",
}


@dataclass(frozen=True)
class Verdict:
    """`label` is the first of `labels`; `mde` the smallest effect above the null that 80% of such audits would see.

    It is infinite where no attack is valid. `audit` names the headline: the strongest audit that was run and is valid,
    with the number of its models; "" where none was, or where the caller did not say. `stronger` are those that were
    not run, with what they take.
    """

    label: str
    labels: tuple[str, ...]
    mde: float
    supported: bool  # only ever true for NOTHING_FOUND
    reasons: tuple[str, ...]
    audit: str = ""
    stronger: tuple[str, ...] = ()


def verdict(
    leakage: Interval | None,
    null: tuple[float, float],
    utility_gap: Interval,
    *,
    standard_error: float,
    shift: float = 1.0,
    tail_below: Interval | None = None,
    tail_level: float = 0.05,
    distributional: bool | None = None,
    construction: bool | None = None,
) -> Verdict:
    """Apply the rule.

    leakage         the headline attack (AUC, or its gap to retraining), high for residual; None where it is not valid
    null            interval (low, high) of the same for a retraining from another seed, made as that of `leakage` was
    utility_gap     test accuracy less the retrained model's; only a loss is damage
    standard_error  of the headline, for the smallest detectable effect
    shift           sign of what the attack found, for attacks such as U-LiRA whose AUC exceeds the null either way:
                    where negative, forgotten examples score *lower* than unseen ones, so leakage is over-forgetting
    tail_below      mass of unlearned scores below the oracles' band, and `tail_level` that of held-out oracles
    distributional  whether such an audit (KLoM, epsilon) agrees with its null; None where none was run
    construction    the same for an audit by planted evidence

    The rule asks for intervals that do not meet, of the leakage and of its null, which is more than a test of their
    difference asks for. The smallest detectable effect says so: see `intervals.disjoint_effect`.

    Raises ValueError where the headline has no interval: a verdict needs three training seeds or an interval of its
    own.
    """
    if utility_gap.low != utility_gap.low or (leakage is not None and leakage.low != leakage.low):
        raise ValueError("a verdict needs intervals: audit three training seeds or more and summarise them")
    labels, reasons = [], []
    above = leakage is not None and leakage.low > null[1]
    below = leakage is not None and leakage.high < null[0]
    tail = tail_below is not None and tail_below.low > tail_level
    if above or below:
        where = f"above the null's {null[1]:.3f}" if above else f"below the null's {null[0]:.3f}"
        reasons.append(f"leakage {leakage.low:.3f} to {leakage.high:.3f} lies {where}")
    if above and shift >= 0:
        labels.append(RESIDUAL)
    if below or tail or (above and shift < 0):
        labels.append(OVER_FORGOTTEN)
        if above and shift < 0:
            reasons.append("forgotten examples score lower than unseen ones")
        if tail:
            reasons.append(f"{tail_below.value:.0%} of scores lie below the retrained band; {tail_level:.0%} expected")
    if utility_gap.high < 0:
        labels.append(DAMAGED)
        reasons.append(f"test accuracy is {-utility_gap.high:.3f} to {-utility_gap.low:.3f} below retraining")
    mde = math.inf if leakage is None else _smallest_effect(leakage, null, standard_error)
    if not labels and leakage is None:
        labels.append(UNDECIDED)
    elif not labels:
        labels.append(NOTHING_FOUND)
        reasons.append(f"no effect seen; the smallest detectable is {mde:.3f} above the null")
        for name, agrees in (("distributional", distributional), ("construction", construction)):
            if agrees is not True:
                reasons.append(f"no {name} audit was run" if agrees is None else f"the {name} audit disagrees")
    supported = labels == [NOTHING_FOUND] and distributional is True and construction is True
    return Verdict(labels[0], tuple(labels), mde, supported, tuple(reasons))


def _smallest_effect(leakage: Interval, null: tuple[float, float], standard_error: float) -> float:
    """The effect at which the two intervals do not meet in 80% of such audits.

    The quantile half-width / error says on how many values the error rests (1.96: infinitely many); the error of the
    null is scaled from its interval in the same way.
    """
    width = (null[1] - null[0]) / 2
    if standard_error == 0 or leakage.half_width <= 0:
        return disjoint_effect((0.0, width / 1.96), (math.inf, math.inf))
    quantile = leakage.half_width / standard_error
    size = math.inf
    if quantile > t.ppf(0.975, 1e4):
        size = 1 + brentq(lambda f: t.ppf(0.975, f) - min(quantile, t.ppf(0.975, 1.0)), 1.0, 1e4)
    return disjoint_effect((standard_error, width / quantile), (max(size, 2.0), max(size, 2.0)))


def verdict_of(
    summary: pd.DataFrame, *, distributional: bool | None = None, construction: bool | None = None
) -> Verdict:
    """The verdict on the one method in `summary` (rows of `audit.summarise`), from paired gaps to retraining.

    The headline is the first of HEADLINES that is there and valid. U-LiRA comes with its own interval and that of the
    retrained models; for the others it is the paired gap to retraining over seeds, and the null the interval of the
    null method's own gap (0 where it was not run). Utility is the gap in test accuracy, and the tail mass is used
    where it was measured. An attack that is not valid, as where U-LiRA failed its null by chance, is passed over, and
    the reasons say so; without any valid attack the leakage is undecided. `audit` is the strongest that was affordable,
    and `stronger` says what would have seen more and what it takes.

    Raises ValueError for several methods, and where no attack or no test accuracy was run.
    """
    if summary["method"].nunique(dropna=False) != 1:
        raise ValueError("verdict_of judges one method: select its rows first")

    def find(audit: str, game: str, statistic: str, subset: str = "forget", valid: bool = True) -> pd.Series | None:
        wanted = {"audit": audit, "game": game, "statistic": statistic, "subset": subset}
        hit = summary[(summary[list(wanted)] == list(wanted.values())).all(axis=1)]
        hit = hit[hit["valid_flag"].astype(bool) == valid]
        return hit.iloc[0] if len(hit) else None

    headline = next((line for names in HEADLINES if (line := find(*names)) is not None), None)
    failed = [line for names in HEADLINES if (line := find(*names, valid=False)) is not None]
    utility = find("accuracy", "util", "TA", "test")
    if (headline is None and not failed) or utility is None:
        raise ValueError("a verdict needs an attack (U-LiRA, RMIA or loss rank AUC) and a valid test accuracy TA")
    reasons = [f"{line['audit']} {line['statistic']} does not count: {line['reason']}" for line in failed]
    leakage, null, shift, name = None, (0.0, 0.0), None, ""
    if headline is not None:
        own = headline["n_models"] > 1
        leakage, null = _interval(headline, "value" if own else "gap", own), _null_of(headline, own)
        shift = find(headline["audit"], "B", "shift")
        kind = f"of {headline['n_models']:.0f} models" if own else f"as gap to retraining, {leakage.n} seeds"
        name = f"{headline['audit']} {headline['statistic']} {kind}"
        reasons.insert(0, f"headline: {name}")
    above = [h[0] for h in HEADLINES[: _place(headline)] if find(*h) is None and find(*h, valid=False) is None]
    stronger = tuple(f"{audit}: needs {COSTS[audit]}" for audit in above)
    if stronger and headline is not None:
        reasons.append(f"stronger audits that were not run: {'; '.join(stronger)}")
    tail = find("Streisand", "A", "mass below q05")
    found = verdict(
        leakage,
        null,
        _interval(utility, "gap"),
        standard_error=0.0 if leakage is None else _standard_error(leakage),
        shift=1.0 if shift is None else float(shift["value"]),
        tail_below=None if tail is None else _tail(tail),
        tail_level=0.05 if tail is None else float(tail["retrain_value"]),
        distributional=distributional,
        construction=construction,
    )
    return replace(found, reasons=(*reasons, *found.reasons), audit=name, stronger=stronger)


def _place(headline: pd.Series | None) -> int:
    """How many of HEADLINES are stronger; without a headline all that anything is stronger than."""
    names = [h[0] for h in HEADLINES]
    return len(names) - 1 if headline is None else names.index(headline["audit"])


def _standard_error(leakage: Interval) -> float:
    """The error behind Student's interval of `n` values."""
    return leakage.half_width / float(t.ppf(0.975, max(leakage.n - 1, 1)))


def _null_of(headline: pd.Series, own: bool) -> tuple[float, float]:
    """What a retraining from another seed gets; the value without any leakage where none was audited."""
    low, high = (float(headline[name]) for name in (("null_lo", "null_hi") if own else ("null_gap_lo", "null_gap_hi")))
    if math.isnan(low):
        return (0.5, 0.5) if own else (0.0, 0.0)
    return low, high


def _tail(line: pd.Series) -> Interval:
    """The mass below the band, with the limits of its excess over the held-out oracles', which share the band."""
    level = float(line["retrain_value"])
    gap = _interval(line, "gap")
    return Interval(float(line["value"]), level + gap.low, level + gap.high, gap.n, gap.method)


def _interval(line: pd.Series, name: str, own: bool = False) -> Interval:
    value, low, high = (float(line[c]) for c in (name, f"{name}_lo", f"{name}_hi"))
    return Interval(value, low, high, int(line["n_models"] if own else line["n_seeds"]), "paired t")
