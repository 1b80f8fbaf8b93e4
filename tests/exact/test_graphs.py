"""Graphs: deleting a node is exact for a linear graph network, and touches its neighbourhood, not its row alone.

A simple graph convolution (Wu et al., ICML 2019, arXiv:1902.07153) is a linear model of features that are fixed by the
graph, Z = S^k X with S = D^-1 (A + I) or D^-1/2 (A + I) D^-1/2. Without node v the rows of Z within k steps of v change
(k + 1 for the second S, where v counts in the degrees of its neighbours). Ridge regression forgets the old rows in
closed form, and learns the new ones from its own Gram matrix G and weights theta:

    (G + Z_new' Z_new) theta_new = G theta + Z_new' T_new
"""

import numpy as np
import pytest

from unlearnlib.exact.ridge import Ridge


def graph(seed: int, n: int = 120, degree: float = 2.5):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < degree / n, 1)
    return (upper | upper.T).astype(float), rng.normal(size=(n, 6)), rng.normal(size=(n, 2))


def features(adjacency, x, k: int, kind: str):
    a = adjacency + np.eye(len(adjacency))
    d = a.sum(1)
    s = a / d[:, None] if kind == "row" else a / np.sqrt(d[:, None] * d)
    return np.linalg.matrix_power(s, k) @ x


def ball(adjacency, v: int, steps: int):
    """Nodes within `steps` edges of v, v included."""
    reach = np.linalg.matrix_power(adjacency + np.eye(len(adjacency)), steps)[v]
    return np.flatnonzero(reach > 0)


def without(adjacency, v: int):
    cut = adjacency.copy()
    cut[v] = cut[:, v] = 0
    return cut


def forgotten(adjacency, x, t, v: int, k: int, kind: str, touched):
    """theta after node v has gone, from the model of the whole graph: old rows out, new rows in."""
    learner = Ridge(lam=0.5, intercept=False).fit_targets(features(adjacency, x, k, kind), t)
    receipt = learner.forget(touched)
    assert receipt.certificate.kind == "exact" and receipt.touched["rows"] == len(touched)
    back = np.setdiff1d(touched, [v])
    new = features(without(adjacency, v), x, k, kind)[back]
    return np.linalg.solve(learner.gram + new.T @ new, learner.gram @ learner.theta + new.T @ t[back])


def retrained(adjacency, x, t, v: int, k: int, kind: str):
    left = np.setdiff1d(np.arange(len(x)), [v])
    smaller = adjacency[np.ix_(left, left)]
    return Ridge(lam=0.5, intercept=False).fit_targets(features(smaller, x[left], k, kind), t[left]).theta


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("kind", ["row", "symmetric"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_deleting_a_node_is_a_downdate_of_its_neighbourhood(kind, k):
    for seed in range(3):
        adjacency, x, t = graph(seed)
        v = int(adjacency.sum(1).argmax())
        old, new = (features(a, x, k, kind) for a in (adjacency, without(adjacency, v)))
        changed = np.flatnonzero((old != new).any(1))
        touched = ball(adjacency, v, k + (kind == "symmetric"))
        assert set(changed) <= set(touched) and len(touched) < len(x)
        assert distance(forgotten(adjacency, x, t, v, k, kind, touched), retrained(adjacency, x, t, v, k, kind)) < 1e-11


@pytest.mark.parametrize("kind", ["row", "symmetric"])
def test_the_neighbourhood_cannot_be_smaller(kind):
    """A planted defect: only the node's own row, or one step too few, leaves the node in its neighbours' features."""
    adjacency, x, t = graph(0)
    v, k = int(adjacency.sum(1).argmax()), 2
    exact = retrained(adjacency, x, t, v, k, kind)
    for touched in (np.array([v]), ball(adjacency, v, k - 1)):
        assert distance(forgotten(adjacency, x, t, v, k, kind, touched), exact) > 1e-3


def test_a_node_without_edges_is_a_row():
    adjacency, x, t = graph(1)
    adjacency[5] = adjacency[:, 5] = 0
    found = forgotten(adjacency, x, t, 5, 2, "symmetric", np.array([5]))
    assert distance(found, retrained(adjacency, x, t, 5, 2, "symmetric")) < 1e-11
