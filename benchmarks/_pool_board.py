"""The tables of the leaderboard, from the margins that `pool.py` kept.

For model m, asked to forget F_m, and example x with margin s_m(x):

*U-LiRA, game B*: the attack of `audit.attacks.lira` on (forgotten, never seen) pairs of all models, and its AUC inside
each model. *KLoM*: KL of the Gaussians fitted to s over the models that forgot x and over those that never saw it,
mean over x. A mean over all models has no spread over training seeds, so model m gets the jackknife's pseudo-value

    k_m = M KLoM - (M - 1) KLoM without model m,        whose mean and standard error estimate those of KLoM.

*Floors*: the same numbers where half of the models that never saw x stand in for those that forgot it (the other half
is compared with them). Doing nothing: the originals.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from _pool import pool

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.audit.statistics.state import FORGET, NEVER
from unlearnlib.audit.verdicts.tidy import COLUMNS, Estimate, row
from unlearnlib.seeding import numpy_generator

ARCH = "whitened, 64-128-256"


def answers(folder: Path, prefix: str, models) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Margins [models, targets], whether they were right, and the facts of each, of `{prefix}-{m}`."""
    found = [np.load(folder / f"{prefix}-{m}.npz") for m in models]
    facts = [json.loads(str(f["facts"])) for f in found]
    return np.stack([f["margin"] for f in found]), np.stack([f["right"] for f in found]), facts


def gaussian_klom(forgot: np.ndarray, never: np.ndarray, state_f: np.ndarray, state_n: np.ndarray) -> np.ndarray:
    """KL of the fitted Gaussians for each example [targets]; margins [models, targets] and who counts on each side."""
    (mu_u, var_u), (mu_o, var_o) = _moments(forgot, state_f), _moments(never, state_n)
    return 0.5 * np.log(var_o / var_u) + (var_u + (mu_u - mu_o) ** 2) / (2 * var_o) - 0.5


def _moments(s: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = counts.sum(0)
    mean = np.where(counts, s, 0).sum(0) / n
    return mean, np.maximum(np.where(counts, (s - mean) ** 2, 0).sum(0) / (n - 1), 1e-12)


def rows_of(label: str, scores, right, originals, right_originals, state, facts, tags: dict) -> list[dict]:
    """Tidy rows of one method: one set for each model of the pool."""
    models = len(state)
    attack = lira(scores.astype(np.float64), state, game="B", variance="shared")
    forgot, never = state == FORGET, state == NEVER
    whole = gaussian_klom(scores, originals, forgot, never).mean()
    made = []
    for m in range(models):
        used = ~np.isnan(attack.scores[m])
        area = roc(attack.scores[m][used], attack.is_member[m][used]).auc
        others = np.arange(models) != m
        less = gaussian_klom(scores[others], originals[others], forgot[others], never[others]).mean()
        pseudo = models * whole - (models - 1) * less
        unseen = np.where(never, right_originals, 0).sum(0) / never.sum(0)
        estimates = [
            (Estimate("U-LiRA", "B", "forget", "AUC", area, target="0.5", n_models=models), 0.5),
            (Estimate("KLoM (gaussian)", "A", "forget", "mean", pseudo, target="0", n_models=models), None),
            (Estimate("accuracy", "util", "forget", "UA", 1 - right[m][forgot[m]].mean()), 1 - unseen[forgot[m]].mean()),
            (Estimate("accuracy", "util", "test", "TA", facts[m]["test"]), tags["reference"]["test"]),
            (Estimate("accuracy", "util", "retain", "RA", facts[m]["retain"]), tags["reference"]["retain"]),
        ]
        for estimate, reference in estimates:
            line = row(estimate, tags={**tags["columns"], "method": label, "seed_train": m})
            if reference is not None:
                line |= {"retrain_value": reference, "gap": line["value"] - reference}
            line["cost_frac_retrain"] = facts[m].get("cost", 0.0)
            made.append({**line, "budget": tags["budget"], "seconds": facts[m].get("seconds", 0.0)})
    return made


def halves(originals: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A state in which half of the models that never saw an example count as having forgotten it; the rest is unused."""
    rng = numpy_generator(0, "pool", "null")
    order = np.argsort(rng.random(state.shape) + 2 * (state != NEVER), axis=0)
    n = (state == NEVER).sum(0) // 2
    made = np.zeros_like(state)
    for rank in range(int(n.max()) * 2):
        value = np.where(rank < n, FORGET, np.where(rank < 2 * n, NEVER, 0)).astype(np.int8)
        np.put_along_axis(made, order[rank : rank + 1], value[None], axis=0)
    return originals, made


def board(folder: Path, request: str, budget: float, names, models) -> pd.DataFrame:
    """All rows of one request and budget, for the models 0..M-1 that every one of `names` has."""
    state = pool().state[list(models)]
    originals, right, facts = answers(folder, "original", models)
    columns = {"study": "pool", "dataset": "cifar10", "arch": ARCH, "forget_kind": request}
    columns["forget_set_id"] = f"{request}, own set for each model"
    retrained = sorted(folder.glob(f"retrain-{request}-*.npz"))
    known = [json.loads(str(np.load(path)["facts"])) for path in retrained] or facts
    reference = {part: float(np.mean([f[part] for f in known])) for part in ("test", "retain")}
    tags = {"columns": columns, "reference": reference, "budget": budget}
    made = rows_of("original", originals, right, originals, right, state, facts, tags)
    s, null = halves(originals, state)
    made += rows_of("retrain, other seed", s, right, originals, right, null, facts, {**tags})
    for name in names:
        scores, correct, about = answers(folder, f"{request}-{budget:g}-{name}", models)
        made += rows_of(name, scores, correct, originals, right, state, about, tags)
    return pd.DataFrame(made)[[*COLUMNS, "budget", "seconds"]]
