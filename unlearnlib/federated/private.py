"""Client-level differential privacy: every client is bounded in advance, and forgetting one changes nothing.

    S_t      each of N clients independently with probability q
    w_{t+1}  = w_t + ( sum_{k in S_t} U_k min(1, C / |U_k|) + N(0, (z C)^2 I) ) / (q N)

McMahan et al. 2018, key mcmahan2018. That is DP-SGD with clients for examples, and has its accountant: T steps of
noise multiplier z at sample rate q are (epsilon, delta)-DP for adding or removing one *client*, with all it holds; k
clients are a group. All clients count alike, whatever they hold. N counts as public.

The noise on the average is z C / (q N) a coordinate. With a million clients that is nothing; with ten it is what the
model is made of. z = 0 is no privacy and has no epsilon.
"""

import math
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.federated.engines import engine_of
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Clients
from unlearnlib.federated.vectors import filled, vector, weights
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.private import accounting
from unlearnlib.private.accounting import Phase, Spent
from unlearnlib.private.dpsgd import PoissonSampler
from unlearnlib.private.mechanisms import gaussian
from unlearnlib.private.networks import check_separable
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import check_finite
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class DpFedAvg:
    """`fit(federation)`, `forget(clients=) -> Receipt`, `logits(images)`, `spent()`; see the module.

    model   the starting weights, which must not depend on the data; without batch norm, whose statistics leak
    """

    model: nn.Module
    recipe: Recipe
    rounds: int = 20
    local_epochs: int = 2
    clip: float = 1.0  # C; infinite where there is no noise
    noise_multiplier: float = 1.0  # z
    rate: float = 1.0  # q
    delta: float = 1e-2  # should be well below 1 / N
    engine: object = "stacked"
    seed: int = 0
    state: SimpleNamespace = field(init=False, repr=False, default_factory=SimpleNamespace)

    def __post_init__(self):
        doors.whole(rounds=self.rounds, local_epochs=self.local_epochs)
        doors.whole(0, seed=self.seed)
        numbers(0, noise_multiplier=self.noise_multiplier)
        numbers(0, 1, above=True, rate=self.rate, delta=self.delta)
        if self.clip != math.inf or self.noise_multiplier:
            numbers(above=True, clip=self.clip)
        vector(self.model)
        check_separable(self.model)
        object.__setattr__(self, "engine", engine_of(self.engine))

    def fit(self, federation: Federation) -> "DpFedAvg":
        """Train on `federation`."""
        if not isinstance(federation, Federation):
            raise ValueError(f"fit takes a federation, not {type(federation).__name__}: see Federation.of")
        check_model(self.model, federation.examples)
        started, everything = time.perf_counter(), torch.ones(len(federation.examples), dtype=torch.bool)
        recipe = replace(self.recipe, epochs=self.local_epochs)
        clients = Clients(self.model, federation, everything, recipe, self.engine, self.seed)
        sampler = PoissonSampler(federation.clients, self.rate)
        draw, noise = (seeding.generator(self.seed, "private rounds", what) for what in ("clients", "noise"))
        w, sent = vector(self.model), sum(p.numel() for p in weights(self.model))
        for t in range(self.rounds):
            found = clients.updates(w, "round", t, who=sampler.draw(draw).tolist())
            total = summed(list(found.values()), self.clip, w)
            total[:sent] = gaussian(total[:sent], self.noise_multiplier * self._clip, noise)
            w = (w.double() + total / (self.rate * federation.clients)).to(w.dtype)
        model = filled(self.model, w)
        check_finite(model)
        cost = Cost.of(clients.ledger.clients, time.perf_counter() - started)
        alive = torch.ones(federation.clients, dtype=torch.bool)
        self.state.__dict__.update(federation=federation, model=model, cost=cost, alive=alive)
        return self

    def forget(self, clients) -> Receipt:
        """Forget clients by number: nothing changes, and the certificate is that of a group of all that have left."""
        federation = self._fitted().federation
        index = doors.deletion(doors.positions(clients, federation.clients), self.state.alive)
        self.state.alive[index] = False
        size = int((~self.state.alive).sum())
        epsilon = math.inf
        if self.noise_multiplier:
            epsilon = accounting.group_epsilon([self._phase()], self.delta, size)
        reference = "the same private training without these clients, with the same rate, noise and rounds"
        certificate = Certificate("approximate", reference, epsilon, self.delta) if epsilon < math.inf else None
        return Receipt(Cost(), {"clients": len(index), "weights": 0}, certificate)

    def spent(self) -> Spent:
        """The guarantee for adding or removing one client with all its examples. ValueError without noise."""
        found = accounting.spent([self._phase()], self.delta)
        return replace(found, adjacency="add or remove one client with all its examples")

    def logits(self, images) -> Tensor:
        """Logits [n, classes]."""
        return predict(self._fitted().model, doors.pixels(images, shape=self.state.federation.examples.shape))

    @property
    def _clip(self) -> float:
        return self.clip if self.clip < math.inf else 0.0

    def _phase(self) -> Phase:
        if not self.noise_multiplier:
            raise ValueError("noise_multiplier=0 is no privacy: there is no epsilon")
        return Phase(self.noise_multiplier, self.rate, self.rounds)

    def _fitted(self) -> SimpleNamespace:
        if not hasattr(self.state, "federation"):
            raise ValueError("DpFedAvg is not trained yet: call fit(federation) first")
        return self.state


def summed(updates: list[Tensor], clip: float, like: Tensor) -> Tensor:
    """sum_k U_k min(1, C / |U_k|) [P] in double precision; one client moves it by C at most."""
    total = torch.zeros_like(like, dtype=torch.float64)
    for update in updates:
        length = float(torch.linalg.vector_norm(update.double()))
        total += update.double() * (1.0 if length <= clip else clip / length)
    return total
