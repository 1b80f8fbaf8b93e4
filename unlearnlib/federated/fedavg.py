"""Federated averaging as a learner: train in rounds, forget a client, examples or a class, answer.

    learner = FedAvg(model, recipe, rounds=20, local_epochs=2).fit(federation)
    receipt = learner.forget(clients=[3], by="eraser")
    learner.logits(images)

Only retraining has a certificate. Every other method changes weights and proves nothing. What the server has stored of
clients that stay remains stored: it was computed from weights that those who left had moved.
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.federated.engines import engine_of
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.rounds import Case, Clients, Ledger, Outcome, Round
from unlearnlib.federated.unlearning import METHODS, configure
from unlearnlib.federated.vectors import filled, vector
from unlearnlib.methods.records import Cost, Receipt
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import check_finite
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally

KEEP = ("updates", "nothing")


class FedAvg:
    """`fit(federation)`, `forget(clients= | indices= | label=, by=) -> Receipt`, `logits(images)`; see the module.

    model         the starting weights w_0, the same at every client; it is left as it was
    recipe        of local training; its `epochs` are not read
    rounds        of averaging
    local_epochs  passes over its examples that a client makes in a round
    keep          "updates": the server stores w_t and U_k^t of every round; "nothing": then only methods that read
                  nothing stored can forget
    engine        "stacked" (here), "processes" (each client alone), or an object with `updates`, see `engines`
    workers       processes of the engine "processes"
    cluster       address or scheduler file of a dask cluster for it instead
    seed          of everybody's draws

    After `fit`: `model`, `cost`, `stored_bytes`, and `bytes_sent` by all so far.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        rounds: int = 20,
        local_epochs: int = 2,
        *,
        keep: str = "updates",
        engine="stacked",
        workers: int = 2,
        cluster: str | None = None,
        seed: int = 0,
    ):
        doors.whole(rounds=rounds, local_epochs=local_epochs)
        doors.whole(0, seed=seed)
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipe must be a training.Recipe, not {type(recipe).__name__}")
        if keep not in KEEP:
            raise ValueError(f"keep must be one of {', '.join(KEEP)}, not {keep!r}")
        self._start = vector(model)
        self._engine = engine_of(engine, workers, cluster)
        self._untrained, self.recipe = copied(model), replace(recipe, epochs=local_epochs)
        self.rounds, self.keep, self.seed = rounds, keep, seed

    def fit(self, federation: Federation, without=(), rounds: int | None = None) -> "FedAvg":
        """Train on `federation`, but for the positions in `without`; `rounds` of them (None: as many as in the class).

        Raises ValueError where the model is no classifier of such pictures.
        """
        if not isinstance(federation, Federation):
            kind = type(federation).__name__
            raise ValueError(f"fit takes a federation, not {kind}: Federation.of(examples, clients=10)")
        count = self.rounds if rounds is None else rounds
        doors.whole(0, rounds=count)
        check_model(self._untrained, federation.examples)
        present = doors.present(len(federation.examples), without)
        clients, started = self._clients(federation, present), time.perf_counter()
        weights, history = clients.rounds(self._start, range(count))
        self._move(weights, history, fresh=True)
        self._federation, self._present, self._done = federation, present, count
        self.cost = Cost.of(clients.ledger.clients, time.perf_counter() - started)
        self.bytes_sent = clients.ledger.bytes_sent
        return self

    def advance(self, rounds: int = 1) -> "FedAvg":
        """Further rounds with those that are left."""
        doors.whole(0, rounds=rounds)
        clients, started = self._clients(self._fitted(), self._present), time.perf_counter()
        weights, added = clients.rounds(self._weights, range(self._done, self._done + rounds))
        self._move(weights, (*self._history, *added), self._fresh or rounds > 0)
        self._done += rounds
        self.cost = self.cost + Cost.of(clients.ledger.clients, time.perf_counter() - started)
        self.bytes_sent += clients.ledger.bytes_sent
        return self

    def forget(self, *, clients=None, indices=None, label: int | None = None, by="retrain", seed: int = 0, **options):
        """Forget whole clients, examples, or a class, and return a Receipt.

        clients   a number or numbers of clients
        indices   positions in the federation's examples, or a mask
        label     a class: every client drops what it has of it
        by        a method of `federated.methods()`; `options` are its hyper-parameters
        seed      of the method's own draws; retraining draws what training drew

        `touched` counts the work by place: rounds, client updates, evaluations at clients and at the server, bytes
        sent, stored bytes read. Raises ValueError where none or several of the three are given, on what is not there
        any more, where nothing would be left, and on an unknown method or option; then nothing has changed.
        """
        config, method = configure(by, **options), METHODS[by]
        doors.whole(0, seed=seed)
        index = self._asked(self._fitted(), clients=clients, indices=indices, label=label)
        kept = self._present.clone()
        kept[index] = False
        case = self._case(index, kept, seed)
        started = time.perf_counter()
        with seeding.isolated(seed, "method"):
            outcome: Outcome = method.function(case, config)
        ledger, history = case.clients.ledger, outcome.history
        if history is None:
            history = [r.without(case.whole) for r in case.history]
        self._move(outcome.weights, (*history, *outcome.added), outcome.fresh)
        self._present, self._done = kept, outcome.rounds
        self.bytes_sent += ledger.bytes_sent
        cost = Cost.of(_together(ledger), time.perf_counter() - started)
        touched = {"clients": len(case.leaving), "examples": len(index), **ledger.told()}
        return Receipt(cost, touched, outcome.certificate)

    def logits(self, images) -> Tensor:
        """Logits [n, classes] of the server's model."""
        shape = self._fitted().examples.shape
        return predict(self.model, doors.pixels(images, shape=shape))

    def branch(self) -> "FedAvg":
        """An independent learner in the same state; what is stored is shared, since it never changes."""
        self._fitted()
        return copy.copy(self)

    @property
    def clients(self) -> tuple[int, ...]:
        """The numbers of those that are left."""
        return tuple(self._clients(self._fitted(), self._present).sizes)

    @property
    def trained_rounds(self) -> int:
        """How many rounds lie behind the weights."""
        self._fitted()
        return self._done

    @property
    def stored_bytes(self) -> int:
        """What the server keeps: w_t and every U_k^t."""
        vectors = (v for r in self._history for v in (r.weights, *r.updates.values()))
        return sum(v.numel() * v.element_size() for v in vectors)

    def _asked(self, federation: Federation, **given) -> Tensor:
        """Positions of what is asked for, ascending."""
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"forget takes one of clients=, indices= and label=, not {' and '.join(named) or 'none'}")
        clients, label = given["clients"], given["label"]
        if label is not None:
            doors.whole(0, label=label)
            found = self._present & (federation.examples.labels.cpu() == label)
            if not found.any():
                raise ValueError(f"nobody holds an example of class {label} (any more)")
            return doors.deletion(found, self._present)
        if clients is None:
            return doors.deletion(given["indices"], self._present)
        numbers = doors.positions(clients, federation.clients)
        gone = [k for k in numbers.tolist() if k not in self.clients]
        if gone:
            raise ValueError(f"client {gone[0]} has left already: those that are left are {self.clients}")
        return doors.deletion(torch.isin(federation.client, numbers) & self._present, self._present)

    def _case(self, index: Tensor, kept: Tensor, seed: int) -> Case:
        federation = self._federation
        left = self._clients(federation, kept)
        taken = federation.client[index]
        leaving = {k: federation.examples[index[taken == k]] for k in sorted(set(taken.tolist()))}
        whole = tuple(k for k in leaving if k not in left.sizes)
        past = self._weights, self._start, self._history, self._done, self._fresh
        return Case(self.model, *past, left, leaving, whole, seed)

    def _clients(self, federation: Federation, present: Tensor) -> Clients:
        return Clients(self._untrained, federation, present, self.recipe, self._engine, self.seed, Ledger())

    def _move(self, weights: Tensor, history: Iterable[Round], fresh: bool) -> None:
        model = filled(self._untrained, weights)
        check_finite(model)
        self._weights, self.model, self._fresh = weights, model, fresh
        self._history = tuple(history) if self.keep == "updates" else ()

    def _fitted(self) -> Federation:
        if not hasattr(self, "_federation"):
            raise ValueError("FedAvg is not trained yet: call fit(federation) first")
        return self._federation


def _together(ledger: Ledger) -> Tally:
    whole = Tally()
    for part in (ledger.clients, ledger.server):
        whole.add(part)
    return whole
