"""Evidence planted before training, so that the truth is known by construction.

A swapped label, a stamped patch or a noise pattern can reach the model only through the training examples that carry
it. A retrained model never saw them; what an unlearned model still knows of them is residual, without any shadow model.
Scores compare with the retrained model's, which is not always zero: two classes can be confusable by nature.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kstest, norm

from unlearnlib.audit.distances.composites import accuracy
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.data.doors import pixels
from unlearnlib.training.doors import asked, check_finite_answer, check_labels, check_values
from unlearnlib.training.models import device_of, evaluating

EXACT = 200  # canaries up to which a p-value is summed, not taken from the normal law


def _answers(logits, labels) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C] without NaN, where the largest is anywhere, and labels [N] in 0..C-1."""
    z, y = as_array(logits), as_array(labels)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"logits must be [N, C] and labels [N], not {z.shape} and {y.shape}")
    if np.isnan(z).any() or not np.isin(y, np.arange(z.shape[1])).all():
        raise ValueError(f"logits must not be NaN, and labels be integers in 0..{z.shape[1] - 1}")
    return z, y.astype(np.int64)


def confusion_matrix(logits, labels) -> np.ndarray:
    """Counts [C, C]: row the true class, column the class with the largest logit."""
    z, y = _answers(logits, labels)
    counts = np.zeros((z.shape[1], z.shape[1]), np.int64)
    np.add.at(counts, (y, z.argmax(1)), 1)
    return counts


@dataclass(frozen=True)
class Confusion:
    """Examples of two classes taken for one another: `count` of `n`, and the `rate` count / n."""

    count: int
    n: int
    rate: float


def interclass_confusion(logits, true_labels, classes: tuple[int, int]) -> Confusion:
    """cm[i, j] + cm[j, i] for the two classes whose labels were swapped in the forget set.

    On the forget set with its *true* labels this is memorised confusion, on test pictures confusion that generalised.
    Goel et al., arXiv 2201.06640.
    """
    i, j = classes
    cm = confusion_matrix(logits, true_labels)
    if i == j or not (0 <= min(i, j) and max(i, j) < len(cm)):
        raise ValueError(f"classes must be two different classes in 0..{len(cm) - 1}, not {classes}")
    count, n = int(cm[i, j] + cm[j, i]), int(cm[[i, j]].sum())
    if n == 0:
        raise ValueError(f"there is no example of the classes {classes}")
    return Confusion(count, n, count / n)


def attack_success(logits, true_labels, target: int) -> float:
    """Share of stamped pictures, of any class but `target`, that the model gives to the backdoor's `target` class.

    Pictures of the target class itself are left out: naming them rightly is no success of the attack. The remedy is
    a rate as low as that of a model retrained without the poison. Gu et al., arXiv 1708.06733.
    """
    z, y = _answers(logits, true_labels)
    victims = y != target
    if not victims.any():
        raise ValueError("every stamped picture is of the target class: stamp pictures of other classes")
    return float((z[victims].argmax(1) == target).mean())


@dataclass(frozen=True)
class Correction:
    """What is left of a manipulation and of the model after a correction from a part of the poison."""

    success: float  # of the backdoor on stamped pictures
    corrected_accuracy: float  # on stamped pictures, true labels
    clean_accuracy: float


def correction(stamped_logits, stamped_labels, clean_logits, clean_labels, *, target: int) -> Correction:
    """Backdoor success, corrected accuracy and clean accuracy. Goel et al., arXiv 2402.14015."""
    return Correction(
        success=attack_success(stamped_logits, stamped_labels, target),
        corrected_accuracy=accuracy(stamped_logits, stamped_labels),
        clean_accuracy=accuracy(clean_logits, clean_labels),
    )


@dataclass(frozen=True)
class Exposure:
    """Mean rank of the planted label among the wrong labels, 1/2 if it was never learnt."""

    mean: float
    z: float  # standard normal under the null; positive = still known, negative = conspicuously avoided
    p_value: float  # two-sided; exact up to EXACT examples, of the normal law beyond
    n: int


def planted_ranks(logits, true_labels, planted_labels) -> np.ndarray:
    """Rank of the planted label's logit among the C - 1 wrong labels, from 0 (least likely) to 1, [N]; ties halve."""
    z, y, planted = as_array(logits, np.float64), as_array(true_labels), as_array(planted_labels)
    if z.ndim != 2 or z.shape[1] < 3 or not (len(z) == len(y) == len(planted)):
        raise ValueError("planted_ranks needs logits [N, C] with three classes or more and two label vectors [N]")
    if np.isnan(z).any() or not all(np.isin(v, np.arange(z.shape[1])).all() for v in (y, planted)):
        raise ValueError(f"logits must not be NaN, and labels be integers in 0..{z.shape[1] - 1}")
    if (planted == y).any():
        raise ValueError("a planted label equals the true one: drop those examples")
    rows = np.arange(len(z))
    own = z[rows, planted][:, None]
    below = (z < own).astype(np.float64) + 0.5 * (z == own)
    below[rows, y] = 0.0
    below[rows, planted] = 0.0
    return below.sum(1) / (z.shape[1] - 2)


def mislabelled_exposure(logits, true_labels, planted_labels) -> Exposure:
    """Does the model still know the wrong labels? Exact null without a retrained model.

    Planted labels must have been drawn uniformly from the wrong ones. A model which never saw them is independent of
    the draw, so each rank is uniform on 0, 1/(C-2), ..., 1 whatever the model, with variance C / (12 (C - 2)); ties
    only shrink it.
    """
    ranks = planted_ranks(logits, true_labels, planted_labels)
    classes = as_array(logits).shape[1]
    z = float((ranks.mean() - 0.5) / np.sqrt(classes / (12 * (classes - 2)) / len(ranks)))
    p = _exact_p(ranks, classes) if len(ranks) <= EXACT else float(2 * norm.sf(abs(z)))
    return Exposure(float(ranks.mean()), z, p, len(ranks))


def _exact_p(ranks: np.ndarray, classes: int) -> float:
    """P[|S - E S| >= what was seen] for the sum S of n uniform draws from 0..C-2.

    A handful of ranks is not normal: both of two canaries at the top have p = 1/2 with three classes, not .16.
    """
    law, one = np.ones(1), np.full(classes - 1, 1 / (classes - 1))
    for _ in ranks:
        law = np.convolve(law, one)
    away = np.abs(np.arange(len(law)) - (len(law) - 1) / 2)
    seen = abs(float(ranks.sum()) - len(ranks) / 2) * (classes - 2)
    beyond = away >= seen - 1e-9
    return 1.0 if beyond.all() else float(law[beyond].sum())


def canary_rate(logits, planted_labels) -> float:
    """Share of canaries that the model still gives their planted label; compare with the retrained model's share."""
    return accuracy(logits, planted_labels)


@dataclass(frozen=True)
class Gus:
    """Gaussian poison: the mean of n statistics, each N(0, 1) if the noise is forgotten."""

    mean: float
    z: float  # mean * sqrt(n)
    ks_p: float  # Kolmogorov-Smirnov test of the n statistics against N(0, 1)
    n: int


def gus_statistics(noise, gradients, scale: float) -> np.ndarray:
    """<xi_i, g_i> / (scale ||g_i||) for poison noise xi ~ N(0, scale^2 I) and input gradients g, both [N, ...]; [N].

    Given any gradient that is independent of the noise the statistic is exactly N(0, 1), in any dimension. Noise that
    correlates rho with the gradient moves its mean to rho sqrt(d). Pawelczyk et al., arXiv 2406.17216.
    """
    xi, g = as_array(noise, np.float64), as_array(gradients, np.float64)
    if xi.shape != g.shape or xi.ndim < 2 or scale <= 0:
        raise ValueError("noise and gradients must have one shape [N, ...], and scale be positive")
    xi, g = xi.reshape(len(xi), -1), g.reshape(len(g), -1)
    length = np.linalg.norm(g, axis=1)
    if (length == 0).any():
        raise ValueError("an input gradient is zero: the model is saturated there; drop those examples")
    return (xi * g).sum(1) / (scale * length)


def gus(noise, gradients, scale: float) -> Gus:
    """Summary of `gus_statistics`. The noise must be the one added, before any clipping to the pixel range.

    A model that fits the poisoned pictures has lowered its loss along the noise, so residual shows as a negative
    mean: training descends, and <xi, grad_x loss> < 0.
    """
    s = gus_statistics(noise, gradients, scale)
    return Gus(float(s.mean()), float(s.mean() * np.sqrt(len(s))), float(kstest(s, "norm").pvalue), len(s))


def input_gradients(model: torch.nn.Module, images, labels, *, batch_size: int = 256) -> np.ndarray:
    """grad_x CE(f(x), y) at the *clean* pictures, [N, C, H, W] float32. The model's own gradients are not touched."""
    check_values(model)
    device, parts = device_of(model), []
    images = pixels(images, device=device, dtype=next((p.dtype for p in model.parameters()), None))
    with evaluating(model):
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = x.detach().requires_grad_()
            logits = asked(model, x)
            check_finite_answer(logits)
            check_labels(logits.shape[1], y)
            loss = F.cross_entropy(logits, y.to(device), reduction="sum")
            parts.append(as_array(torch.autograd.grad(loss, x)[0].float()))
    return np.concatenate(parts)
