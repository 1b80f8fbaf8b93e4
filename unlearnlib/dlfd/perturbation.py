"""The perturbation of DLFD: retained pictures that move away from forgotten ones in feature space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.dlfd.distances import distance as feature_distance
from unlearnlib.dlfd.frozen import frozen
from unlearnlib.training import models


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    forget_features: Tensor,
    *,
    tap: models.FeatureTap,
    limits: tuple[Tensor, Tensor],
    steps: int,
    step: float,
    transport_weight: float,
    ce_weight: float,
    regularisation: float = 0.05,
    epsilon: float | None = None,
    distance: str = "transport",
    precision: str = "float32",
) -> tuple[Tensor, int]:
    """x* [B, C, H, W]: `images` pushed away from `forget_features` [M, F], and the passes forward and backward it took.

        x* <- clip(x* + step * sign grad_x [ transport_weight * D(phi(x*), phi_f) - ce_weight * CE(f(x*), y) ])

    clipped to `limits` (low, high: [C, 1, 1] or scalars) and, where given, to within `epsilon` of `images`. All in
    pixel units. The passes go through a frozen copy of the model in eval mode, tapped where `tap` is. `distance` is one
    of distances.DISTANCES; `precision` "bfloat16" runs the network in mixed precision.
    """
    moved, (low, high) = images.detach().clone(), limits
    if epsilon is not None:
        low, high = torch.maximum(images - epsilon, low), torch.minimum(images + epsilon, high)
    lower = precision == "bfloat16"
    network = frozen(model, tap.layer, lower=lower)
    with models.evaluating(network), models.FeatureTap(network, images, tap.layer) as frozen_tap:
        for _ in range(steps):
            moved.requires_grad_(True)
            with torch.autocast(moved.device.type, dtype=torch.bfloat16, enabled=lower):
                logits, features = frozen_tap(moved)
            objective = -ce_weight * F.cross_entropy(logits.float(), labels)
            if transport_weight:
                away = feature_distance(distance, features.to(forget_features.dtype), forget_features, regularisation)
                objective = objective + transport_weight * away
            (gradient,) = torch.autograd.grad(objective, moved)
            moved = torch.clamp(moved.detach().add_(gradient.sign(), alpha=step), low, high)
    return moved.detach(), steps * len(images)


def random_signs(
    images: Tensor,
    *,
    limits: tuple[Tensor, Tensor],
    steps: int,
    step: float,
    rng: torch.Generator,
    epsilon: float | None = None,
) -> Tensor:
    """The control for `perturb`: the same steps and clips with a random sign for every pixel, no gradient."""
    moved, (low, high) = images.detach().clone(), limits
    if epsilon is not None:
        low, high = torch.maximum(images - epsilon, low), torch.minimum(images + epsilon, high)
    for _ in range(steps):
        signs = torch.randint(0, 2, images.shape, generator=rng).to(images) * 2 - 1
        moved = torch.clamp(moved + step * signs, low, high)
    return moved
