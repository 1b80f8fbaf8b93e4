"""Dose control: what keeps forgetting from going too far, as parts that any method made of batches can take on board.

    ul.unlearn("neggrad", model, split, seed=0, parts=(dose.L2SP(0.1), dose.EarlyStop()))

All are instances of one problem, with theta_0 the start of the descent, L_R and L_F the losses of the two sets:

    min_theta  (1 - beta) L_R - beta phi(L_F) + rho Omega(theta, theta_0)   subject to |F| / |D| <= kappa, stop at tau

    beta     the weight of forgetting     the alpha of `neggrad_plus`
    phi      a bound                      BoundedLoss
    rho      a pull to the start          L2SP, EWC
    kappa    how much may be asked        RatioCap
    tau      when to stop                 EarlyStop
             where steps may go           KLTrustRegion, GradientProjection, SaliencyMask, BallProjection

Parts act in the order given. Each step is the optimiser's, so momentum and weight decay go on in directions that a
part took out of the gradient: what is said of one step holds with both at zero, except for SaliencyMask, BallProjection
and KLTrustRegion, which act on the weights themselves. Gradients and outputs that parts take are those of eval mode.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.curvature.solvers import solve
from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import (
    copies,
    example_gradients,
    gradient_of,
    mean_gradient,
    set_gradient,
    shaped,
    trainable,
    without_span,
)
from unlearnlib.approximate.steps import endless, matched_mean
from unlearnlib.exact.retrain import Retrain, retrain
from unlearnlib.training.loop import Part
from unlearnlib.training.models import device_of
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe


class Dose(Part):
    """A part that must first see where the descent starts: `applied` replaces it by one that is ready."""

    def penalty(self, model: nn.Module):
        raise RuntimeError(f"{type(self).__name__} is not ready: give it to ul.unlearn as parts=(...,)")


def _with(program, part: Part):
    return replace(program, parts=(*program.parts, part))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class L2SP(Dose):
    """A pull to the start: adds (rho / 2) ||theta - theta_0||^2 to the loss.

    With a quadratic loss of Hessian H and minimum theta* the result tends to (H + rho I)^-1 (H theta* + rho theta_0).
    """

    rho: float

    def applied(self, program, split, run):
        _check(self.rho >= 0, f"L2SP needs rho >= 0, not {self.rho}")
        return _with(program, _Pull(copies(program.model), self.rho / 2))


@dataclass(frozen=True)
class EWC(Dose):
    """A pull to the start where the retain set needs it: adds rho sum_i F_i (theta_i - theta_0,i)^2.

    fisher   F by parameter name; None: the diagonal of the empirical Fisher matrix of the retain set at the start,
             E_R (grad CE)^2, which costs one gradient for each retained example

    Elastic weight consolidation, as Heng and Soh 2023 use it to forget (key heng2023).
    """

    rho: float
    fisher: Mapping[str, Tensor] | None = None

    def applied(self, program, split, run):
        _check(self.rho >= 0, f"EWC needs rho >= 0, not {self.rho}")
        start = copies(program.model)
        if self.fisher is None:
            fisher = shaped(fisher_diagonal(program.model, split.retain, "empirical", tally=run.tally), start)
        else:
            fits = {n: t.shape for n, t in self.fisher.items()} == {n: t.shape for n, t in start.items()}
            _check(fits, "EWC.fisher must have one tensor for each trainable parameter, by its name and in its shape")
            fisher = {name: self.fisher[name].to(start[name]) for name in start}
        return _with(program, _Pull(start, self.rho, fisher))


class _Pull(Part):
    """weight * sum_i F_i (theta_i - theta_0,i)^2, F = 1 where None."""

    def __init__(self, start: dict[str, Tensor], weight: float, fisher: dict[str, Tensor] | None = None):
        self._start, self._weight, self._fisher = start, weight, fisher

    def penalty(self, model: nn.Module) -> Tensor:
        squares = {name: (p - self._start[name]).square() for name, p in trainable(model).items()}
        if self._fisher is not None:
            squares = {name: self._fisher[name] * square for name, square in squares.items()}
        return self._weight * sum(square.sum() for square in squares.values())


@dataclass(frozen=True)
class BoundedLoss(Part):
    """Forget no further than tau: L_F counts as min(L_F, tau).

    L_F is the mean cross-entropy of the examples of a step that have negative weights, those whose loss is climbed.
    At tau and above they get weight 0. The soft terms of distillation methods are not bounded.
    """

    tau: float

    def reweighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        climbed = weights < 0
        if climbed.any() and losses[climbed].mean() >= self.tau:
            return weights.where(~climbed, torch.zeros_like(weights))
        return weights


@dataclass(frozen=True)
class GradientProjection(Dose):
    """Take out of every step's gradient what would change the retain loss: g <- g - (g.g_R / ||g_R||^2) g_R.

    g_R is the gradient of the mean retain loss of `batch_size` examples, drawn anew for every step (all of them where
    the retain set is no larger). A step of size eta then changes that loss by O(eta^2).

    per_example   project on the complement of the span of all the examples' gradients instead, as `orthograd` does
    """

    batch_size: int = 256
    per_example: bool = False

    def applied(self, program, split, run):
        _check(self.batch_size >= 1, f"GradientProjection needs batch_size >= 1, not {self.batch_size}")
        return _with(program, Projection(split, run, self.batch_size, self.per_example))


class Projection(Part):
    """GradientProjection at work; `repair` times the mean retain gradient is added afterwards."""

    def __init__(self, split, run, batch_size: int, per_example: bool, repair: float = 0.0):
        self._train, self._tally = split.train, run.tally
        self._retained = endless(split.retain_index, batch_size, run.generator("projection"))
        self._per_example, self._repair = per_example, repair

    def after_gradient(self, model: nn.Module, step: int) -> None:
        examples = self._train[next(self._retained)]
        if self._per_example:
            device, dtype = device_of(model), next(model.parameters()).dtype
            rows = example_gradients(model, examples.pixels(device=device, dtype=dtype), examples.labels.to(device))
            self._tally.gradient_evaluations += len(examples)
        else:
            rows = mean_gradient(model, examples, tally=self._tally)[None]
        set_gradient(model, without_span(gradient_of(model), rows) + self._repair * rows.mean(0))


@dataclass(frozen=True)
class KLTrustRegion(Dose):
    """Steps of equal size in what the model says of the retain set: the optimiser chooses a direction, not a length.

        theta <- theta - sqrt(2 delta / (g^T F^-1 g)) F^-1 g,     so that  E_R KL(p_old || p_new) = delta + O(delta^1.5)

    g is the step's gradient and F the Fisher matrix of the model's own answers on a batch of the retain set plus
    `damping`, which makes the KL smaller than delta, never larger. F^-1 g comes from conjugate gradients, each
    iteration of which costs one gradient of the batch. The optimiser's own step (lr, momentum, weight decay) is
    discarded. Needs a network that can be differentiated twice.
    """

    delta: float  # nats a step
    batch_size: int = 256
    damping: float = 1e-4
    iterations: int = 20

    def applied(self, program, split, run):
        valid = self.delta > 0 and self.damping >= 0 and self.batch_size >= 1 and self.iterations >= 1
        _check(valid, "KLTrustRegion needs delta > 0, damping >= 0, batch_size >= 1 and iterations >= 1")
        return _with(program, _TrustRegion(self, split, run))


class _TrustRegion(Part):
    def __init__(self, config: KLTrustRegion, split, run):
        self._config, self._train, self._tally = config, split.train, run.tally
        self._retained = endless(split.retain_index, config.batch_size, run.generator("trust region"))

    def after_gradient(self, model: nn.Module, step: int) -> None:
        self._start, self._gradient = copies(model), gradient_of(model)

    def after_step(self, model: nn.Module, step: int) -> bool:
        parameters = trainable(model)
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(self._start[name])
        direction = self._natural(model, self._gradient)
        slope = torch.dot(self._gradient, direction)
        if slope > 0:
            length = math.sqrt(2 * self._config.delta / slope.item())
            with torch.no_grad():
                for name, piece in shaped(direction, parameters).items():
                    parameters[name].sub_(length * piece)
        return False

    def _natural(self, model: nn.Module, gradient: Tensor) -> Tensor:
        """(F + damping I)^-1 gradient, F the Gauss-Newton matrix: the Hessian of KL(p_old || p_theta) at old."""
        examples, settings = self._train[next(self._retained)], self._config
        options = {"damping": settings.damping, "iterations": settings.iterations, "tolerance": 1e-6}
        return solve(model, gradient, examples, **options, tally=self._tally).x


@dataclass(frozen=True)
class SaliencyMask(Dose):
    """Only the `fraction` of the weights with the largest |grad L_F(theta_0)| may move; the others stay bit-identical.

    The gradient is that of the mean loss of the whole forget set. Ties are broken by position.
    """

    fraction: float = 0.5

    def applied(self, program, split, run):
        _check(0 <= self.fraction <= 1, f"the fraction of a saliency mask lies between 0 and 1, not {self.fraction}")
        gradient = mean_gradient(program.model, split.forget, tally=run.tally).abs()
        mask = torch.zeros_like(gradient, dtype=torch.bool)
        mask[torch.sort(gradient, descending=True, stable=True).indices[: round(self.fraction * len(mask))]] = True
        start = copies(program.model)
        return _with(program, _Masked(shaped(mask, start), start))


class _Masked(Part):
    def __init__(self, mask: dict[str, Tensor], start: dict[str, Tensor]):
        self._mask, self._start = mask, start

    def after_gradient(self, model: nn.Module, step: int) -> None:
        for name, p in trainable(model).items():
            if p.grad is not None:
                p.grad.mul_(self._mask[name])

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        for name, p in trainable(model).items():  # weight decay and momentum have moved them without a gradient
            p.copy_(torch.where(self._mask[name], p, self._start[name]))
        return False


@dataclass(frozen=True)
class BallProjection(Dose):
    """Stay near the start: after every step theta goes back to the nearest point with ||theta - theta_0|| <= radius."""

    radius: float

    def applied(self, program, split, run):
        _check(self.radius >= 0, f"BallProjection needs radius >= 0, not {self.radius}")
        return _with(program, _Ball(copies(program.model), self.radius))


class _Ball(Part):
    def __init__(self, start: dict[str, Tensor], radius: float):
        self._start, self._radius = start, radius

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        parameters = trainable(model)
        moved = {name: p - self._start[name] for name, p in parameters.items()}
        distance = torch.sqrt(sum(m.double().square().sum() for m in moved.values())).item()
        if distance > self._radius:
            for name, p in parameters.items():
                p.copy_(self._start[name] + self._radius / distance * moved[name])
        return False


@dataclass(frozen=True)
class EarlyStop(Dose):
    """Stop when the forget set is no better known than pictures never seen: L_F >= the mean validation loss.

    The validation loss is that of the start, with the classes weighted as in the forget set. L_F is measured after
    every `every` steps, at the cost of a forward pass over the forget set.
    """

    every: int = 1

    def applied(self, program, split, run):
        _check(self.every >= 1, f"EarlyStop needs every >= 1, not {self.every}")
        held_out, model = split.validation, program.model
        losses = torch.zeros(0)
        if len(held_out):
            logits = predict(model, held_out, tally=run.tally)
            losses = F.cross_entropy(logits, held_out.labels, reduction="none")
        target = matched_mean(losses, held_out.labels, split.forget.labels)
        return _with(program, _Stop(target, split.forget, self.every, run.tally))


@dataclass(frozen=True)
class _Stop(Part):
    target: float
    forget: object
    every: int
    tally: object

    def after_step(self, model: nn.Module, step: int) -> bool:
        if (step + 1) % self.every:
            return False
        loss = F.cross_entropy(predict(model, self.forget, tally=self.tally), self.forget.labels)
        return loss.item() >= self.target


@dataclass(frozen=True)
class RatioCap(Dose):
    """Approximate only what is small: where |F| / |D| > kappa, refuse, or retrain from scratch.

    otherwise   "refuse" (ValueError) or "retrain" by `recipe`, which must be that of the original; the other parts of
                the call are then left out

    Guarantees of approximate unlearning hold for few deletions: the deletion capacity of Sekhari et al. (sekhari2021).
    """

    kappa: float
    otherwise: str = "refuse"
    recipe: Recipe = field(default_factory=Recipe)

    def instead(self, model: nn.Module, split, run):
        _check(self.otherwise in ("refuse", "retrain"), f"RatioCap.otherwise is refuse or retrain: {self.otherwise!r}")
        ratio = len(split.forget_index) / len(split.train)
        if ratio <= self.kappa:
            return None
        if self.otherwise == "retrain":
            return retrain(model, split, Retrain(self.recipe), run)
        raise ValueError(f"{ratio:.3g} of the data are to be forgotten, more than kappa = {self.kappa:.3g}: retrain")

    def applied(self, program, split, run):
        return program
