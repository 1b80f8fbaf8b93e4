"""Rounds of federated averaging, what the server keeps of them, and what they cost.

    w_{t+1} = w_t + sum_k p_k U_k^t,    p_k = n_k / sum_j n_j          (McMahan et al. 2017, key mcmahan2017)

with U_k^t the change that client k's local epochs make of w_t, and n_k the number of its examples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.federated.engines import Task
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.vectors import filled
from unlearnlib.methods.records import Certificate
from unlearnlib.training.batches import seen
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Round:
    """One round as the server saw it: w_t [P] before it, each client's U_k^t [P], and the n_k by which it averaged."""

    weights: Tensor
    updates: Mapping[int, Tensor]
    sizes: Mapping[int, int]

    def without(self, clients: Iterable[int]) -> "Round":
        """The same with what some clients sent struck out; that they were averaged in stays on record."""
        gone = set(clients)
        return replace(self, updates={k: u for k, u in self.updates.items() if k not in gone})

    def average(self) -> Tensor:
        """sum_k p_k U_k^t over the clients whose updates it holds, p_k among these."""
        return weighted(self.updates, self.sizes)


def weighted(vectors: Mapping[int, Tensor], sizes: Mapping[int, int]) -> Tensor:
    """sum_k n_k v_k / sum_k n_k, added up in double precision."""
    whole = sum(sizes[k] for k in vectors)
    return sum((sizes[k] / whole) * v.double() for k, v in vectors.items()).to(next(iter(vectors.values())).dtype)


@dataclass
class Ledger:
    """What a piece of work took: at the clients, at the server, and on the wire."""

    client_updates: int = 0
    rounds: int = 0
    bytes_sent: int = 0
    bytes_read: int = 0  # of updates that the server had stored
    clients: Tally = field(default_factory=Tally)
    server: Tally = field(default_factory=Tally)

    def told(self) -> dict[str, int]:
        """For a receipt."""
        return {
            "rounds": self.rounds,
            "client updates": self.client_updates,
            "evaluations at clients": self.clients.gradient_evaluations + self.clients.forward_evaluations,
            "evaluations at the server": self.server.gradient_evaluations + self.server.forward_evaluations,
            "bytes sent": self.bytes_sent,
            "stored bytes read": self.bytes_read,
        }


@dataclass(frozen=True)
class Clients:
    """The clients that are left, with what is left of their examples: ask them for updates.

    model    the architecture; its weights are not read
    present  [N] bool, which examples are left
    recipe   of local training, `epochs` the local epochs
    seed     of their draws: with the name of a call and their number it names a stream
    """

    model: nn.Module
    federation: Federation
    present: Tensor
    recipe: Recipe
    engine: object
    seed: int
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def sizes(self) -> dict[int, int]:
        """n_k of those that have an example left."""
        counts = torch.bincount(self.federation.client[self.present], minlength=self.federation.clients).tolist()
        return {k: n for k, n in enumerate(counts) if n}

    def updates(self, weights: Tensor, *name, recipe: Recipe | None = None, who: Sequence[int] | None = None):
        """{k: U_k [P]} from `weights` [P], of all clients or those in `who`; `name` names the draws."""
        recipe, sizes = recipe or self.recipe, self.sizes
        asked = list(sizes if who is None else who)
        if not asked:
            return {}
        tasks = [Task(k, self._within(k), recipe, self._number(*name, "client", k)) for k in asked]
        found = self.engine.updates(filled(self.model, weights), self.federation, tasks)
        self.ledger.client_updates += len(asked)
        self.ledger.bytes_sent += 2 * len(asked) * weights.numel() * weights.element_size()
        for k in asked:
            self.ledger.clients.count("gradient", recipe.epochs * seen(sizes[k], recipe.batch_size, recipe.keep_last))
        return dict(zip(asked, found, strict=True))

    def rounds(self, weights: Tensor, numbers: Iterable[int], recipe: Recipe | None = None):
        """Rounds of averaging from `weights` [P], drawn as the rounds with these numbers: (weights, [Round, ...])."""
        kept = []
        for t in numbers:
            kept.append(Round(weights, self.updates(weights, "round", t, recipe=recipe), self.sizes))
            weights = weights + kept[-1].average()
            self.ledger.rounds += 1
        return weights, kept

    def _within(self, client: int) -> Tensor:
        return self.present[self.federation.members[client]].nonzero().flatten()

    def _number(self, *name) -> int:
        return int(torch.randint(2**62, (1,), generator=seeding.generator(self.seed, *name)))


@dataclass(frozen=True)
class Case:
    """What a method is given: what the server has, the clients that are left, and what leaves."""

    model: nn.Module  # with the weights of now
    weights: Tensor  # w, those weights [P]
    start: Tensor  # w_0 [P]
    history: tuple[Round, ...]  # what was kept, the updates of those that left before struck out
    rounds: int  # how many have been trained
    fresh: bool  # whether the last thing that moved the weights was the last round of the history
    clients: Clients
    leaving: Mapping[int, Examples]  # client -> what it takes away
    whole: tuple[int, ...]  # those of them that leave altogether
    seed: int  # of a method's own draws


@dataclass(frozen=True)
class Outcome:
    """What a method leaves behind: weights [P], the history from now on (None: what there was), a certificate."""

    weights: Tensor
    rounds: int  # how many lie behind the weights now
    history: Sequence[Round] | None = None
    added: Sequence[Round] = ()  # rounds after what there was
    certificate: Certificate | None = None
    fresh: bool = True


def stored(case: Case, clients: Iterable[int] | None = None) -> tuple[Round, ...]:
    """The history, as far as a method reads it; what is read is counted. ValueError where none was kept."""
    if not case.history:
        raise ValueError('this method reads stored updates: make the learner with keep="updates" and fit it')
    chosen = None if clients is None else set(clients)
    for r in case.history:
        read = [u for k, u in r.updates.items() if chosen is None or k in chosen]
        case.clients.ledger.bytes_read += sum(u.numel() * u.element_size() for u in read)
    return case.history
