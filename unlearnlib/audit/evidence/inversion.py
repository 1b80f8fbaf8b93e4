"""Model inversion: ask a model to draw the class it forgot.

Gradient ascent on the *input* gives the picture that a model holds for the best example of a class,

    x* = argmax_x  log p_c(x) - (decay / 2) |x - x_0|^2,      x_0 the mean picture of all classes,

by steps of fixed rate from x_0, clipped to the valid pixels. If x* resembles the true mean picture of the class, the
model still holds its looks, however rarely it names it: the ascent does not care about a low bias. The statistic of a
model is

    likeness = cosine of  x* - x_0  and  (mean picture of class c) - x_0,

compared with that of retrained models (`statistics.against_null`), which draw something for the
unused output, too: what raises log p_c also leads away from the other classes, and that alone has a likeness well
above 0.

*Direction*: above the retrained models is residual. *Units*: cosine, in [-1, 1]. *Null*, level and power: those of
`against_null`. *Cost*: `steps` gradients of one picture a model and class; K >= 2 retrained models; white-box access.
*Power* is low for deep networks, whose best inputs look like noise: an inversion that finds nothing shows nothing.
*Blind to* classes whose mean picture says little, and to single examples.

Fredrikson, Jha and Ristenpart, CCS 2015 (inversion); for forgotten classes with a gradient-based white-box attack see
arXiv 2604.07386, of which the abstract was read. **Reconstruction**: likeness to the class mean, and the comparison
with retrained models, in place of the published rule on the predictions for inverted inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.modes import device_of, evaluating
from unlearnlib.training.renewal import copied


@dataclass(frozen=True, eq=False)
class Inversion:
    """`comparison`: of the likeness; `drawn` [M, C, H, W] and `null_drawn` [K, C, H, W]: the pictures x*; `truth` and
    `start` [C, H, W]: the mean pictures of the class and of all classes."""

    comparison: AgainstNull
    drawn: Tensor
    null_drawn: Tensor
    truth: Tensor
    start: Tensor

    @property
    def p_value(self) -> float:
        return self.comparison.p_value


def inversion(
    unlearned,
    retrained: Sequence[nn.Module],
    reference,
    forgotten: int,
    *,
    steps: int = 100,
    lr: float = 0.1,
    decay: float = 0.1,
    level: float = 0.95,
) -> Inversion:
    """Invert one network or a list of them, and retrained ones, for class `forgotten`.

    `reference` are Examples of all classes that no model was trained on, whose means are the truth. Models are read and
    never changed. Raises ValueError for a class without examples, where only one class has examples, for numbers that
    are not positive, and for fewer than two retrained models.
    """
    models = [unlearned] if isinstance(unlearned, nn.Module) else list(unlearned)
    if len(models) < 1 or len(retrained) < 2:
        raise ValueError(f"needs a candidate and two retrained models or more, not {len(models)} and {len(retrained)}")
    pixels, y = reference.pixels(), reference.labels.cpu()
    there = [int(c) for c in torch.unique(y)]
    if forgotten not in there or len(there) < 2:
        raise ValueError(f"reference needs examples of class {forgotten} and of others; it has classes {there}")
    means = torch.stack([pixels[y == c].mean(0) for c in there])
    start, truth = means.mean(0), means[there.index(forgotten)]
    limits = reference.limits or (-torch.inf, torch.inf)
    settings = dict(steps=steps, lr=lr, decay=decay, limits=limits)
    ours, theirs = (torch.stack([drawn(m, forgotten, start, **settings) for m in side]) for side in (models, retrained))
    compared = against_null(*([likeness(x, truth, start) for x in side] for side in (ours, theirs)), level)
    return Inversion(compared, ours, theirs, truth, start)


def drawn(
    model: nn.Module, label: int, start: Tensor, *, steps: int, lr: float, decay: float, limits=(0.0, 1.0)
) -> Tensor:
    """x* [C, H, W]: `steps` steps of gradient ascent from `start` on log p_label(x) - decay / 2 |x - start|^2."""
    if not (steps >= 1 and lr > 0 and decay >= 0):
        raise ValueError(f"steps and lr must be positive and decay not negative, not {steps}, {lr} and {decay}")
    copy, device = copied(model).requires_grad_(False), device_of(model)
    dtype = next((p.dtype for p in copy.parameters()), start.dtype)
    x0 = start.to(device, dtype)[None]
    low, high = (torch.as_tensor(end).reshape(-1, 1, 1).to(x0) for end in limits)
    x = x0.clone()
    with evaluating(copy):
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            logits = copy(x)
            if not 0 <= label < logits.shape[1]:
                raise ValueError(f"the model has no class {label}: it answers {logits.shape[1]} classes")
            (slope,) = torch.autograd.grad(F.log_softmax(logits, 1)[0, label], x)
            x = (x.detach() + lr * (slope - decay * (x.detach() - x0))).clamp(low, high)
    if not torch.isfinite(x).all():
        raise ValueError("the inverted picture is not finite: lower lr")
    return x[0].to(start)


def likeness(picture: Tensor, truth: Tensor, start: Tensor) -> float:
    """Cosine of picture - start and truth - start; 0 where the picture has not moved."""
    a, b = (as_array(p - start, np.float64).ravel() for p in (picture, truth))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b / size) if size > 0 else 0.0
