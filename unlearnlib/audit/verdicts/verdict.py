"""The verdict rule, in one place. Four labels, and none of them says "forgotten".

    residual                        the leakage interval lies above the null
    over-forgotten                  it lies below, or forgotten examples score conspicuously low (Streisand)
    damaged                         the utility gap's interval lies below 0
    no leakage detected above MDE   none of these; the smallest effect that could have been seen is stated

Absence of evidence is reported with its resolution. Before "no leakage detected" may be *claimed* for a method, one
distributional audit (KLoM or epsilon) and one audit by construction (canary, interclass confusion, Gaussian poison)
must agree: `supported`.
"""

from dataclasses import dataclass

import pandas as pd
from scipy.stats import norm, t

from unlearnlib.audit.statistics.intervals import Interval, minimum_detectable_effect

RESIDUAL = "residual"
OVER_FORGOTTEN = "over-forgotten"
DAMAGED = "damaged"
NOTHING_FOUND = "no leakage detected above MDE"
LABELS = (RESIDUAL, OVER_FORGOTTEN, DAMAGED, NOTHING_FOUND)

# where the headline comes from, best first: (audit, game, statistic)
HEADLINES = (
    ("U-LiRA", "B", "AUC"),
    ("RMIA", "B", "AUC"),
    ("calibrated margin", "B", "AUC"),
    ("loss rank", "B", "AUC"),
)


@dataclass(frozen=True)
class Verdict:
    """`label` is the first of `labels`; `mde` the smallest effect above the null that 80% of such audits would see."""

    label: str
    labels: tuple[str, ...]
    mde: float
    supported: bool  # only ever true for NOTHING_FOUND
    reasons: tuple[str, ...]


def verdict(
    leakage: Interval,
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

    leakage         the headline attack (AUC, or its gap to retraining), high for residual
    null            interval (low, high) of the same for a retraining from another seed
    utility_gap     test accuracy less the retrained model's; only a loss is damage
    standard_error  of the headline, for the smallest detectable effect
    shift           sign of what the attack found, for attacks such as U-LiRA whose AUC exceeds the null either way:
                    where negative, forgotten examples score *lower* than unseen ones, so leakage is over-forgetting
    tail_below      mass of unlearned scores below the oracles' band, and `tail_level` that of held-out oracles
    distributional  whether such an audit (KLoM, epsilon) agrees with its null; None where none was run
    construction    the same for an audit by planted evidence

    Raises ValueError where the headline has no interval: a verdict needs three training seeds or an interval of its
    own.
    """
    if leakage.low != leakage.low or utility_gap.low != utility_gap.low:
        raise ValueError("a verdict needs intervals: audit three training seeds or more and summarise them")
    labels, reasons = [], []
    above, below = leakage.low > null[1], leakage.high < null[0]
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
    mde = minimum_detectable_effect(standard_error)
    if not labels:
        labels.append(NOTHING_FOUND)
        reasons.append(f"no effect seen; the smallest detectable is {mde:.3f} above the null")
        for name, agrees in (("distributional", distributional), ("construction", construction)):
            if agrees is not True:
                reasons.append(f"no {name} audit was run" if agrees is None else f"the {name} audit disagrees")
    supported = labels == [NOTHING_FOUND] and distributional is True and construction is True
    return Verdict(labels[0], tuple(labels), mde, supported, tuple(reasons))


def verdict_of(
    summary: pd.DataFrame, *, distributional: bool | None = None, construction: bool | None = None
) -> Verdict:
    """The verdict on the one method in `summary` (rows of `audit.summarise`), from paired gaps to retraining.

    The headline is the first of HEADLINES that is there and valid. U-LiRA comes with its own interval and that of the
    retrained models; for the others it is the paired gap to retraining over seeds, and the null the interval of the
    null method's own gap (0 where it was not run). Utility is the gap in test accuracy, and the tail mass is used
    where it was measured.
    """
    if summary["method"].nunique(dropna=False) != 1:
        raise ValueError("verdict_of judges one method: select its rows first")
    usable = summary[summary["valid_flag"].astype(bool)]

    def find(audit: str, game: str, statistic: str, subset: str = "forget") -> pd.Series | None:
        wanted = {"audit": audit, "game": game, "statistic": statistic, "subset": subset}
        hit = usable[(usable[list(wanted)] == list(wanted.values())).all(axis=1)]
        return hit.iloc[0] if len(hit) else None

    headline = next((line for names in HEADLINES if (line := find(*names)) is not None), None)
    utility = find("accuracy", "util", "TA", "test")
    if headline is None or utility is None:
        raise ValueError("a verdict needs a valid attack (U-LiRA, RMIA or loss rank AUC) and the test accuracy TA")
    own = headline["n_models"] > 1
    leakage = _interval(headline, "value" if own else "gap")
    names, centre = (("null_lo", "null_hi"), 0.5) if own else (("null_gap_lo", "null_gap_hi"), 0.0)
    low, high = (centre if pd.isna(headline[name]) else float(headline[name]) for name in names)
    quantile = norm.ppf(0.975) if own else t.ppf(0.975, max(leakage.n - 1, 1))
    tail = find("Streisand", "A", "mass below q05")
    shift = find(headline["audit"], "B", "shift")
    found = verdict(
        leakage,
        (low, high),
        _interval(utility, "gap"),
        standard_error=leakage.half_width / quantile,
        shift=1.0 if shift is None else float(shift["value"]),
        tail_below=None if tail is None else _interval(tail, "value"),
        tail_level=0.05 if tail is None else float(tail["retrain_value"]),
        distributional=distributional,
        construction=construction,
    )
    kind = f"of {headline['n_models']:.0f} models" if own else f"as gap to retraining, {leakage.n} seeds"
    source = f"headline: {headline['audit']} {headline['statistic']} {kind}"
    return Verdict(found.label, found.labels, found.mde, found.supported, (source, *found.reasons))


def _interval(line: pd.Series, name: str) -> Interval:
    value, low, high = (float(line[c]) for c in (name, f"{name}_lo", f"{name}_hi"))
    return Interval(value, low, high, int(line["n_seeds"]), "paired t")
