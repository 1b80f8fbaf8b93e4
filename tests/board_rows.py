"""Rows of a board whose ranks are known: methods with a planted leak, and what each of their examples gives away."""

import numpy as np
import pandas as pd

from unlearnlib.audit.verdicts import tidy
from unlearnlib.seeding import numpy_generator

# method -> (leak, cost, what it loses of test accuracy)
PLANTED = {
    "original": (0.4, 0.0, 0.0),
    "retrain, other seed": (0.0, 1.0, 0.0),
    "finetune, 5 %": (0.3, 0.05, 0.0),
    "scrub": (0.2, 0.1, 0.02),
    "salun": (0.1, 0.3, 0.05),
    "ssd": (0.1, 0.02, 0.2),
    "SISA": (0.05, 0.15, 0.03),
}


def rows(planted=None, seeds: int = 8, request: str = "random:0.1", dataset: str = "digits", noise=0.002):
    """U-LiRA, KLoM, an attack and test accuracy of each method on `seeds` seeds, in the schema of `audit.tidy`."""
    rng, found = numpy_generator(0, "board"), []
    for method, (leak, cost, loss) in (PLANTED if planted is None else planted).items():
        for seed in range(seeds):
            for audit, game, subset, statistic, value, target in (
                ("U-LiRA", "B", "forget", "AUC", 0.5 + leak + noise * rng.normal(), 0.5),
                ("KLoM (gaussian)", "A", "forget", "mean", 0.1 + 10 * leak + noise * rng.normal(), 0.1),
                ("loss rank", "B", "forget", "AUC", 0.5 + leak / 2 + noise * rng.normal(), 0.5),
                ("accuracy", "util", "forget", "UA", 0.1 - leak / 5 + noise * rng.normal(), 0.1),
                ("accuracy", "util", "test", "TA", 0.9 - loss + noise * rng.normal(), 0.9),
            ):
                line = {"audit": audit, "game": game, "subset": subset, "statistic": statistic, "value": value}
                line |= {"retrain_value": target, "gap": value - target, "n_models": 1, "n_examples": 500}
                line |= {"method": method, "seed_train": seed, "valid_flag": True, "cost_frac_retrain": cost}
                found.append(line)
    told = {"dataset": dataset, "arch": "mlp", "forget_set_id": f"{request}, seed 0", "forget_kind": "random"}
    frame = pd.DataFrame(found).assign(**told, study="planted", reason="", direction="target", target="retrain")
    return frame.reindex(columns=tidy.COLUMNS)


def examples(request: str = "random:0.1", dataset: str = "digits", count: int = 50):
    """One line for each method and example: a shift that grows with the example, as far as the method leaks."""
    grown = np.linspace(0, 2, count)
    parts = [
        pd.DataFrame({"method": m, "example": range(count), "label": 0, "shift": leak * grown, "klom": leak})
        for m, (leak, _, _) in PLANTED.items()
    ]
    told = {"dataset": dataset, "arch": "mlp", "forget_set_id": f"{request}, seed 0"}
    return pd.concat(parts, ignore_index=True).assign(**told)
