"""The table of the book: one row a model or method, one column an estimate with its interval over training seeds."""

from collections.abc import Mapping

import pandas as pd

ACCURACIES = {
    "retain accuracy": ("accuracy", "retain", "RA"),
    "forget accuracy": ("accuracy", "forget", "1 - UA"),
    "test accuracy": ("accuracy", "test", "TA"),
}
FIRST = ("original", "retrain", "retrain, other seed")


def scoreboard(summary: pd.DataFrame, columns: Mapping[str, tuple[str, str, str]] = ACCURACIES) -> pd.DataFrame:
    """The chosen estimates of `tidy.summarise`, one row a method; original, retrained and null first.

    columns   name -> (audit, subset, statistic); a statistic written "1 - UA" is turned around, "gap UA" is the gap
              of UA to the retrained model (its mean within training seeds)

    Each column x comes with x_low and x_high. Then `cost`: work as a fraction of retraining (NaN for
    the original). Raises ValueError where the summary has no such estimate.
    """
    present = list(dict.fromkeys(summary["method"]))
    order = [m for m in FIRST if m in present] + [m for m in present if m not in FIRST]
    table = pd.DataFrame({"method": order})
    for name, (audit, subset, statistic) in columns.items():
        wanted = statistic.removeprefix("1 - ").removeprefix("gap ")
        found = summary[
            (summary["audit"] == audit) & (summary["subset"] == subset) & (summary["statistic"] == wanted)
        ].set_index("method")
        if found.empty:
            raise ValueError(f"no estimate {wanted!r} of {audit!r} on {subset!r}: was that rung of the battery run?")
        if not found.index.is_unique:
            raise ValueError(
                f"several estimates {wanted!r} of {audit!r} a method: give one data set and request at once"
            )
        source = ("gap", "gap_lo", "gap_hi") if statistic.startswith("gap ") else ("value", "value_lo", "value_hi")
        values = found.reindex(order)[list(source)]
        if statistic.startswith("1 - "):
            values = (1 - values).iloc[:, [0, 2, 1]]
        for column, part in zip((name, f"{name}_low", f"{name}_high"), values.columns, strict=True):
            table[column] = values[part].to_numpy()
    table["cost"] = [summary.loc[summary["method"] == m, "cost_frac_retrain"].mean() for m in order]
    return table


def line(summary: pd.DataFrame, method: str, statistic: str, subset: str, audit: str = "accuracy") -> pd.Series:
    """The one row of `tidy.summarise` for a method's statistic of an audit on a subset.

    Raises ValueError where there is none, or where several settings have one.
    """
    wanted = {"method": method, "statistic": statistic, "subset": subset, "audit": audit}
    found = summary[(summary[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if len(found) != 1:
        told = f"{statistic!r} of {audit!r} on {subset!r} for {method!r}"
        raise ValueError(f"no estimate {told}" if found.empty else f"{len(found)} estimates {told}: choose one setting")
    return found.iloc[0]
