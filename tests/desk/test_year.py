"""A year of requests: arrivals with the law they claim, batches by the rule of the queue, chains that add up."""

import numpy as np
import pytest
import small
import torch
from scipy.stats import kstest

from unlearnlib.desk import streams
from unlearnlib.desk.queue import Batching
from unlearnlib.exact.sisa import Sisa
from unlearnlib.private.certified import CertifiedNewton
from unlearnlib.training import models
from unlearnlib.training.loop import fit
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01)
TRAIN = small.examples(60)


def build(seed):
    return models.build("mlp", small.dataset(n=60), seed=seed, hidden=[6])


def test_arrivals_are_poisson_uniform_and_each_for_another_example():
    counts = [len(streams.arrivals(1000, 0.05, seed)[0]) for seed in range(400)]
    assert abs(np.mean(counts) - 50) < 4 * np.sqrt(50 / 400) and 0.8 < np.var(counts) / 50 < 1.25
    days, index = streams.arrivals(5000, 0.5, seed=1)
    assert (np.diff(days) >= 0).all() and len(np.unique(index)) == len(index)
    assert kstest(days / 365, "uniform").pvalue > 0.001 and kstest(index / 5000, "uniform").pvalue > 0.001
    for rate in (0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="rate is the share"):
            streams.arrivals(10, rate)


def test_batches_are_due_as_the_queue_says_and_lose_nobody():
    days, index = streams.arrivals(1000, 0.2, seed=0)
    for rule in (Batching(), Batching(size=30), Batching(size=10**6, days=30), Batching(size=30, days=30)):
        found = streams.batches(days, index, rule)
        assert np.array_equal(np.concatenate([b.index for b in found]), index)
        assert all((b.waited >= 0).all() for b in found)
        assert all(b.waited.max() <= min(rule.days, 365) + 1 for b in found)
        assert all(len(b.index) <= rule.size for b in found)
    assert len(streams.batches(days, index, Batching())) == len(index)
    by_number = streams.batches(days, index, Batching(size=30))
    assert {len(b.index) for b in by_number[:-1]} == {30} and by_number[-1].day <= 365


def stream(*groups):
    return [streams.Batch(float(k), np.array(g), np.zeros(len(g))) for k, g in enumerate(groups)]


def test_a_chain_of_retraining_is_training_on_what_is_left():
    learner = streams.Chained("retrain", build, RECIPE, {"recipe": RECIPE}, seed=2).fit(TRAIN)
    looked = []
    told = streams.follow(
        learner, stream([1, 2], [30]), lambda who, gone: looked.append(gone.tolist()) or {"n": len(gone)}
    )
    assert looked == [[1, 2], [1, 2, 30]] and told["n"].tolist() == [2, 3] and told["retrained"].tolist() == [1, 2]
    kept = torch.ones(60, dtype=torch.bool)
    kept[[1, 2, 30]] = False
    seed = 1000 * 3 + 2
    wanted = fit(learner.model, TRAIN[kept], RECIPE, seed=seed, progress=False)
    start = models.fresh(build(2), seed, TRAIN[:4].pixels())
    assert small.same(small.state(learner.model), small.state(fit(start, TRAIN[kept], RECIPE, seed, progress=False)))
    assert wanted is not None and told["work"].is_monotonic_increasing and (told["epsilon"] == 0).all()


def test_a_chain_trains_anew_when_enough_is_gone_and_doing_nothing_does_nothing():
    chain = streams.Chained("finetune", build, RECIPE, {"epochs": 1}, retrain_at=0.1).fit(TRAIN)
    told = streams.follow(chain, stream(range(5), range(5, 7), range(7, 10)), lambda *_: {})
    assert told["retrained"].tolist() == [0, 1, 1]  # after seven of 60; the next three are 3 of 53
    assert told["epsilon"].isna().all()
    idle = streams.Nothing(build, RECIPE).fit(TRAIN)
    before = small.state(idle.model)
    told = streams.follow(idle, stream([1], [2]), lambda *_: {})
    assert told["work"].tolist() == [0, 0] and small.same(before, small.state(idle.model))
    with pytest.raises(ValueError, match="already forgotten"):
        idle.forget([1])


def test_exact_and_certified_learners_are_policies_too():
    sharded = Sisa(build, RECIPE, shards=2, slices=2).fit(TRAIN)
    told = streams.follow(sharded, stream([1], [2, 3]), lambda *_: {})
    twin = Sisa(build, RECIPE, shards=2, slices=2).fit(TRAIN, without=[1, 2, 3])
    assert torch.equal(twin.logits(TRAIN.pixels()), sharded.logits(TRAIN.pixels())) and (told["epsilon"] == 0).all()
    certified = CertifiedNewton(lam=0.1, sigma=3.0, residual_constant=0.0482, on_exhausted="retrain").fit(TRAIN)
    told = streams.follow(certified, stream([1], range(2, 50)), lambda *_: {})
    assert told["epsilon"].tolist() == [1.0, 0.0] and told["retrained"].tolist() == [0, 1]
