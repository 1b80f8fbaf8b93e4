"""The convex problem: rows, gradients, minimisers and norms against autograd, scikit-learn and numpy."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from unlearnlib import seeding
from unlearnlib.private import logistic as L


def problem(classes, n=60, d=7):
    rng = seeding.generator(0, "problem", classes)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    labels = torch.randint(0, classes, (n,), generator=rng)
    linear = torch.randn(d, 1 if classes == 2 else classes, generator=rng, dtype=torch.float64)
    return x, labels, linear


def test_rows_have_norm_at_most_one_and_do_not_depend_on_each_other():
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=seeding.generator(0))
    x = L.rows(images)
    assert x.shape == (5, 17) and x.dtype == torch.float64
    assert float(torch.linalg.vector_norm(x, dim=1).max()) <= 1 + 1e-12
    assert torch.equal(L.rows(images[2:3]), x[2:3])
    small = torch.full((1, 1, 1, 2), 0.1)
    assert torch.allclose(L.rows(small, bias=False), torch.full((1, 2), 0.1, dtype=torch.float64))  # not blown up


@pytest.mark.parametrize("classes, rest", [(2, False), (3, False), (3, True)])
def test_gradient_and_hessian_are_those_of_the_value(classes, rest):
    x, labels, linear = problem(classes)
    y, loss = L.targets(labels, classes), L.loss_for(classes, rest)
    w = torch.randn(7, y.shape[1], generator=seeding.generator(1), dtype=torch.float64)
    numeric = torch.zeros_like(w)
    for i in range(w.numel()):
        shift = torch.zeros_like(w)
        shift.view(-1)[i] = 1e-5
        up, down = (L.value(loss, w + s, x, y, 0.1, linear) for s in (shift, -shift))
        numeric.view(-1)[i] = (up - down) / 2e-5
    assert torch.allclose(L.gradient(loss, w, x, y, 0.1, linear), numeric, atol=1e-8)
    if loss.name == "logistic":
        shift = torch.zeros_like(w)
        shift[0, 0] = 1e-6
        change = (L.gradient(loss, w + shift, x, y, 0.1) - L.gradient(loss, w - shift, x, y, 0.1)) / 2e-6
        assert torch.allclose(L.hessian(w, x, 0.1)[:, 0], change[:, 0], atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_minimiser_agrees_with_scikit_learn(classes):
    x, labels, _ = problem(classes)
    weights, norm, _ = L.minimise(L.loss_for(classes), x, L.targets(labels, classes), 0.05)
    peer = LogisticRegression(C=1 / (0.05 * len(x)), fit_intercept=False, tol=1e-12, max_iter=10_000)
    peer.fit(x.numpy(), labels.numpy())
    assert norm <= 1e-10
    assert np.allclose(weights.numpy().T, peer.coef_, atol=1e-5)


@pytest.mark.parametrize("classes, rest", [(2, False), (3, True), (3, False)])
def test_linear_term_enters_the_optimum(classes, rest):
    x, labels, linear = problem(classes)
    y, loss = L.targets(labels, classes), L.loss_for(classes, rest)
    weights, _, _ = L.minimise(loss, x, y, 0.05, 3 * linear)
    with_noise = L.gradient(loss, weights, x, y, 0.05, 3 * linear)
    without = L.gradient(loss, weights, x, y, 0.05)
    assert float(torch.linalg.vector_norm(with_noise)) < 1e-10
    assert torch.allclose(without, -3 * linear / len(x), atol=1e-9)


def test_gradients_keep_to_the_lipschitz_and_smoothness_constants():
    for classes in (2, 3, 10):
        x, labels, _ = problem(classes, n=200)
        y, loss = L.targets(labels, classes), L.loss_for(classes)
        rng = seeding.generator(2, classes)
        a, b = (20 * torch.randn(7, y.shape[1], generator=rng, dtype=torch.float64) for _ in range(2))
        assert float(torch.linalg.vector_norm(L.errors(loss, a, x, y), dim=1).max()) <= loss.lipschitz
        slope = torch.linalg.vector_norm(L.gradient(loss, a, x, y, 0) - L.gradient(loss, b, x, y, 0))
        assert float(slope) <= loss.smoothness * float(torch.linalg.vector_norm(a - b))


def test_spectral_norm_is_exact():
    """Two nearly equal singular values: a few power iterations fall short, the eigenvalue solver does not."""
    rng = seeding.generator(3)
    left, _ = torch.linalg.qr(torch.randn(40, 6, generator=rng, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))
    x = left @ torch.diag(torch.tensor([2.0, 1.98, 1.9, 1.0, 0.5, 0.1], dtype=torch.float64)) @ right
    assert L.spectral_norm(x.T @ x) == pytest.approx(2.0, rel=1e-12)
    v = torch.ones(6, dtype=torch.float64)
    for _ in range(20):
        v = x.T @ (x @ v)
        v = v / torch.linalg.vector_norm(v)
    assert float(torch.linalg.vector_norm(x @ v)) < 2.0 - 1e-4


def test_binary_logits_have_the_sigmoid_as_softmax():
    x, _, linear = problem(2)
    logits = L.as_logits(linear, x)
    assert torch.allclose(logits.softmax(1)[:, 1], (x @ linear)[:, 0].sigmoid().float(), atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="two classes"):
        L.targets(torch.zeros(3, dtype=torch.long), 1)
