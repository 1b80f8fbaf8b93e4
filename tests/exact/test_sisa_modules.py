"""SISA and class modules: after any deletions bit-identical to never having seen the points; costs on their laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dataset, examples

from unlearnlib import training
from unlearnlib.exact.modules import ClassModules
from unlearnlib.exact.sisa import Sisa, expected_share, expected_speedup
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

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


@pytest.mark.parametrize("slicing", ["cumulative", "incremental"])
@pytest.mark.parametrize("deletions", [1, 5, 30])
def test_batches_cost_what_the_law_says(slicing, deletions):
    sisa, rng = learner(slicing), np.random.default_rng(0)
    sisa.shards, sisa.slices = 4, 3
    sisa.recipe = Recipe(epochs=8, batch_size=1, schedule="constant")
    place = torch.arange(600)
    sisa._shard, sisa._slice = place % 4, (place // 4) % 3
    sisa._present = torch.ones(600, dtype=torch.bool)
    whole = sum(sisa._steps(s, r, sisa._present)[1] for s in range(4) for r in range(3))
    batches = [rng.choice(600, deletions, replace=False) for _ in range(300)]
    share = np.mean([sisa.plan(b)["gradient evaluations"].sum() for b in batches]) / whole
    assert share == pytest.approx(expected_share(4, 3, deletions, slicing), rel=0.08)


@pytest.mark.parametrize("epochs, slices", [(2, 8), (1, 20), (3, 4), (5, 2), (20, 4), (7, 1)])
def test_a_shard_makes_the_passes_of_the_law_whatever_its_slices(epochs, slices):
    """2 epochs over 8 slices were 4.5 passes when every stage rounded up to a whole one."""
    sisa = learner(recipe=replace(RECIPE, epochs=epochs, batch_size=1))
    sisa.shards, sisa.slices = 2, slices
    place = torch.arange(2 * slices * 5)
    sisa._shard, sisa._slice = place % 2, (place // 2) % slices
    present = torch.ones(len(place), dtype=torch.bool)
    work = [sum(sisa._steps(shard, r, present)[1] for r in range(slices)) for shard in range(2)]
    assert work == [epochs * slices * 5] * 2
    if 2 * epochs % (slices + 1) == 0:  # whole epochs a stage: what was exact stays as it was
        stages = [sisa._steps(0, r, present)[0] for r in range(slices)]
        assert stages == [2 * epochs // (slices + 1) * 5 * (r + 1) for r in range(slices)]


@pytest.mark.parametrize("epochs, slices", [(2, 8), (1, 4), (4, 3)])
@pytest.mark.parametrize("slicing", ["cumulative", "incremental"])
def test_stages_that_end_within_an_epoch_are_exact(epochs, slices, slicing):
    def make():
        sisa = learner(slicing, recipe=replace(RECIPE, epochs=epochs, batch_size=4))
        sisa.slices = slices
        return sisa

    after = make().fit(DATA)
    work = after.cost.gradient_evaluations
    assert work == pytest.approx(epochs * len(DATA), rel=0.25)  # incomplete batches are dropped
    for batch in ([7], [11, 30, 2]):
        after.forget(batch)
    never = make().fit(DATA, without=[7, 11, 30, 2])
    assert torch.equal(after.logits(OTHER.pixels()), never.logits(OTHER.pixels()))


def test_the_law_has_its_known_values():
    assert expected_share(7, 5, 10**6) == expected_share(7, 5, 10**6, "incremental") == 1
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


def test_shards_trained_in_processes_have_the_same_bits():
    """At once or one after another, by fit or by deletion: the promise of bit-identity is kept."""
    alone, at_once = learner().fit(DATA), learner(workers=2).fit(DATA)
    gone = [int(((alone._shard == s) & (alone._slice == 1)).nonzero()[0]) for s in (0, 1)]
    for index in (gone, [59 if 59 not in gone else 58]):
        assert torch.equal(alone.logits(OTHER.pixels()), at_once.logits(OTHER.pixels()))
        receipts = [sisa.forget(index) for sisa in (alone, at_once)]
        assert receipts[0].touched == receipts[1].touched
        assert receipts[0].cost.gradient_evaluations == receipts[1].cost.gradient_evaluations
    assert torch.equal(alone.logits(OTHER.pixels()), at_once.logits(OTHER.pixels()))
    with pytest.raises(ValueError, match="one of workers"):
        learner(workers=2, stacked=True)


@pytest.mark.parametrize("slices", [1, 3])
def test_stacked_shards_are_the_lone_ones_up_to_rounding(slices):
    def make(stacked):
        sisa = learner(recipe=Recipe(epochs=2, batch_size=8, optimiser="sgd", lr=0.02, momentum=0), stacked=stacked)
        sisa.slices = slices
        return sisa

    lone, together = make(False).fit(DATA), make(True).fit(DATA)  # without momentum a fresh optimiser is no change
    for index in ([3, 17, 41], [5]):
        torch.testing.assert_close(lone.logits(OTHER.pixels()), together.logits(OTHER.pixels()), rtol=1e-4, atol=1e-4)
        assert lone.cost.gradient_evaluations == together.cost.gradient_evaluations
        exact, in_law = lone.forget(index), together.forget(index)
        assert (
            exact.certificate.kind == in_law.certificate.kind == "exact"
            and "in law" in in_law.certificate.compared_with
        )
    never = make(True).fit(DATA, without=[3, 17, 41, 5])
    torch.testing.assert_close(together.logits(OTHER.pixels()), never.logits(OTHER.pixels()), rtol=1e-4, atol=1e-4)


def test_a_deletion_that_fails_changes_nothing():
    sisa = learner().fit(DATA)
    before, recipe = sisa.logits(OTHER.pixels()), sisa.recipe
    sisa.recipe = replace(recipe, lr=1e30)
    with pytest.raises(training.Diverged):
        sisa.forget([0])
    sisa.recipe = recipe
    assert torch.equal(sisa.logits(OTHER.pixels()), before) and bool(sisa._present.all())
    sisa.forget([0])
    assert torch.equal(sisa.logits(OTHER.pixels()), learner().fit(DATA, without=[0]).logits(OTHER.pixels()))


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
        for bad, message in (
            ([1], "already"),
            ([2, 2], "twice"),
            ([60], "0 to 59"),
            ([-1], "0 to 59"),
            ([], "no position"),
        ):
            with pytest.raises(ValueError, match=message):
                fitted.forget(bad)
    with pytest.raises(ValueError, match="cannot fill"):
        learner().fit(examples(n=5))
    with pytest.raises(ValueError, match="slicing must be one of"):
        learner("diagonal")
