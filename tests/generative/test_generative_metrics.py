"""Metrics with closed forms: Gaussians, linear samplers, judges whose answer is known."""

import math

import pytest
import torch
from toys import CLASSES, pictures, split, taught

from unlearnlib import generative
from unlearnlib.seeding import generator


class Linear(torch.nn.Module):
    """G(z) = A z + c: pictures [n, 1, 1, 2] of noise [n, 2]."""

    def __init__(self, A):
        super().__init__()
        self.A = A

    def sample(self, noise, labels):
        return (noise @ self.A.T + labels[:, None]).view(-1, 1, 1, 2)


A = torch.tensor([[1.0, 0.3], [0.0, 2.0]])
Z, C = torch.randn(4000, 2, generator=generator(0, "z")), torch.arange(4000) % 3


def test_integrity_of_linear_samplers_is_their_distance():
    same, other = Linear(A), Linear(A + torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    assert generative.integrity(same, same, Z, C) == 0
    assert generative.integrity(same, other, Z, C) == pytest.approx(0.5 * Z[:, 0].abs().mean().item(), rel=1e-5)
    doubled = generative.integrity(same, other, Z, C, features=lambda x: 2 * x)
    assert doubled == pytest.approx(2 * generative.integrity(same, other, Z, C), rel=1e-6)


def test_mirrored_noise_keeps_the_law_and_changes_the_pictures():
    """I = 2 E || A z ||, FD near that of a second sample."""
    sampler = Linear(A)
    mirrored = generative.Mirrored(sampler)
    wanted = 2 * (Z @ A.T).norm(dim=1).mean().item()
    assert generative.integrity(sampler, mirrored, Z, C) == pytest.approx(wanted, rel=1e-5)
    again = torch.randn(4000, 2, generator=generator(1, "z"))
    second = generative.frechet(sampler.sample(Z, C), sampler.sample(again, C))
    assert generative.frechet(sampler.sample(Z, C), mirrored.sample(Z, C)) < max(2 * second, 0.02)


def test_the_frechet_distance_of_gaussians():
    """Whitened samples have exactly the moments that they are given, so the closed form is exact."""
    x = torch.randn(50, 3, generator=generator(2, "g"), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    scale, shift = torch.tensor([2.0, 0.5, 1.0]).double(), torch.tensor([1.0, -1.0, 0.0]).double()
    assert generative.frechet(x, x) == pytest.approx(0, abs=1e-9)
    wanted = shift.square().sum() + (scale - 1).square().sum()
    assert generative.frechet(x, x * scale + shift) == pytest.approx(wanted.item(), abs=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(3, "g"), dtype=torch.float64))[0]
    there, here = x @ turn, (x * scale + shift) @ turn
    assert generative.frechet(there, here) == pytest.approx(wanted.item(), abs=1e-9)
    B = torch.tensor([[2.0, 0.5], [0.0, 1.0]]).double()
    y = x[:, :2] @ B.T
    S = torch.cov(y.T)
    trace_root = math.sqrt(S.trace().item() + 2 * math.sqrt(torch.linalg.det(S).item()))  # of a 2 x 2 matrix
    assert generative.frechet(x[:, :2], y) == pytest.approx(2 + S.trace().item() - 2 * trace_root, abs=1e-9)


class ByBrightness(torch.nn.Module):
    """Sees the class of a toy picture."""

    def forward(self, x):
        return -(x.mean((1, 2, 3))[:, None] - torch.tensor([0.2, 0.5, 0.8])).abs()


def test_what_is_drawn_after_retraining_and_before():
    z = taught().noise(300, generator(4, "z"))
    labels = 1 + torch.arange(300) % 2
    assert generative.agreement(taught(), ByBrightness(), z, labels) > 0.95
    assert generative.agreement(taught(0), ByBrightness(), z, labels) > 0.95
    assert generative.forget_rate(taught(), ByBrightness(), z, 0) > 0.95
    assert generative.forget_rate(taught(0), ByBrightness(), z, 0) < 0.2


def test_a_judge_recognises_pictures():
    judge = generative.Judge.fit(split().train, CLASSES, epochs=60)
    held = pictures(60, 5)
    assert (judge(held.pixels()).argmax(1) == held.labels).float().mean() > 0.95
    assert judge.features(held.pixels()).shape == (60, 64) and not any(p.requires_grad for p in judge.parameters())


def test_metrics_refuse_in_one_line():
    for call, said in (
        (lambda: generative.integrity(Linear(A), Linear(A), Z, C[:3]), "a label for each noise"),
        (lambda: generative.agreement(Linear(A), None, Z[:0], C[:0]), "a label for each noise"),
        (lambda: generative.frechet(Z, Z[:, :1]), "FD compares two samples"),
        (lambda: generative.frechet(Z[:1], Z), "FD compares two samples"),
        (lambda: generative.frechet(Z * torch.inf, Z), "finite features"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
