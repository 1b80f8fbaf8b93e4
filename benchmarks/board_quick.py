"""The leaderboard's quick tier: digits, eight pools of 24 small networks, about nine core-minutes.

    python benchmarks/board_quick.py           what is missing: a method that was added to METHODS takes half a minute
    python benchmarks/board_quick.py --again   everything

Writes `book/benchmarks/quick-digits.parquet` (tidy rows) and `quick-digits-examples.parquet` (what each example gives
away). Everything is at the library's defaults: nothing was tuned. Networks and pictures are small, so this board shows
how to read the large ones and serves as a trial for a new method; it does not say which method is best on others.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unlearnlib.publishing.bookkeeping import pin_numerics

if __name__ == "__main__":
    pin_numerics()  # before numpy is imported

import pandas as pd

from unlearnlib import studies
from unlearnlib.store.cache import write_table

RESULTS = Path(__file__).resolve().parents[1] / "book/benchmarks"
SETTING = studies.Setting("digits", "mlp", forget="random:0.25")
MODELS, POOLS = 24, range(8)
WHOLE = SETTING.recipe.epochs
METHODS = [
    # the controls: fine-tuning, and a retraining that stops early, at three budgets
    *((f"finetune, {share} %", "finetune", {"epochs": WHOLE * share // 100}) for share in (5, 25, 50)),
    *(
        (f"retrain, {share} %", "retrain", {"recipe": replace(SETTING.recipe, epochs=WHOLE * share // 100)})
        for share in (5, 25, 50)
    ),
    # one of each family, at its defaults
    *("neggrad_plus", "random_labels", "scrub", "bad_teacher", "delete", "salun", "sfron", "l1_sparse", "ssd", "fcs"),
]


def missing(kept: pd.DataFrame) -> list[studies.Candidate]:
    """The methods that have no row yet."""
    known = set(kept["method"]) if len(kept) else set()
    return [given for given in map(studies.Candidate.of, METHODS) if given.label not in known]


def joined(kept: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The kept rows and those of methods that they lack."""
    known = set(kept["method"]) if len(kept) else set()
    return pd.concat([kept, found[~found["method"].isin(known)]], ignore_index=True)


def main(again: bool) -> None:
    places = [RESULTS / f"quick-digits{end}.parquet" for end in ("", "-examples")]
    kept = [pd.read_parquet(p) if p.exists() and not again else pd.DataFrame() for p in places]
    todo = missing(kept[0])
    if not todo:
        print("no method is missing: nothing was run")
        return
    start = time.process_time()
    given = [(c.label, c.method, dict(c.hyperparameters), c.tuned_trials) for c in todo]
    found = studies.pooled(SETTING, given, models=MODELS, seeds=POOLS, name="quick tier")
    for place, old, new in zip(places, kept, found, strict=True):
        write_table(place, joined(old, new))
    table = studies.leaderboard(pd.read_parquet(places[0])).table
    print(table[["method", "score", "rank_low", "rank_high", "damage", "cost"]].round(3).to_string(index=False))
    print(f"{time.process_time() - start:.0f} CPU seconds for {len(todo)} methods")


if __name__ == "__main__":
    main("--again" in sys.argv[1:])
