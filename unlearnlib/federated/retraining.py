"""Retraining: the rounds again, from the same start, with the clients that are left.

    w_0,  w_{t+1} = w_t + sum_{k left} p_k U_k^t

This is what forgetting means. Every client draws what it drew the first time, so that the result equals, bit for bit,
a training that never had those that left. With fewer `rounds` it is no longer that, and carries no certificate: it is
the control, *retraining cut short*, that each faster method must beat at equal cost.

`finetune` is the other control: further rounds from where the weights are, without those that left. Zero rounds are
"the client goes and nothing else happens".

`rapid` retrains in fewer rounds with a step preconditioned by the square root of a running diagonal of the empirical
Fisher, with momentum: m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - eta m / (sqrt(v) + 1e-8), both freed
of their bias; b1 = .9 and b2 = .999 (Liu et al. 2022, key liu2022). A reconstruction from accounts of others, for the
paper was not read: with the gradient of a mini-batch in the Fisher the step is Adam's, and is run as such. The
averaging of the diagonal over blocks of neighbouring weights is left out.
"""

from dataclasses import dataclass, replace

from unlearnlib.data import doors
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Case, Outcome
from unlearnlib.methods.records import Certificate

EXACT = Certificate("exact", "federated averaging of the examples that are left, from the same starting weights")


@dataclass(frozen=True)
class Retrain:
    rounds: int | None = None  # None: as many as were trained; fewer: the control

    def __post_init__(self):
        if self.rounds is not None:
            doors.whole(rounds=self.rounds)


@dataclass(frozen=True)
class Finetune:
    rounds: int = 3  # further rounds; 0: the client leaves, and nothing else

    def __post_init__(self):
        doors.whole(0, rounds=self.rounds)


@dataclass(frozen=True)
class Rapid:
    rounds: int = 6
    lr: float = 1e-3  # of Adam at the clients

    def __post_init__(self):
        doors.whole(rounds=self.rounds)
        numbers(above=True, lr=self.lr)


def retrain(case: Case, config: Retrain) -> Outcome:
    count = case.rounds if config.rounds is None else config.rounds
    weights, history = case.clients.rounds(case.start, range(count))
    return Outcome(weights, count, history, certificate=EXACT if count == case.rounds else None)


def finetune(case: Case, config: Finetune) -> Outcome:
    end = case.rounds + config.rounds
    weights, added = case.clients.rounds(case.weights, range(case.rounds, end))
    return Outcome(weights, end, added=added, fresh=config.rounds > 0)


def rapid(case: Case, config: Rapid) -> Outcome:
    recipe = replace(case.clients.recipe, optimiser="adam", lr=config.lr)
    weights, history = case.clients.rounds(case.start, range(config.rounds), recipe)
    return Outcome(weights, config.rounds, history)
