"""How bounds hold together: one part carries all of them, and acts when every other part has changed what it will.

Three sets, each convex and with the start theta_0 in it, and one bound that is measured:

    M = {theta: theta_i = theta_0,i outside the mask}     B = {theta: ||theta - theta_0|| <= radius}
    S = {theta: theta - before is orthogonal to the retain gradients at `before`}, where the step began
    E_R KL(p_theta_0 || p_theta) <= delta

A step's gradient is projected on the directions of M and S. After the step the weights are projected on M and S, and
then go to the nearest point of M, S and B, all in closed form. Where the KL is then too large the step is shortened:
both its ends lie in M, B and S, so the segment between them does, and `before` keeps the KL. So no bound is bought by
breaking another.

The statistics of norms, and whatever else layers keep in buffers, stay as they were where a part says so.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from unlearnlib.approximate.dose.directions import Directions, Span
from unlearnlib.approximate.dose.trust import Trust
from unlearnlib.approximate.gradients import flat, gradient_of, shaped, trainable
from unlearnlib.training.loop import Part, Stage
from unlearnlib.training.renewal import copied

_KEPT_BACK = {"radius": 1e-6, "delta": 1e-4}  # shares of the bounds that are left to rounding
_RESOLUTION = 1e-8  # to which a divergence can be told from log-probabilities in single precision
_TRIES = 6  # of shortening a step, each of which costs a forward pass over the retain set


def bounded(program, *, statistics: bool = False, **limit):
    """`program` with one more limit: free=[P] bool, radius=, spans=(Span,) or trust=; of two alike both hold.

    statistics   norms use their running statistics all along and keep them, as all buffers are kept
    """
    others = [part for part in program.parts if not isinstance(part, Bounds)]
    found = [part for part in program.parts if isinstance(part, Bounds)] or [Bounds.of(program.model)]
    return replace(program, parts=(*others, found[0].tightened(program.model, statistics, **limit)))


def returned(program) -> nn.Module:
    """The model that `program` returns if it takes no step: what bounds are about."""
    return program.model if program.finish is None else program.finish(copied(program.model))


def unmoved(part: Part, program, run) -> nn.Module:
    """`returned(program)`; ValueError unless that is the model that was given.

    A bound is on what the descent does: what is done before or after it cannot be held.
    """
    model = returned(program)
    old, new = (run.given or model).state_dict(), model.state_dict()
    if old.keys() != new.keys() or not all(
        old[k].shape == new[k].shape and torch.equal(old[k].to(new[k].dtype), new[k]) for k in old
    ):
        name = type(part).__name__
        raise ValueError(f"{name} cannot bound a method that changes weights before its first step: leave {name} out")
    return model


@dataclass(eq=False)
class Bounds(Part):
    """All bounds of one descent; vectors [P] are float64, in the order of `gradients.trainable`."""

    start: Tensor
    names: tuple[str, ...]  # of the parameters that may change
    free: Tensor | None = None
    radius: float = math.inf
    spans: tuple[Span, ...] = ()
    trust: Trust | None = None
    buffers: dict[str, Tensor] | None = None  # kept as they are; None: they may change
    _before: Tensor | None = field(default=None, init=False)
    _allowed: Directions = field(default=Directions(), init=False)  # for the whole step
    _gradient: Tensor | None = field(default=None, init=False)
    _spent: float = field(default=0.0, init=False)  # the KL where the step began

    stage = Stage.BOUND

    @classmethod
    def of(cls, model: nn.Module) -> "Bounds":
        return cls(_weights(model), tuple(trainable(model)))

    @property
    def holds_statistics(self) -> bool:
        return self.buffers is not None

    def tightened(self, model: nn.Module, statistics: bool, *, free=None, radius=math.inf, spans=(), trust=None):
        """These bounds and the given ones."""
        buffers = self.buffers
        if statistics and buffers is None:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        if free is not None and self.free is not None:
            free = free & self.free
        return replace(
            self,
            free=self.free if free is None else free,
            radius=min(self.radius, radius),
            spans=(*self.spans, *spans),
            trust=min((t for t in (self.trust, trust) if t), key=lambda t: t.config.delta, default=None),
            buffers=buffers,
        )

    def after_gradient(self, model: nn.Module, step: int) -> None:
        masked = Directions(self.free)
        found = [(span, torch.stack([masked.part(row) for row in span.rows(model)])) for span in self.spans]
        self._before, self._allowed = _weights(model), masked.without([r for s, r in found if not s.climb_only])
        self._gradient = masked.without([rows for _, rows in found]).part(gradient_of(model).double())
        for span, rows in found:
            if span.repair:
                self._gradient = self._gradient + self._allowed.part(span.repair * rows.mean(0))
        parameters = trainable(model)
        for name, piece in shaped(self._gradient, parameters).items():
            if parameters[name].grad is not None:
                parameters[name].grad.copy_(piece)

    def stepped(self, model: nn.Module, step: int) -> bool:
        if self.trust is None:
            return False
        if self.trust.share > 0:
            gradient = self._allowed.part(self._gradient)
            self._write(model, self._before + self.trust.step(model, gradient, self._allowed))
        return True

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        if self.buffers is not None:
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name])
        before, after = self._before, _weights(model)
        if not torch.isfinite(after).all():
            return False  # the loop says so at the end
        if self._allowed.basis is not None:
            after = before + self._allowed.part(after - before)
        self._write(model, self._in_ball(after))
        if self.trust is not None:
            self._shorten(model)
        return False

    def _in_ball(self, theta: Tensor) -> Tensor:
        """The point of the ball nearest to theta, among those that the step may reach."""
        if self.radius == math.inf:
            return theta
        theta, centre = self._masked(theta), self.start
        if self._allowed.basis is not None:
            centre = self._before + self._allowed.part(centre - self._before)
        radius = self.radius * (1 - _KEPT_BACK["radius"])
        room = math.sqrt(max(radius**2 - (centre - self.start).square().sum().item(), 0.0))
        distance = torch.linalg.vector_norm(theta - centre).item()
        return theta if distance <= room else centre + room / distance * (theta - centre)

    def _shorten(self, model: nn.Module) -> None:
        """Go back along the step until the KL is within its bound. Where it is convex, it lies below its chord."""
        before, after, share = self._before, _weights(model), 1.0
        delta, coarse = self.trust.config.delta, next(model.parameters()).dtype != torch.float64
        limit = max(delta * (1 - _KEPT_BACK["delta"]) - coarse * _RESOLUTION, delta / 2)
        for _ in range(_TRIES):
            spent = self.trust.divergence(model)
            if spent <= limit:
                self._spent = spent
                return
            share *= (limit - self._spent) / (spent - self._spent) if spent < math.inf else 0.1
            self._write(model, before + share * (after - before))
        self._write(model, before)

    def _masked(self, theta: Tensor) -> Tensor:
        return theta if self.free is None else theta.where(self.free, self.start)

    @torch.no_grad()
    def _write(self, model: nn.Module, theta: Tensor) -> None:
        parameters, theta = trainable(model), self._masked(theta)
        starts = shaped(self.start, parameters)
        for name, piece in shaped(theta, parameters).items():
            exact = self.radius == math.inf
            parameters[name].copy_(piece if exact else towards(starts[name], piece, parameters[name].dtype))

    @torch.no_grad()
    def settle(self, given: nn.Module, returned: nn.Module) -> None:
        """Round to the precision of `given` without leaving a bound; what that breaks goes back towards `given`."""
        if self.radius == math.inf and self.trust is None:
            return
        trial, ends = copied(given), dict(returned.named_parameters())
        old = {name: p.detach() for name, p in given.named_parameters() if name in self.names}
        new = {name: ends[name].double() for name in old}
        trust = self.trust and self.trust.from_start(given)
        now = {name: p for name, p in trial.named_parameters() if name in old}
        for share in (1.0, 0.9, 0.7, 0.4, 0.1, 0.0):
            for name, p in now.items():
                p.copy_(towards(old[name], old[name] + share * (new[name] - old[name]), p.dtype))
            distance = torch.linalg.vector_norm(flat(p.double() - old[name].double() for name, p in now.items()))
            if distance <= self.radius and (trust is None or trust.divergence(trial) <= self.trust.config.delta):
                break
        for name, p in now.items():
            ends[name].copy_(p)


def towards(anchor: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """`exact` in another precision, each number rounded so that it is no farther from `anchor` than it was."""
    near, anchor = exact.to(dtype), anchor.to(dtype)
    farther = (near.double() - anchor.double()).abs() > (exact.double() - anchor.double()).abs()
    return torch.where(farther, torch.nextafter(near, anchor), near)


def _weights(model: nn.Module) -> Tensor:
    return flat(p.detach().double() for p in trainable(model).values())
