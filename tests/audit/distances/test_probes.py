"""Linear probes: scikit-learn, a planted code in the features, and the head-only edit that black boxes miss."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from unlearnlib.audit.distances.composites import accuracy
from unlearnlib.audit.distances.probes import Features, collapse, compare_probes, probe_accuracy, probe_predictions
from unlearnlib.seeding import numpy_generator


def blobs(seed, n=300, d=8, strength=1.5):
    rng = numpy_generator(seed, "blobs")
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, d)) + strength * np.eye(3, d)[y], y


def test_ridge_probe_equals_sklearn():
    (x, y), (t, _) = blobs(0), blobs(1)
    scaler = StandardScaler().fit(x)
    reference = RidgeClassifier(alpha=2.5).fit(scaler.transform(x), y).predict(scaler.transform(t))
    np.testing.assert_array_equal(probe_predictions(x, y, t, penalty=2.5), reference)


def test_logistic_probe_equals_sklearn():
    (x, y), (t, _) = blobs(0), blobs(1)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=1 / 0.5, solver="newton-cg", tol=1e-8).fit(scaler.transform(x), y)
    np.testing.assert_array_equal(
        probe_predictions(x, y, t, kind="logistic", penalty=0.5), reference.predict(scaler.transform(t))
    )


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_probe_is_at_chance_on_noise_and_blind_to_affine_changes(kind):
    rng = numpy_generator(2, "noise")
    hits = [
        probe_accuracy(
            rng.normal(size=(90, 5)), np.arange(90) % 3, rng.normal(size=(90, 5)), np.arange(90) % 3, kind=kind
        )
        for _ in range(60)
    ]
    assert np.mean(hits) == pytest.approx(1 / 3, abs=3 * np.std(hits) / np.sqrt(60))
    (x, y), (t, z) = blobs(0), blobs(1)
    assert probe_accuracy(7 * x - 3, y, 7 * t - 3, z, kind=kind) == probe_accuracy(x, y, t, z, kind=kind) > 0.7


def test_probe_with_constant_features_and_wrong_input():
    x, y = blobs(0)
    padded = np.concatenate([x, np.full((300, 1), 4.2)], axis=1)
    assert probe_accuracy(padded, y, padded, y) == probe_accuracy(x, y, x, y)
    with pytest.raises(ValueError, match="width"):
        probe_predictions(x, y, x[:, :3])
    with pytest.raises(ValueError, match="kind"):
        probe_predictions(x, y, x, kind="svm")
    with pytest.raises(ValueError, match="two classes"):
        probe_predictions(x, np.zeros(300), x)


def encoders(seed):
    """Features of a model that knows three classes, and of one that never learnt to tell class 2 from class 0."""
    rng = numpy_generator(seed, "encoder")
    y = rng.integers(0, 3, 600)
    knows = rng.normal(size=(600, 6)) + 3 * np.eye(3, 6)[y]
    never = rng.normal(size=(600, 6)) + 3 * np.eye(3, 6)[np.where(y == 2, 0, y)]
    return knows, never, y


def halves(x):
    return Features(x[:300], x[300:])


def test_head_edit_passes_the_black_box_and_fails_the_probe():
    knows, never, y = encoders(0)
    weight = np.eye(6, 3)
    edited = weight.copy()
    edited[2, 2], edited[2, 0] = 0.0, 1.0  # the head answers 0 where it used to answer 2
    forgotten = y[300:] == 2
    black_box = [accuracy(f[300:][forgotten] @ w, y[300:][forgotten]) for f, w in ((knows, edited), (knows, weight))]
    assert black_box[0] < 0.1 and black_box[1] > 0.8  # looks forgotten
    got = compare_probes(halves(knows), halves(never), halves(knows), y[:300], y[300:])
    assert got.residual == 1.0 and got.head_only and got.cka_to_original == pytest.approx(1.0)


def test_a_retrained_encoder_passes():
    knows, never, y = encoders(1)
    got = compare_probes(halves(never), halves(never), halves(knows), y[:300], y[300:])
    assert got.residual == 0.0 and not got.head_only and got.cka_to_original < 0.95
    half = compare_probes(halves((knows + never) / 2), halves(never), halves(knows), y[:300], y[300:])
    assert 0.1 < half.residual


def test_residual_is_undefined_where_there_is_nothing_to_find():
    knows, _, y = encoders(2)
    assert np.isnan(compare_probes(halves(knows), halves(knows), halves(knows), y[:300], y[300:]).residual)


def test_collapse():
    assert collapse(0.9, 0.9) == 0.0 and collapse(0.45, 0.9) == pytest.approx(0.5)
    with pytest.raises(ValueError):
        collapse(0.5, 0.0)
