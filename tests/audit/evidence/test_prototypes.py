"""Prototypical relearning: the released update, closed forms, the phantom, level, and a head-only edit."""

import numpy as np
import pytest
import torch
from class_models import CLASSES, FORGOTTEN
from small import state
from torch import nn

from unlearnlib.audit.evidence.prototypes import prototype_head, prototypical_relearning, relearned_auc
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.against_null import against_null
from unlearnlib.data.examples import Examples
from unlearnlib.seeding import numpy_generator

WIDTH = 8


def network(seed, *, knows=False, spread=0.15):
    """An encoder [WIDTH -> WIDTH] that keeps the directions of its classes apart, and class 3 only where it `knows` it;
    a head that never names class 3."""
    rng = numpy_generator(seed, "prototype-network")
    encode = np.eye(WIDTH)
    encode[FORGOTTEN] *= 1.0 if knows else 0.25
    encode += spread * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    net = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(encode))
        net[1].bias.zero_()
        net[2].weight.copy_(torch.tensor(np.eye(CLASSES, WIDTH)))
        net[2].weight[FORGOTTEN] = 0
        net[2].bias.zero_()
        net[2].bias[FORGOTTEN] = -20
    return net.eval()


def pictures(seed, per_class, classes=range(CLASSES)):
    rng = numpy_generator(seed, "prototype-pictures")
    y = np.repeat(np.array(list(classes)), per_class)
    x = 2 * np.eye(CLASSES, WIDTH)[y] + 0.7 * rng.normal(size=(len(y), WIDTH))
    return Examples(torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 1, WIDTH), torch.tensor(y))


SHOTS, QUERIES = pictures(0, 5, [FORGOTTEN]), pictures(1, 40)


@pytest.mark.parametrize("metric, alpha", [("cosine", 0.5), ("l2", 0.5), ("l2", 1.0)])
def test_update_equals_the_released_loop(metric, alpha):
    """An independent rendering of the authors' loop, in torch."""
    rng = numpy_generator(2, "released")
    w, b, phi = (torch.tensor(rng.normal(size=s)) for s in ((4, 3), (4,), (6, 3)))
    y = torch.tensor([1, 1, 2, 2, 2, 1])
    ours = prototype_head(w, b, phi, y, metric=metric, alpha=alpha)
    for c in (1, 2):
        proto = nn.functional.normalize(
            torch.stack([f for f, label in zip(phi, y, strict=True) if label == c]).mean(0), dim=0
        )
        pair = (2.0 * proto, -proto.pow(2).sum()) if metric == "l2" else (proto, torch.tensor(0.0))
        w[c], b[c] = alpha * pair[0] + (1 - alpha) * w[c], alpha * pair[1] + (1 - alpha) * b[c]
    np.testing.assert_allclose(ours[0], w)
    np.testing.assert_allclose(ours[1], b)


def test_l2_is_the_nearest_prototype():
    """With every class relearned at alpha 1 the rule is the nearest of the unit prototypes."""
    x, y = numpy_generator(3, "nearest").normal(size=(60, 4)), np.arange(60) % 3
    w, b = prototype_head(np.zeros((3, 4)), np.zeros(3), x + 2 * np.eye(3, 4)[y], y, metric="l2", alpha=1)
    means = np.stack([(x + 2 * np.eye(3, 4)[y])[y == c].mean(0) for c in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal((x @ w.T + b).argmax(1), nearest)


@pytest.mark.parametrize("k", [0, 5, 10])
def test_recovers_the_phantom(k):
    """Features whose only trace of the class is a phantom, beside none in other pictures: the phantom's own AUC."""
    phantom, n = Phantom(), 20_000
    traces = [phantom.weights(law, n, k=k, seed=1) / phantom.sd for law in ("unlearned", "retrained")]
    few, rest = (
        np.stack([np.zeros_like(t), t], 1) for t in (traces[0][:500], np.concatenate([traces[0][500:], traces[1]]))
    )
    w, b = prototype_head(np.zeros((2, 2)), np.array([0.0, -9]), few, np.ones(500, int))
    found = relearned_auc(rest @ w.T + b, np.arange(len(rest)) < n - 500, [1])
    assert found == pytest.approx(phantom.auc(k), abs=0.01)


def test_keeps_its_level():
    pool = [network(i) for i in range(60)]
    after = prototypical_relearning(pool, pool, SHOTS, QUERIES).comparison.values
    rng = numpy_generator(4, "pool")
    draws = [rng.permutation(after)[:9] for _ in range(200)]
    assert np.mean([against_null(d[0], d[1:]).detected() for d in draws]) <= 0.1
    assert np.ptp(after) > 0


def test_a_head_only_edit_is_caught():
    """The planted bug: the encoder knows the class, the head does not. Accuracy on it is 0 before, as retrained."""
    oracles = [network(i) for i in range(8)]
    edited = network(99, knows=True)
    before = state(edited)
    found = prototypical_relearning(edited, oracles, SHOTS, QUERIES)
    assert found.before == 0 and (found.null_before == 0).all()
    assert found.p_value < 0.01 and found.comparison.gap > 0.05 and found.shots == 5
    assert all(torch.equal(v, before[k]) for k, v in state(edited).items())
    assert prototypical_relearning(network(100), oracles, SHOTS, QUERIES).p_value > 0.05


def test_accuracy_after_the_released_update_is_evaded_by_a_bias():
    """Half of a bias of -20 stays, so the published number is 0 for an untouched encoder; a milder bias shows it."""
    oracles, edited = [network(i) for i in range(8)], network(99, knows=True)
    hidden = prototypical_relearning(edited, oracles, SHOTS, QUERIES)
    with torch.no_grad():
        edited[2].bias[FORGOTTEN] = -1
    shown = prototypical_relearning(edited, oracles, SHOTS, QUERIES, metric="l2")
    assert hidden.after == 0 and shown.before == 0 and shown.after > 0.5
    aucs = [
        prototypical_relearning(n, oracles, SHOTS, QUERIES).comparison.values[0]
        for n in (edited, network(99, knows=True))
    ]
    assert aucs[0] == aucs[1]


def test_refused():
    nets = [network(i) for i in range(3)]
    for shots, queries, options, says in (
        (SHOTS, pictures(1, 4, [0, 1]), {}, "queries"),
        (SHOTS, pictures(1, 4, [FORGOTTEN]), {}, "queries"),
        (SHOTS, QUERIES, {"metric": "dot"}, "cosine, l2"),
        (SHOTS, QUERIES, {"alpha": 0}, "alpha"),
    ):
        with pytest.raises(ValueError, match=says):
            prototypical_relearning(nets[0], nets[1:], shots, queries, **options)
    with pytest.raises(ValueError, match="two retrained"):
        prototypical_relearning(nets[0], nets[1:2], SHOTS, QUERIES)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, CLASSES, bias=False))
    with pytest.raises(ValueError, match="linear layer with a bias"):
        prototypical_relearning(bare, nets[1:], SHOTS, QUERIES)
