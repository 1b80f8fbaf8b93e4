"""SSD and ASSD: defaults that act, what is said where they cannot, and the adaptive threshold."""

import warnings

import pytest
import torch
from torch import nn

import unlearnlib as ul
from unlearnlib import data, training
from unlearnlib.approximate.assd import adaptive_alpha, percentile
from unlearnlib.approximate.ssd import Dampening, chosen_alpha
from unlearnlib.methods import registry
from unlearnlib.training import models, recipes
from unlearnlib.training.prediction import accuracy


@pytest.fixture(scope="module")
def digits():
    ds = data.load("digits")
    parts = data.split(ds, forget="class:3", seed=0)
    model = models.build("mlp", ds, seed=0, hidden=(64,))
    recipe = recipes.recipe_for("digits", "mlp")
    return training.fit(model, parts.train, recipe, seed=0, progress=False), parts


def changed(model, after) -> int:
    vector = nn.utils.parameters_to_vector
    return int((vector(after.parameters()) != vector(model.parameters())).sum())


def test_the_default_forgets_a_class_and_keeps_the_others(digits):
    model, parts = digits
    for name in ("ssd", "assd"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            after = ul.unlearn(name, model, parts, seed=0).model
        others = parts.test[parts.test.labels != 3]
        assert accuracy(after, parts.forget) < 0.3 < 0.95 < accuracy(after, others), name
        assert accuracy(model, parts.forget) > 0.98


def test_an_alpha_that_selects_nothing_is_said_in_one_line(digits):
    model, parts = digits
    with pytest.warns(UserWarning, match=r"alpha 10 selects no weight: .* \|D\| / \|F\| = 9.88") as said:
        after = ul.unlearn("ssd", model, parts, seed=0, alpha=10.0).model
    assert changed(model, after) == 0 and len(said) == 1 and "\n" not in str(said[0].message)
    with warnings.catch_warnings():  # squares of a batch's mean gradient are bound by no such ratio
        warnings.simplefilter("error")
        released = ul.unlearn("ssd", model, parts, seed=0, **registry.find("ssd").published).model
    assert changed(model, released) > 0


@pytest.mark.parametrize("forget, retain", [(1, 999), (10, 990), (100, 900), (500, 500), (900, 100)])
def test_the_default_alpha_is_between_one_and_the_ratio_of_sizes(forget, retain):
    ratio = (forget + retain) / forget
    assert 1 < chosen_alpha(Dampening(), forget, retain) < ratio
    assert chosen_alpha(Dampening(power=0.0), forget, retain) == 1
    assert chosen_alpha(Dampening(), 10, 990) == pytest.approx(10)  # the authors', for a class of CIFAR-100


def test_the_range_of_the_search_has_no_part_in_which_nothing_happens(digits):
    model, parts = digits
    for name in ("ssd", "lfssd"):
        low, high = registry.find(name).search["power"]
        for power in (low, high):
            assert changed(model, ul.unlearn(name, model, parts, seed=0, power=power, dampening=0.1).model) > 0


def test_the_adaptive_percentile():
    assert percentile(1, 99) == pytest.approx(99.307, abs=5e-4) and percentile(10, 90) == pytest.approx(
        97.602, abs=5e-4
    )
    forget, retain = torch.arange(1.0, 1001.0).double(), torch.ones(1000).double()
    assert adaptive_alpha(forget, retain, 97.5) == pytest.approx(0.975 * 999 + 1)
    forget, retain = torch.cat([forget, torch.tensor([3.0, 0.0])]), torch.cat([retain, torch.zeros(2)])
    assert adaptive_alpha(forget, retain, 97.5) == pytest.approx(0.975 * 999 + 1)  # infinite and undefined ratios
    assert adaptive_alpha(torch.ones(2), torch.zeros(2), 97.5) == 0


def test_assd_dampens_its_share_of_the_weights(digits):
    model, parts = digits
    after = ul.unlearn("assd", model, parts, seed=0, dampening=0.0).model
    used = sum(int((p != 0).sum()) for p in model.parameters())
    share = 1 - percentile(len(parts.forget_index), len(parts.retain_index)) / 100
    assert changed(model, after) == pytest.approx(share * used, rel=0.25)  # weights without a ratio do not count


@pytest.mark.parametrize(
    "name, wrong",
    [("ssd", {"power": 1.5}), ("ssd", {"group_size": 0}), ("assd", {"group_size": 0}), ("lfssd", {"power": -1})],
)
def test_refusals(name, wrong, digits):
    with pytest.raises(ValueError, match="needs?|power"):
        ul.unlearn(name, *digits, seed=0, **wrong)
