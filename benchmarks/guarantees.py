"""What a guarantee costs: exact structures, certified and private learners beside one network that is trained again.

    python benchmarks/guarantees.py            five seeds on MNIST-5k, about ten core-minutes

Each learner is trained, and asked to forget one picture, a random tenth, and a class; its reference is the same learner
trained with another seed on what is left. Settings are those of chapters 3, 4, 9 and 10, which chose them on other
data or other seeds. Writes tidy rows to `book/benchmarks/guarantees.parquet`, of which pages make their table.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from unlearnlib.store.cache import write_table
from unlearnlib.training.recipe import Recipe

RESULT = Path(__file__).resolve().parents[1] / "book/benchmarks/guarantees.parquet"
SEEDS, DELTA = range(5), 1e-5
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


def learners(ds: data.Dataset) -> dict[str, Callable]:
    """Label -> seed -> learner with `fit`, `forget`, `logits`."""
    width = math.prod(ds.shape)

    def linear():
        model = nn.Sequential(nn.Flatten(), nn.Linear(width, ds.n_classes, bias=False))
        nn.init.zeros_(model[1].weight)
        return model

    def quick(examples):
        recipe = Recipe(epochs=2, batch_size=64, optimiser="sgd", lr=0.5)
        return training.fit(linear(), examples, recipe, seed=0, progress=False)

    def shards(number):
        recipe = Recipe(epochs=20, batch_size=16, optimiser="adamw", lr=2e-3, schedule="constant")
        return lambda seed: exact.Sisa(
            lambda s: models.build("mlp", ds, seed=s), recipe, shards=number, slices=4, seed=seed, stacked=True
        )

    made = {
        "one network": lambda seed: Whole(ds, seed),
        "SISA, 5 shards": shards(5),
        "SISA, 20 shards": shards(20),
        "class modules": lambda seed: exact.ClassModules(seed=seed),
        "forest": lambda seed: exact.DareForest(n_trees=50, max_depth=12, n_classes=ds.n_classes, seed=seed),
        "ridge": lambda seed: exact.Ridge(lam=10.0, n_classes=ds.n_classes),
        "kernel ridge": lambda seed: exact.KernelRidge(lam=0.1, gamma=0.05, n_classes=ds.n_classes),
        "nearest neighbours": lambda seed: exact.NearestNeighbours(n_classes=ds.n_classes),
    }
    for epsilon in (1.0, 8.0):
        shared = {"epsilon": epsilon, "delta": DELTA}
        made |= {
            f"{name}, epsilon {epsilon:g}": (lambda seed, of=of, shared=shared: of(seed=seed, **shared))
            for name, of in {
                "DP-SGD": lambda **o: private.DpSgd(
                    linear(), epochs=15, expected_batch=500, lr=2.0, clip=0.1, accountant="rdp", chunk=256, **o
                ),
                "output perturbation": lambda **o: private.OutputPerturbation(lam=0.1, on_exhausted="retrain", **o),
                "certified Newton": lambda **o: private.CertifiedNewton(
                    lam=0.05, sigma=1.0 / o["epsilon"], on_exhausted="retrain", **o
                ),
                "descent-to-delete": lambda **o: private.DescentToDelete(
                    lam=0.001, iterations=800, on_exhausted="retrain", **o
                ),
                "Langevin": lambda **o: private.Langevin(
                    lam=0.005, sigma=0.03, burn_in=300, on_exhausted="retrain", **o
                ),
                "noisy fine-tuning": lambda **o: private.NoisyFineTuning(
                    quick, steps=30, step_size=1.0, on_exhausted="retrain", **o
                ),
            }.items()
        }
    return made


def forgotten(ds: data.Dataset, request: str, seed: int) -> torch.Tensor:
    """Positions in the training set; the one picture is the first of a random tenth."""
    found = data.split(ds, forget="random:0.1" if request == "one picture" else request, seed=seed).forget_index
    return found[:1] if request == "one picture" else found


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
        right = float((logits.argmax(1) == examples.labels).double().mean())
        statistic, value = {"test": ("TA", right), "retain": ("RA", right), "forget": ("UA", 1 - right)}[part]
        found.append(Estimate("accuracy", "util", part, statistic, value, n_examples=len(examples)))
    if len(losses["forget"]) > 1:
        area = rank_attack(losses["forget"], losses["test"]).auc
        found.append(Estimate("loss rank", "B", "forget", "AUC", area, target="0.5", n_examples=len(losses["forget"])))
    epsilon = math.inf if certificate is None else certificate.epsilon
    return [*found, Estimate("certificate", "A", "forget", "epsilon", epsilon, target="0", delta=DELTA)]


def measured(label: str, make: Callable, ds: data.Dataset, request: str, seed: int) -> list[dict]:
    """Rows of one learner, request and seed; its cost is CPU time, as a share of its own training on what is left."""
    gone = forgotten(ds, request, seed)
    keep = torch.ones(len(ds.train), dtype=torch.bool)
    keep[gone] = False
    parts = {"test": ds.test, "retain": ds.train[keep], "forget": ds.train[gone]}
    learner = make(seed).fit(ds.train)
    first_day = accuracy(learner, ds.test)
    receipt, spent = timed(lambda: learner.forget(gone.tolist()))
    reference, whole = timed(lambda: make(1000 + seed).fit(ds.train[keep]))
    wanted = {e.key: e for e in estimates(reference, parts, receipt.certificate)}
    tags = {"study": "guarantees", "dataset": "mnist5k", "arch": "learners of many kinds", "method": label}
    tags |= {"forget_set_id": f"{request}, seed {seed}", "forget_kind": request.partition(":")[0], "seed_train": seed}
    told = estimates(learner, parts, receipt.certificate)
    lines = [row(e, retrained=[wanted[e.key]], tags=tags) for e in told]
    lines.append(row(Estimate("accuracy", "util", "test", "TA, first day", first_day), tags=tags))
    touched = receipt.touched.get("retrained", 0)
    lines.append(row(Estimate("certificate", "A", "forget", "trained again", float(touched > 0)), tags=tags))
    return [{**line, "cost_frac_retrain": spent / whole, "seconds": spent} for line in lines]


def accuracy(learner, examples) -> float:
    return float((learner.logits(examples.pixels()).argmax(1) == examples.labels).double().mean())


def main() -> None:
    ds = data.load("mnist5k")
    rows = []
    for label, make in learners(ds).items():
        for seed in SEEDS:
            for request in REQUESTS:
                rows += measured(label, make, ds, request, seed)
        shown = pd.DataFrame(rows[-len(SEEDS) * 20 :]).query("method == @label and statistic == 'TA, first day'")
        print(label, f"{shown['value'].mean():.3f}", f"{time.process_time():.0f} s", flush=True)
        write_table(RESULT, pd.DataFrame(rows))


if __name__ == "__main__":
    main()
