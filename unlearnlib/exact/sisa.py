"""SISA: sharded, isolated, sliced and aggregated training; a deletion retrains one shard from one slice.

The training set is divided into S shards, each shard into R slices, at random and for good. Each shard has a network
of its own, trained in R stages:

    cumulative    stage r trains on slices 1..r        (as published; 2E / (R + 1) epochs a stage equal E in all)
    incremental   stage r trains on slice r alone      (E epochs a stage)

Where 2E / (R + 1) is no whole number a stage begins within an epoch, and ends with whole ones: they are counted in
optimiser steps, and what one stage rounds off the next one makes up, so that a shard makes E passes to half a step.

Before every stage the shard keeps a checkpoint of its network and its optimiser. When points of slice r are deleted,
the shard goes back to the checkpoint before stage r and trains on from there without them. All other shards stay as
they are. Bourtoule et al. 2021, arXiv 1912.03817.

A shard's draws depend on (seed, shard, stage) alone and its batch order on a random key that each example keeps for
life, so after any deletions the learner is *bit-identical* to one that was fitted without those points: exact, not
only in law. Deviations: checkpoints hold the optimiser's state (without it momentum and Adam are not exact), and the
learning rate is constant or scheduled within each stage.

Shards are independent, so they can be trained at once: in processes or on a cluster (`workers`, `cluster`), which
keeps every bit, or as one stacked network (`stacked`), which is faster for small networks: how a sum is rounded then
depends on the size of the stack. Its stages begin with a fresh optimiser; a deletion is exact up to rounding, in law.
"""

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact._inputs import Fitted
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.training import cluster as machines
from unlearnlib.training.batches import Batch
from unlearnlib.training.doors import check_model
from unlearnlib.training.jobs import one_thread
from unlearnlib.training.loop import descend, descend_many
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe, optimiser_of
from unlearnlib.training.renewal import copied
from unlearnlib.training.stacking import Unstackable

SLICINGS = ("cumulative", "incremental")
AGGREGATIONS = ("mean", "vote", "weighted")
EXACT = Certificate("exact", "the same learner fitted without the deleted points, with the same randomness")
IN_LAW = Certificate("exact", "the same learner fitted without the deleted points: equal in law, up to rounding")


@dataclass
class _Checkpoint:
    """A shard before a stage: its network and its optimiser's state (None before the first step)."""

    network: nn.Module
    optimiser: dict | None


@dataclass(frozen=True)
class _Stage:
    """What a stage trains on: positions, the seed of its draws, optimiser steps and the size of a batch."""

    members: Tensor
    number: int
    steps: int
    size: int


@dataclass(frozen=True)
class _Work:
    """The training of one shard from a checkpoint through the remaining stages: all that a process needs."""

    examples: object
    start: _Checkpoint
    stages: tuple[_Stage, ...]
    recipe: Recipe


class Sisa(Fitted):
    """`fit(examples)`, `forget(indices) -> Receipt`, `logits(images)`; `plan(indices)` says beforehand what is hit.

    build        seed -> an untrained network
    recipe       its `epochs` are the E of the module docstring, the passes over a shard in all
    shards       S >= 1
    slices       R >= 1
    slicing      "cumulative" or "incremental"
    aggregation  "mean" of the shards' probabilities, "vote" (the share of shards for each class), or "weighted": the
                 mean with convex weights fitted by `weigh(examples)` on held-out examples
    workers      train shards in that many processes of one thread each; 0: here, one after another
    cluster      address (`tcp://...`) or scheduler file of a dask cluster to train shards on instead
    stacked      train shards here as one stacked network, where the architecture allows it (see above)
    """

    _ledger = "_present"

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
        workers: int = 0,
        cluster: str | None = None,
        stacked: bool = False,
    ):
        doors.whole(shards=shards, slices=slices)
        doors.whole(0, workers=workers)
        if slicing not in SLICINGS:
            raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, not {slicing!r}")
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
        if (workers > 0) + (cluster is not None) + stacked > 1:
            raise ValueError("give one of workers=, cluster= and stacked=True")
        self.build, self.recipe, self.seed, self.workers = build, recipe, seed, workers
        self.cluster, self.stacked = cluster, stacked
        self.shards, self.slices, self.slicing, self.aggregation = shards, slices, slicing, aggregation
        self.weights = torch.full((shards,), 1 / shards)

    def fit(self, examples, without: Sequence[int] | Tensor = ()) -> "Sisa":
        """Train on `examples`, but for the positions in `without`, which are then as if they had been forgotten."""
        examples = Examples.of(examples)
        n = len(examples)
        if n < self.shards * self.slices:
            raise ValueError(f"{n} examples cannot fill {self.shards} shards of {self.slices} slices: use fewer")
        present = doors.present(n, without)
        order = torch.randperm(n, generator=seeding.generator(self.seed, "assignment"))
        place = torch.empty(n, dtype=torch.int64)
        place[order] = torch.arange(n)
        self._examples = examples
        self._shard, self._slice = place % self.shards, (place // self.shards) % self.slices
        self._present = present
        started = time.perf_counter()
        self._checkpoints = [[_Checkpoint(self.build(self._number(shard)), None)] for shard in range(self.shards)]
        check_model(self._checkpoints[0][0].network, examples)
        self._networks: list[nn.Module | None] = [None] * self.shards
        work = self._train(dict.fromkeys(range(self.shards), 0))
        self.cost = Cost(time.perf_counter() - started, work)
        return self

    def plan(self, indices) -> pd.DataFrame:
        """What deleting `indices` will touch: shard, first stage, stages, and gradient evaluations until then."""
        index = doors.deletion(indices, self._present)
        kept = self._present.clone()
        kept[index] = False
        rows = []
        for shard in self._shard[index].unique().tolist():
            first = int(self._slice[index[self._shard[index] == shard]].min())
            work = sum(self._steps(shard, stage, kept)[1] for stage in range(first, self.slices))
            rows.append((shard, first, self.slices - first, work))
        return pd.DataFrame(rows, columns=["shard", "first stage", "stages", "gradient evaluations"])

    def forget(self, indices) -> Receipt:
        """Delete the points at `indices` and retrain what they had touched. Raises as `doors.deletion` does."""
        index = doors.deletion(indices, self._present)
        plan, started = self.plan(index), time.perf_counter()
        self._present[index] = False
        try:
            work = self._train(dict(zip(plan["shard"].tolist(), plan["first stage"].tolist(), strict=True)))
        except Exception:
            self._present[index] = True
            raise
        touched = {"shards": len(plan), "stages": int(plan["stages"].sum()), "points": len(index)}
        return Receipt(Cost(time.perf_counter() - started, work), touched, IN_LAW if self.stacked else EXACT)

    def logits(self, images: Tensor) -> Tensor:
        """Log of the aggregated probabilities, float32 [n, classes]; a class without a vote has probability 1e-6."""
        outputs = self.shard_logits(images)
        if self.aggregation == "vote":
            votes = torch.nn.functional.one_hot(outputs.argmax(2), outputs.shape[2])
            return votes.float().mean(0).clamp_min(1e-6).log()
        weights = self.weights if self.aggregation == "weighted" else torch.full_like(self.weights, 1 / self.shards)
        return torch.logsumexp(torch.log_softmax(outputs, 2) + weights.log()[:, None, None], 0)

    def shard_logits(self, images) -> Tensor:
        """What the single shards answer: float32 [shards, n, classes]. Who sees it learns who is in which shard."""
        pixels = doors.pixels(images, shape=self._examples.shape)
        return torch.stack([predict(network, pixels) for network in self._networks])

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

    def _number(self, shard: int, *more: int) -> int:  # a seed for a shard (and stage) of this learner
        return int(torch.randint(2**62, (1,), generator=seeding.generator(self.seed, "shard", shard, *more)))

    def _members(self, shard: int, stage: int, present: Tensor) -> Tensor:
        inside = self._slice <= stage if self.slicing == "cumulative" else self._slice == stage
        return (present & inside & (self._shard == shard)).nonzero().flatten()

    def _steps(self, shard: int, stage: int, present: Tensor) -> tuple[int, int]:
        """Optimiser steps of a stage, and the gradient evaluations that they take."""
        held = torch.bincount(self._slice[present & (self._shard == shard)], minlength=self.slices)
        sizes = (held.cumsum(0) if self.slicing == "cumulative" else held)[: stage + 1].tolist()
        batches = [n // min(n, self.recipe.batch_size) if n else 0 for n in sizes]  # in an epoch, all of them whole
        part, whole = (2, self.slices + 1) if self.slicing == "cumulative" else (1, 1)

        def due(stages: int) -> int:
            """Steps until the end of that many stages: the nearest integer to E part / whole times their batches."""
            return (2 * self.recipe.epochs * part * sum(batches[:stages]) + whole) // (2 * whole)

        steps = due(stage + 1) - due(stage)
        return steps, steps * min(sizes[stage], self.recipe.batch_size)

    def _train(self, first: Mapping[int, int]) -> int:
        """Train each shard in `first` from the stage that it names on, or none; returns the gradient evaluations."""
        works = {shard: self._work(shard, stage) for shard, stage in first.items()}
        for shard, ends in dict(self._ended(works)).items():
            *middle, last = ends
            self._checkpoints[shard][first[shard] + 1 :] = middle
            self._networks[shard] = last.network
        return sum(stage.steps * stage.size for work in works.values() for stage in work.stages)

    def _work(self, shard: int, first: int) -> _Work:
        stages = []
        for stage in range(first, self.slices):
            members = self._members(shard, stage, self._present)
            steps, _ = self._steps(shard, stage, self._present)
            size = min(len(members), self.recipe.batch_size)
            stages.append(_Stage(members, self._number(shard, stage), steps, size))
        return _Work(self._examples, self._checkpoints[shard][first], tuple(stages), self.recipe)

    def _ended(self, works: Mapping[int, _Work]) -> Iterator[tuple[int, list[_Checkpoint]]]:
        """(shard, its checkpoints after each stage) for each shard, wherever they are trained."""
        if self.stacked:
            yield from zip(works, _trained_together(list(works.values())), strict=True)
            return
        elsewhere = self.workers > 0 or self.cluster is not None
        if not elsewhere or len(works) == 1:  # what a worker computes on one thread must be so here, bit for bit
            with one_thread() if elsewhere else contextlib.nullcontext():
                yield from ((shard, _trained(work)) for shard, work in works.items())
            return
        jobs = [machines.Job(str(shard), _trained, work, kept=True) for shard, work in works.items()]
        ended = dict(machines.execute(jobs, workers=self.workers, cluster=self.cluster))
        for shard, result in ended.items():
            if isinstance(result, machines.Failed):
                raise RuntimeError(f"shard {shard} was not trained: {result.reason}")
            yield int(shard), result


def _batches(work: _Work, stage: _Stage) -> Iterator[Batch]:
    """Shuffled passes in which the order of any two examples does not depend on which others are there."""
    rng, labels = seeding.generator(stage.number, "order"), work.examples.labels

    def passes() -> Iterator[Batch]:
        while True:
            keys = torch.rand(len(labels), generator=rng, dtype=torch.float64)[stage.members]
            order = stage.members[keys.argsort(stable=True)]
            for start in range(0, len(order) - stage.size + 1, stage.size):
                index = order[start : start + stage.size]
                yield Batch(index, labels[index])

    skipped = -stage.steps % max(1, len(stage.members) // max(1, stage.size))
    return itertools.islice(passes(), skipped, skipped + stage.steps)


def _trained(work: _Work, _needs: Mapping | None = None) -> list[_Checkpoint]:
    """The shard after each stage: the checkpoints before the next ones, and its last state."""
    network, state, ends = copied(work.start.network), work.start.optimiser, []
    for stage in work.stages:
        if stage.steps:
            optimiser = optimiser_of(network.parameters(), work.recipe)
            if state is not None:
                optimiser.load_state_dict(copy.deepcopy(state))
            stream = _batches(work, stage)
            descend(network, work.examples, stream, work.recipe, stage.steps, seed=stage.number, optimiser=optimiser)
            state = optimiser.state_dict()
        ends.append(_Checkpoint(copied(network), copy.deepcopy(state)))
    return ends


def _trained_together(works: Sequence[_Work]) -> list[list[_Checkpoint]]:
    """As `_trained` for many shards, those with equally many steps stacked, each stage with a fresh optimiser."""
    ends: list[list[_Checkpoint]] = [[] for _ in works]
    groups: dict[tuple, list[int]] = {}
    for k, work in enumerate(works):
        groups.setdefault(tuple((stage.steps, stage.size) for stage in work.stages), []).append(k)
    for signature, members in groups.items():
        networks = [copied(works[k].start.network) for k in members]
        for r, (steps, _) in enumerate(signature):
            chosen = [(works[k], works[k].stages[r]) for k in members]
            networks = _stage_together(networks, chosen, steps) if steps else networks
            for k, network in zip(members, networks, strict=True):
                ends[k].append(_Checkpoint(copied(network), None))
    return ends


def _stage_together(networks: list[nn.Module], chosen: Sequence[tuple[_Work, _Stage]], steps: int) -> list[nn.Module]:
    examples, recipe = chosen[0][0].examples, chosen[0][0].recipe
    seeds = [stage.number for _, stage in chosen]
    try:
        if len(networks) == 1:
            raise Unstackable("one network needs no stack")
        streams = [_batches(*one) for one in chosen]
        return descend_many(networks, examples, streams, recipe, steps, seeds=seeds)
    except Unstackable:
        return [
            descend(network, examples, _batches(*one), recipe, steps, seed=seed)
            for network, one, seed in zip(networks, chosen, seeds, strict=True)
        ]


def expected_share(shards: int, slices: int, deletions: int = 1, slicing: str = "cumulative") -> float:
    """Share of a whole training that deleting `deletions` random points at once takes, in gradient evaluations.

    cumulative    2 / (R (R + 1))  sum_{r=1..R} r (1 - (1 - r / (S R))^k)
    incremental   1 / R            sum_{r=1..R}   (1 - (1 - r / (S R))^k)

    Stage r of a shard is run again if one of the k points lies in its slices 1..r, and trains on r units of data where
    slices accumulate, on one where they do not. In the limit of many points a slice; batches count in whole.
    """
    if slicing not in SLICINGS:
        raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, not {slicing!r}")
    again = [1 - (1 - r / (shards * slices)) ** deletions for r in range(1, slices + 1)]
    work = range(1, slices + 1) if slicing == "cumulative" else [1] * slices
    return sum(w * p for w, p in zip(work, again, strict=True)) / sum(work)


def expected_speedup(shards: int, slices: int, slicing: str = "cumulative") -> float:
    """Retraining everything over deleting one random point, in gradient evaluations: 1 / `expected_share`.

    cumulative    3 S R / (2 R + 1)     (slices alone: at most 1.5)
    incremental   2 S R / (R + 1)
    """
    return 1 / expected_share(shards, slices, 1, slicing)
