"""SISA: sharded, isolated, sliced and aggregated training; a deletion retrains one shard from one slice.

The training set is divided into S shards, each shard into R slices, at random and for good. Each shard has a network
of its own, trained in R stages:

    cumulative    stage r trains on slices 1..r        (as published; 2E / (R + 1) epochs a stage equal E in all)
    incremental   stage r trains on slice r alone      (E epochs a stage)

Before every stage the shard keeps a checkpoint of its network and its optimiser. When points of slice r are deleted,
the shard goes back to the checkpoint before stage r and trains on from there without them. All other shards stay as
they are. Bourtoule et al. 2021, arXiv 1912.03817.

A shard's draws depend on (seed, shard, stage) alone and its batch order on a random key that each example keeps for
life, so after any deletions the learner is *bit-identical* to one that was fitted without those points: exact, not
only in law. Deviations: checkpoints hold the optimiser's state (without it momentum and Adam are not exact), and the
learning rate is constant or scheduled within each stage.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.records import Certificate, Cost, Receipt
from unlearnlib.training import Batch, Recipe, Tally, descend, optimiser_of, predict

SLICINGS = ("cumulative", "incremental")
AGGREGATIONS = ("mean", "vote", "weighted")
EXACT = Certificate("exact", "the same learner fitted without the deleted points, with the same randomness")


@dataclass
class _Checkpoint:
    """A shard before a stage: its network and its optimiser's state (None before the first step)."""

    network: nn.Module
    optimiser: dict | None


class Sisa:
    """`fit(examples)`, `forget(indices) -> Receipt`, `logits(images)`; `plan(indices)` says beforehand what is hit.

    build        seed -> an untrained network
    recipe       of each stage; its `epochs` are the E of the module docstring, the passes over a shard in all
    shards       S >= 1
    slices       R >= 1
    slicing      "cumulative" or "incremental"
    aggregation  "mean" of the shards' probabilities, "vote" (the share of shards for each class), or "weighted": the
                 mean with convex weights fitted by `weigh(examples)` on held-out examples
    """

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        recipe: Recipe,
        *,
        shards: int = 5,
        slices: int = 4,
        slicing: str = "cumulative",
        aggregation: str = "mean",
        seed: int = 0,
    ):
        if shards < 1 or slices < 1:
            raise ValueError("Sisa needs shards >= 1 and slices >= 1")
        if slicing not in SLICINGS:
            raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, not {slicing!r}")
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
        self.build, self.recipe, self.seed = build, recipe, seed
        self.shards, self.slices, self.slicing, self.aggregation = shards, slices, slicing, aggregation
        self.weights = torch.full((shards,), 1 / shards)

    def fit(self, examples, without: Sequence[int] | Tensor = ()) -> "Sisa":
        """Train on `examples`, but for the positions in `without`, which are then as if they had been forgotten."""
        if len(examples) < self.shards * self.slices:
            raise ValueError(f"{len(examples)} examples cannot fill {self.shards} shards of {self.slices} slices")
        n = len(examples)
        order = torch.randperm(n, generator=seeding.generator(self.seed, "assignment"))
        place = torch.empty(n, dtype=torch.int64)
        place[order] = torch.arange(n)
        self._examples = examples
        self._shard, self._slice = place % self.shards, (place // self.shards) % self.slices
        self._present = torch.ones(n, dtype=torch.bool)
        self._present[torch.as_tensor(without, dtype=torch.int64)] = False
        self._checkpoints: list[list[_Checkpoint]] = [[] for _ in range(self.shards)]
        self._networks: list[nn.Module | None] = [None] * self.shards
        tally, started = Tally(), time.perf_counter()
        for shard in range(self.shards):
            self._checkpoints[shard] = [_Checkpoint(self.build(self._number(shard)), None)]
            self._train(shard, 0, tally)
        self.cost = Cost(time.perf_counter() - started, tally.gradient_evaluations)
        return self

    def plan(self, indices) -> pd.DataFrame:
        """What deleting `indices` will touch: shard, first stage, stages, and gradient evaluations until then."""
        index = self._checked(indices)
        kept = self._present.clone()
        kept[index] = False
        rows = []
        for shard in self._shard[index].unique().tolist():
            first = int(self._slice[index[self._shard[index] == shard]].min())
            work = sum(self._steps(shard, stage, kept)[1] for stage in range(first, self.slices))
            rows.append((shard, first, self.slices - first, work))
        return pd.DataFrame(rows, columns=["shard", "first stage", "stages", "gradient evaluations"])

    def forget(self, indices) -> Receipt:
        """Delete the points at `indices` (positions in the fitted examples) and retrain what they had touched.

        Raises ValueError on a position that is out of range, given twice, or already deleted.
        """
        index = self._checked(indices)
        plan, tally, started = self.plan(index), Tally(), time.perf_counter()
        self._present[index] = False
        for shard, first in zip(plan["shard"], plan["first stage"], strict=True):
            self._train(int(shard), int(first), tally)
        touched = {"shards": len(plan), "stages": int(plan["stages"].sum()), "points": len(index)}
        return Receipt(Cost(time.perf_counter() - started, tally.gradient_evaluations), touched, EXACT)

    def logits(self, images: Tensor) -> Tensor:
        """Log of the aggregated probabilities, float32 [n, classes]; a class without a vote has probability 1e-6."""
        outputs = torch.stack([predict(network, images) for network in self._networks])
        if self.aggregation == "vote":
            votes = torch.nn.functional.one_hot(outputs.argmax(2), outputs.shape[2])
            return votes.float().mean(0).clamp_min(1e-6).log()
        weights = self.weights if self.aggregation == "weighted" else torch.full_like(self.weights, 1 / self.shards)
        return torch.logsumexp(torch.log_softmax(outputs, 2) + weights.log()[:, None, None], 0)

    def weigh(self, examples) -> Tensor:
        """Fit the weights of "weighted" to held-out examples: convex, of least cross-entropy (by EM, to 1e-6).

        They depend on the shards, so they belong to the held-out data and to the present state: weigh again after a
        deletion.
        """
        labels = examples.labels.expand(self.shards, -1)[..., None]
        log_likelihood = torch.stack([torch.log_softmax(predict(f, examples), 1) for f in self._networks])
        likelihood = log_likelihood.gather(2, labels)[..., 0].double().exp()
        weights = torch.full((self.shards,), 1 / self.shards, dtype=torch.float64)
        for _ in range(10_000):
            shares = weights[:, None] * likelihood
            new = (shares / shares.sum(0)).mean(1)
            moved, weights = (new - weights).abs().max(), new
            if moved < 1e-6:
                break
        self.weights = weights.float()
        return self.weights

    def _checked(self, indices) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.int64).flatten()
        n = len(self._present)
        if len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= n:
            raise ValueError(f"give positions between 0 and {n - 1}, at least one")
        if len(index.unique()) < len(index) or not bool(self._present[index].all()):
            raise ValueError("a point can be deleted once: some of these positions repeat or are gone already")
        return index

    def _number(self, shard: int, *more: int) -> int:
        """A seed for a shard (and stage) of this learner."""
        return int(torch.randint(2**62, (1,), generator=seeding.generator(self.seed, "shard", shard, *more)))

    def _members(self, shard: int, stage: int, present: Tensor) -> Tensor:
        inside = self._slice <= stage if self.slicing == "cumulative" else self._slice == stage
        return (present & inside & (self._shard == shard)).nonzero().flatten()

    def _epochs(self) -> int:
        epochs = self.recipe.epochs
        return max(1, round(2 * epochs / (self.slices + 1))) if self.slicing == "cumulative" else epochs

    def _steps(self, shard: int, stage: int, present: Tensor) -> tuple[int, int]:
        """Optimiser steps of a stage, and the gradient evaluations that they take."""
        n = len(self._members(shard, stage, present))
        if n == 0:
            return 0, 0
        size = min(n, self.recipe.batch_size)
        return self._epochs() * (n // size), self._epochs() * (n // size) * size

    def _batches(self, members: Tensor, number: int):
        """Shuffled passes in which the order of any two examples does not depend on which others are there."""
        size = min(len(members), self.recipe.batch_size)
        rng = seeding.generator(number, "order")
        for _ in range(self._epochs()):
            keys = torch.rand(len(self._present), generator=rng, dtype=torch.float64)[members]
            order = members[keys.argsort(stable=True)]
            for start in range(0, len(order) - size + 1, size):
                index = order[start : start + size]
                yield Batch(index, self._examples.labels[index])

    def _train(self, shard: int, first: int, tally: Tally) -> None:
        """Train a shard from stage `first` on, starting at the checkpoint before it."""
        checkpoints = self._checkpoints[shard]
        del checkpoints[first + 1 :]
        network, state = copy.deepcopy(checkpoints[first].network), checkpoints[first].optimiser
        for stage in range(first, self.slices):
            members, number = self._members(shard, stage, self._present), self._number(shard, stage)
            steps, _ = self._steps(shard, stage, self._present)
            if steps:
                optimiser = optimiser_of(network.parameters(), self.recipe)
                if state is not None:
                    optimiser.load_state_dict(copy.deepcopy(state))
                recipe = replace(self.recipe, epochs=self._epochs())
                stream = self._batches(members, number)
                descend(network, self._examples, stream, recipe, steps, seed=number, tally=tally, optimiser=optimiser)
                state = optimiser.state_dict()
            if stage + 1 < self.slices:
                checkpoints.append(_Checkpoint(copy.deepcopy(network), copy.deepcopy(state)))
        self._networks[shard] = network


def expected_speedup(shards: int, slices: int, slicing: str = "cumulative") -> float:
    """Retraining everything over deleting one random point, in gradient evaluations.

    cumulative    3 S R / (2 R + 1)     (slices alone: at most 1.5)
    incremental   2 S R / (R + 1)

    A random point lies in slice r with probability 1 / R, and stages r..R are run again: sum_{i >= r} i of
    R (R + 1) / 2 units where slices accumulate, R - r + 1 of R where they do not.
    """
    if slicing not in SLICINGS:
        raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, not {slicing!r}")
    if slicing == "cumulative":
        return 3 * shards * slices / (2 * slices + 1)
    return 2 * shards * slices / (slices + 1)
