"""PGA: the client that leaves climbs its own loss inside a ball, then the others go on.

    max_w F_u(w)  subject to  |w - w_ref| <= d,      w_ref = sum_{k left} p_k w_k

w_k are the clients' last local models, so that for N equal clients w_ref = (N w - w_u) / (N - 1): the last round
without u. Ascent is SGD with momentum at the client, projected to the ball after each step (`radius` d; None: a third
of the mean distance from w_ref to three freshly drawn networks), and ends early where the distance from w_ref exceeds
`stop`. Then come `rounds` ordinary rounds of the others.

Halimi et al. 2022, key halimi2022. Deviations: the authors end the ascent by the distance to u's last model, we by
that to w_ref. Where a client stays and loses some of its examples, or a class goes, w_ref is w itself, each such
client climbs on what it loses, and the server averages; the paper has one whole client. The ascent runs in this
process, whatever the engine is, and is counted as that client's work.

Not repeated, of the authors' notebook: its distance is a square, so that "a third" of it is .58 of the distance, and
the projection puts a point at the square root of it. There as here the early end does the work, not the ball.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Case, Outcome, stored, weighted
from unlearnlib.federated.vectors import filled, vector, weights
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.loop import Part, Stage, descend
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import fresh
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Ascent:
    epochs: int = 5  # of ascent at most
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 64
    clip: float = 5.0  # longest gradient of a step
    radius: float | None = None  # d of the ball; None: a third of the mean distance to random networks
    stop: float | None = 2.0  # distance from w_ref at which the ascent ends; None: only with its epochs
    rounds: int = 1  # ordinary rounds of the others afterwards

    def __post_init__(self):
        doors.whole(epochs=self.epochs, batch_size=self.batch_size)
        doors.whole(0, rounds=self.rounds)
        numbers(above=True, lr=self.lr, clip=self.clip)
        numbers(0, 0.999, momentum=self.momentum)
        given = {name: value for name in ("radius", "stop") if (value := getattr(self, name)) is not None}
        numbers(above=True, **given)


class Ball(Part):
    """Holds the weights within `radius` of `centre`, and ends the descent where they are farther than `stop`."""

    stage = Stage.BOUND

    def __init__(self, centre: list[Tensor], radius: float, stop: float | None):
        self.centre, self.radius, self.stop = centre, radius, stop
        self.projected = 0

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        moved = [p - c for p, c in zip(weights(model), self.centre, strict=True)]
        distance = float(torch.linalg.vector_norm(torch.cat([m.flatten() for m in moved]).double()))
        if distance > self.radius:
            self.projected += 1
            for p, c, m in zip(weights(model), self.centre, moved, strict=True):
                p.copy_(c + m * (self.radius / distance))
        return self.stop is not None and min(distance, self.radius) > self.stop


def climbed(reference: nn.Module, lost: Examples, config: Ascent, radius: float, seed: int, tally: Tally) -> nn.Module:
    """A copy of `reference` after projected ascent on the loss of `lost`."""
    model = filled(reference, vector(reference))
    recipe = Recipe(
        *(config.epochs, config.batch_size, "sgd", config.lr, config.momentum, 0.0, "constant"),
        nesterov=False,
        clip_norm=config.clip,
        precision="float32",
    )
    rng = seeding.generator(seed, "ascent", "order")
    size = min(len(lost), config.batch_size)
    down = torch.full((size,), -1 / size, dtype=torch.float64)
    stream = (Batch(i, lost.labels[i], down) for i in minibatches(len(lost), size, config.epochs, rng))
    ball = Ball([p.detach().clone() for p in weights(model)], radius, config.stop)
    return descend(model, lost, stream, recipe, steps_of(len(lost), recipe), seed=seed, tally=tally, parts=[ball])


def reference(case: Case) -> Tensor:
    """w_ref [P]. Raises ValueError where the last local models are no longer those of the weights."""
    if not case.whole:
        return case.weights
    if not case.fresh:
        raise ValueError("the weights have moved since the last round: call advance(1) before by='ascent'")
    last = stored(case)[-1]
    stayed = [k for k in last.updates if k not in case.whole]
    return last.weights + weighted({k: last.updates[k] for k in stayed}, last.sizes)


def ball_radius(model: nn.Module, seed: int) -> float:
    """A third of the mean distance from `model` to three networks drawn anew."""
    here = torch.cat([p.detach().flatten() for p in weights(model)])
    others = [fresh(model, seed + k) for k in range(3)]
    apart = [float((torch.cat([p.detach().flatten() for p in weights(o)]) - here).norm()) for o in others]
    return sum(apart) / len(apart) / 3


def ascent(case: Case, config: Ascent) -> Outcome:
    centre, ledger = filled(case.model, reference(case)), case.clients.ledger
    radius = ball_radius(centre, case.seed) if config.radius is None else config.radius
    ends: Mapping[int, Tensor] = {
        k: vector(climbed(centre, lost, config, radius, case.seed + k, ledger.clients))
        for k, lost in case.leaving.items()
    }
    ledger.client_updates += len(ends)
    ledger.bytes_sent += 2 * len(ends) * case.weights.numel() * case.weights.element_size()
    start = weighted(ends, {k: len(lost) for k, lost in case.leaving.items()})
    end = case.rounds + config.rounds
    made, added = case.clients.rounds(start, range(case.rounds, end))
    return Outcome(made, end, added=added, fresh=config.rounds > 0)
