"""Model inversion: stationarity on a linear model, level, the phantom, and a class that a bias hides."""

import numpy as np
import pytest
import torch
from small import examples, state
from torch import nn

from unlearnlib.audit.evidence.inversion import drawn, inversion, likeness
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.against_null import against_null
from unlearnlib.seeding import numpy_generator

REFERENCE = examples(n=90, seed=5)
MEANS = torch.stack([REFERENCE.pixels()[REFERENCE.labels == c].mean(0) for c in range(3)])
START = MEANS.mean(0)


def linear(seed, *, memory=0.0, bias=-10.0):
    """A linear classifier of the quadrants whose row of class 0 is noise and `memory` times the looks of the class."""
    rng = numpy_generator(seed, "inverted")
    rows = (MEANS - START).reshape(3, -1).numpy() * [[memory], [1], [1]] + 0.15 * rng.normal(size=(3, 64))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(rows))
        net[1].bias.copy_(torch.tensor([bias, 0, 0]))
    return net.eval()


def test_stationary_point_of_a_linear_model():
    """decay (x* - x_0) = w_c - sum_j p_j(x*) w_j, the gradient of log p_c."""
    net = linear(0, memory=1.0).double()
    x = drawn(net, 0, START.double(), steps=3000, lr=0.1, decay=0.5, limits=(-100.0, 100.0))
    with torch.no_grad():
        p = torch.softmax(net(x[None]), 1)[0]
    w = net[1].weight.detach()
    torch.testing.assert_close(0.5 * (x - START).flatten(), w[0] - p @ w, atol=1e-8, rtol=1e-8)


def test_likeness_at_the_ends():
    assert likeness(MEANS[0], MEANS[0], START) == pytest.approx(1)
    assert likeness(2 * START - MEANS[0], MEANS[0], START) == pytest.approx(-1)
    assert likeness(START, MEANS[0], START) == 0


def test_keeps_its_level():
    pool = [linear(i) for i in range(60)]
    values = inversion(pool, pool[:2], REFERENCE, 0, steps=10).comparison.values
    rng = numpy_generator(1, "inverted-pool")
    draws = [rng.permutation(values)[:9] for _ in range(200)]
    assert np.mean([against_null(d[0], d[1:]).detected() for d in draws]) <= 0.1


def test_a_pushed_bias_does_not_hide_the_class():
    """The planted bug: an edit of the bias, to -10. The class is never named, as in retrained models, and is drawn."""
    oracles, edited = [linear(i) for i in range(8)], [linear(20 + i, memory=1.0) for i in range(3)]
    before = state(edited[0])
    assert all((net(REFERENCE.pixels()).argmax(1) != 0).all() for net in edited)
    found = inversion(edited, oracles, REFERENCE, 0, steps=30)
    assert found.p_value < 0.01 and found.comparison.gap > 0.2
    assert found.drawn.shape == (3, 1, 8, 8) and found.null_drawn.shape == (8, 1, 8, 8)
    assert found.drawn.min() >= 0 and found.drawn.max() <= 1
    assert all(torch.equal(v, before[k]) for k, v in state(edited[0]).items())
    assert inversion(linear(29), oracles, REFERENCE, 0, steps=30).p_value > 0.05


def test_recovers_the_phantom():
    """Memory of the class in a phantom's share: the gap falls with it, and is not detected when it is gone."""
    phantom, oracles = Phantom(), [linear(i) for i in range(8)]
    shares = [phantom.mu(k) / phantom.mu(0) for k in (0, 10, 200)]
    found = [inversion([linear(30 + i, memory=s) for i in range(4)], oracles, REFERENCE, 0, steps=20) for s in shares]
    gaps = [f.comparison.gap for f in found]
    assert gaps[0] > gaps[1] > abs(gaps[2]) and found[0].p_value < 1e-3 and found[2].p_value > 0.05


def test_double_precision_models_are_read_as_they_are():
    x = [drawn(net, 0, START, steps=5, lr=0.1, decay=0.1) for net in (linear(0).double(), linear(0))]
    torch.testing.assert_close(x[0], x[1], atol=1e-5, rtol=1e-4)


def test_refused():
    nets = [linear(i) for i in range(3)]
    for options, says in (({"steps": 0}, "positive"), ({"lr": 0.0}, "positive"), ({"decay": -1.0}, "not negative")):
        with pytest.raises(ValueError, match=says):
            inversion(nets[0], nets[1:], REFERENCE, 0, **options)
    with pytest.raises(ValueError, match="class 7"):
        inversion(nets[0], nets[1:], REFERENCE, 7)
    with pytest.raises(ValueError, match="two retrained"):
        inversion(nets[0], nets[1:2], REFERENCE, 0)
    with pytest.raises(ValueError, match="no class 5"):
        drawn(nets[0], 5, START, steps=1, lr=0.1, decay=0.1)
