"""Prototypical relearning: five pictures and no training bring a forgotten class back.

A class-unlearned model may have lost nothing but the row of its last layer that names the class. Whoever has a handful
of pictures of it can write that row anew. With features phi, and k shots of class c,

    p_c = mean of phi(shots) / |mean of phi(shots)|,
    "cosine":   w_c <- alpha p_c + (1 - alpha) w_c,       b_c <- (1 - alpha) b_c
    "l2":       w_c <- 2 alpha p_c + (1 - alpha) w_c,     b_c <- -alpha |p_c|^2 + (1 - alpha) b_c

so that other pictures of the class, and not those of other classes, should score high on the margin z_c - max_{j != c}
z_j. The statistic of a model is the AUC of that margin between the two. Where the old bias of class c lies is of no
matter for it.

The published statistic is accuracy, which stands beside it, and two things make it a bad judge. Half of the old row
stays at alpha = 1/2, so a head whose bias was merely pushed to -20 names the class as little as before, with an
untouched encoder; and where features are large or share a direction, the new row wins everywhere, so that accuracy on
the class is 1 for any model, retrained ones included, and 0 on all others.

A retrained model relearns from five shots, too: features of other classes are of use for a new one (on 8 x 8 digits
its AUC is .95). Only what an unlearned model has beyond that was left behind (`statistics.against_null`).

*Direction*: above the retrained models is residual. *Units*: AUC. *Null*, level and power: those of `against_null`; the
shots are the same for all models. *Cost*: forward passes, K >= 2 retrained models. *Needs* a last layer that is linear.
*Blind to* single examples, and to knowledge that does not gather a class around one direction.

Ha, Park and Yoon, ICML 2026 (PMLR 306), arXiv 2506.01318, and its code. Deviations: none in the update (the defaults
are the released ones); AUC, and the comparison with retrained models, are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array, roc
from unlearnlib.training.models import features, head_name

METRICS = ("cosine", "l2")


@dataclass(frozen=True, eq=False)
class PrototypicalRelearning:
    """`comparison`: of the AUC after the attack. Accuracies of candidates [M] and retrained models [K]: `before` and
    `after`, on the forgotten classes before and after it; `kept`, on the other classes after it.
    """

    comparison: AgainstNull
    before: np.ndarray
    after: np.ndarray
    kept: np.ndarray
    null_before: np.ndarray
    null_after: np.ndarray
    null_kept: np.ndarray
    shots: int

    @property
    def p_value(self) -> float:
        return self.comparison.p_value


def prototypical_relearning(
    unlearned,
    retrained: Sequence[nn.Module],
    shots,
    queries,
    *,
    metric: str = "cosine",
    alpha: float = 0.5,
    level=0.95,
) -> PrototypicalRelearning:
    """Attack class unlearning with a few pictures of the forgotten classes.

    `unlearned` is a network or a list of them, `retrained` two networks or more; `shots` are Examples of the forgotten
    classes alone, `queries` others of all classes, held out. Models are read and never changed. Raises ValueError for
    an unknown metric, alpha outside (0, 1], queries without forgotten or without other classes, fewer than two
    retrained models, and networks that do not end in a linear layer with a bias.
    """
    models = [unlearned] if isinstance(unlearned, nn.Module) else list(unlearned)
    forgotten = np.unique(as_array(shots.labels))
    asked = np.isin(as_array(queries.labels), forgotten)
    if len(forgotten) == 0 or not asked.any() or asked.all():
        raise ValueError("needs shots of the forgotten classes, and queries of these and of other classes")
    if len(models) < 1 or len(retrained) < 2:
        raise ValueError(f"needs a candidate and two retrained models or more, not {len(models)} and {len(retrained)}")
    ours, theirs = (
        np.array([_attacked(m, shots, queries, asked, metric, alpha) for m in side]).T for side in (models, retrained)
    )
    compared = against_null(ours[0], theirs[0], level)
    return PrototypicalRelearning(compared, *ours[1:], *theirs[1:], len(shots.labels))


def prototype_head(weight, bias, shot_features, shot_labels, *, metric: str = "cosine", alpha: float = 0.5):
    """The last layer after the attack: (weight [C, d], bias [C]) as new arrays; see the head of this module.

    `shot_features` [k, d] with labels [k]. Raises ValueError for shapes that do not fit, features that are not finite
    or have mean 0, an unknown metric, and alpha outside (0, 1].
    """
    if metric not in METRICS or not 0 < alpha <= 1:
        raise ValueError(f"metric is one of {', '.join(METRICS)} and alpha lies in (0, 1], not {metric!r} and {alpha}")
    w, b = as_array(weight, np.float64).copy(), as_array(bias, np.float64).copy()
    phi, y = as_array(shot_features, np.float64), as_array(shot_labels)
    if w.ndim != 2 or b.shape != w.shape[:1] or phi.ndim != 2 or phi.shape[1] != w.shape[1] or y.shape != phi.shape[:1]:
        raise ValueError(f"needs a head [C, d], [C] and features [k, d], [k], not {w.shape}, {b.shape} and {phi.shape}")
    for c in np.unique(y):
        mean = phi[y == c].mean(0)
        length = float(np.linalg.norm(mean))
        if not 0 < length < np.inf or not 0 <= c < len(w):
            raise ValueError(
                f"class {c} has no prototype: its features have mean 0 or are not finite, or no such class"
            )
        prototype = mean / length
        new_w, new_b = (prototype, 0.0) if metric == "cosine" else (2 * prototype, -1.0)
        w[c] = alpha * new_w + (1 - alpha) * w[c]
        b[c] = alpha * new_b + (1 - alpha) * b[c]
    return w, b


@torch.no_grad()
def _attacked(model: nn.Module, shots, queries, asked: np.ndarray, metric: str, alpha: float):
    """AUC after the attack; accuracy on forgotten classes before and after it, and on the others after it."""
    pixels = queries.pixels()
    head = dict(model.named_modules())[head_name(model, pixels[:1])]
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError("prototypical relearning needs networks that end in a linear layer with a bias")
    weight, bias = as_array(head.weight, np.float64), as_array(head.bias, np.float64)
    if len(weight) <= int(shots.labels.max()):
        raise ValueError(f"the head names {len(weight)} classes and has no row for class {int(shots.labels.max())}")
    phi, few = (as_array(features(model, x), np.float64) for x in (pixels, shots.pixels()))
    new = prototype_head(weight, bias, few, shots.labels, metric=metric, alpha=alpha)
    y = as_array(queries.labels)
    answers = [phi @ w.T + b for w, b in ((weight, bias), new)]
    right = [z.argmax(1) == y for z in answers]
    auc = relearned_auc(answers[1], asked, np.unique(as_array(shots.labels)))
    return auc, float(right[0][asked].mean()), float(right[1][asked].mean()), float(right[1][~asked].mean())


def relearned_auc(logits, asked, forgotten) -> float:
    """AUC of  max over forgotten classes of z - max over the others of z  between `asked` [N] (bool) and others.

    `logits` [N, C]. Raises ValueError where every class is forgotten.
    """
    z = as_array(logits, np.float64)
    others = np.setdiff1d(np.arange(z.shape[1]), forgotten)
    if len(others) == 0:
        raise ValueError("every class is forgotten: none is left to tell the forgotten ones from")
    return roc(z[:, forgotten].max(1) - z[:, others].max(1), asked).auc
