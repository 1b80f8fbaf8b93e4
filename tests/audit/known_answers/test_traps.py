"""Traps: exact margins of the filters, an untouched encoder, and who catches whom on margins of known law."""

import numpy as np
import pytest
import torch
from small import dataset, split, state

from unlearnlib import training
from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.distances.klom import klom, klom_null
from unlearnlib.audit.distances.outputs import linear_cka
from unlearnlib.audit.known_answers import traps
from unlearnlib.audit.statistics.roc import margin
from unlearnlib.audit.statistics.state import FORGET, RETAIN, state_matrix
from unlearnlib.seeding import numpy_generator
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

MODELS, EXAMPLES, CLASSES = 63, 200, 4
GAIN = 2.0  # a trained example's margin, in standard deviations between models


def test_the_table_names_known_audits_and_every_trap_is_caught_by_somebody():
    for trap in traps.TRAPS:
        assert set(trap.passes) | set(trap.caught) <= set(traps.AUDITS)
        assert not set(trap.passes) & set(trap.caught)
        assert trap.caught or trap.name == "retrain, other seed"
    fooled = {a for t in traps.TRAPS if t.caught for a in t.passes}
    assert {"test accuracy", "NoMUS", "ZRF", "U-LiRA B", "population attack", "weight distance"} <= fooled
    assert "U-LiRA A" not in fooled


def logits(n=50, seed=0):
    return numpy_generator(seed, "traps").normal(size=(3, n, CLASSES)) * 3


def test_filters_change_what_they_should_and_nothing_else():
    z, y, where = logits(), np.arange(50) % CLASSES, np.arange(150).reshape(3, 50) % 3 == 0
    constant = traps.with_margin(z, y, 7.5, where)
    np.testing.assert_allclose(margin(constant, y)[where], 7.5, atol=1e-12)
    np.testing.assert_array_equal(constant[~where], z[~where])
    np.testing.assert_array_equal(traps.with_margin(1000 * z, y, -5.0, where)[~where], 1000 * z[~where])
    np.testing.assert_allclose(margin(traps.with_margin(1000 * z, y, -5.0, where), y)[where], -5.0, atol=1e-9)
    refused = traps.refusal(z, where)
    np.testing.assert_allclose(margin(refused, y)[where], -np.log(CLASSES - 1), atol=1e-12)
    np.testing.assert_array_equal(refused[~where], z[~where])
    with pytest.raises(ValueError, match="bool mask"):
        traps.refusal(z, where.astype(int))


def test_noise_averages_out_with_the_root_of_the_queries():
    z = logits(400)
    rng = numpy_generator(1, "traps-noise")
    one = traps.noisy(z, 2.0, rng) - z
    mean = np.mean([traps.noisy(z, 2.0, rng) for _ in range(16)], axis=0) - z
    assert one.std() == pytest.approx(2.0, rel=0.05) and mean.std() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="negative"):
        traps.noisy(z, -1.0, rng)


def test_a_distilled_head_is_the_ridge_solution_on_an_untouched_encoder():
    parts = split()
    model = training.fit(models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3, batch_size=16))
    pixels, before = parts.train.pixels(), state(model)
    target = numpy_generator(0, "target").normal(size=(len(pixels), 3))
    student = traps.distilled_head(model, pixels, target, ridge=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in state(model).items())
    assert all(torch.equal(v, before[k]) for k, v in state(student).items() if k.split(".")[0] != "4")
    phi = models.features(model, pixels).numpy()
    assert linear_cka(phi, models.features(student, pixels).numpy()) == pytest.approx(1.0)
    design = np.column_stack([phi, np.ones(len(phi))]).astype(np.float64)
    best = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    np.testing.assert_allclose(training.predict(student, parts.train).numpy(), best, atol=2e-2)
    with pytest.raises(ValueError, match="linear layer"):
        traps.distilled_head(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 8), torch.nn.Flatten()), pixels, target)


# verdicts


@pytest.fixture(scope="module")
def played():
    """Logits whose margins are offset(example) + GAIN where trained + noise: originals and two sets of retrains."""
    design = state_matrix(MODELS, EXAMPLES, seed=0)
    y = np.arange(EXAMPLES) % CLASSES
    offset = 3 * numpy_generator(0, "difficulty").normal(size=EXAMPLES)

    def model_of(trained, seed):
        rng = numpy_generator(seed, "played")
        s = offset + GAIN * trained + rng.normal(size=trained.shape)
        z = rng.normal(size=(*s.shape, CLASSES))
        return traps.with_margin(z, y, 0.0, np.ones(s.shape, bool)) + np.eye(CLASSES)[y] * s[..., None]

    kept = design.state == RETAIN
    return design, y, model_of(design.trained, 1), model_of(kept, 2), model_of(kept, 3), model_of(kept, 4)


def verdict(played, z):
    """Whether game B, game A and KLoM catch the logits `z`."""
    design, y, _, first, second, _ = played
    s, r, o = (margin(v, y) for v in (z, first, second))
    b = lira(s, design, game="B").interval(0.999)
    a = lira(s, design, game="A", retrained=r).interval(0.999)
    rows = np.argsort(design.state != FORGET, axis=0, kind="stable")[: MODELS // 3]
    s, r, o = (np.take_along_axis(v, rows, 0) for v in (s, r, o))
    null = klom_null(np.concatenate([r, o]), estimator="gaussian", seed=1)
    far = klom(s, r, estimator="gaussian").mean > null.mean + 5 * null.means.std(ddof=1)
    return {
        "U-LiRA B": not b.low <= 0.5 <= b.high,
        "U-LiRA A": not a.low <= 0.5 <= a.high,
        "KLoM": bool(far),
    }


def candidates(played):
    design, y, original, *_, null = played
    forgotten = design.state == FORGET
    rng = numpy_generator(9, "candidates")
    return {
        "identity": original,
        "retrain, other seed": null,
        "random weights": rng.normal(size=original.shape),
        "constant margin, high": traps.with_margin(original, y, 12.0, forgotten),
        "constant margin, low": traps.with_margin(original, y, -12.0, forgotten),
        "refusal": traps.refusal(original, forgotten),
        "noise on outputs": traps.noisy(original, 3.0, rng),
    }


@pytest.mark.parametrize("trap", [t for t in traps.TRAPS if "head" not in t.name and "another" not in t.name])
def test_expected_verdicts(played, trap):
    found = verdict(played, candidates(played)[trap.name])
    for audit, caught in found.items():
        assert not (caught and audit in trap.passes), f"{audit} should let {trap.name} pass"
        assert caught or audit not in trap.caught, f"{audit} should catch {trap.name}"


def test_noise_hides_from_one_query_what_sixteen_reveal(played):
    design, y, original, *_ = played
    rng = numpy_generator(5, "queries")
    found = {
        k: lira(np.mean([margin(traps.noisy(original, 6.0, rng), y) for _ in range(k)], 0), design, game="B").auc
        for k in (1, 16)
    }
    assert 0.5 < found[1] < found[16] - 0.1
