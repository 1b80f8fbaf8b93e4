"""PGA: where it starts, how far it may go, and that it climbs."""

import pytest
import torch
from pictures import fitted, network
from torch.nn import functional as F

from unlearnlib.federated.ascent import Ascent, Ball, ball_radius, climbed
from unlearnlib.federated.vectors import vector
from unlearnlib.training.renewal import copied, fresh
from unlearnlib.training.work import Tally


def points(made):
    last = made._history[-1]
    return {k: last.weights + u for k, u in last.updates.items()}


def test_the_reference_is_the_mean_of_the_others_last_models():
    made, asked = fitted(double=True), {"clients": 2, "by": "ascent", "rounds": 0, "lr": 1e-300}
    w, ends = made._weights.clone(), points(made)
    made.forget(**asked)  # steps of no length end where they start
    assert torch.allclose(made._weights, sum(ends[k] for k in (0, 1, 3)) / 3, atol=1e-14)
    assert torch.allclose(made._weights, (4 * w - ends[2]) / 3, atol=1e-14)  # as in the paper


@pytest.mark.parametrize(("radius", "stop"), [(0.5, None), (0.05, None), (5.0, 0.3), (0.2, 0.3)])
def test_the_point_lies_in_the_ball(radius, stop):
    made, lost = fitted(double=True), fitted()._federation.own(2)
    config = Ascent(epochs=20, lr=0.1, batch_size=8, radius=radius, stop=stop)
    end = climbed(made.model, lost, config, radius, 0, Tally())
    distance = float((vector(end) - made._weights).norm())
    assert distance <= radius * (1 + 1e-12)
    if stop is None or radius < stop:
        assert distance == pytest.approx(radius)  # it wanted to go farther: the projection held it
    else:
        assert distance < stop + 0.1 * 5.0 + 1e-9 and distance > stop  # one step of the clipped gradient past it


def test_projection_is_the_nearest_point():
    made = fitted(double=True)
    model = copied(made.model)
    centre = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3
    away = vector(model) - made._weights
    ball = Ball(centre, 1.0, None)
    assert not ball.after_step(model, 0) and ball.projected == 1
    assert torch.allclose(vector(model), made._weights + away / away.norm(), atol=1e-12)


def test_it_climbs_the_loss_of_what_is_lost():
    made, lost = fitted(), fitted()._federation.own(2)
    end = climbed(made.model, lost, Ascent(lr=0.05, epochs=60), 5.0, 0, Tally())
    before, after = (F.cross_entropy(m(lost.pixels()), lost.labels).item() for m in (made.model, end))
    assert after > before + 0.5


def test_the_radius_is_a_third_of_the_distance_to_random_networks():
    """And not the root of a third of the squared distance, which is 1.73 times as much (the ledger)."""
    model, drawn = network(), [fresh(network(), 7 + k) for k in range(3)]
    apart = torch.stack([(vector(other) - vector(model)).norm() for other in drawn])
    assert ball_radius(model, 7) == pytest.approx(float(apart.mean() / 3), rel=1e-6)
    assert float((apart.square().mean() / 3).sqrt()) > 1.7 * ball_radius(model, 7)


def test_examples_are_climbed_from_the_weights_themselves():
    made = fitted(double=True)
    before = made._weights.clone()
    receipt = made.forget(indices=[0, 1, 2], by="ascent", rounds=0, lr=1e-300)
    assert torch.allclose(made._weights, before, atol=1e-15) and receipt.touched["rounds"] == 0


def test_it_refuses_where_the_last_models_are_not_those_of_the_weights():
    made = fitted()
    made.forget(clients=1, by="ascent", rounds=0)
    with pytest.raises(ValueError, match="call advance"):
        made.forget(clients=2, by="ascent")
    made.advance(1)
    made.forget(clients=2, by="ascent")
    assert made.clients == (0, 3)
