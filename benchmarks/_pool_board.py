"""The tables of the leaderboard, from the margins that `pool.py` kept.

For model m, asked to forget F_m, and example x with margin s_m(x):

*U-LiRA, game B*: the attack of `audit.attacks.lira` on (forgotten, never seen) pairs of all models, and its AUC inside
each model.

*KLoM* between the models that forgot x and those that never saw it. With four or eight models a side a variance for
each example is noise, so both laws are Gaussians with one spread for all examples of a side:

    KLoM = mean over x of (mu_u(x) - mu_o(x))^2 / (2 v_o)  +  (v_u / v_o - 1 - log(v_u / v_o)) / 2

A mean over all models has no spread over training seeds, and its first term is too large by what the means are
uncertain. Both are mended by the jackknife: model m gets

    k_m = M KLoM - (M - 1) KLoM without model m,

and mean and standard error of k_m over m estimate KLoM and its error, the bias of order 1 / M removed (so that k_m may
be negative).

All models are asked to forget all targets that they saw, so one retraining, on the rest, is the retrained model of all.

*The null*: half of the models that never saw x, the retrained ones among them, stand in for those that forgot it, and
are compared with the other half. With eight models and two retrained ones that is three against three.
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
PART = "retrain, in part"  # one pass over what the budget pays for, from new weights


def answers(folder: Path, prefix: str, models) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Margins [models, targets], whether they were right, and the facts of each, of `{prefix}-{m}`."""
    found = [np.load(folder / f"{prefix}-{m}.npz") for m in models]
    facts = [json.loads(str(f["facts"])) for f in found]
    return np.stack([f["margin"] for f in found]).astype(np.float64), np.stack([f["right"] for f in found]), facts


def klom_each(forgot: np.ndarray, never: np.ndarray, state_f: np.ndarray, state_n: np.ndarray) -> np.ndarray:
    """KLoM of the module's first lines for each example [targets]; margins [models, targets], who counts on a side."""
    (mu_u, v_u), (mu_o, v_o) = _moments(forgot, state_f), _moments(never, state_n)
    return (mu_u - mu_o) ** 2 / (2 * v_o) + (v_u / v_o - 1 - np.log(v_u / v_o)) / 2


def _moments(s: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean for each example, and the variance within examples that all share."""
    n = counts.sum(0)
    mean = np.where(counts, s, 0).sum(0) / n
    return mean, float(np.where(counts, (s - mean) ** 2, 0).sum() / (n - 1).sum())


def rows_of(label: str, scores, right, originals, unseen, state, facts, tags: dict) -> list[dict]:
    """Tidy rows of one method: one set for each model of the pool. `unseen` [targets]: accuracy of who never saw it."""
    models = len(state)
    attack = lira(scores, state, game="B", variance="shared")
    forgot, never = state == FORGET, state == NEVER
    whole = klom_each(scores, originals, forgot, never).mean()
    made = []
    for m, seed in enumerate(tags["seeds"]):
        used, others = ~np.isnan(attack.scores[m]), np.arange(models) != m
        area = roc(attack.scores[m][used], attack.is_member[m][used]).auc
        less = klom_each(scores[others], originals[others], forgot[others], never[others]).mean()
        sizes = {"n_models": models, "n_examples": int(forgot[m].sum())}
        reference = tags["reference"]
        estimates = [
            (Estimate("U-LiRA", "B", "forget", "AUC", area, target="0.5", **sizes), 0.5),
            (Estimate("KLoM", "A", "forget", "mean", models * whole - (models - 1) * less, target="0", **sizes), 0.0),
            (
                Estimate("accuracy", "util", "forget", "UA", 1 - right[m][forgot[m]].mean()),
                1 - unseen[forgot[m]].mean(),
            ),
            (Estimate("accuracy", "util", "test", "TA", facts[m]["test"]), reference["test"]),
            (Estimate("accuracy", "util", "retain", "RA", facts[m]["retain"]), reference["retain"]),
        ]
        for estimate, wanted in estimates:
            line = row(estimate, tags={**tags["columns"], "method": label, "seed_train": seed})
            line |= {"retrain_value": wanted, "gap": line["value"] - wanted}
            line["cost_frac_retrain"] = facts[m].get("cost", tags["cost"])
            made.append({**line, "budget": tags["budget"], "seconds": facts[m].get("seconds", np.nan)})
    return made


def halves(state: np.ndarray) -> np.ndarray:
    """A state in which half of the models that never saw an example count as having forgotten it; else unused."""
    order = np.argsort(numpy_generator(0, "pool", "null").random(state.shape) + 2 * (state != NEVER), axis=0)
    made, n = np.zeros_like(state), (state == NEVER).sum(0) // 2
    for rank in range(2 * int(n.max())):
        value = np.where(rank < n, FORGET, np.where(rank < 2 * n, NEVER, 0)).astype(np.int8)
        np.put_along_axis(made, order[rank : rank + 1], value[None], axis=0)
    return made


def board(folder: Path, request: str, budget: float, names, models) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and per-example lines of one request and budget, for these models, which every one of `names` has."""
    p = pool()
    state = p.state[list(models)]
    originals, right, facts = answers(folder, "original", models)
    never = state == NEVER
    unseen = np.where(never, right, 0).sum(0) / never.sum(0)
    again = sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob(f"retrain-{request}-*.npz"))
    retrained, retrained_right, about_retrained = answers(folder, f"retrain-{request}", again)
    reference = {part: float(np.mean([f[part] for f in about_retrained])) for part in ("test", "retain")}
    columns = {"study": "pool", "dataset": "cifar10", "arch": ARCH, "forget_kind": request}
    columns["forget_set_id"] = f"{request}, a tenth of each model's own"
    tags = {"columns": columns, "reference": reference, "budget": budget, "cost": 0.0, "seeds": list(models)}
    made = rows_of("original", originals, right, originals, unseen, state, facts, tags)
    both, both_right = np.concatenate([originals, retrained]), np.concatenate([right, retrained_right])
    null = halves(np.concatenate([state, np.full_like(retrained, NEVER, dtype=state.dtype)]))
    known = [{**reference, "cost": 1.0}] * len(null)
    numbers = {**tags, "seeds": [*models, *(1000 + m for m in again)]}
    made += rows_of("retrain, other seed", both, both_right, both, unseen, null, known, numbers)
    told = {"original": (originals, originals, state), "retrain, other seed": (both, both, null)}
    for name in names:
        scores, correct, about = answers(folder, f"{request}-{budget:g}-{name}", models)
        label = PART if name == "retrain" else name
        made += rows_of(label, scores, correct, originals, unseen, state, about, tags)
        told[label] = scores, originals, state
    lines = [_examples(p, columns, name, *one, budget) for name, one in told.items()]
    return pd.DataFrame(made)[[*COLUMNS, "budget", "seconds"]], pd.concat(lines, ignore_index=True)


def _examples(p, columns: dict, name: str, scores, originals, state, budget: float) -> pd.DataFrame:
    """(mean forgotten - mean never seen) / spread, and KLoM, for each target."""
    forgot, never = state == FORGET, state == NEVER
    (mu_u, v_u), (mu_o, v_o) = _moments(scores, forgot), _moments(originals, never)
    shown = {key: columns[key] for key in ("dataset", "arch", "forget_set_id")}
    about = {"method": name, "example": p.targets.numpy(), "label": p.train.labels[p.targets].numpy()}
    found = {"shift": (mu_u - mu_o) / np.sqrt((v_u + v_o) / 2), "klom": klom_each(scores, originals, forgot, never)}
    return pd.DataFrame({**shown, **about, **found, "budget": budget})
