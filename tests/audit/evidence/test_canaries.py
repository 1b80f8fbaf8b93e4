"""Planted evidence: exact nulls by simulation, planted signals recovered, hand counts."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.metrics import confusion_matrix as sklearn_confusion

from unlearnlib.audit.evidence import canaries as c
from unlearnlib.seeding import isolated, numpy_generator


def one_hot(answers, classes):
    return np.eye(classes)[np.asarray(answers)]


def test_confusion_matrix_and_interclass_rate():
    true, answers = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 0, 2, 0, 1, 2, 0])
    logits = one_hot(answers, 3)
    np.testing.assert_array_equal(c.confusion_matrix(logits, true), sklearn_confusion(true, answers))
    got = c.interclass_confusion(logits, true, (0, 1))
    assert (got.count, got.n, got.rate) == (2, 5, 0.4)  # 0 taken for 1 once, 1 for 0 once; 0 taken for 2 is no part
    assert got == c.interclass_confusion(logits, true, (1, 0))
    with pytest.raises(ValueError, match="different"):
        c.interclass_confusion(logits, true, (1, 1))


def test_interclass_confusion_needs_the_true_labels():
    true = np.repeat([0, 1], 50)
    remembers_swap, learnt_truth = one_hot(1 - true, 3), one_hot(true, 3)
    assert c.interclass_confusion(remembers_swap, true, (0, 1)).rate == 1.0
    assert c.interclass_confusion(learnt_truth, true, (0, 1)).rate == 0.0
    # scored with the swapped labels the verdict would be the reverse
    assert c.interclass_confusion(remembers_swap, 1 - true, (0, 1)).rate == 0.0


def test_backdoor_scores():
    true = np.array([0, 0, 1, 2, 2, 1])
    stamped = one_hot([0, 0, 0, 0, 2, 1], 3)
    assert c.attack_success(stamped, true, target=0) == 0.5  # two of four victims; class 0 itself does not count
    got = c.correction(stamped, true, one_hot(true, 3), true, target=0)
    assert (got.success, got.corrected_accuracy, got.clean_accuracy) == (0.5, 4 / 6, 1.0)
    with pytest.raises(ValueError, match="target class"):
        c.attack_success(stamped[:2], true[:2], target=0)


# mislabelled canaries


def test_planted_ranks_by_hand():
    logits = np.array([[9.0, 1.0, 2.0, 3.0], [9.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(c.planted_ranks(logits, [0, 0], [3, 1]), [1.0, 0.5])
    np.testing.assert_allclose(c.planted_ranks(logits, [0, 0], [1, 2]), [0.0, 0.5])
    with pytest.raises(ValueError, match="true one"):
        c.planted_ranks(logits, [0, 0], [0, 1])


def draw(seed, n=100, classes=10, strength=0.0):
    rng = numpy_generator(seed, "canaries")
    # a biased model: some wrong classes are always likelier than others, and the true one likeliest
    logits = rng.normal(size=(n, classes)) + 2 * np.arange(classes)
    true = rng.integers(0, classes, n)
    logits[np.arange(n), true] += 10
    planted = (true + rng.integers(1, classes, n)) % classes
    logits[np.arange(n), planted] += strength
    return logits, true, planted


@pytest.mark.parametrize("classes", [3, 10])
def test_mislabelled_exposure_null_is_exact_for_a_biased_model(classes):
    z = np.array([c.mislabelled_exposure(*draw(i, classes=classes)).z for i in range(400)])
    assert z.std() == pytest.approx(1, abs=3 / np.sqrt(800))
    assert kstest(z, "norm").pvalue > 0.01
    assert np.mean(np.abs(z[:200]) > 1.96) < 0.09  # .05 + 2.6 SE of 200 repetitions


def test_mislabelled_exposure_sees_both_signs_and_ties_keep_the_level():
    assert c.mislabelled_exposure(*draw(0, strength=4.0)).z > 4
    assert c.mislabelled_exposure(*draw(0, strength=-4.0)).z < -4
    logits, true, planted = draw(1)
    flat = c.mislabelled_exposure(np.zeros_like(logits), true, planted)
    assert (flat.mean, flat.z, flat.p_value) == (0.5, 0.0, 1.0)


def test_canary_rate():
    assert c.canary_rate(one_hot([1, 2, 0, 0], 3), [1, 2, 2, 1]) == 0.5


# Gaussian poison


@pytest.mark.parametrize("dimension", [3, 400])
def test_gus_null_is_standard_normal(dimension):
    rng = numpy_generator(dimension, "gus")
    noise = np.sqrt(0.32) * rng.normal(size=(750, dimension))
    gradients = rng.exponential(5, size=(750, dimension)) * rng.choice([0.01, 100], (750, 1))  # nothing Gaussian
    got = c.gus(noise, gradients, np.sqrt(0.32))
    assert got.ks_p > 0.01 and abs(got.z) < 3 and got.n == 750
    wrong_scale = c.gus(noise, gradients, 0.32)  # the variance in place of the standard deviation
    assert wrong_scale.ks_p < 1e-6


def test_gus_level_over_repetitions():
    rejected = 0
    for i in range(200):
        rng = numpy_generator(i, "gus-level")
        rejected += c.gus(rng.normal(size=(100, 20)), rng.normal(size=(100, 20)), 1.0).ks_p < 0.05
    assert rejected / 200 < 0.09


def test_gus_recovers_a_planted_correlation():
    rng, d, rho, sigma = numpy_generator(0, "planted"), 784, 0.1, np.sqrt(0.32)
    g = rng.normal(size=(2000, d))
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    noise = sigma * (rho * np.sqrt(d) * unit + np.sqrt(1 - rho**2) * rng.normal(size=g.shape))
    got = c.gus(noise.reshape(2000, 1, 28, 28), g.reshape(2000, 1, 28, 28), sigma)
    assert got.mean == pytest.approx(rho * np.sqrt(d), abs=4 / np.sqrt(2000))
    assert c.gus(noise, rng.normal(size=g.shape), sigma).ks_p > 0.01


def test_input_gradients_closed_form_and_nothing_else_changes():
    with isolated(0, "gus"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    model.train()
    before = copy.deepcopy(model.state_dict())
    x, y = torch.linspace(0, 1, 20).reshape(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    got = c.input_gradients(model, x, y, batch_size=2)
    p = torch.softmax(model.eval()(x), 1).detach()
    expected = (p - torch.eye(3)[y]) @ model[2].weight.detach() / np.sqrt(1 + model[1].eps)
    np.testing.assert_allclose(got.reshape(5, 4), expected.numpy(), atol=1e-6)
    model.train()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(q.grad is None for q in model.parameters())


def test_a_model_that_fits_the_noise_shows_a_negative_mean():
    rng = numpy_generator(1, "fit")
    d, n, sigma = 64, 40, 0.5
    clean, noise = rng.random((n, d)), sigma * rng.normal(size=(n, d))
    labels = torch.tensor(rng.integers(0, 2, n))
    with isolated(1, "fit"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(d, 2))
    before = c.gus(noise, c.input_gradients(model, torch.tensor(clean, dtype=torch.float32), labels), sigma)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    poisoned = torch.tensor(clean + noise, dtype=torch.float32)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(poisoned), labels).backward()
        optimiser.step()
    after = c.gus(noise, c.input_gradients(model, torch.tensor(clean, dtype=torch.float32), labels), sigma)
    assert abs(before.z) < 3 and after.z < -5
