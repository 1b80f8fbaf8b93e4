"""The tidy table of estimates: one row an estimate, the same columns for every audit; and its summary over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from unlearnlib.audit.statistics.intervals import Interval, difference, prediction_interval, t_interval

NAN = float("nan")

WHAT = ("study", "rung", "dataset", "arch", "method", "config_hash", "forget_set_id", "forget_kind", "mem_stratum")
COLUMNS = (
    *WHAT,
    *("audit", "game", "subset", "statistic", "value", "ci_lo", "ci_hi", "ci_method"),
    *("n_models", "n_examples", "n_pos", "n_neg"),
    *("null_value", "null_lo", "null_hi", "null_sd", "retrain_value", "gap", "gap_lo", "gap_hi", "z_null"),
    *("direction", "target", "delta", "alpha", "shadow_k", "variance_mode", "threshold_source"),
    *("tuned_trials", "cost_frac_retrain", "valid_flag", "reason", "run_id", "seed_train", "seed_eval"),
)
TAGS = (*WHAT, "tuned_trials", "run_id", "seed_train")  # what a caller may say about the model under audit
GAP_ENDS = ("gap_lo", "gap_hi")  # tables that were kept before these columns existed can still be summarised
NULL_METHOD = "retrain, other seed"  # the candidate that is one more retraining
# statistics that are shares, areas or means of them: their intervals stay in [0, 1], those of gaps in [-1, 1]
SHARES = frozenset(
    ("UA", "RA", "TA", "AUC", "TPR", "accuracy", "majority accuracy", "non-member share", "completeness", "NoMUS")
    + ("ToW", "average gap", "forgetting score", "F", "share above null P95", "mass below q05", "mass above q95")
)
ONE_ESTIMATE = ("audit", "game", "subset", "statistic", "alpha", "delta", "variance_mode")


@dataclass(frozen=True)
class Estimate:
    """One number that an audit gives one model (or one set of models), before it is compared with anything.

    `game` is "A" (against retraining), "B" (forgotten against never seen, inside the model), "util" or "cost".
    `direction` is "lower", "higher" or "target", `target` one of "retrain", "0.5", "0", "max".
    """

    audit: str
    game: str
    subset: str
    statistic: str
    value: float
    low: float = NAN
    high: float = NAN
    ci_method: str = ""
    direction: str = "target"
    target: str = "retrain"
    n_models: int = 1
    n_examples: float = NAN
    n_pos: float = NAN
    n_neg: float = NAN
    alpha: float = NAN
    delta: float = NAN
    shadow_k: float = NAN
    gap_low: float = NAN  # interval of the gap to retraining, where the audit itself knows it
    gap_high: float = NAN
    variance_mode: str = ""
    threshold_source: str = ""
    valid: bool = True
    reason: str = ""

    @property
    def key(self) -> tuple:
        """What makes two estimates comparable: the columns ONE_ESTIMATE."""
        return tuple(None if v != v else v for v in (getattr(self, name) for name in ONE_ESTIMATE))

    @property
    def interval(self) -> Interval:
        """Value, low and high."""
        return Interval(self.value, self.low, self.high, self.n_models, self.ci_method)


def bounds_of(statistic: str) -> tuple[float, float] | None:
    """The range of a statistic, or None where it has none."""
    return (0.0, 1.0) if statistic in SHARES else None


def row(
    estimate: Estimate,
    *,
    retrained: Sequence[Estimate] = (),
    null: Sequence[Estimate] = (),
    paired: bool = False,
    tags: Mapping[str, object],
) -> dict:
    """The row of `estimate`, compared with the same estimate of retrained models.

    `retrain_value` is the mean over `retrained`, or the first of them where `paired`. The columns `null_*` describe
    `null` and `retrained` together: mean, standard deviation, and the 95% prediction interval of one more retrain.
    `z_null` is the distance to that mean in those standard deviations; with few retrained models these are rough, and
    the prediction interval, which allows for it, is what decides. Invalid estimates of retrained models are left out.

    `gap_lo`, `gap_hi` are for estimates of many models: those of the estimate itself, or, beside one retrained estimate
    with an interval of its own, those of the difference of the two. Where the error of the retrained value is not known
    they are NaN. Raises ValueError for a tag that is no column.
    """
    unknown = set(tags) - set(TAGS) - {"seed_eval", "cost_frac_retrain"}
    if unknown:
        raise ValueError(f"tags may be {', '.join(TAGS)}; not {', '.join(sorted(unknown))}")
    known = np.array([e.value for e in retrained if e.valid and not math.isnan(e.value)])
    pool = np.concatenate([known, [e.value for e in null if e.valid and not math.isnan(e.value)]])
    target = known.mean() if len(known) else NAN
    if paired:
        target = retrained[0].value if retrained and retrained[0].valid else NAN
    band = _band(pool, estimate) if len(pool) else None
    gap = _gap(estimate, retrained)
    sd = pool.std(ddof=1) if len(pool) > 1 else NAN
    z = (estimate.value - pool.mean()) / sd if sd > 0 else NAN
    text = {"ci_method": estimate.ci_method, "variance_mode": estimate.variance_mode}
    return {
        **dict.fromkeys(COLUMNS, NAN),
        **{name: getattr(estimate, name) for name in ("audit", "game", "subset", "statistic", "value", "direction")},
        **{name: value or NAN for name, value in text.items()},
        **{name: getattr(estimate, name) for name in ("n_models", "n_examples", "n_pos", "n_neg", "target")},
        **{name: getattr(estimate, name) for name in ("delta", "alpha", "shadow_k")},
        "threshold_source": estimate.threshold_source or NAN,
        "ci_lo": estimate.low,
        "ci_hi": estimate.high,
        "null_value": band.value if band else NAN,
        "null_lo": band.low if band else NAN,
        "null_hi": band.high if band else NAN,
        "null_sd": sd,
        "retrain_value": target,
        "gap": estimate.value - target,
        "gap_lo": gap.low,
        "gap_hi": gap.high,
        "z_null": z,
        "valid_flag": bool(estimate.valid),
        "reason": estimate.reason,
        **tags,
    }


def _band(pool: np.ndarray, estimate: Estimate) -> Interval:
    bounds = _held(bounds_of(estimate.statistic), pool)
    count = _count(estimate.n_examples, estimate.n_pos, estimate.n_neg) if bounds else NAN
    return prediction_interval(pool, bounds=bounds, count=count)


def _held(bounds: tuple[float, float] | None, values: np.ndarray) -> tuple[float, float] | None:
    """The bounds, unless values leave them: then it is a caller's own statistic of that name."""
    return bounds if bounds and values.min() >= bounds[0] and values.max() <= bounds[1] else None


def _gap(estimate: Estimate, retrained: Sequence[Estimate]) -> Interval:
    """The interval of the gap, where one audit of many models can give it."""
    if not math.isnan(estimate.gap_low):
        return Interval(estimate.value, estimate.gap_low, estimate.gap_high, estimate.n_models, estimate.ci_method)
    if estimate.n_models > 1 and len(retrained) == 1 and retrained[0].valid:
        return difference(estimate.interval, retrained[0].interval)
    return Interval(NAN, NAN, NAN, estimate.n_models, "")


def _count(n_examples: float, n_pos: float, n_neg: float) -> float:
    """Of how many independent trials a share is: disjoint pairs for an area, else examples."""
    pairs = min(n_pos, n_neg)
    return n_examples if math.isnan(pairs) else pairs


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows as a frame with exactly the columns of the schema, in its order."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def summarise(rows: pd.DataFrame, *, null_method: str = NULL_METHOD, level: float = 0.95) -> pd.DataFrame:
    """Mean over training seeds of each estimate, with Student's interval; its gap to retraining; and the null.

    One row for each method (with data set, architecture, configuration, forget request and stratum) and estimate.
    Rows of one `seed_train` (several forget sets or evaluation seeds) are averaged first, so that the interval counts
    training seeds only. `gap` is the mean of the gaps *within* seeds, so its interval is the paired one. Intervals of
    shares and areas (SHARES) are made on the logit scale, those of their gaps are cut at -1 and 1. `null_sd` is the
    deviation over seeds of the gap of the rows of `null_method` (a retraining from another seed, put through the same
    audit); where there are none, the one that the rows carry. `z` is the gap, less the null's, in these units. An audit
    that is itself of many models (U-LiRA, Streisand) and was run once keeps its own intervals; that of its gap counts
    the error of the retrained value, too.

    Invalid rows do not enter; an estimate without a valid row is kept, with NaN and the reason.
    """
    _check(rows)
    rows = rows.assign(**{name: NAN for name in GAP_ENDS if name not in rows})
    keys = [*(name for name in WHAT if name != "forget_set_id"), *ONE_ESTIMATE]
    groups = rows.groupby(keys, dropna=False, sort=False)
    summary = pd.DataFrame([{**dict(zip(keys, group, strict=True)), **_line(part, level)} for group, part in groups])
    return _with_null(summary, rows, keys, null_method, level)


def _check(rows: pd.DataFrame) -> None:
    missing = set(COLUMNS) - set(rows.columns) - set(GAP_ENDS)
    if missing:
        raise ValueError(f"rows lack the columns {', '.join(sorted(missing))}: make them with audit.battery")
    if rows["seed_train"].isna().any():
        raise ValueError("every row needs its training seed: battery(..., tags={'seed_train': ...})")


def _line(part: pd.DataFrame, level: float) -> dict:
    """One line of the summary: `part` holds the rows of one estimate."""
    valid = part[part["valid_flag"].astype(bool)]
    seeds = valid.groupby("seed_train")[
        ["value", "retrain_value", "gap", "null_value", "null_sd", "cost_frac_retrain"]
    ].mean()
    once = len(valid) == 1 and valid["n_models"].iloc[0] > 1
    value, gap = _of_itself(valid.iloc[0]) if once else _over_seeds(seeds, valid, level)
    return {
        **dict(zip(("value", "value_lo", "value_hi"), value, strict=True)),
        **dict(zip(("gap", "gap_lo", "gap_hi"), gap, strict=True)),
        "retrain_value": seeds["retrain_value"].mean(),
        "null_value": seeds["null_value"].mean(),
        **{name: valid[name].astype(float).mean() for name in ("null_lo", "null_hi")},
        "null_sd": np.sqrt((seeds["null_sd"] ** 2).mean()),
        "n_models": valid["n_models"].max(),
        "n_seeds": len(seeds),
        "n_valid": len(valid),
        "n_rows": len(part),
        "cost_frac_retrain": seeds["cost_frac_retrain"].mean(),
        "direction": part["direction"].iloc[0],
        "target": part["target"].iloc[0],
        "valid_flag": len(valid) > 0,
        "reason": "" if len(valid) else part["reason"].mode().iloc[0],
    }


Ends = tuple[float, float, float]  # value, low, high


def _of_itself(line: pd.Series) -> tuple[Ends, Ends]:
    """Value and gap of one audit of many models, with the intervals that it came with."""
    value, low, high, gap, gap_low, gap_high = (
        float(line[name]) for name in ("value", "ci_lo", "ci_hi", "gap", "gap_lo", "gap_hi")
    )
    return (value, low, high), (gap, gap_low, gap_high)


def _over_seeds(seeds: pd.DataFrame, valid: pd.DataFrame, level: float) -> tuple[Ends, Ends]:
    """Value and gap over training seeds, with Student's intervals."""
    if len(valid) == 0:
        return (NAN,) * 3, (NAN,) * 3
    statistic = valid["statistic"].iloc[0]
    count = _count(*(valid[name].astype(float).min() for name in ("n_examples", "n_pos", "n_neg")))
    return _mean(seeds["value"], level, statistic, count), _mean(seeds["gap"], level, statistic, count, gap=True)


def _mean(values: pd.Series, level: float, statistic: str, count: float = NAN, *, gap: bool = False) -> Ends:
    v = values.dropna().to_numpy(float)
    if len(v) == 0 or not np.isfinite(v).all():
        return (float(v.mean()) if len(v) else NAN), NAN, NAN
    bounds = None if gap else _held(bounds_of(statistic), v)
    i = t_interval(v, level, bounds=bounds, count=count if statistic in SHARES else NAN)
    if gap and statistic in SHARES and np.abs(v).max() <= 1:
        return i.value, max(i.low, -1.0), min(i.high, 1.0)
    return i.value, i.low, i.high


def _with_null(summary: pd.DataFrame, rows: pd.DataFrame, keys: list[str], null_method: str, level: float):
    """Adds null_gap, its interval, and z; the null comes from the rows of `null_method` where there are some."""
    around = [k for k in keys if k not in ("method", "config_hash")]
    null_rows = rows[(rows["method"] == null_method) & rows["valid_flag"].astype(bool)]
    found = {}
    for group, part in null_rows.groupby(around, dropna=False, sort=False):
        seeds = part.groupby("seed_train")[["value", "gap"]].mean()
        found[_plain(group)] = (*_over_seeds(seeds, part, level)[1], seeds["gap"].std(ddof=1))
    null_gap, low, high, sds = [], [], [], []
    for _, line in summary.iterrows():
        gap, lo, hi, sd = found.get(_plain(line[around]), (0.0, NAN, NAN, NAN))
        null_gap.append(0.0 if gap != gap else gap)
        low.append(lo)
        high.append(hi)
        sds.append(sd if sd > 0 else line["null_sd"])
    summary = summary.assign(null_gap=null_gap, null_gap_lo=low, null_gap_hi=high, null_sd=sds)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (summary["gap"] - summary["null_gap"]) / summary["null_sd"].where(summary["null_sd"] > 0)
    return summary.assign(z=z)


def _plain(values) -> tuple:
    """A group's key with NaN as None, so that equal keys compare equal."""
    return tuple(None if pd.isna(v) else v for v in values)
