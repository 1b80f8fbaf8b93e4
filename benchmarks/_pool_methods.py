"""Unlearning within a budget: how much of the retain set a method may read, and which hyper-parameters it gets.

The budget is a share of the work of one retraining (forward 1, forward and backward 3). A method that reads the retain
set gets a random part of it, as large as the budget allows by its declared cost; one that costs more without any of it
is not run at this budget. Fine-tuning gets the same budget in the same way.

Hyper-parameters are chosen on one model of no block (`DEVELOPMENT`): every method gets the same number of trials, the
defaults first, then draws from `Method.search`; the objective is that of `studies.tuning` on the pictures which that
model never saw. No audit, test picture or retrained model enters.
"""

import dataclasses
import json
import math
import os
import time
from pathlib import Path

import torch
from _pool import DEVELOPMENT, Pool, recipe
from torch import nn

from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.seeding import generator
from unlearnlib.studies import tuning
from unlearnlib.training.jobs import described
from unlearnlib.training.work import multiplications

LEAST = 256  # retained pictures: what a method is given at least
BATCH = 256
DRAWS = 8  # for each trial, until one is within the budget
_NUMERICAL = (ValueError, ArithmeticError, torch.linalg.LinAlgError)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What one model is asked: the positions of its forget and retain set, and the sizes that costs depend on."""

    pool: Pool
    forget: torch.Tensor
    retain: torch.Tensor
    sizes: dict

    @staticmethod
    def of(pool: Pool, model: int, request: str, network: nn.Module) -> "Request":
        mine, gone = pool.members(model), pool.forgotten(model, request)
        weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
        sizes = {"validation": len(pool.held_out), "classes": len(pool.names), "weights": weights}
        sizes["multiplications"] = multiplications(network, pool.train[:2])
        return Request(pool, gone, mine[~torch.isin(mine, gone)], sizes)

    def retraining(self) -> float:
        """The work of retraining: the unit of a budget."""
        return registry.work("retrain", len(self.forget), len(self.retain), recipe=recipe())

    def affordable(self, method: str, budget: float, hyperparameters: dict) -> int:
        """The largest part of the retain set with which the method stays within the budget; 0 where none does."""
        allowed = budget * self.retraining()

        def fits(n: int) -> bool:
            return registry.work(method, len(self.forget), n, **self.sizes, **hyperparameters) <= allowed

        low, high = LEAST, len(self.retain)
        if fits(high):
            return high
        if not fits(low):
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def split(self, kept: int, seed: int, unseen=None) -> Split:
        """The request with `kept` of its retained pictures."""
        order = torch.randperm(len(self.retain), generator=generator(seed, "pool", "retained"))[:kept]
        train = self.pool.train
        unseen = train[self.pool.held_out] if unseen is None else unseen
        return Split.of(retain=train[self.retain[order]], forget=train[self.forget], validation=unseen, seed=seed)


def taught(method: str, hyperparameters: dict) -> dict:
    """With the augmentation and label smoothing of the training recipe, and one size of batch, where it takes them.

    Retraining, the control that every budget needs, makes one pass over what the budget pays for.
    """
    if method == "retrain":
        return {"recipe": dataclasses.replace(recipe(), epochs=1)}
    chosen, known = registry.find(method), {f.name for f in dataclasses.fields(registry.find(method).config)}
    shared = {"augment": recipe().augment, "label_smoothing": recipe().label_smoothing} if chosen.taught else {}
    shared |= {"batch_size": BATCH} if "batch_size" in known else {}
    shared |= {"epochs": 1} if "epochs" in known else {}
    return {**shared, **hyperparameters}


def unlearned(method: str, model: nn.Module, request: Request, budget: float, seed: int, hyperparameters: dict):
    """The unlearned model, its work as a share of retraining, and CPU seconds; ValueError where the budget is less."""
    hyperparameters = taught(method, hyperparameters)
    kept = request.affordable(method, budget, hyperparameters)
    if not kept:
        raise ValueError(f"{method} costs more than {budget:g} of retraining with these hyper-parameters")
    split, began = request.split(kept, seed), time.process_time()
    done = registry.unlearn(method, model, split, seed=seed, **hyperparameters)
    return done.model, done.cost.work / request.retraining(), time.process_time() - began, kept


def tuned(method: str, pool: Pool, model: nn.Module, budget: float, trials: int, folder: Path) -> dict:
    """The hyper-parameters for a method, chosen once and kept with all their trials."""
    path = folder / f"tuned-{method}-{budget:g}.json"
    if path.exists():
        return json.loads(path.read_text())
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    request = Request.of(pool, DEVELOPMENT, "random", model)
    never = pool.targets[torch.from_numpy(pool.state[DEVELOPMENT] == 2)]
    judged = dataclasses.replace(request.split(LEAST, 0), validation=pool.train[never])
    space = tuning.distributions(method) if registry.find(method).search else {}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=max(1, trials // 2), seed=0))
    defaults = registry.configure(method, **taught(method, {}))
    study.enqueue_trial({name: _within(getattr(defaults, name), space[name]) for name in space})
    made = []
    for _ in range(DRAWS * trials):
        if len(made) >= (trials if space else 1):
            break
        asked = study.ask(space)
        if not request.affordable(method, budget, taught(method, asked.params)):  # costs nothing, and is no trial
            study.tell(asked, tuning.WORST)
            continue
        facts = {"value": tuning.WORST, "reason": "", "seconds": 0.0, "cost": 0.0}
        try:
            done, cost, seconds, _ = unlearned(method, model, request, budget, 5_000_000, asked.params)
            score = tuning.objective(done, model, judged)
            facts |= {"value": score.value, "unlike": score.unlike, "damage": score.damage, "seconds": seconds}
            facts["cost"] = cost
        except _NUMERICAL as error:
            facts["reason"] = described(error)
        if not math.isfinite(facts["value"]):
            facts |= {"value": tuning.WORST, "reason": "not finite"}
        study.tell(asked, facts["value"])
        made.append({"hyperparameters": asked.params, **facts})
        print(method, made[-1], flush=True)
    if not made:
        raise ValueError(f"{method} costs more than {budget:g} of retraining with whatever was drawn")
    best = min(made, key=lambda trial: trial["value"])
    found = {"method": method, "budget": budget, "trials": made, **best}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(found))
    os.replace(partial, path)
    return found


def _within(value, span):
    """The default, where it lies in what is searched; else the nearest end."""
    return min(max(value, span.low), span.high)
