"""FedEraser: replay stored updates, each in its old length and in a new direction.

    w~_{j+1} = w~_j + sum_{k left} p_k |U_k^{t_j}| V_k / |V_k|,     t_j = j D

U_k^{t_j} was stored every D rounds (`interval`); V_k is a new update by client k from w~_j with r E local epochs
(`share` r of the E). The first step takes the stored updates as they are, for w_0 had met nobody yet.

Liu et al. 2021, key liu2021. Deviations: p_k are renewed by the sizes that are left. A client that loses some of its
examples and stays is calibrated on the rest, with the length that it had with them; the paper has whole clients only.
With share=0 nobody is asked, and the stored updates of the others are added up: w_0 + sum_j sum_k p_k U_k^{t_j}.

Not repeated, of a copy of the released code that circulates: it subtracts the global model *after* the round, which
makes the length of a step the pull of the client that leaves; it averages before it normalises, layer by layer; for
D > 1 it starts from clients that had already met the one that leaves.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Case, Outcome, Round, stored


@dataclass(frozen=True)
class Eraser:
    interval: int = 2  # D: every so many rounds an update is kept and replayed
    share: float = 0.5  # r: of the local epochs, for calibration; 0: none

    def __post_init__(self):
        doors.whole(interval=self.interval)
        numbers(0, 1, share=self.share)


def calibrated(old: Tensor, new: Tensor) -> Tensor:
    """`new` [P] in the length of `old` [P]; zero has no direction and stays zero."""
    length = torch.linalg.vector_norm(new.double())
    if length == 0:
        return torch.zeros_like(old)
    return (new.double() * (torch.linalg.vector_norm(old.double()) / length)).to(old.dtype)


def eraser(case: Case, config: Eraser) -> Outcome:
    sizes, weights, replayed = case.clients.sizes, case.start, []
    local = case.clients.recipe.epochs
    recipe = replace(case.clients.recipe, epochs=max(1, round(config.share * local)))
    case = replace(case, history=case.history[:: config.interval])
    for j, r in enumerate(stored(case, sizes)):
        updates = {k: u for k, u in r.updates.items() if k in sizes}
        if j and config.share:
            new = case.clients.updates(weights, case.seed, "calibration", j, recipe=recipe, who=list(updates))
            updates = {k: calibrated(u, new[k]) for k, u in updates.items()}
        case.clients.ledger.rounds += 1
        replayed.append(Round(weights, updates, sizes))
        weights = weights + replayed[-1].average()
    return Outcome(weights, case.rounds, replayed)
