"""What a guarantee costs: exact structures, certified and private learners beside one network that is trained again.

    python benchmarks/guarantees.py            three seeds on MNIST-5k, about ten core-minutes

Each learner is trained, and asked to forget one picture, a random tenth, and a class; its reference is the same learner
trained with another seed on what is left. Noisy learners get the best of two to four settings, by accuracy on a fifth
of the training pictures after one deletion, with a seed of its own; exact ones have the settings of chapters 3 and 4.
Writes tidy rows to `book/benchmarks/guarantees.parquet`, of which a page makes its table, and the chosen settings.
"""

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unlearnlib.publishing.bookkeeping import pin_numerics

if __name__ == "__main__":
    pin_numerics()  # before numpy is imported

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from unlearnlib import data, exact, models, private, training
from unlearnlib.audit.attacks.membership import rank_attack
from unlearnlib.audit.verdicts.tidy import Estimate, row
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.seeding import generator
from unlearnlib.store.cache import write_table
from unlearnlib.store.files import write
from unlearnlib.training.recipe import Recipe

RESULT = Path(__file__).resolve().parents[1] / "book/benchmarks/guarantees.parquet"
SEEDS, SEARCHED = range(3), 99
EPSILONS, DELTA = (1.0, 8.0), 1e-5
REQUESTS = ("one picture", "random:0.1", "class:3")
RECIPE = Recipe(epochs=20, batch_size=64, optimiser="adamw", lr=2e-3)


@dataclass(eq=False)
class Whole:
    """One network on everything, trained again for every request: what the others are compared with."""

    shown: data.Dataset
    seed: int = 0

    def fit(self, examples):
        self.examples, self.alive = examples, torch.ones(len(examples), dtype=torch.bool)
        start = models.build("mlp", self.shown, seed=self.seed)
        self.network = training.fit(start, examples, RECIPE, seed=self.seed, progress=False)
        return self

    def forget(self, indices):
        self.alive[indices] = False
        left = self.alive.clone()
        self.seed += 500
        self.fit(self.examples[left])
        certificate = Certificate("exact", "training on the retained examples only, with fresh randomness")
        return Receipt(Cost(gradient_evaluations=RECIPE.epochs * int(left.sum())), {"retrained": 1}, certificate)

    def logits(self, pixels):
        return training.predict(self.network, pixels)


def linear(ds: data.Dataset) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(ds.shape), ds.n_classes, bias=False))
    nn.init.zeros_(model[1].weight)
    return model


def exact_learners(ds: data.Dataset) -> dict[str, Callable]:
    """Label -> seed -> learner with `fit`, `forget`, `logits`."""

    def shards(number):
        recipe = Recipe(epochs=20, batch_size=16, optimiser="adamw", lr=2e-3, schedule="constant")
        return lambda seed: exact.Sisa(
            lambda s: models.build("mlp", ds, seed=s), recipe, shards=number, slices=4, seed=seed, stacked=True
        )

    return {
        "one network": lambda seed: Whole(ds, seed),
        "SISA, 5 shards": shards(5),
        "SISA, 20 shards": shards(20),
        "class modules": lambda seed: exact.ClassModules(seed=seed),
        "forest": lambda seed: exact.DareForest(n_trees=50, max_depth=12, n_classes=ds.n_classes, seed=seed),
        "ridge": lambda seed: exact.Ridge(lam=10.0, n_classes=ds.n_classes),
        "kernel ridge": lambda seed: exact.KernelRidge(lam=0.1, gamma=0.05, n_classes=ds.n_classes),
        "nearest neighbours": lambda seed: exact.NearestNeighbours(n_classes=ds.n_classes),
    }


def noisy_learners(ds: data.Dataset) -> dict[str, tuple[Callable, list[dict]]]:
    """Name -> learner of seed, epsilon, delta and a setting; and the settings that are searched."""

    def quick(examples):
        recipe = Recipe(epochs=2, batch_size=64, optimiser="sgd", lr=0.5)
        return training.fit(linear(ds), examples, recipe, seed=0, progress=False)

    def dpsgd(**options):
        return private.DpSgd(linear(ds), expected_batch=500, clip=0.1, accountant="rdp", chunk=256, **options)

    again = {"on_exhausted": "retrain"}
    return {
        "DP-SGD": (dpsgd, [{"lr": lr, "epochs": epochs} for lr in (8.0, 32.0) for epochs in (15, 40)]),
        "output perturbation": (
            lambda **o: private.OutputPerturbation(**again, **o),
            [{"lam": lam} for lam in (0.003, 0.01, 0.03, 0.1)],
        ),
        "certified Newton": (
            lambda **o: private.CertifiedNewton(**again, **o),
            [{"lam": lam, "sigma": sigma} for lam in (0.001, 0.003) for sigma in (1.0, 3.0)],
        ),
        "descent-to-delete": (
            lambda **o: private.DescentToDelete(iterations=200, **again, **o),
            [{"lam": lam} for lam in (0.001, 0.003, 0.01)],
        ),
        "Langevin": (
            lambda **o: private.Langevin(**again, **o),
            [{"lam": 0.005, "sigma": 0.03, "burn_in": 300}, {"lam": 0.02, "sigma": 0.01, "burn_in": 100}],
        ),
        "noisy fine-tuning": (
            lambda **o: private.NoisyFineTuning(quick, **again, **o),
            [{"steps": 30, "step_size": 0.1}, {"steps": 100, "step_size": 0.1}, {"steps": 5, "step_size": 0.02}],
        ),
    }


def chosen(make: Callable, settings: list[dict], ds: data.Dataset, epsilon: float) -> dict:
    """The setting with the highest accuracy on a fifth of the training pictures, after forgetting one of the others."""
    order = torch.randperm(len(ds.train), generator=generator(SEARCHED, "guarantees", "held out"))
    held, used = order[: len(order) // 5], order[len(order) // 5 :]
    scores = []
    for setting in settings:
        learner = make(seed=SEARCHED, epsilon=epsilon, delta=DELTA, **setting).fit(ds.train[used])
        again = "retrained" in learner.forget([0]).touched  # whoever trains again for the first picture needs no noise
        scores.append(-1.0 if again else accuracy(learner, ds.train[held]))
    return settings[scores.index(max(scores))]


def learners(ds: data.Dataset) -> tuple[dict[str, Callable], dict[str, dict]]:
    """All learners by label, and the chosen settings of those that were searched."""
    made, settings = exact_learners(ds), {}
    for name, (make, searched) in noisy_learners(ds).items():
        for epsilon in EPSILONS:
            label = f"{name}, epsilon {epsilon:g}"
            settings[label] = found = chosen(make, searched, ds, epsilon)
            print(label, found, flush=True)
            made[label] = partial(make, epsilon=epsilon, delta=DELTA, **found)
    return made, settings


def forgotten(ds: data.Dataset, request: str, seed: int) -> torch.Tensor:
    """Positions in the training set; the one picture is the first of the random tenth."""
    if request.startswith("class"):
        return (ds.train.labels == int(request.partition(":")[2])).nonzero().flatten()
    order = torch.randperm(len(ds.train), generator=generator(seed, "guarantees", "forget"))
    return order[: 1 if request == "one picture" else len(order) // 10]


def asked(ds: data.Dataset, request: str, seed: int) -> tuple[torch.Tensor, dict]:
    """What is to go, and the parts that are measured: where a class goes, unseen pictures are of that class."""
    gone = forgotten(ds, request, seed)
    keep = torch.ones(len(ds.train), dtype=torch.bool)
    keep[gone] = False
    test = unseen = ds.test
    if request.startswith("class"):
        of_it = ds.test.labels == ds.train.labels[gone[0]]
        test, unseen = ds.test[~of_it], ds.test[of_it]
    return gone, {"test": test, "unseen": unseen, "retain": ds.train[keep], "forget": ds.train[gone]}


def timed(work: Callable):
    start = time.process_time()
    done = work()
    return done, time.process_time() - start


def estimates(learner, parts: dict, certificate: Certificate | None) -> list[Estimate]:
    """Accuracies, the attack on the loss, and the epsilon that is promised (infinite: nothing)."""
    found, losses = [], {}
    for part, examples in parts.items():
        logits = learner.logits(examples.pixels())
        losses[part] = F.cross_entropy(logits.double(), examples.labels, reduction="none").numpy()
        if part == "unseen":  # for the attack alone
            continue
        right = float((logits.argmax(1) == examples.labels).double().mean())
        statistic, value = {"test": ("TA", right), "retain": ("RA", right), "forget": ("UA", 1 - right)}[part]
        found.append(Estimate("accuracy", "util", part, statistic, value, n_examples=len(examples)))
    if len(losses["forget"]) > 1:
        area = rank_attack(losses["forget"], losses["unseen"]).auc
        found.append(Estimate("loss rank", "B", "forget", "AUC", area, target="0.5", n_examples=len(losses["forget"])))
    epsilon = math.inf if certificate is None else certificate.epsilon
    return [*found, Estimate("certificate", "A", "forget", "epsilon", epsilon, target="0", delta=DELTA)]


def measured(label: str, make: Callable, ds: data.Dataset, seed: int) -> list[dict]:
    """Rows of one learner and seed: what it is asked one by one, each time as it was on the first day.

    Its cost is CPU time, as a share of its own training from nothing.
    """
    fitted, whole = timed(lambda: make(seed=seed).fit(ds.train))
    first_day = Estimate("accuracy", "util", "test", "TA, first day", accuracy(fitted, ds.test))
    lines = []
    for request in REQUESTS:
        gone, parts = asked(ds, request, seed)
        learner = copy.deepcopy(fitted)
        receipt, spent = timed(lambda learner=learner, gone=gone: learner.forget(gone.tolist()))
        told, wanted = estimates(learner, parts, receipt.certificate), {}
        if len(gone) > 1:
            reference = make(seed=1000 + seed).fit(parts["retain"])
            wanted = {e.key: [e] for e in estimates(reference, parts, receipt.certificate)}
        tags = {"study": "guarantees", "dataset": "mnist5k", "arch": "learners of many kinds", "method": label}
        tags |= {"forget_set_id": f"{request}, seed {seed}", "forget_kind": request.partition(":")[0]}
        again = Estimate("certificate", "A", "forget", "trained again", float("retrained" in receipt.touched))
        made = [row(e, retrained=wanted.get(e.key, ()), tags={**tags, "seed_train": seed}) for e in told]
        made += [row(e, tags={**tags, "seed_train": seed}) for e in (first_day, again)]
        lines += [{**line, "cost_frac_retrain": spent / whole, "seconds": spent} for line in made]
    return lines


def accuracy(learner, examples) -> float:
    return float((learner.logits(examples.pixels()).argmax(1) == examples.labels).double().mean())


def main() -> None:
    ds = data.load("mnist5k")
    made, settings = learners(ds)
    rows = []
    for label, make in made.items():
        for seed in SEEDS:
            rows += measured(label, make, ds, seed)
        shown = pd.DataFrame(rows).query("method == @label and statistic == 'TA, first day'")
        print(label, f"{shown['value'].mean():.3f}", f"{time.process_time():.0f} s", flush=True)
    write_table(RESULT, pd.DataFrame(rows))
    write(RESULT.with_suffix(".json"), json.dumps({"delta": DELTA, "settings": settings}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
