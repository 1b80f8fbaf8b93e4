"""OU@epsilon: known values, inputs that stay in the ball and move towards the border, level, and planted damage."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from small import examples, state
from torch import nn

from unlearnlib.audit.evidence.over_unlearning import nearby, ou, over_unlearning
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.against_null import against_null
from unlearnlib.seeding import numpy_generator

FORGET = examples(n=60)[torch.arange(60) % 3 == 0]


def network(seed, *, spread=0.3, forgotten=0.0):
    """Logits that follow the quadrant of the class; `forgotten` is added to class 0, `spread` makes models differ."""
    rng = numpy_generator(seed, "ou-network")
    weight = np.zeros((3, 8, 8))
    for k, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
        weight[k, row : row + 4, column : column + 4] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(weight.reshape(3, 64) + spread * rng.normal(size=(3, 64)) / 4))
        net[1].bias.copy_(torch.tensor([forgotten, *(spread * rng.normal(size=2))]))
    return net.eval()


def test_known_values():
    z = numpy_generator(0, "ou").normal(size=(7, 4))
    gone = z.copy()
    gone[:, 2] = -1e4
    assert ou(z, gone, [2]) == 0
    p, q = (np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in (gone, z))
    assert ou(z, z, [2]) == pytest.approx((jensenshannon(p, q, axis=1) ** 2).mean())
    only = np.full((1, 3), -1e4)
    assert ou(np.array([[0.0, 5, -1e4]]), only + np.eye(3)[0] * 2e4, [0]) == pytest.approx(np.log(2))
    for forgotten in ([], [4], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="some, and not all"):
            ou(z, z, forgotten)


def test_inputs_stay_in_the_ball_and_go_towards_the_border():
    original = network(0)
    before, clean = state(original), FORGET.pixels()
    made = nearby(original, FORGET, epsilon=0.05, step=0.02, steps=6, seed=0)
    assert (made - clean).abs().max() <= 0.05 + 1e-6 and made.min() >= 0 and made.max() <= 1
    with torch.no_grad():
        margins = [z[:, 0] - z[:, 1:].max(1).values for z in (original(clean), original(made))]
    assert (margins[1] < margins[0]).all()
    assert torch.equal(made, nearby(original, FORGET, epsilon=0.05, step=0.02, steps=6, seed=0))
    assert all(torch.equal(v, before[k]) for k, v in state(original).items())


def test_recovers_the_phantom():
    """Logits that differ from the masked original's by a phantom weight: OU falls with its residual, as JS does."""
    phantom = Phantom(gap=2.0, noise=0.3)
    z = np.tile([0.0, 0.0, -1e4], (4000, 1))
    found = []
    for k in (0, 10, 40):
        moved = z.copy()
        moved[:, 0] += phantom.gap * 0.9**k
        p = 1 / (1 + np.exp(-phantom.gap * 0.9**k))
        found.append(ou(z, moved, [2]))
        assert found[-1] == pytest.approx(jensenshannon([0.5, 0.5], [p, 1 - p]) ** 2)
    assert found[0] > found[1] > found[2]


def test_keeps_its_level():
    original, pool = network(0), [network(i, forgotten=-30.0) for i in range(1, 61)]
    values = over_unlearning(pool, pool[:2], original, FORGET).comparison.values
    rng = numpy_generator(1, "ou-pool")
    draws = [rng.permutation(values)[:9] for _ in range(200)]
    assert np.mean([against_null(d[0], d[1:]).detected() for d in draws]) <= 0.1


def test_damage_next_to_the_forget_set_is_caught():
    """The planted bug: class 0 is gone, and near it class 1 is preferred by much more than the original did."""
    original, oracles = network(0), [network(i, forgotten=-30.0) for i in range(1, 9)]
    damaged = network(20, forgotten=-30.0)
    with torch.no_grad():
        damaged[1].bias[1] -= 6
    found = over_unlearning(damaged, oracles, original, FORGET, epsilon=0.1, step=0.05)
    assert found.p_value < 0.01 and found.comparison.gap > 0.05
    assert over_unlearning(network(21, forgotten=-30.0), oracles, original, FORGET).p_value > 0.05
    assert found.original > found.comparison.null.max() and 0 <= found.crossed <= 1


def test_double_precision_models_are_read_as_they_are():
    nets = [network(i).double() for i in range(4)]
    single = [network(i) for i in range(4)]
    values = [over_unlearning(n[1], n[2:], n[0], FORGET).comparison.values[0] for n in (nets, single)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_refused():
    nets = [network(i) for i in range(3)]
    with pytest.raises(ValueError, match="two retrained"):
        over_unlearning(nets[0], nets[1:2], nets[2], FORGET)
    with pytest.raises(ValueError, match="positive"):
        over_unlearning(nets[0], nets[1:], nets[2], FORGET, epsilon=0)
