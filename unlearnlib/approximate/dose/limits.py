"""Parts that bound where the weights may be and where a step may go; `bounds` holds them all together."""

from dataclasses import dataclass

import torch

from unlearnlib.approximate.dose.base import Dose, check_number
from unlearnlib.approximate.dose.bounds import bounded, returned, unmoved
from unlearnlib.approximate.dose.directions import Span
from unlearnlib.approximate.dose.trust import trusted
from unlearnlib.approximate.gradients import flat, mean_gradient, shaped, trainable
from unlearnlib.training.prediction import predict


@dataclass(frozen=True)
class SaliencyMask(Dose):
    """Only the `fraction` of the weights with the largest |grad L_F(theta_0)| may move; the others stay bit-identical.

    The gradient is that of the mean loss of the whole forget set. Ties are broken by position. Raises ValueError unless
    0 <= fraction <= 1, and with a method that changes weights before its first step.
    """

    fraction: float = 0.5

    def applied(self, program, split, run):
        check_number(self, "fraction", 0, 1)
        unmoved(self, program, run)
        return bounded(program, free=salient(program, split, run, self.fraction), statistics=True)


def salient(program, split, run, fraction: float) -> torch.Tensor:
    """The mask of SaliencyMask: [P], True where a weight may move; weights that are not returned all may."""
    model = returned(program)
    gradient = mean_gradient(model, split.forget, tally=run.tally).abs()
    mask = torch.zeros_like(gradient, dtype=torch.bool)
    mask[torch.sort(gradient, descending=True, stable=True).indices[: round(fraction * len(mask))]] = True
    masks, own = shaped(mask, trainable(model)), trainable(program.model)
    free = {name: torch.ones_like(p, dtype=torch.bool) for name, p in own.items()}
    for name, piece in masks.items():
        free[name][tuple(map(slice, piece.shape))] = piece
    return flat(free.values())


@dataclass(frozen=True)
class BallProjection(Dose):
    """Stay near the start: after every step theta goes back to the nearest point with ||theta - theta_0|| <= radius.

    Nearest among the points that the other parts allow: with a projection, those that the step may reach. A millionth
    of the radius is kept back for rounding. Raises ValueError unless radius >= 0, and with a method that changes
    weights before its first step.
    """

    radius: float

    def applied(self, program, split, run):
        check_number(self, "radius", 0)
        unmoved(self, program, run)
        return bounded(program, radius=float(self.radius), statistics=True)


@dataclass(frozen=True)
class GradientProjection(Dose):
    """Take out of every step what would change the retain loss: d <- d - (d.g_R / ||g_R||^2) g_R.

    d is the step's gradient and, after the optimiser, the step itself, so that momentum, weight decay and the scales of
    Adam add nothing of g_R again. g_R is the gradient of the mean retain loss of `batch_size` examples, drawn anew for
    every step (all of them where the retain set is no larger). A step of size eta then changes that loss by O(eta^2).
    Among weights that a mask lets move, d and g_R count as far as they lie there.

    per_example   project on the complement of the span of all the examples' gradients instead, as `orthograd` does
    """

    batch_size: int = 256
    per_example: bool = False

    def applied(self, program, split, run):
        check_number(self, "batch_size", 1, whole=True)
        outputs = None if program.finish is None else _outputs(returned(program), split.train)
        span = Span(split, run, self.batch_size, self.per_example, outputs=outputs)
        return bounded(program, spans=(span,), statistics=True)


def _outputs(model, examples) -> int:
    return predict(model, examples[torch.tensor([0])]).shape[1]


@dataclass(frozen=True)
class KLTrustRegion(Dose):
    """Change what the model says of the retain set by at most delta in all, in steps of equal size in this measure.

        E_R KL(p_theta_0 || p_theta) <= delta     at every moment, over the whole retain set, in eval mode
        theta <- theta - sqrt(2 delta_1 / (g^T F^-1 g)) F^-1 g,     delta_1 = delta / steps^2

    so that one step has KL delta_1 + O(delta_1^1.5), and `steps` steps straight on have delta. A step that would leave
    the bound is shortened until it does not. g is the step's gradient, and F the Fisher matrix of the model's own
    answers on a batch of the retain set plus `damping`, which makes the KL of a step smaller, never larger. F^-1 g
    comes from conjugate gradients among the steps that other parts allow: each iteration costs a product with the
    Gauss-Newton matrix of the batch, each step a forward pass over the retain set. The optimiser's own step (lr,
    momentum, weight decay) is not taken; where lr is 0 none is. Needs a network that can be differentiated twice. For
    rounding a ten-thousandth of delta is kept back, and below float64 another 1e-8.

    Raises ValueError on values out of range, and with a method that changes weights before its first step.
    """

    delta: float  # nats, over the whole descent
    batch_size: int = 256
    damping: float = 1e-4
    iterations: int = 20

    def applied(self, program, split, run):
        check_number(self, "delta", 0, above=True)
        check_number(self, "damping", 0)
        check_number(self, "batch_size", 1, whole=True)
        check_number(self, "iterations", 1, whole=True)
        start = unmoved(self, program, run)
        return bounded(program, trust=trusted(self, start, program, split, run), statistics=True)
