"""Datamodels: sums over the training set are found exactly, pairs not at all, and noise is told from both."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso, Ridge
from small import dataset, examples

from unlearnlib import attribution, training
from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def loose(models=60, n=30, seed=0):
    """Subsets of any size."""
    return torch.rand(models, n, generator=rng(seed)) < 0.5


def kernel_sums(masks, outputs=4, noise=0.0):
    """f_x(S) = sum_{i in S} k_ix + c_x, what kernel regression with fixed weights answers; k, c and the outputs."""
    k = torch.randn(masks.shape[1], outputs, generator=rng(1), dtype=torch.float64)
    c = torch.randn(outputs, generator=rng(2), dtype=torch.float64)
    e = torch.randn(len(masks), outputs, generator=rng(3), dtype=torch.float64)
    return k, c, masks.double() @ k + c + noise * e


def test_subsets_have_their_size_are_drawn_from_the_seed_and_differ():
    masks = attribution.subset_masks(41, 20, 0.3, seed=5)
    assert masks.shape == (20, 41) and masks.dtype == torch.bool and set(masks.sum(1).tolist()) == {12}
    assert torch.equal(masks, attribution.subset_masks(41, 20, 0.3, seed=5))
    assert torch.equal(masks[:7], attribution.subset_masks(41, 7, 0.3, seed=5))  # more models keep the first ones
    assert not torch.equal(masks, attribution.subset_masks(41, 20, 0.3, seed=6)) and len(masks.unique(dim=0)) == 20
    often = attribution.subset_masks(10, 4000, 0.3, seed=0).double().mean(0)
    assert ((often - 0.3).abs() < 5 * (0.21 / 4000) ** 0.5).all()
    for share in (0.0, 1.0, 0.001, float("nan"), "half"):
        with pytest.raises(ValueError, match="none or all of them"):
            attribution.subset_masks(41, 5, share, seed=0)


def test_sums_over_the_training_set_are_found_to_rounding():
    masks = loose()
    k, c, outputs = kernel_sums(masks)
    found = Datamodel.fit(masks, outputs, ridge=0)
    assert (found.weights - k).abs().max() < 1e-13 and (found.intercept - c).abs().max() < 1e-13
    gone = torch.tensor([3, 7, 8])
    everything, left = torch.ones(1, 30, dtype=torch.bool), torch.ones(1, 30, dtype=torch.bool)
    left[0, gone] = False
    truth = left.double() @ k + c  # the model without them
    original = everything.double() @ k + c
    assert (attribution.direct(found, original, gone) - truth).abs().max() < 1e-13
    assert (found.predict(left) - truth).abs().max() < 1e-13
    assert found.lds(loose(seed=9), kernel_sums(loose(seed=9))[2]) == pytest.approx(1.0)


def test_subsets_of_one_size_leave_a_common_constant_open():
    masks = attribution.subset_masks(30, 80, 0.5, seed=0)
    k, _, outputs = kernel_sums(masks)
    found = Datamodel.fit(masks, outputs, ridge=0)
    assert (found.weights - (k - k.mean(0))).abs().max() < 1e-12
    assert (found.predict(masks) - outputs).abs().max() < 1e-12  # which subsets of that size do not show


def test_pairs_alone_are_not_seen():
    """XOR on a full factorial: every beta is 0, and the direct answer to any deletion is no change."""
    masks = torch.tensor(list(itertools.product((False, True), repeat=4)))
    outputs = (masks[:, 0] ^ masks[:, 1]).double()[:, None] + 2 * (masks[:, 2] ^ masks[:, 3]).double()[:, None]
    found = Datamodel.fit(masks, outputs, ridge=0)
    assert found.weights.abs().max() < 1e-14 and (found.intercept - 1.5).abs().max() < 1e-14
    truth = outputs[-1] - outputs[0b0111]  # without the first example the answer does change
    assert truth.abs() == 1 and found.effect([0]).abs().max() < 1e-14


@pytest.mark.parametrize("weight", [0.3, 30.0])
def test_ridge_and_lasso_are_those_of_scikit_learn(weight):
    masks = loose()
    _, _, outputs = kernel_sums(masks, noise=0.5)
    x, y = masks.double().numpy(), outputs.numpy()
    ours, theirs = Datamodel.fit(masks, outputs, ridge=weight), Ridge(alpha=weight).fit(x, y)
    assert np.allclose(ours.weights, theirs.coef_.T, atol=1e-10) and np.allclose(ours.intercept, theirs.intercept_)
    assert ours.penalty == f"ridge {weight:.3g}" and ours.models == 60 and len(ours) == 30
    sparse = Datamodel.fit(masks, outputs, lasso=weight / 300)
    theirs = Lasso(alpha=weight / 300, tol=1e-10).fit(x, y)
    assert np.allclose(sparse.weights, theirs.coef_.T, atol=1e-4)
    assert (sparse.weights == 0).double().mean() == pytest.approx((theirs.coef_ == 0).mean(), abs=0.02)


@pytest.mark.parametrize("many", [40, 90])  # fewer models than examples, and more
def test_the_held_out_penalty_has_the_least_error_on_each_model_in_turn(many):
    masks = loose(many, 60)
    _, _, outputs = kernel_sums(masks, noise=2.0)

    def error(weight):
        """One regression for each model that is left out, by another library."""
        x, y = masks.double().numpy(), outputs.numpy()
        left = [np.delete(np.arange(many), k) for k in range(many)]
        return np.mean([(Ridge(alpha=weight).fit(x[i], y[i]).predict(x[[k]]) - y[k]) ** 2 for k, i in enumerate(left)])

    chosen = float(Datamodel.fit(masks, outputs).penalty.removeprefix("ridge "))
    assert error(chosen) < min(error(chosen / 4), error(chosen * 4))
    assert error(chosen) < min(error(1e-3), error(1e3))
    found = attribution.datamodels._Ridge(*(v - v.mean(0) for v in (masks.double(), outputs)))
    assert found.best() == pytest.approx(chosen, rel=1e-2)


def test_the_held_out_lasso_keeps_the_examples_that_matter():
    masks, few = loose(200, 40), torch.zeros(40, 2, dtype=torch.float64)
    few[:3] = 4.0
    outputs = masks.double() @ few + torch.randn(200, 2, generator=rng(4), dtype=torch.float64)
    found = Datamodel.fit(masks, outputs, lasso="held-out")
    assert found.penalty.startswith("lasso ") and (found.weights[:3] > 3).all()
    assert found.weights[3:].abs().max() < 0.4 and (found.weights[3:] == 0).double().mean() > 0.3


def test_outputs_that_have_nothing_to_do_with_the_subsets_score_zero():
    masks = attribution.subset_masks(40, 400, 0.5, seed=0)
    _, _, outputs = kernel_sums(masks, outputs=50)
    shuffled = outputs[torch.randperm(400, generator=rng(7))]
    held_out = attribution.subset_masks(40, 200, 0.5, seed=1)
    _, _, truth = kernel_sums(held_out, outputs=50)
    assert abs(Datamodel.fit(masks, shuffled).lds(held_out, truth)) < 5 / 200**0.5  # five standard errors of one rank
    assert Datamodel.fit(masks, outputs).lds(held_out, truth) > 0.999
    assert float(Datamodel.fit(masks, shuffled).weights.abs().max()) < 0.2 * float(outputs.std())


def test_the_score_is_spearmans_and_blind_to_shrinkage():
    a, b = (torch.randn(30, 5, 2, generator=rng(s)).round(decimals=1) for s in (0, 1))  # with ties
    mean = np.mean([spearmanr(a[:, i, j], b[:, i, j]).statistic for i in range(5) for j in range(2)])
    assert attribution.lds(a, b) == pytest.approx(mean, abs=1e-12)
    assert attribution.lds(0.1 * a - 3, b) == attribution.lds(a, b)
    assert attribution.lds(torch.zeros(30, 2), b[:, :2, 0]) == 0.0 and attribution.lds(a, a) == pytest.approx(1.0)


def test_outputs_of_any_shape_keep_it():
    masks = loose()
    outputs = torch.randn(60, 3, 4, generator=rng(5))
    found = Datamodel.fit(masks, outputs, ridge=2.0)
    assert found.weights.shape == (30, 3, 4) and found.weights.dtype == torch.float32
    assert found.predict(masks[:7]).shape == (7, 3, 4) and found.effect([1, 2]).shape == (3, 4)
    flat = Datamodel.fit(masks, outputs.flatten(1), ridge=2.0)
    assert torch.equal(flat.weights, found.weights.flatten(1))
    chosen = torch.zeros(30, dtype=torch.bool)
    chosen[[1, 2]] = True
    assert torch.equal(found.effect(chosen), found.effect([1, 2])) and not found.effect([]).any()


def test_a_datamodel_of_trained_networks_predicts_held_out_ones_and_counts_them():
    train, tally = examples(n=40), Tally()
    recipe = Recipe(epochs=6, batch_size=20, lr=0.02)
    masks = attribution.subset_masks(40, 150, 0.5, seed=0)
    build = lambda seed: models.build("mlp", dataset(), seed=seed, hidden=())  # noqa: E731
    # one initialisation and one order: nothing but the subset differs
    trained = training.fit_many(build, train, masks, recipe, [7] * 150, tally=tally, progress=False)
    outputs = torch.stack([training.predict(model, train) for model in trained])
    found = Datamodel.fit(masks[:120], outputs[:120], examples=train, work=tally.work)
    assert found.lds(masks[120:], outputs[120:]) > 0.5
    assert found.checksum == train.checksum() and found.work == 3 * 150 * 6 * 20


def test_the_number_of_requests_that_pay_for_the_models():
    assert attribution.break_even(1000, 4, 10) == 167  # 1000 + 167 x 4 <= 167 x 10, and not with 166
    assert attribution.break_even(0, 4, 10) == 1 and attribution.break_even(10, 10, 10) == float("inf")
    with pytest.raises(ValueError, match="give work"):
        attribution.break_even(1, 1, 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, y: Datamodel.fit(m.float(), y), "masks must be a bool tensor"),
        (lambda m, y: Datamodel.fit(m[:-1], y), "a row for each of the 59 masks"),
        (lambda m, y: Datamodel.fit(m[:2], y[:2]), "three models or more"),
        (lambda m, y: Datamodel.fit(m, y * float("nan")), "must be finite"),
        (lambda m, y: Datamodel.fit(m, y, ridge=-1.0), "ridge is a number of at least 0"),
        (lambda m, y: Datamodel.fit(m, y, lasso="much"), "lasso is a number of at least 0"),
        (lambda m, y: Datamodel.fit(m, y, examples=examples(n=31)), "masks are of 30 examples"),
        (lambda m, y: Datamodel.fit(m, y).effect([30]), "30 is out of range"),
        (lambda m, y: Datamodel.fit(m, y).effect(torch.ones(29, dtype=torch.bool)), "a mask must have 30 entries"),
        (lambda m, y: Datamodel.fit(m, y).predict(m[:, :5]), r"masks must be a bool tensor \[models, 30\]"),
        (lambda m, y: attribution.lds(y, y[:-1]), "must be alike"),
        (lambda m, y: attribution.lds(y[:2], y[:2]), "three held-out subsets"),
        (lambda m, y: attribution.direct(Datamodel.fit(m, y), y[:, :3], [0]), "the datamodel has outputs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    masks = loose()
    with pytest.raises(ValueError, match=message) as refusal:
        call(masks, kernel_sums(masks)[2])
    assert "\n" not in str(refusal.value)
