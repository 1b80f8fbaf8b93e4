"""SISA and class modules: after any deletions bit-identical to never having seen the points; costs on their laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dataset, examples

from unlearnlib import models, training
from unlearnlib.exact.modules import ClassModules
from unlearnlib.exact.sisa import Sisa, expected_speedup
from unlearnlib.training import Recipe

RECIPE = Recipe(epochs=3, batch_size=8, optimiser="adamw", lr=5e-3, schedule="constant")
DATA = examples(n=60)
OTHER = examples(n=30, seed=5)


def learner(slicing: str = "cumulative", **options) -> Sisa:
    ds = dataset()

    def build(seed):
        return models.build("mlp", ds, seed=seed, hidden=(32,))

    return Sisa(build, options.pop("recipe", RECIPE), shards=2, slices=3, slicing=slicing, seed=1, **options)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 59), min_size=1, max_size=6, unique=True),
    st.sampled_from(["cumulative", "incremental"]),
    st.booleans(),
)
def test_any_deletions_leave_the_model_that_never_saw_them(gone, slicing, one_by_one):
    after = learner(slicing).fit(DATA)
    for batch in [[i] for i in gone] if one_by_one else [gone]:
        after.forget(batch)
    never = learner(slicing).fit(DATA, without=gone)
    assert torch.equal(after.logits(OTHER.pixels()), never.logits(OTHER.pixels()))
    assert not torch.equal(after.logits(OTHER.pixels()), learner(slicing).fit(DATA).logits(OTHER.pixels()))


@pytest.mark.parametrize("recipe", [Recipe(epochs=2, batch_size=8, optimiser="sgd", lr=0.05, augment="shift")])
def test_exact_with_momentum_batch_norm_and_augmentation(recipe):
    ds = dataset()

    def build(seed):
        return models.build("resnet_bn", ds, seed=seed, width=4)

    make = lambda: Sisa(build, recipe, shards=2, slices=2, seed=0)  # noqa: E731
    after = make().fit(DATA)
    after.forget([3, 17])
    never = make().fit(DATA, without=[3, 17])
    assert torch.equal(after.logits(OTHER.pixels()), never.logits(OTHER.pixels()))


def test_a_checkpoint_without_the_optimiser_would_not_be_exact():
    """The planted defect: forgetting the optimiser's state at a restart changes the model."""
    after, index = learner().fit(DATA), None
    index = int(((after._shard == 0) & (after._slice == 2)).nonzero()[0])
    for checkpoint in after._checkpoints[0]:
        checkpoint.optimiser = None
    after.forget([index])
    never = learner().fit(DATA, without=[index])
    assert not torch.equal(after.logits(OTHER.pixels()), never.logits(OTHER.pixels()))


def test_other_shards_are_not_touched_and_the_plan_is_what_happens():
    sisa = learner().fit(DATA)
    before = [n for n in sisa._networks]
    index = int(((sisa._shard == 1) & (sisa._slice == 1)).nonzero()[0])
    plan = sisa.plan([index])
    receipt = sisa.forget([index])
    assert plan[["shard", "first stage", "stages"]].values.tolist() == [[1, 1, 2]]
    assert receipt.cost.gradient_evaluations == plan["gradient evaluations"].sum() > 0
    assert receipt.touched == {"shards": 1, "stages": 2, "points": 1} and receipt.certificate.kind == "exact"
    assert sisa._networks[0] is before[0] and sisa._networks[1] is not before[1]


@pytest.mark.parametrize("slicing", ["cumulative", "incremental"])
@pytest.mark.parametrize("shards, slices", [(1, 4), (4, 4), (5, 1)])
def test_costs_lie_on_the_law(shards, slices, slicing):
    sisa = learner(slicing)
    sisa.shards, sisa.slices = shards, slices
    sisa.recipe = Recipe(epochs=(slices + 1) * 2, batch_size=1, schedule="constant")
    place = torch.arange(240)
    sisa._shard, sisa._slice = place % shards, (place // shards) % slices
    sisa._present = torch.ones(240, dtype=torch.bool)
    whole = sum(sisa._steps(s, r, sisa._present)[1] for s in range(shards) for r in range(slices))
    one = np.mean([sisa.plan([i])["gradient evaluations"].sum() for i in range(240)])
    # One point fewer in its slice is all that the law leaves out.
    assert whole / one == pytest.approx(expected_speedup(shards, slices, slicing), rel=0.05)


def test_the_law_has_its_known_values():
    assert expected_speedup(10, 5) == pytest.approx(13.64, abs=0.005)
    assert expected_speedup(1, 10**6) == pytest.approx(1.5, abs=1e-5)
    assert expected_speedup(1, 10**6, "incremental") == pytest.approx(2, abs=1e-5)


def test_one_shard_and_one_slice_is_ordinary_training_on_what_is_left():
    sisa = learner()
    sisa.shards = sisa.slices = 1
    sisa.fit(DATA)
    assert training.predict(sisa._networks[0], OTHER).argmax(1).eq(OTHER.labels).float().mean() > 0.8
    receipt = sisa.forget([0])
    assert receipt.cost.gradient_evaluations == 3 * 7 * 8  # three passes of seven whole batches of eight


@pytest.mark.parametrize("aggregation", ["mean", "vote", "weighted"])
def test_aggregations_classify(aggregation):
    sisa = learner(aggregation=aggregation).fit(DATA)
    if aggregation == "weighted":
        weights = sisa.weigh(OTHER)
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-5)
    probability = sisa.logits(OTHER.pixels()).exp()
    assert (probability.argmax(1) == OTHER.labels).float().mean() > 0.8
    assert torch.allclose(probability.sum(1), torch.ones(30), atol=1e-5)


def test_weights_find_the_shard_that_knows():
    sisa = learner(aggregation="weighted").fit(DATA)
    torch.nn.init.zeros_(sisa._networks[0][-1].weight)  # one shard now knows nothing
    torch.nn.init.zeros_(sisa._networks[0][-1].bias)
    assert sisa.weigh(OTHER)[0] < 0.05


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=25, unique=True))
def test_modules_are_exact_and_touch_only_their_classes(gone):
    make = lambda: ClassModules(hidden=8, steps=20, seed=3)  # noqa: E731
    after = make().fit(DATA)
    before = list(after._modules)
    receipt = after.forget(gone)
    hit = set(DATA.labels[gone].tolist())
    assert receipt.touched == {"modules": len(hit), "points": len(gone)}
    assert [a is b for a, b in zip(before, after._modules, strict=True)] == [c not in hit for c in range(3)]
    assert torch.equal(after.logits(OTHER.pixels()), make().fit(DATA, without=gone).logits(OTHER.pixels()))


def test_modules_classify_and_lose_a_deleted_class():
    modules = ClassModules(hidden=8, steps=200).fit(DATA)
    assert (modules.logits(OTHER.pixels()).argmax(1) == OTHER.labels).float().mean() > 0.8
    modules.forget((DATA.labels == 2).nonzero().flatten())
    assert not (modules.logits(OTHER.pixels()).argmax(1) == 2).any()


def test_refusals():
    for make in (learner, lambda: ClassModules(steps=2)):
        fitted = make().fit(DATA)
        fitted.forget([1])
        for bad in ([1], [2, 2], [60], [-1], []):
            with pytest.raises(ValueError, match="deleted once|give positions"):
                fitted.forget(bad)
    with pytest.raises(ValueError, match="cannot fill"):
        learner().fit(examples(n=5))
    with pytest.raises(ValueError, match="slicing must be one of"):
        learner("diagonal")
