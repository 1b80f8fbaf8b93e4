"""A year of requests, simulated: what a policy costs, what it damages, what it leaves behind, what it still certifies.

    arrivals    the requests of a year come at random times (a Poisson process), each for another example
    batches     they wait until `queue.Batching` says that they are due, and are then deleted together
    follow      a learner forgets batch after batch, and is looked at after each

A policy is a learner, as in the rooms of exact and private methods: `fit(examples)`, `forget(indices) -> Receipt`,
`logits(images)`. `Chained` makes one of any registered method, started each time from its own last result; `Nothing`
is the null that only takes note.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples, Split
from unlearnlib.desk.queue import Batching
from unlearnlib.methods import registry
from unlearnlib.methods.records import Cost, Receipt
from unlearnlib.seeding import numpy_generator
from unlearnlib.training.loop import fit
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally

DAYS = 365.0


@dataclass(frozen=True)
class Batch:
    """Positions [k] of the examples that are deleted together on a day of the year, and how long each had waited."""

    day: float
    index: np.ndarray
    waited: np.ndarray


def arrivals(n: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Days [k], ascending, and positions [k] of a year's requests to delete one of `n` examples each.

    Requests come as a Poisson process of `rate` n a year, for examples drawn without replacement; k is random, with
    mean and variance `rate` n. ValueError where `rate` is not between 0 and 0.9.
    """
    doors.whole(n=n)
    if not 0 < rate <= 0.9:
        raise ValueError(f"rate is the share of the examples that ask in a year, above 0 and at most 0.9, not {rate!r}")
    rng = numpy_generator(seed, "arrivals")
    count = min(int(rng.poisson(rate * n)), n - 1)
    return np.sort(rng.uniform(0, DAYS, count)), rng.permutation(n)[:count]


def batches(days: np.ndarray, index: np.ndarray, batching: Batching) -> list[Batch]:
    """The batches in which requests are carried out: what is due is looked for whenever one comes, and each midnight.

    What waits at the end of the year is carried out on its last day.
    """
    found, waiting = [], []
    events = sorted([*((day, i) for i, day in enumerate(days)), *((float(d), -1) for d in range(1, int(DAYS)))])
    for now, i in [*events, (DAYS, -2)]:
        waiting += [i] if i >= 0 else []
        last = i == -2 and waiting
        if waiting and (last or batching.due(len(waiting), now - days[waiting[0]])):
            found.append(Batch(now, index[waiting], now - days[waiting]))
            waiting = []
    return found


@dataclass
class Chained:
    """A registered method as a learner: each request starts from the result of the one before.

    build        seed -> an untrained network; `recipe` is how it is trained
    parameters   of the method
    retrain_at   share of the fitted examples deleted since the last training at which it trains anew; None: never
    """

    method: str
    build: Callable[[int], nn.Module]
    recipe: Recipe
    parameters: Mapping[str, object] = field(default_factory=dict)
    retrain_at: float | None = None
    validation: Examples | None = None
    seed: int = 0

    def fit(self, examples: Examples) -> "Chained":
        self.examples, self.alive = examples, torch.ones(len(examples), dtype=torch.bool)
        self.cost, self.number = self._train(), 0
        return self

    def forget(self, indices) -> Receipt:
        """Raises ValueError as `doors.deletion` does."""
        index = doors.deletion(indices, self.alive)
        kept = self.alive.clone()
        kept[index] = False
        self.number += 1
        due = self.retrain_at is not None and int(kept.sum()) <= (1 - self.retrain_at) * self._trained_on
        if due:
            self.alive = kept
            return Receipt(self._train(), {"retrained": 1})
        present = self.alive.nonzero().flatten()
        held_out = self.examples[:0] if self.validation is None else self.validation
        split = Split(self.examples[present], ~kept[present], held_out, None, "stream", self.seed, present)
        seed = 1000 * (self.seed + 1) + self.number
        done = registry.unlearn(self.method, self.model, split, seed=seed, **self.parameters)
        self.model, self.alive = done.model, kept
        return Receipt(done.cost, {"retrained": int(self.method == "retrain")}, done.certificate)

    def logits(self, images) -> Tensor:
        return predict(self.model, images)

    def _train(self) -> Cost:
        tally, started = Tally(), time.perf_counter()
        present = self.examples[self.alive]
        network = self.build(self.seed)
        self.model = fit(network, present, self.recipe, self.seed, tally=tally, progress=False)
        self._trained_on = len(present)
        return Cost.of(tally, time.perf_counter() - started)


class Nothing(Chained):
    """Takes note of requests and does nothing: the null of every policy."""

    def __init__(self, build: Callable[[int], nn.Module], recipe: Recipe, seed: int = 0):
        super().__init__("retrain", build, recipe, seed=seed)

    def forget(self, indices) -> Receipt:
        index = doors.deletion(indices, self.alive)
        self.alive[index] = False
        return Receipt(Cost())


def follow(learner, stream: Iterable[Batch], look: Callable[[object, np.ndarray], Mapping[str, float]]) -> pd.DataFrame:
    """Let a fitted learner forget a stream; a row a batch.

    look   (learner, positions of all that have been deleted so far) -> what to note

    Columns: batch, day, deleted (so far), waited (mean days of this batch), work (so far, in forward passes of one
    example), retrained (trainings anew so far), epsilon (of the last certificate; NaN without one, 0 if exact), and
    those of `look`.
    """
    rows, work, retrained, gone = [], 0.0, 0, np.zeros(0, dtype=np.int64)
    for number, batch in enumerate(stream):
        receipt = learner.forget(batch.index)
        gone = np.concatenate([gone, batch.index])
        work += receipt.cost.work
        retrained += receipt.touched.get("retrained", 0)
        certificate = receipt.certificate
        rows.append(
            {
                "batch": number,
                "day": batch.day,
                "deleted": len(gone),
                "waited": float(np.mean(batch.waited)),
                "work": work,
                "retrained": retrained,
                "epsilon": np.nan if certificate is None else certificate.epsilon,
                **look(learner, gone),
            }
        )
    return pd.DataFrame(rows)
