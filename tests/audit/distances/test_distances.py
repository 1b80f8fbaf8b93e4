"""Distances: closed forms, scipy, invariances, and the released formula that must not be repeated."""

import copy

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import ortho_group
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from unlearnlib.audit.distances import outputs as d
from unlearnlib.seeding import isolated, numpy_generator

P, Q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.7]])


def test_known_values():
    assert d.js_divergence(P, Q) == pytest.approx(0.2531016, abs=5e-8)
    assert d.js_divergence(P, Q) / np.log(2) == pytest.approx(0.3651484, abs=5e-8)
    assert d.js_divergence(P, Q) == pytest.approx(jensenshannon(P[0], Q[0]) ** 2)
    assert d.activation_distance(P, Q, "l1") == pytest.approx(1.2)
    assert d.activation_distance(P, Q, "l2") == pytest.approx(0.848528, abs=5e-7)
    one_hot, uniform = np.eye(10)[:1], np.full((1, 10), 0.1)
    assert d.js_divergence(one_hot, uniform) == pytest.approx(0.5255973, abs=5e-8)


def test_the_released_js_is_another_number():
    m = (P + Q) / 2
    released = (m * np.log(m / P)).sum() / 2 + (m * np.log(m / Q)).sum() / 2  # KL(m || .), then a mean over classes
    assert released / 3 == pytest.approx(0.1102238, abs=5e-7)
    assert abs(d.js_divergence(P, Q) - released / 3) > 0.1


def test_js_properties():
    rng = numpy_generator(0, "js")
    p, q = rng.dirichlet(np.full(6, 0.3), 200), rng.dirichlet(np.full(6, 0.3), 200)
    js = d.jensen_shannon(p, q)
    np.testing.assert_allclose(js, d.jensen_shannon(q, p), atol=1e-15)
    np.testing.assert_allclose(js, jensenshannon(p, q, axis=1) ** 2)
    assert js.min() >= 0 and js.max() <= np.log(2)
    assert d.js_divergence(p, p) == 0
    assert d.js_divergence([[1.0, 0.0]], [[0.0, 1.0]]) == pytest.approx(np.log(2))


def test_zrf_rewards_randomness_and_its_gap_does_not():
    rng = numpy_generator(1, "zrf")
    random_init, retrained = rng.dirichlet(np.full(5, 50), 300), rng.dirichlet(np.full(5, 0.1), 300)
    scrambled = rng.dirichlet(np.full(5, 50), 300)
    assert d.zrf(random_init, random_init) == 1.0
    assert d.zrf(scrambled, random_init) > d.zrf(retrained, random_init)
    assert d.zrf_gap(retrained, retrained, random_init) == 0.0
    assert d.zrf_gap(scrambled, retrained, random_init) > 0.1


def test_completeness():
    assert d.completeness(np.eye(4), np.eye(4)) == 1.0
    assert d.completeness(np.eye(4), np.eye(4)[[0, 1, 3, 2]]) == 0.5


def test_logits_are_refused():
    with pytest.raises(ValueError, match="softmax"):
        d.js_divergence([[2.0, -1.0]], [[2.0, -1.0]])
    with pytest.raises(ValueError, match="l1"):
        d.activation_distance(P, Q, "l3")
    np.testing.assert_allclose(d.softmax(np.log(P)), P)


def test_relative_is_one_for_one_more_retrain():
    rng = numpy_generator(2, "relative")
    base = rng.normal(size=(400, 5))
    retrains = [d.softmax(base + rng.normal(0, 0.5, base.shape)) for _ in range(7)]
    assert d.relative(d.js_divergence, retrains[0], retrains[1:]) == pytest.approx(1.0, abs=0.06)
    assert d.relative(d.js_divergence, d.softmax(3 * base), retrains[1:]) > 2
    with pytest.raises(ValueError, match="two of them"):
        d.relative(d.js_divergence, retrains[0], retrains[1:2])
    with pytest.raises(ValueError, match="identical"):
        d.relative(d.js_divergence, retrains[0], [retrains[1], retrains[1]])


def test_layer_distances():
    with isolated(0, "layers"):
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].bias += 3.0
    moved = d.layer_distances(model, other)
    assert moved["2.bias"] == pytest.approx(3 * np.sqrt(2)) and sum(moved.values()) == pytest.approx(moved["2.bias"])
    assert d.weight_distance(model, other) == pytest.approx(3 * np.sqrt(2))
    with pytest.raises(ValueError, match="architecture"):
        d.layer_distances(model, torch.nn.Linear(4, 3))


def test_weights_move_under_permutation_where_outputs_do_not():
    with isolated(1, "layers"):
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    other, order = copy.deepcopy(model), [7, 6, 5, 4, 3, 2, 1, 0]
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order])
        other[0].bias.copy_(model[0].bias[order])
        other[2].weight.copy_(model[2].weight[:, order])
    x = torch.linspace(-1, 1, 40).reshape(10, 4)
    assert d.weight_distance(model, other) > 1
    assert d.js_divergence(d.softmax(model(x)), d.softmax(other(x))) < 1e-12


def test_cka_invariances_and_independence():
    rng = numpy_generator(3, "cka")
    x = rng.normal(size=(4000, 6))
    rotation = ortho_group.rvs(6, random_state=numpy_generator(4, "cka"))
    assert d.linear_cka(x, x) == pytest.approx(1.0)
    assert d.linear_cka(x, 5 * x @ rotation + 2) == pytest.approx(1.0)
    assert d.linear_cka(x, rng.normal(size=(4000, 3))) < 0.01
    assert d.linear_cka(x, x[:, :3]) == pytest.approx(np.sqrt(0.5), abs=0.01)  # 3 / sqrt(6 * 3) for white features


def test_fisher_ratio_closed_form_and_against_lda():
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    assert d.fisher_ratio(x, [0, 0, 1, 1]) == pytest.approx(25.0)  # means 1 and 11 about 6; variance 1 within
    assert d.fisher_ratio(x - 100, [0, 0, 1, 1]) == pytest.approx(25.0)
    rng = numpy_generator(5, "fisher")
    y = rng.integers(0, 3, 500)
    x = rng.normal(size=(500, 4)) + 2 * y[:, None]
    within = LinearDiscriminantAnalysis(solver="eigen", store_covariance=True).fit(x, y).covariance_
    total = np.cov(x.T, bias=True)
    assert d.fisher_ratio(x, y) == pytest.approx(np.trace(total - within) / np.trace(within))
    assert d.fisher_ratio([[0.0], [1.0]], [0, 1]) == float("inf")


def u_statistic(x, y):
    """HSIC by its definition over Gram matrices without their diagonals. Song et al. 2012, equation 5."""
    k, l, one = (x @ x.T, y @ y.T, np.ones(len(x)))  # noqa: E741
    k, l, n = k - np.diag(np.diag(k)), l - np.diag(np.diag(l)), len(x)  # noqa: E741
    both = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return np.trace(k @ l) + both - 2 / (n - 2) * (one @ k @ l @ one)


@pytest.mark.parametrize("n, width, other", [(7, 3, 2), (50, 512, 20), (6, 30, 40), (4, 5, 5)])
def test_cka_equals_the_unbiased_u_statistic(n, width, other):
    rng = numpy_generator(n, "hsic")
    x, y = rng.normal(5, 1, (n, width)), rng.normal(size=(n, other))
    y[:, :2] += x[:, :2]
    expected = u_statistic(x, y) / np.sqrt(u_statistic(x, x) * u_statistic(y, y))
    assert d.linear_cka(x, y) == pytest.approx(expected, abs=1e-8) and -1 <= expected <= 1


def test_cka_of_independent_features_is_zero_where_the_biased_one_is_not():
    rng = numpy_generator(6, "cka")
    found = [d.linear_cka(rng.normal(size=(50, 512)), rng.normal(size=(50, 512))) for _ in range(40)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40) and np.std(found) < 0.05
    x, y = (v - v.mean(0) for v in rng.normal(size=(2, 50, 512)))
    biased = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert biased == pytest.approx(0.91, abs=0.01)


@pytest.mark.parametrize(
    "x, says",
    [
        (np.ones((9, 3)), "constant"),
        (np.full((9, 3), 0.1) * 1e9, "constant"),
        (np.eye(9)[:, :1], "one example"),
        (np.zeros((3, 3)), "four examples"),
        (np.full((9, 3), np.inf), "not finite"),
    ],
)
def test_cka_is_refused_where_it_is_undefined(x, says):
    with pytest.raises(ValueError, match=says):
        d.linear_cka(x, numpy_generator(7, "cka").normal(size=(len(x), 2)))


def test_cka_takes_any_scale():
    x = numpy_generator(8, "cka").normal(size=(20, 4))
    for scale in (1e-120, 1e120):
        assert d.linear_cka(scale * x, x) == pytest.approx(1)


def test_softmax_takes_infinite_logits_to_their_limit():
    z = [[np.inf, 0.0, 1.0], [np.inf, np.inf, 5.0], [-np.inf, 0.0, 0.0]]
    np.testing.assert_allclose(d.softmax(z), [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
