"""Traps: candidates that unlearned nothing, or ruined the model, and still please some audit.

Each is a way to game one number. A battery of audits is worth its verdict if every trap is caught by at least one of
its members; `TRAPS` says which audits are expected to be fooled by which trap and which to see through it, and that
table is a test. The candidates work on logits [..., N, classes] of original models, as a provider would who answers
queries through a filter; `distilled_head` edits a network.

A provider who means to can evade an audit (Zhang et al., arXiv 2408.00929; Thudi et al., arXiv 2110.11891): what an
audit supports is a statement about an honest attempt, not a proof against an adversary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.models import features, head_name
from unlearnlib.training.renewal import copied


@dataclass(frozen=True)
class Trap:
    """A candidate, what it does, and the audits (see `AUDITS`) that it passes and that catch it."""

    name: str
    does: str
    passes: tuple[str, ...]
    caught: tuple[str, ...]


AUDITS: Mapping[str, str] = {
    "test accuracy": "equals the retrained model's",
    "forget accuracy": "equals the retrained model's",
    "population attack": "AUC of the loss equals the retrained model's",
    "NoMUS": "at least the retrained model's",
    "ZRF": "at least the retrained model's",
    "U-LiRA B": "AUC one half: forgotten against never seen, inside the candidate",
    "U-LiRA A": "AUC one half: the candidate against retrained models",
    "KLoM": "at its null",
    "Streisand": "no more mass than q below the q-quantile of the retrained models",
    "relearn time": "as long as the retrained model's",
    "encoder": "features as far from the original's as the retrained model's (CKA)",
    "weight distance": "at least as far from the original as the retrained model",
}

_ATTACKS = ("U-LiRA B", "U-LiRA A", "KLoM")
_WHITE_BOX = ("relearn time", "encoder")

TRAPS = (
    Trap(
        "identity",
        "returns the original",
        ("test accuracy", "NoMUS", "ZRF"),
        ("population attack", *_ATTACKS, *_WHITE_BOX, "weight distance"),
    ),
    Trap("retrain, other seed", "the null: nothing to find", tuple(AUDITS), ()),
    Trap(
        "random weights",
        "returns an untrained network",
        ("population attack", "ZRF", "U-LiRA B"),
        ("test accuracy", "forget accuracy", "NoMUS", "U-LiRA A", "KLoM", "Streisand", *_WHITE_BOX),
    ),
    Trap(
        "constant margin, high",
        "answers the forget set with one large margin",
        ("test accuracy", "Streisand"),
        ("forget accuracy", "population attack", *_ATTACKS, *_WHITE_BOX),
    ),
    Trap(
        "constant margin, low",
        "answers the forget set with one negative margin",
        ("test accuracy", "ZRF"),
        ("forget accuracy", "population attack", *_ATTACKS, "Streisand", *_WHITE_BOX),
    ),
    Trap(
        "refusal",
        "answers the forget set with the uniform distribution",
        ("test accuracy", "ZRF"),
        ("forget accuracy", "population attack", *_ATTACKS, "Streisand", *_WHITE_BOX),
    ),
    Trap(
        "noise on outputs",
        "adds fresh noise to every answer of the original",
        ("ZRF",),
        ("test accuracy", "U-LiRA A", "KLoM", "Streisand", *_WHITE_BOX),
    ),
    Trap(
        "distilled head",
        "puts a head, fitted to a retrained model's answers, on the features of the original",
        ("test accuracy", "NoMUS", "ZRF", "Streisand"),
        (*_WHITE_BOX, "weight distance"),
    ),
    Trap(
        "retrain on another set",
        "retrains without examples that nobody asked to remove",
        ("test accuracy", "NoMUS", "ZRF", "weight distance"),
        ("population attack", *_ATTACKS, "relearn time"),
    ),
)


def _where(logits: np.ndarray, where) -> np.ndarray:
    mask = np.broadcast_to(as_array(where), logits.shape[:-1])
    if mask.dtype != np.bool_:
        raise ValueError("where must be a bool mask of the examples that are to be answered differently")
    return mask


def with_margin(logits, labels, value: float, where) -> np.ndarray:
    """`logits` [..., N, C] with the margin of the labelled class set to `value` where `where` [..., N] is true.

    z_y = value + log sum_{j != y} exp z_j, so that `roc.margin` of the result is `value` there exactly.
    """
    z = as_array(logits, np.float64).copy()
    mask, y = _where(z, where), np.broadcast_to(as_array(labels), z.shape[:-1])
    others = z.copy()
    np.put_along_axis(others, y[..., None], -np.inf, -1)
    top = others.max(-1, keepdims=True)
    rest = (top + np.log(np.exp(others - top).sum(-1, keepdims=True)))[..., 0]
    old = np.take_along_axis(z, y[..., None], -1)[..., 0]
    np.put_along_axis(z, y[..., None], np.where(mask, value + rest, old)[..., None], -1)
    return z


def refusal(logits, where) -> np.ndarray:
    """`logits` [..., N, C] with the uniform answer (all zero) where `where` [..., N] is true: an output filter."""
    z = as_array(logits, np.float64)
    return np.where(_where(z, where)[..., None], 0.0, z)


def noisy(logits, scale: float, rng: np.random.Generator) -> np.ndarray:
    """`logits` plus independent N(0, scale^2) for every query. Averaging k queries takes the noise down by sqrt k."""
    z = as_array(logits, np.float64)
    if scale < 0:
        raise ValueError(f"scale must not be negative, it is {scale}")
    return z + scale * rng.normal(size=z.shape)


@torch.no_grad()
def distilled_head(model: nn.Module, images: Tensor, target, *, ridge: float = 1e-3) -> nn.Module:
    """A copy of `model` whose last linear layer is the ridge regression of `target` logits [N, C] on its features.

        W = argmin ||Phi W - Z||^2 / N + ridge ||W||^2   (with a bias that is not penalised)

    The encoder stays bit for bit: everything that it memorised is still there. Raises ValueError where the last
    layer is not linear.
    """
    student = copied(model)
    head = dict(student.named_modules())[head_name(student, images[:1])]
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError("distilled_head needs a network that ends in a linear layer with a bias")
    phi = features(student, images).double()
    z = torch.as_tensor(as_array(target), dtype=torch.float64)
    phi_mean, z_mean = phi.mean(0), z.mean(0)
    centred = phi - phi_mean
    gram = centred.T @ centred / len(phi) + ridge * torch.eye(phi.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, centred.T @ (z - z_mean) / len(phi))
    head.weight.copy_(weight.T)
    head.bias.copy_(z_mean - phi_mean @ weight)
    return student
