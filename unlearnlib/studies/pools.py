"""Pools: many models with random membership, so that methods can be ranked by what single examples give away.

    rows, examples = pooled(Setting("digits", "mlp", forget="random:0.25"), ["finetune", "scrub"], seeds=range(3))
    board = leaderboard(rows)

*Design.* The forget request of the setting names the candidates, C. A state matrix fixes for each of M models which
third of C it keeps, forgets, and never sees; the rest of the training set is kept by all. Model m is trained on what it
keeps and forgets (the original), unlearned by each method, and retrained on what it keeps, twice (oracle and null).
Each seed is a pool of its own: another matrix, other networks.

*Audits.* With s_m(x) the margin of model m on x, for each method:

    U-LiRA   forgotten x against never seen x inside the unlearned models (`shadow_audit`), game B, and its other games
    KLoM     mean over x of KL( s_m(x), m forgot x || s_m(x) of retrained m, m never saw x ), Gaussian; for its null the
             retrained models without x stand in the first place, too: M / 3 models a side

Accuracies, population attacks and cost are means over the models of a pool (`battery`). One row an estimate and pool.

*Examples.* Beside the rows, one line for each method and x: `shift` = (mean forgotten - mean never seen) / sd, and
`klom`, means over the pools. Positive shifts say that x still looks trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from unlearnlib.audit.batteries.battery import battery, logits_of
from unlearnlib.audit.batteries.ensembles import shadow_audit
from unlearnlib.audit.batteries.rungs import Logits
from unlearnlib.audit.distances.klom import klom
from unlearnlib.audit.statistics.roc import as_array, margin
from unlearnlib.audit.statistics.state import FORGET, NEVER, StateMatrix, state_matrix
from unlearnlib.audit.verdicts import tidy
from unlearnlib.data.examples import Split
from unlearnlib.data.tensors import check, check_kind
from unlearnlib.methods import registry
from unlearnlib.methods.records import Cost
from unlearnlib.store import addresses
from unlearnlib.studies.grids import BASELINES, Candidate
from unlearnlib.studies.settings import NULL, ORIGINAL, RETRAIN, Setting, device, seed_of, taught
from unlearnlib.training.many import fit_many
from unlearnlib.training.progress import progress_bar

FEWEST = 12  # models of a pool: four a side
_PLACES = 1000  # seeds of the models of pool s are s * _PLACES + m
_MEANS = ("value", "retrain_value", "gap", "n_examples", "n_pos", "n_neg")
EXAMPLES = ("dataset", "arch", "forget_set_id", "method", "example", "label", "shift", "klom")


@dataclass(frozen=True, eq=False)
class _Pool:
    """The design of one seed: which model had what, its splits, and the labels of the candidates."""

    matrix: StateMatrix
    splits: tuple[Split, ...]
    candidates: object  # Examples
    seeds: tuple[int, ...]  # of the models


@dataclass(frozen=True, eq=False)
class _Made:
    """The models of one candidate in one pool: answers on all that is audited, margins [models, C], and costs."""

    answers: tuple[Logits, ...]
    margins: np.ndarray
    costs: tuple[Cost, ...]


def pooled(
    setting: Setting,
    methods: Sequence,
    *,
    models: int = 24,
    seeds: Sequence[int] = (0, 1, 2),
    name: str = "pool",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tidy rows and per-example lines of the original, the oracle, the null and `methods`, over pools.

    methods     names, (name, {hyper-parameters}) or (label, name, {hyper-parameters}), as for `Grid`
    models      of a pool, twelve or more; each is trained three times (with and twice without its forget set)
    seeds       one pool each

    Raises ValueError for fewer models, no seed or one twice, two candidates of one label, a method that needs a
    retrained model, and a setting without a test set.
    """
    check_kind("setting", setting, Setting, "see studies.Setting")
    check(models >= FEWEST, f"a pool needs {FEWEST} models or more, not {models}")
    check(0 < len(seeds) == len(set(seeds)), "pools need at least one seed, and no seed twice")
    chosen = (*(Candidate(base, base) for base in BASELINES), *map(Candidate.of, methods))
    labels = [candidate.label for candidate in chosen]
    check(len(set(labels)) == len(labels), f"two candidates have one label: {', '.join(labels)}")
    check(setting.split().test is not None, "the setting has no test set: pools read it")
    frames, lines = [], []
    with progress_bar(len(seeds) * len(chosen), progress, unit="candidate") as bar:
        for seed in seeds:
            rows, examples = _audited(setting, chosen, models, seed, name, bar.update)
            frames.append(rows)
            lines.append(examples)
    keys = list(EXAMPLES[:-2])
    means = pd.concat(lines).groupby(keys, sort=False)[["shift", "klom"]].mean().reset_index()
    return pd.concat(frames, ignore_index=True), means


def _audited(setting, chosen, models: int, seed: int, name: str, done) -> tuple[pd.DataFrame, pd.DataFrame]:
    pool = _pool(setting, models, seed)
    originals = _originals(setting, pool)
    oracle = _made(setting, Candidate(RETRAIN, RETRAIN), originals, pool)
    frames, lines = [], []
    for candidate in chosen:
        tags = _tags(setting, candidate, models, seed, name)
        itself = candidate.method == RETRAIN and not candidate.hyperparameters
        made = oracle if itself else _made(setting, candidate, originals, pool)
        rows, klom_each = _rows(made, oracle, pool, tags, itself)
        frames.append(rows)
        told = {key: tags[key] for key in EXAMPLES[:4]}
        positions = as_array(setting.split().index)[as_array(setting.split().forget_index)]
        columns = {"example": positions, "label": as_array(pool.candidates.labels)}
        lines.append(pd.DataFrame({**told, **columns, "shift": _shifts(made.margins, pool.matrix), "klom": klom_each}))
        done()
    return pd.concat(frames, ignore_index=True), pd.concat(lines, ignore_index=True)


def _tags(setting: Setting, candidate: Candidate, models: int, seed: int, name: str) -> dict[str, object]:
    """The columns that say what a row is of."""
    return {
        "study": name,
        "dataset": setting.dataset,
        "arch": setting.model,
        "method": candidate.label,
        "config_hash": _digest(method=candidate.method, hyperparameters=candidate.hyperparameters),
        "forget_set_id": f"a third of {setting.forget}, seed {setting.split_seed}",
        "forget_kind": setting.forget.partition(":")[0],
        "seed_train": seed,
        "tuned_trials": tidy.NAN if candidate.tuned_trials is None else candidate.tuned_trials,
        "run_id": _run(setting, candidate, models, seed),
    }


def _digest(**parts) -> str | float:
    """Twelve digits of an address; NaN where a hyper-parameter is a function, say, and has none."""
    try:
        return addresses.key(**parts)[:12]
    except addresses.Unkeyable:
        return tidy.NAN


def _run(setting: Setting, candidate: Candidate, models: int, seed: int) -> str | float:
    """Equal for equal code, data, numerics and arguments; NaN for a method outside the library."""
    try:
        code = addresses.code("unlearnlib.studies.pools", "unlearnlib.methods.registry", candidate.home)
    except addresses.Unkeyable:
        return tidy.NAN
    made = {"setting": setting, "candidate": candidate, "models": models, "seed": seed}
    return _digest(
        what="pool", code=code, data=setting.split().checksum(), numerics=addresses.numerics(device()), **made
    )


def _pool(setting: Setting, models: int, seed: int) -> _Pool:
    whole = setting.split()
    matrix = state_matrix(models, len(whole.forget_index), seed=seed)
    splits = []
    for row in torch.from_numpy(matrix.state):
        forget = torch.zeros(len(whole.train), dtype=torch.bool)
        forget[whole.forget_index] = row == FORGET
        seen = torch.ones(len(whole.train), dtype=torch.bool)
        seen[whole.forget_index] = row != NEVER
        seen = seen.nonzero().flatten()
        splits.append(Split(whole.train[seen], forget[seen], whole.validation, whole.test, whole.request, seed))
    numbers = tuple(seed * _PLACES + m for m in range(models))
    return _Pool(matrix, tuple(splits), whole.forget, numbers)


def _originals(setting: Setting, pool: _Pool) -> list:
    whole = setting.split()
    masks = torch.ones(len(pool.splits), len(whole.train), dtype=torch.bool)
    masks[:, whole.forget_index] = torch.from_numpy(pool.matrix.trained)
    starts = [seed_of(ORIGINAL, number) for number in pool.seeds]
    return fit_many(
        lambda s: setting.network(s).to(device()), whole.train, masks, setting.recipe, starts, progress=False
    )


def _made(setting: Setting, candidate: Candidate, originals: Sequence, pool: _Pool) -> _Made:
    answers, margins, costs = [], [], []
    for original, split, number in zip(originals, pool.splits, pool.seeds, strict=True):
        model, cost = _model(setting, candidate, original, split, number)
        answers.append(Logits(*(logits_of(model, part) for part in (split.forget, split.retain, split.test))))
        margins.append(margin(logits_of(model, pool.candidates), as_array(pool.candidates.labels)))
        costs.append(cost)
    return _Made(tuple(answers), np.stack(margins), tuple(costs))


def _model(setting: Setting, candidate: Candidate, original, split: Split, number: int):
    options = dict(candidate.hyperparameters)
    if candidate.method == ORIGINAL:
        return original, Cost()
    if candidate.method in (RETRAIN, NULL) and not options:
        blank = setting.network().to(device())
        start = seed_of(candidate.method, number)
        done = registry.unlearn(RETRAIN, blank, split, seed=start, recipe=setting.recipe)
    else:
        options = taught(setting, candidate.method, options)
        done = registry.unlearn(candidate.method, original, split, seed=seed_of("unlearning", number), **options)
    return done.model, done.cost


def _rows(made: _Made, oracle: _Made, pool: _Pool, tags: dict, itself: bool) -> tuple[pd.DataFrame, np.ndarray]:
    retrained = None if itself else oracle.margins
    share = float(np.mean([c.work / o.work for c, o in zip(made.costs, oracle.costs, strict=True)]))
    described = {**tags, "seed_eval": tags["seed_train"], "cost_frac_retrain": share}
    attack = shadow_audit(made.margins, pool.matrix, retrained=retrained, tags=described, seed=tags["seed_train"])
    each, floor = (_klom_each(side, oracle.margins, pool.matrix) for side in (made.margins, oracle.margins))
    distances = [
        tidy.row(_klom(statistic, each, measure), retrained=[_klom(statistic, floor, measure)], tags=described)
        for statistic, measure in (("mean", np.mean), ("P95", _p95))
    ]
    batteries = [
        battery(
            answer,
            split,
            oracles=() if itself else (target,),
            cost=cost,
            retrain_cost=whole,
            rungs=("utility", "population", "cost"),
            tags=tags,
            seed=tags["seed_train"],
        )
        for answer, target, split, cost, whole in zip(
            made.answers, oracle.answers, pool.splits, made.costs, oracle.costs, strict=True
        )
    ]
    means = _averaged(pd.concat(batteries), len(made.costs)).assign(cost_frac_retrain=share)
    return pd.concat([attack, tidy.table(distances), means], ignore_index=True), each


def _klom_each(margins: np.ndarray, retrained: np.ndarray, matrix: StateMatrix) -> np.ndarray:
    """KLoM of each candidate [C]: `margins` of the models that forgot it, against retrained ones without it."""
    forgot, never = matrix.state == FORGET, matrix.state == NEVER
    n = min(forgot.sum(0).min(), never.sum(0).min())
    mine = np.stack([column[side][:n] for column, side in zip(margins.T, forgot.T, strict=True)], 1)
    theirs = np.stack([column[side][:n] for column, side in zip(retrained.T, never.T, strict=True)], 1)
    return klom(mine, theirs, estimator="gaussian").values


def _klom(statistic: str, each: np.ndarray, measure) -> tidy.Estimate:
    sizes = {"n_models": 1, "n_examples": len(each)}
    return tidy.Estimate(
        "KLoM (gaussian)", "A", "forget", statistic, float(measure(each)), direction="lower", target="retrain", **sizes
    )


def _p95(values) -> float:
    return float(np.quantile(values, 0.95))


def _shifts(margins: np.ndarray, matrix: StateMatrix) -> np.ndarray:
    """(mean forgotten - mean never seen) / sd of each candidate [C]."""
    forgot, never = (np.where(matrix.state == side, margins, np.nan) for side in (FORGET, NEVER))
    spread = np.sqrt((np.nanvar(forgot, 0, ddof=1) + np.nanvar(never, 0, ddof=1)) / 2)
    return (np.nanmean(forgot, 0) - np.nanmean(never, 0)) / np.maximum(spread, 1e-12)


def _averaged(rows: pd.DataFrame, models: int) -> pd.DataFrame:
    """Means over the models of a pool: one row an estimate; the intervals of single models do not carry over."""
    rows = rows[rows["valid_flag"].astype(bool)]
    found = rows.groupby(list(tidy.ONE_ESTIMATE), dropna=False, sort=False)
    first, means = found.head(1).reset_index(drop=True), found[list(_MEANS)].mean().reset_index(drop=True)
    none = dict.fromkeys(("ci_lo", "ci_hi", "ci_method", "null_value", "null_lo", "null_hi", "null_sd", "z_null"))
    return first.assign(**none, **means, n_models=models)[list(tidy.COLUMNS)]
