"""Transfer of representations: scikit-learn's vote, the level, head-only edits and wrecked encoders, and refusals."""

import numpy as np
import pytest
import torch
from small import dataset, examples, split, state

from unlearnlib import models, training
from unlearnlib.audit.distances.outputs import linear_cka
from unlearnlib.audit.distances.probes import Features
from unlearnlib.audit.distances.transfer import compare_transfer, transfer
from unlearnlib.audit.known_answers import traps
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.against_null import against_null
from unlearnlib.seeding import numpy_generator

Y, Z = np.arange(90) % 3, np.arange(120) % 3
SHARED = numpy_generator(0, "shared").normal(size=(210, 6))  # what every model of this task sees in the pictures


def encoder(seed, *, memory=0.0, skill=1.0):
    """Features of a model: shared ones, `memory` times what the original alone remembers, and noise of its own."""
    rng = numpy_generator(seed, "transfer-encoder")
    labels = np.concatenate([Y, Z])
    of_original = numpy_generator(0, "memory").normal(size=(210, 6))
    task = 2.0 * np.eye(3, 6)[labels]
    x = skill * task + 0.5 * SHARED + memory * of_original + rng.uniform(0.7, 1) * rng.normal(size=(210, 6))
    return Features(x[:90], x[90:])


def compare(candidates, seeds=range(1, 9), **options):
    return compare_transfer(candidates, [encoder(i) for i in seeds], encoder(0, memory=1.5), Y, Z, k=7, **options)


def test_values_by_hand():
    found = compare([encoder(20)])
    f, original = encoder(20), encoder(0, memory=1.5)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (f.train, f.test)]
    nearest = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :7]
    votes = np.stack([(Y[nearest] == c).sum(1) for c in range(3)], 1).argmax(1)
    assert found.knn.values[0] == (votes == Z).mean()
    assert found.original.values[0] == linear_cka(f.test, original.test)
    others = [encoder(i).test for i in range(1, 9)]
    assert found.retrained.values[0] == pytest.approx(np.mean([linear_cka(f.test, o) for o in others]))
    assert found.retrained.null[0] == pytest.approx(np.mean([linear_cka(others[0], o) for o in others[1:]]))


def test_keeps_its_level():
    """Retrained candidates, 200 draws of one and eight others from 60: neither residual nor damage."""
    pool = [encoder(i) for i in range(1, 61)]
    whole = compare_transfer(pool, pool, encoder(0, memory=1.5), Y, Z, k=7)
    rng = numpy_generator(1, "transfer-pool")
    draws = [rng.permutation(60)[:9] for _ in range(200)]
    for values in (whole.knn.values, whole.original.values):
        assert np.mean([against_null(values[d[0]], values[d[1:]]).detected() for d in draws]) <= 0.1


def test_recovers_the_phantom():
    """Features that keep the original's direction by a phantom's share: CKA with the original falls to the null's."""
    phantom = Phantom()
    gaps = [
        compare([encoder(30 + i, memory=1.5 * phantom.mu(k) / phantom.mu(0)) for i in range(4)]).original
        for k in (0, 10, 200)
    ]
    assert gaps[0].gap > gaps[1].gap > abs(gaps[2].gap)
    assert gaps[0].p_value < 1e-4 and gaps[1].detected() and not gaps[2].detected()


def test_a_wrecked_encoder_is_damaged_and_not_residual():
    found = compare([encoder(40, skill=0.0)])
    assert found.damaged() and not found.residual() and not compare([encoder(41)]).damaged()


@pytest.fixture(scope="module")
def trained():
    parts = split(n=150, forget=30)
    recipe = training.Recipe(epochs=4, batch_size=16)
    nets = [
        training.fit(models.build("mlp", dataset(), hidden=(24,), seed=i), part, recipe, seed=i)
        for i, part in enumerate([parts.train, *[parts.retain] * 5])
    ]
    return nets[0], nets[1:], parts


def test_a_head_only_edit_is_caught_and_a_retrained_model_is_not(trained):
    """The trap of head distillation: a retrained model's answers on the original's encoder."""
    original, oracles, parts = trained
    pixels = parts.train.pixels()
    target = training.predict(oracles[0], parts.train)
    edited = traps.distilled_head(original, pixels, target)
    downstream = examples(n=60, seed=7), examples(n=90, seed=8)
    before = state(original)
    found = transfer(edited, oracles[1:], original, *downstream, k=5)
    assert found.residual() and found.head_only.all() and found.original.values[0] == pytest.approx(1)
    assert (found.original.null < 0.98).all()  # four retrained models: the plain comparison alone has p = .11
    null = transfer(oracles[0], oracles[1:], original, *downstream, k=5)
    assert not null.head_only.any() and not null.residual(0.99)
    assert all(torch.equal(v, before[k]) for k, v in state(original).items())


def test_refused():
    f = encoder(1)
    for candidates, oracles, k, says in (
        ([], [f] * 3, 5, "three retrained"),
        ([f], [f] * 2, 5, "three retrained"),
        ([f], [f] * 3, 91, "k must be"),
        ([Features(f.test, f.train)], [f] * 3, 5, "labelled pictures"),
        ([Features(f.train * np.nan, f.test)], [f] * 3, 5, "not finite"),
    ):
        with pytest.raises(ValueError, match=says):
            compare_transfer(candidates, oracles, f, Y, Z, k=k)
