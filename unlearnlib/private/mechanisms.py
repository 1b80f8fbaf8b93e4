"""Noise mechanisms, and how far one example can move the minimiser of a strongly convex loss.

    Laplace       q + b, density prop. to exp(-||b||_1/scale)    (Delta_1/scale, 0)-DP
    gamma norm    q + b, density prop. to exp(-||b||_2/scale)    (Delta_2/scale, 0)-DP; mean norm d * scale
    Gaussian      q + N(0, sigma^2 I)                            (epsilon, delta)-DP for sigma from `classic_sigma`,
                                                                 Delta_2 sqrt(2 ln(1.25/delta))/epsilon, or the smaller
                                                                 `accounting.gaussian_sigma` (analytic)

The draws are floating-point samples from torch generators. They are reproducible, which is their purpose, and not
cryptographically secure: an adversary who knows the seed, or who exploits the gaps of floating-point numbers, is
outside the guarantee.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from unlearnlib.private.checks import check_budget, check_choice, check_positive

RELATIONS = ("replace", "delete", "delete-fixed")


def laplace(value: Tensor, sensitivity: float, epsilon: float, rng: torch.Generator) -> Tensor:
    """value + Laplace noise of scale sensitivity/epsilon per entry; `sensitivity` is in the L1 norm."""
    check_positive(sensitivity=sensitivity, epsilon=epsilon)
    draws = torch.empty((2, *value.shape), dtype=value.dtype, device=rng.device).exponential_(generator=rng)
    return value + (draws[0] - draws[1]).to(value.device) * (sensitivity / epsilon)


def gaussian(value: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    """value + N(0, sigma^2) per entry."""
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, not {sigma!r}")
    noise = torch.randn(value.shape, generator=rng, dtype=value.dtype, device=rng.device)
    return value + sigma * noise.to(value.device)


def gamma_norm(value: Tensor, scale: float, rng: torch.Generator) -> Tensor:
    """value + b with density proportional to exp(-||b||_2/scale): a uniform direction, a Gamma(d, scale) length."""
    check_positive(scale=scale)
    direction = torch.randn(value.shape, generator=rng, dtype=value.dtype, device=rng.device)
    draws = torch.empty(value.numel(), dtype=torch.float64, device=rng.device).exponential_(generator=rng)
    length = scale * float(draws.sum())  # a sum of d exponentials is Gamma(d)
    return value + direction.to(value.device) * (length / float(torch.linalg.vector_norm(direction)))


def classic_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """sensitivity * sqrt(2 ln(1.25/delta))/epsilon, sufficient for epsilon <= 1 only; a ValueError above."""
    check_budget(epsilon, delta)
    if epsilon > 1:
        raise ValueError(f"the classic calibration holds for epsilon <= 1, not {epsilon}: use gaussian_sigma")
    return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def erm_sensitivity(
    n: int, strong_convexity: float, lipschitz: float = 1.0, relation: str = "delete", removed: int = 1
) -> float:
    """Bound on the L2 distance between the minimisers on neighbouring data, for `removed` = k examples.

    F(w) = (1/n) sum_i loss_i(w) + lam/2 ||w||^2, each loss convex and L-Lipschitz, lam = `strong_convexity`:

        "replace"        2 k L/(n lam)
        "delete"         2 k L/(n lam)          the mean is taken over the n-k that remain
        "delete-fixed"   k L/(n lam)            the sum is still divided by n

    The proof is that of Chaudhuri et al. 2011 (key chaudhuri2011): where one problem has its minimiser, the gradient of
    the other is small, and lam-strong convexity divides its norm by lam. For "delete" let v minimise without the k
    examples S. Then sum_{i not in S} grad loss_i(v) = -(n-k) lam v, and |v| <= L/lam, so that for the problem with them

        grad F(v) = (k lam v + sum_{i in S} grad loss_i(v)) / n,    |grad F(v)| <= 2 k L/n.

    (The gradient of the smaller problem at the minimiser w of the larger one gives 2kL/((n-k) lam) only.) Linear losses
    attain all three bounds: slope L on the n-k examples, -L on the k ones, or on their replacements.
    """
    check_choice("relation", relation, RELATIONS)
    check_positive(n=n, strong_convexity=strong_convexity, lipschitz=lipschitz, removed=removed)
    if removed >= n:
        raise ValueError(f"cannot remove {removed} of {n} examples: keep at least one")
    return (1 if relation == "delete-fixed" else 2) * removed * lipschitz / (n * strong_convexity)


def leave_one_out_distances(fit: Callable[[Tensor], Tensor], n: int, indices: Iterable[int]) -> Tensor:
    """||fit(all) - fit(all but i)||_2 for each i in `indices`: the sensitivity as it is, to hold against its bound.

    `fit` maps a bool mask [n] of kept examples to weights of any one shape. Deterministic fits only.
    """
    everything = torch.ones(n, dtype=torch.bool)
    reference, distances = fit(everything), []
    for i in indices:
        keep = everything.clone()
        keep[i] = False
        distances.append(torch.linalg.vector_norm(fit(keep) - reference))
    return torch.stack(distances)
