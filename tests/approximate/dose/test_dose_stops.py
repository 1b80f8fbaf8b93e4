"""When to stop, and when not to begin."""

import dataclasses
import math

import pytest
import torch
from dosing import PLAIN, loss
from small import same, state

import unlearnlib as ul
from unlearnlib.approximate import dose
from unlearnlib.training.recipe import Recipe


def test_forgetting_stops_when_the_forget_set_is_no_better_known_than_unseen_pictures(memorised):
    model, parts = memorised
    settings = {"seed": 0, "lr": 0.02, "batch_size": 20, **PLAIN}
    target = 0.0
    for c, share in enumerate(torch.bincount(parts.forget.labels, minlength=3) / len(parts.forget)):
        target += share.item() * loss(model, parts.validation[parts.validation.labels == c]).item()
    stopped = ul.unlearn("neggrad", model, parts, epochs=60, parts=(dose.EarlyStop(),), **settings)
    count = stopped.cost.gradient_evaluations // 20
    before = ul.unlearn("neggrad", model, parts, epochs=count - 1, **settings).model
    assert 1 < count < 60 and loss(before, parts.forget) < target <= loss(stopped.model, parts.forget)
    rarely = ul.unlearn("neggrad", model, parts, epochs=60, parts=(dose.EarlyStop(7),), **settings)
    assert rarely.cost.gradient_evaluations == 20 * 7 * math.ceil(count / 7)
    bare = dataclasses.replace(parts, validation=parts.validation[:0])
    with pytest.raises(ValueError, match="no example of a forgotten class"):
        ul.unlearn("neggrad", model, bare, epochs=1, parts=(dose.EarlyStop(),), **settings)


def test_a_ratio_cap_refuses_or_retrains(trained):
    model, parts = trained  # 20 of 120 are to be forgotten
    settings = {"seed": 4, "epochs": 1}
    free = ul.unlearn("neggrad", model, parts, **settings).model
    below = ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.2),), **settings).model
    assert same(state(below), state(free))
    with pytest.raises(ValueError, match="0.167 of the data are to be forgotten, more than kappa = 0.1: retrain"):
        ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.1),), **settings)
    recipe = Recipe(epochs=1)
    cap = dose.RatioCap(0.1, "retrain", recipe)
    instead = ul.unlearn("neggrad", model, parts, parts=(dose.L2SP(1.0), cap), **settings).model
    assert same(state(instead), state(ul.unlearn("retrain", model, parts, seed=4, recipe=recipe).model))
    with pytest.raises(ValueError, match="refuse or retrain"):
        ul.unlearn("neggrad", model, parts, parts=(dose.RatioCap(0.1, "ignore"),), **settings)
    for caps in ((cap, dose.RatioCap(0.15)), (dose.RatioCap(0.15), cap)):  # a cap that refuses is not outvoted
        with pytest.raises(ValueError, match="more than kappa = 0.15"):
            ul.unlearn("neggrad", model, parts, parts=caps, **settings)


@pytest.mark.parametrize("method", ["neggrad", "delete", "scrub_r"])
@pytest.mark.parametrize("kept", [0, 5])
def test_an_early_stop_is_no_yardstick_for_whole_classes(method, kept, trained):
    # The start knows unseen pictures of a forgotten class as well as ever; retraining knows none of them.
    model, parts = trained
    labels = parts.train.labels
    forget = (labels == 0) | ((labels == 1) & (torch.arange(len(labels)) < kept))  # a class alone, or with others
    whole = dataclasses.replace(parts, is_forget=forget)
    with pytest.raises(ValueError, match="^EarlyStop compares .* not for whole classes$"):
        ul.unlearn(method, model, whole, seed=0, parts=(dose.EarlyStop(),))
