"""Over-unlearning near the forget set: what pushing a class down did to those next to it.

Unlearning cats by raising their loss also moves the border to dogs, and pictures of dogs near that border, of which a
test set has few, go with it. So inputs are *made* there: from each forgotten picture, a few signed gradient steps
within the ball |delta|_inf <= epsilon towards the class that the original names second,

    x <- clip( x - step sign grad CE(f_original(x), runner-up) ),

and on them the unlearned model is compared with what the original would say if it just left the forgotten classes out:

    OU@epsilon = mean over x of JS( mask(p_original(x)) , p_unlearned(x) ),
    mask(p) = p with the forgotten classes at 0, renormalised.

0: near the forget set nothing has changed but the class is gone. A retrained model does not score 0, since it is
another model; it is the yardstick here (`statistics.against_null`), and above it is damage.

*Direction*: above the retrained models is over-unlearning; below them, closer to the original than retraining gets.
*Units*: nats, between 0 and log 2. *Null*, level and power: those of `against_null`. *Cost*: `steps` gradients of the
original per forgotten picture, once for all candidates; forward passes; K >= 2 retrained models. *Blind to* whether
anything is left.

Ha, Park and Yoon, ICML 2026 (PMLR 306), arXiv 2506.01318. Deviation from the released code: it *adds* the signed
gradient of the cross-entropy with the runner-up, which moves away from the border; here the step goes towards it, as
the text has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.audit.distances.outputs import jensen_shannon, softmax
from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.modes import device_of, evaluating
from unlearnlib.training.prediction import predict
from unlearnlib.training.renewal import copied


@dataclass(frozen=True, eq=False)
class OverUnlearning:
    """`comparison`: of OU@epsilon; `original`: that of the original itself, which still names the forgotten classes;
    `crossed`: share of the made inputs at which it does not name them any more."""

    comparison: AgainstNull
    original: float
    crossed: float
    epsilon: float

    @property
    def p_value(self) -> float:
        return self.comparison.p_value


def over_unlearning(
    unlearned,
    retrained: Sequence[nn.Module],
    original: nn.Module,
    forget,
    *,
    epsilon: float = 0.03,
    step: float = 0.01,
    steps: int = 3,
    level: float = 0.95,
    seed: int = 0,
) -> OverUnlearning:
    """OU@epsilon of one network or a list of them, beside retrained ones, around `forget` Examples of whole classes.

    The candidates were all unlearned from `original`. `epsilon` and `step` are in units of the pixels (0 to 1),
    defaults as released. Models are read and never changed.
    Raises ValueError for sizes that are not positive and fewer than two retrained models.
    """
    models = [unlearned] if isinstance(unlearned, nn.Module) else list(unlearned)
    if len(models) < 1 or len(retrained) < 2:
        raise ValueError(f"needs a candidate and two retrained models or more, not {len(models)} and {len(retrained)}")
    made = nearby(original, forget, epsilon=epsilon, step=step, steps=steps, seed=seed)
    forgotten = np.unique(as_array(forget.labels))
    reference = predict(original, made)
    ours, theirs = ([ou(reference, predict(m, made), forgotten) for m in side] for side in (models, retrained))
    crossed = float((~np.isin(as_array(reference).argmax(1), forgotten)).mean())
    return OverUnlearning(against_null(ours, theirs, level), ou(reference, reference, forgotten), crossed, epsilon)


def ou(original, unlearned, forgotten) -> float:
    """Mean JS of the masked answers of the original and the answers of the unlearned model, both as logits [N, C]."""
    p, q = softmax(original), softmax(unlearned)
    out = np.unique(as_array(forgotten))
    if (
        p.ndim != 2
        or out.ndim != 1
        or len(out) == 0
        or not 0 <= out.min() <= out.max() < p.shape[1] - (len(out) == p.shape[1])
    ):
        raise ValueError(f"forgotten classes must be some, and not all, of the {p.shape[-1]} classes of logits [N, C]")
    z = as_array(original, np.float64).copy()
    z[:, out] = -np.inf
    return float(jensen_shannon(softmax(z), q).mean())


def nearby(original: nn.Module, forget, *, epsilon: float, step: float, steps: int, seed: int) -> Tensor:
    """Pixels [N, C, H, W] within `epsilon` of the forgotten ones, moved towards the class that `original` names next.

    That is its second choice, or its first where it does not name the label. A random start within the ball; the valid
    range of the pixels is kept.
    """
    if not (epsilon > 0 and step > 0 and steps >= 1):
        raise ValueError(f"epsilon and step must be positive and steps 1 or more: {epsilon}, {step}, {steps}")
    model, device = copied(original).requires_grad_(False), device_of(original)
    low, high = (torch.as_tensor(end).reshape(-1, 1, 1) for end in (forget.limits or (-torch.inf, torch.inf)))
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    clean, labels = forget.pixels(dtype=dtype), forget.labels.cpu()
    start = torch.rand(clean.shape, generator=seeding.generator(seed, "over-unlearning")) * 2 - 1
    parts = []
    with evaluating(model):
        for x0, noise, y in zip(*(t.split(512) for t in (clean, start, labels)), strict=True):
            x0, y = x0.to(device), y.to(device)
            floor = torch.maximum(x0 - epsilon, low.to(x0))
            roof = torch.minimum(x0 + epsilon, high.to(x0))
            with torch.no_grad():
                target = model(x0).scatter(1, y[:, None], -torch.inf).argmax(1)
            x = (x0 + epsilon * noise.to(x0)).clamp(floor, roof)
            for _ in range(steps):
                x = x.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(F.cross_entropy(model(x), target, reduction="sum"), x)
                x = (x.detach() - step * slope.sign()).clamp(floor, roof)
            parts.append(x.cpu())
    return torch.cat(parts)
