"""The table of `book/which-method.md` on what a guarantee costs, from the rows of `benchmarks/guarantees.py`."""

import math

import pandas as pd

from unlearnlib.audit.statistics.intervals import t_interval
from unlearnlib.publishing.markup import UNMEASURED, grid_table, plain
from unlearnlib.publishing.tables import estimate

STUDY = "guarantees"
REQUESTS = {"one picture": "One picture", "random:0.1": "A random tenth", "class:3": "A class"}
FALL = 0.05  # of the accuracy


def texts(rows: pd.DataFrame) -> dict[str, str]:
    """File name -> Markdown, from all rows of the archive."""
    return {"guarantee-table.md": table(rows[rows["study"] == STUDY]) if len(rows) else UNMEASURED}


def table(rows: pd.DataFrame) -> str:
    """One line a learner: its accuracy on the first day, and for each request the cost and what is promised."""
    if not len(rows):
        return UNMEASURED
    lines = []
    for label, part in rows.groupby("method", sort=False):
        first = t_interval(part[part["statistic"] == "TA, first day"].groupby("seed_train")["value"].first())
        asked = part["forget_set_id"].str.partition(", seed")[0]
        cells = [cell(part[asked == request]) for request in REQUESTS]
        lines.append((-first.value, [plain(label), estimate(*first.ends), *cells]))
    head = ["Learner", "Test accuracy, first day", *REQUESTS.values()]
    return grid_table(head, [line for _, line in sorted(lines)]) + "\n"


def cell(rows: pd.DataFrame) -> str:
    """Cost as a share of a training, and the promise: exact, epsilon, or that it was trained again.

    Where the test accuracy fell by more than FALL, it says to what.
    """
    if not len(rows):
        return "not run"
    epsilon = rows[rows["statistic"] == "epsilon"]["value"].max()  # the weakest promise over the seeds
    again = rows[rows["statistic"] == "trained again"]["value"].max() > 0
    promise = "trained again" if again else "exact" if epsilon == 0 else f"epsilon {_short(epsilon)}"
    after, before = (rows[rows["statistic"] == name]["value"].mean() for name in ("TA", "TA, first day"))
    fell = f"; accuracy falls to {after:.2f}" if before - after > FALL else ""
    return f"{_short(rows['cost_frac_retrain'].mean())}; {promise}{fell}"


def _short(number: float) -> str:
    if not math.isfinite(number):
        return "without bound"
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"
