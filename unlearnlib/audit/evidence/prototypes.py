"""Prototypical relearning: five pictures and no training bring a forgotten class back.

A class-unlearned model may have lost nothing but the row of its last layer that names the class. Whoever has a handful
of pictures of it can write that row anew. With features phi, and k shots of class c,

    p_c = mean of phi(shots) / |mean of phi(shots)|,
    "cosine":   w_c <- alpha p_c + (1 - alpha) w_c,       b_c <- (1 - alpha) b_c
    "l2":       w_c <- 2 alpha p_c + (1 - alpha) w_c,     b_c <- -alpha |p_c|^2 + (1 - alpha) b_c
    "imprint":  w_c <- alpha n p_c + (1 - alpha) w_c,     b_c <- alpha m + (1 - alpha) b_c,

n and m the mean length and the mean bias of the rows of the other classes, so that the new row speaks as loudly as
they do; and the statistic of a model is its accuracy on *other* pictures of the class, among all classes, after that.

A retrained model relearns from five shots, too: features of other classes are of use for a new one. Only what an
unlearned model has beyond that was left behind, so the accuracies are compared with those of retrained models
(`statistics.against_null`).

*Direction*: above the retrained models is residual. *Units*: accuracy. *Null*, level and power: those of
`against_null`; the shots are the same for all models. *Cost*: forward passes, K >= 2 retrained models. *Needs* a last
layer that is linear. *Blind to* single examples, and to knowledge that does not gather a class around one direction.

Ha, Park and Yoon, ICML 2026 (PMLR 306), arXiv 2506.01318, and its code. The first two updates are the released
ones, with alpha = 1/2 ("cosine" is their default). Half of the old row stays then, and a head whose bias was merely
pushed down to -20 gives the class away to nobody: such an edit passes. So the default here is "imprint" at alpha = 1.
The comparison with retrained models is ours, too; the paper reads the accuracy itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.models import features, head_name

METRICS = ("imprint", "cosine", "l2")


@dataclass(frozen=True, eq=False)
class PrototypicalRelearning:
    """`comparison`: of the accuracy on the forgotten classes after the attack. `before` and `after` [M], `null_before`
    and `null_after` [K]: the same accuracies, before and after; `kept` [M] and `null_kept` [K]: accuracy on the other
    classes after it, which a useful attack leaves in place.
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
    metric: str = "imprint",
    alpha: float = 1.0,
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
    return PrototypicalRelearning(against_null(ours[1], theirs[1], level), *ours, *theirs, len(shots.labels))


def prototype_head(weight, bias, shot_features, shot_labels, *, metric: str = "imprint", alpha: float = 1.0):
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
    others = np.setdiff1d(np.arange(len(w)), y)
    if metric == "imprint" and len(others) == 0:
        raise ValueError("no class is left to imprint by: use 'cosine' or 'l2' where all classes are forgotten")
    loudness = float(np.linalg.norm(w[others], axis=1).mean()) if len(others) else 0.0
    common = float(b[others].mean()) if len(others) else 0.0
    for c in np.unique(y):
        mean = phi[y == c].mean(0)
        length = float(np.linalg.norm(mean))
        if not 0 < length < np.inf or not 0 <= c < len(w):
            raise ValueError(
                f"class {c} has no prototype: its features have mean 0 or are not finite, or no such class"
            )
        prototype = mean / length
        new_w, new_b = {
            "imprint": (loudness * prototype, common),
            "cosine": (prototype, 0.0),
            "l2": (2 * prototype, -1.0),
        }[metric]
        w[c] = alpha * new_w + (1 - alpha) * w[c]
        b[c] = alpha * new_b + (1 - alpha) * b[c]
    return w, b


@torch.no_grad()
def _attacked(model: nn.Module, shots, queries, asked: np.ndarray, metric: str, alpha: float):
    """Accuracy on forgotten classes before and after, and on the others after."""
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
    right = [(phi @ w.T + b).argmax(1) == y for w, b in ((weight, bias), new)]
    return float(right[0][asked].mean()), float(right[1][asked].mean()), float(right[1][~asked].mean())
