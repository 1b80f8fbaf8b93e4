"""The table of guarantees says what the rows say: accuracy over seeds, cost, and the weakest promise."""

import math
import re

import pandas as pd

from unlearnlib.publishing import guarantees
from unlearnlib.publishing.markup import UNMEASURED


def rows(label, first, promises, costs, after=0.89):
    """`promises` (request -> epsilon, or "again") and `costs` (request -> share), with the same for three seeds."""
    made = []
    for seed, step in enumerate((-0.01, 0.0, 0.01)):
        for request, promise in promises.items():
            told = {
                "TA, first day": first + step,
                "epsilon": 0.0 if promise == "again" else promise + (seed == 2) * 0.5,
            }
            told |= {"epsilon": promise} if promise in (0.0, math.inf) else {}
            told |= {"trained again": float(promise == "again")}
            told["TA"] = after + step
            for statistic, value in told.items():
                made.append({"statistic": statistic, "value": value, "cost_frac_retrain": costs[request]})
                made[-1] |= {"method": label, "forget_set_id": f"{request}, seed {seed}", "seed_train": seed}
    return pd.DataFrame(made).assign(study="guarantees")


def cells(text):
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def test_lines_stand_by_accuracy_with_the_promise_of_each_request():
    both = {"one picture": 1.0, "random:0.1": "again", "class:3": math.inf}
    exact = {"one picture": 0.0, "random:0.1": 0.0}
    private = rows("DP, epsilon 1", 0.8, both, {"one picture": 0.00123, "random:0.1": 0.98, "class:3": 3}, 0.7)
    found = cells(guarantees.table(pd.concat([private, rows("shards", 0.9, exact, dict.fromkeys(exact, 0.25))])))[2:]
    assert found[0] == ["shards", "0.900 ± 0.025", "0.25; exact", "0.25; exact", "not run"]
    assert found[1] == [
        "DP, epsilon 1",
        "0.800 ± 0.025",
        "0.0012; epsilon 1.5; accuracy falls to 0.70",  # the weakest promise of three seeds
        "0.98; trained again; accuracy falls to 0.70",
        "3; epsilon without bound; accuracy falls to 0.70",
    ]


def test_without_rows_the_page_says_so():
    assert guarantees.texts(pd.DataFrame()) == {"guarantee-table.md": UNMEASURED}
    other = rows("x", 0.9, {"one picture": 0.0}, {"one picture": 1.0}).assign(study="pool")
    assert guarantees.texts(other) == {"guarantee-table.md": UNMEASURED}
