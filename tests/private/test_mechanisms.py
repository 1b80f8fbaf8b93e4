"""Noise distributions, calibrations and sensitivity bounds."""

import itertools
import math

import pytest
import torch
from scipy import stats

from unlearnlib import seeding
from unlearnlib.private import accounting, mechanisms
from unlearnlib.private.logistic import Loss, loss_for, minimise, rows, targets


def test_laplace_and_gaussian_follow_their_law():
    rng = seeding.generator(0, "mechanisms")
    value = torch.full((4000,), 3.0, dtype=torch.float64)
    noisy = mechanisms.laplace(value, sensitivity=2.0, epsilon=0.5, rng=rng)
    assert stats.kstest(noisy.numpy() - 3, stats.laplace(scale=4).cdf).pvalue > 0.01
    noisy = mechanisms.gaussian(value, 1.7, rng)
    assert stats.kstest(noisy.numpy() - 3, stats.norm(scale=1.7).cdf).pvalue > 0.01


def test_gamma_norm_has_gamma_length_and_uniform_direction():
    rng = seeding.generator(1, "mechanisms")
    zero = torch.zeros(5, dtype=torch.float64)
    draws = torch.stack([mechanisms.gamma_norm(zero, 0.3, rng) for _ in range(3000)])
    lengths = torch.linalg.vector_norm(draws, dim=1)
    assert stats.kstest(lengths.numpy(), stats.gamma(5, scale=0.3).cdf).pvalue > 0.01
    angle = draws[:, 0] / lengths  # a coordinate of a uniform direction in 5 dimensions: Beta(2, 2) on [-1, 1]
    assert stats.kstest(angle.numpy(), stats.beta(2, 2, loc=-1, scale=2).cdf).pvalue > 0.01


def test_draws_are_reproducible_and_leave_the_global_generator_alone():
    value, before = torch.zeros(7), torch.get_rng_state()
    for draw in (mechanisms.laplace, mechanisms.gamma_norm):
        arguments = (1.0, 1.0) if draw is mechanisms.laplace else (1.0,)
        first, second = (draw(value, *arguments, seeding.generator(3, "x")) for _ in range(2))
        assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_classic_calibration():
    assert mechanisms.classic_sigma(1, 1e-5) == pytest.approx(4.8448, abs=5e-5)
    assert accounting.gaussian_delta(1, mechanisms.classic_sigma(1, 1e-5)) < 1e-5
    with pytest.raises(ValueError, match="epsilon <= 1"):
        mechanisms.classic_sigma(2, 1e-5)


def test_noise_norms_of_output_perturbation():
    """d = 785, epsilon = 1: gamma noise is 785 sensitivities long, Gaussian noise 104.5; equal at d = 13.9."""
    sigma = accounting.gaussian_sigma(1, 1e-5)
    assert sigma * math.sqrt(785) == pytest.approx(104.5, abs=0.05)
    assert 785 / (sigma * math.sqrt(785)) == pytest.approx(7.5, abs=0.02)
    assert sigma**2 == pytest.approx(13.9, abs=0.05)
    rng = seeding.generator(2, "mechanisms")
    zero = torch.zeros(785, dtype=torch.float64)
    gamma = [float(torch.linalg.vector_norm(mechanisms.gamma_norm(zero, 1.0, rng))) for _ in range(300)]
    normal = [float(torch.linalg.vector_norm(mechanisms.gaussian(zero, sigma, rng))) for _ in range(300)]
    assert sum(gamma) / 300 == pytest.approx(785, rel=0.01)
    assert sum(normal) / 300 == pytest.approx(104.5, rel=0.01)


def test_sensitivity_formulas():
    assert mechanisms.erm_sensitivity(100, 0.1, 1.0, "replace") == pytest.approx(2 / 10)
    assert mechanisms.erm_sensitivity(100, 0.1, 1.0, "delete") == pytest.approx(2 / 10)
    assert mechanisms.erm_sensitivity(100, 0.1, 1.0, "delete-fixed") == pytest.approx(1 / 10)
    assert mechanisms.erm_sensitivity(100, 0.1, 3.0, "delete", removed=5) == pytest.approx(30 / 10)
    with pytest.raises(ValueError, match="relation"):
        mechanisms.erm_sensitivity(100, 0.1, relation="remove")
    with pytest.raises(ValueError, match="keep at least one"):
        mechanisms.erm_sensitivity(3, 0.1, removed=3)


def test_linear_losses_attain_the_sensitivities_and_none_exceeds_them():
    """All sign patterns of slopes: loss_i(w) = s_i L w on the line, whose minimiser is -L mean(s)/lam."""
    lam, lipschitz = 0.3, 2.0
    for n, k in ((2, 1), (5, 1), (5, 2), (6, 5), (9, 3)):
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64)
        whole = -lipschitz / lam * signs.mean(1)
        fewer = -lipschitz / lam * signs[:, k:].mean(1)
        fixed = -lipschitz / lam * signs[:, k:].sum(1) / n
        flipped = torch.cat([-signs[:, :k], signs[:, k:]], 1)
        found = {
            "delete": whole - fewer,
            "delete-fixed": whole - fixed,
            "replace": whole + lipschitz / lam * flipped.mean(1),
        }
        for relation, moved in found.items():
            bound = mechanisms.erm_sensitivity(n, lam, lipschitz, relation, k)
            assert float(moved.abs().max()) == pytest.approx(bound, rel=1e-12), (n, k, relation)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_deletion_from_a_small_hostile_problem_exceeds_the_bound(k):
    """Brute force: every choice of k of 7 rows of norm 1, with labels that pull apart."""
    rng = seeding.generator(5, "mechanisms", k)
    for lam in (0.02, 0.2, 5.0):
        x = torch.nn.functional.normalize(torch.randn(7, 2, generator=rng, dtype=torch.float64) + 2, dim=1)
        y = (torch.arange(7) < k).double()[:, None]
        whole, worst = minimise(loss_for(2), x, y, lam)[0], 0.0
        for gone in itertools.combinations(range(7), k):
            keep = torch.ones(7, dtype=torch.bool)
            keep[list(gone)] = False
            moved = minimise(loss_for(2), x[keep], y[keep], lam)[0] - whole
            worst = max(worst, float(torch.linalg.vector_norm(moved)))
        assert 0.05 < worst / mechanisms.erm_sensitivity(7, lam, removed=k) <= 1


@pytest.mark.parametrize("classes", [2, 4])
def test_leave_one_out_stays_below_the_bound(mnist, classes):
    small = mnist[mnist.labels < classes][:80]
    x, y, loss, lam = rows(small.images), targets(small.labels, classes), loss_for(classes), 0.02

    def fit(keep):
        return minimise(loss, x[keep], y[keep], lam)[0]

    def fit_fixed(keep):  # the sum still divided by n: lam grows as n shrinks
        return minimise(loss, x[keep], y[keep], lam * len(keep) / int(keep.sum()))[0]

    measured = mechanisms.leave_one_out_distances(fit, 80, range(0, 80, 4))
    assert 0.05 < float(measured.max()) / mechanisms.erm_sensitivity(80, lam, loss.lipschitz, "delete") <= 1
    measured = mechanisms.leave_one_out_distances(fit_fixed, 80, range(0, 80, 4))
    assert float(measured.max()) <= mechanisms.erm_sensitivity(80, lam, loss.lipschitz, "delete-fixed")


def test_replacing_one_example_stays_below_the_bound(mnist):
    small = mnist[mnist.labels < 2][:60]
    x, y, loss, lam = rows(small.images), targets(small.labels, 2), loss_for(2), 0.02
    reference = minimise(loss, x, y, lam)[0]
    bound = mechanisms.erm_sensitivity(60, lam, relation="replace")
    for i in range(0, 60, 6):
        other = y.clone()
        other[i] = 1 - other[i]  # the worst replacement: the same picture with the other label
        distance = float(torch.linalg.vector_norm(minimise(loss, x, other, lam)[0] - reference))
        assert 0.1 * bound < distance <= bound


def test_rows_that_are_not_normalised_break_the_bound():
    """Planted defect: the bound is about ||x|| <= 1. One row of norm 10 in a direction of its own exceeds it."""
    y = torch.ones(40, 1, dtype=torch.float64)
    for length, holds in ((1.0, True), (10.0, False)):
        x = torch.zeros(40, 2, dtype=torch.float64)
        x[0, 0], x[1:, 1] = length, 1.0
        distances = mechanisms.leave_one_out_distances(
            lambda keep, x=x: minimise(Loss("logistic", 1.0, 0.25), x[keep], y[keep], 2.5)[0], 40, [0]
        )
        assert (float(distances[0]) <= mechanisms.erm_sensitivity(40, 2.5)) == holds
