"""The tidy table of estimates: one row an estimate, the same columns for every audit; and its summary over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from unlearnlib.audit.statistics.intervals import prediction_interval, t_interval

NAN = float("nan")

WHAT = ("study", "rung", "dataset", "arch", "method", "config_hash", "forget_set_id", "forget_kind", "mem_stratum")
COLUMNS = (
    *WHAT,
    *("audit", "game", "subset", "statistic", "value", "ci_lo", "ci_hi", "ci_method"),
    *("n_models", "n_examples", "n_pos", "n_neg"),
    *("null_value", "null_lo", "null_hi", "null_sd", "retrain_value", "gap", "z_null"),
    *("direction", "target", "delta", "alpha", "shadow_k", "variance_mode", "threshold_source"),
    *("tuned_trials", "cost_frac_retrain", "valid_flag", "reason", "run_id", "seed_train", "seed_eval"),
)
TAGS = (*WHAT, "tuned_trials", "run_id", "seed_train")  # what a caller may say about the model under audit
NULL_METHOD = "retrain, other seed"  # the candidate that is one more retraining
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
    variance_mode: str = ""
    threshold_source: str = ""
    valid: bool = True
    reason: str = ""

    @property
    def key(self) -> tuple:
        """What makes two estimates comparable: the columns ONE_ESTIMATE."""
        return tuple(None if v != v else v for v in (getattr(self, name) for name in ONE_ESTIMATE))


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
    `z_null` is the distance to that mean in those standard deviations. Invalid estimates of retrained models are left
    out. Raises ValueError for a tag that is no column.
    """
    unknown = set(tags) - set(TAGS) - {"seed_eval", "cost_frac_retrain"}
    if unknown:
        raise ValueError(f"tags may be {', '.join(TAGS)}; not {', '.join(sorted(unknown))}")
    known = np.array([e.value for e in retrained if e.valid and not math.isnan(e.value)])
    pool = np.concatenate([known, [e.value for e in null if e.valid and not math.isnan(e.value)]])
    target = known.mean() if len(known) else NAN
    if paired:
        target = retrained[0].value if retrained and retrained[0].valid else NAN
    band = prediction_interval(pool) if len(pool) else None
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
        "z_null": z,
        "valid_flag": bool(estimate.valid),
        "reason": estimate.reason,
        **tags,
    }


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows as a frame with exactly the columns of the schema, in its order."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def summarise(rows: pd.DataFrame, *, null_method: str = NULL_METHOD, level: float = 0.95) -> pd.DataFrame:
    """Mean over training seeds of each estimate, with Student's interval; its gap to retraining; and the null.

    One row for each method (with data set, architecture, configuration, forget request and stratum) and estimate.
    Rows of one `seed_train` (several forget sets or evaluation seeds) are averaged first, so that the interval counts
    training seeds only. `gap` is the mean of the gaps *within* seeds, so its interval is the paired one. `null_sd` is
    the deviation over seeds of the gap of the rows of `null_method` (a retraining from another seed, put through the
    same audit); where there are none, the one that the rows carry. `z` is the gap, less the null's, in these units.
    An audit that is itself of many models (U-LiRA, Streisand) and was run once keeps its own interval.

    Invalid rows do not enter; an estimate without a valid row is kept, with NaN and the reason.
    """
    missing = set(COLUMNS) - set(rows.columns)
    if missing:
        raise ValueError(f"rows lack the columns {', '.join(sorted(missing))}: make them with audit.battery")
    if rows["seed_train"].isna().any():
        raise ValueError("every row needs its training seed: battery(..., tags={'seed_train': ...})")
    what = [name for name in WHAT if name != "forget_set_id"]
    keys = [*what, *ONE_ESTIMATE]
    numbers = ["value", "retrain_value", "gap", "null_value", "null_sd", "cost_frac_retrain"]
    result = []
    for group, part in rows.groupby(keys, dropna=False, sort=False):
        valid = part[part["valid_flag"].astype(bool)]
        seeds = valid.groupby("seed_train")[numbers].mean()
        value, gap = (_interval(seeds[name], level) for name in ("value", "gap"))
        if len(valid) == 1 and valid["n_models"].iloc[0] > 1:
            ends = valid[["ci_lo", "ci_hi"]].iloc[0].astype(float)
            value, gap = (value[0], *ends), (gap[0], *(ends - valid["retrain_value"].iloc[0]))
        result.append(
            {
                **dict(zip(keys, group, strict=True)),
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
        )
    summary = pd.DataFrame(result)
    return _with_null(summary, rows, keys, null_method, level)


def _interval(values: pd.Series, level: float) -> tuple[float, float, float]:
    v = values.dropna().to_numpy(float)
    if len(v) == 0:
        return NAN, NAN, NAN
    i = t_interval(v, level)
    return i.value, i.low, i.high


def _with_null(summary: pd.DataFrame, rows: pd.DataFrame, keys: list[str], null_method: str, level: float):
    """Adds null_gap, its interval, and z; the null comes from the rows of `null_method` where there are some."""
    around = [k for k in keys if k not in ("method", "config_hash")]
    null_rows = rows[(rows["method"] == null_method) & rows["valid_flag"].astype(bool)]
    found = {}
    for group, part in null_rows.groupby(around, dropna=False, sort=False):
        gaps = part.groupby("seed_train")["gap"].mean()
        found[_plain(group)] = (*_interval(gaps, level), gaps.std(ddof=1))
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
