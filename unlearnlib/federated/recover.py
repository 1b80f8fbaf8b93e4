"""FedRecover: the rounds again, with most updates estimated from the stored ones by curvature.

    V_k^t = U_k^t + H_k (v_t - w_t)

w_t and U_k^t were stored, v_t is the recovered path. H_k, the change of client k's update with the weights, is
approximated by compact L-BFGS from its last s pairs (v - w, V - U) of rounds in which it was asked:

    H d = c d - [Y, c S] M^{-1} [Y^T d; c S^T d],   M = [[-D, L^T], [L, c S^T S]],   c = y^T s / s^T s of the last pair

with L the part of S^T Y below its diagonal D. Clients are asked in the first T_w rounds (`warm`), every T_c-th
(`every`), the last T_f (`final`), and where a coordinate of their estimate exceeds t = max_t t_t, with t_t such that
at most a share `tolerance` of the coordinates of round t's stored updates is larger.

Cao et al. 2023, key cao2023. Their symbols are gradients, ours updates: the sign goes through. Deviations: a client
that loses some of its examples and stays is asked in every round, since what it sent before knew them; a request that
touches everybody is therefore a retraining. The secant equation H s = y holds for the last pair alone.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Case, Outcome, Round, stored


@dataclass(frozen=True)
class Recover:
    warm: int = 5  # T_w
    every: int = 5  # T_c
    final: int = 2  # T_f
    pairs: int = 2  # s
    tolerance: float = 1e-6  # share of stored coordinates that may be larger than what counts as abnormal

    def __post_init__(self):
        doors.whole(warm=self.warm, every=self.every, pairs=self.pairs)
        doors.whole(0, final=self.final)
        numbers(0, 1, tolerance=self.tolerance)


def curved(S: Tensor, Y: Tensor, d: Tensor) -> Tensor:
    """H d [P] by compact L-BFGS from pairs S, Y [P, m], oldest first, in double precision."""
    S, Y, d = S.double(), Y.double(), d.double()
    SY, SS = S.T @ Y, S.T @ S
    c = SY[-1, -1] / SS[-1, -1]
    L, D = SY.tril(-1), torch.diag(SY.diagonal())
    M = torch.cat([torch.cat([-D, L.T], 1), torch.cat([L, c * SS], 1)])
    right = torch.cat([Y.T @ d, c * (S.T @ d)])
    p = torch.linalg.lstsq(M, right[:, None], driver="gelsd").solution[:, 0]  # M is singular where pairs are dependent
    return c * d - torch.cat([Y, c * S], 1) @ p


def threshold(history: Sequence[Round], clients: Sequence[int], tolerance: float) -> float:
    """The largest over rounds of the value that at most a share `tolerance` of coordinates of updates exceeds."""
    found = []
    for r in history:
        sizes = torch.cat([r.updates[k].abs() for k in clients if k in r.updates])
        allowed = int(tolerance * len(sizes))
        found.append(float(sizes.topk(allowed + 1).values[-1]) if allowed < len(sizes) else 0.0)
    return max(found)


def recover(case: Case, config: Recover) -> Outcome:
    clients = case.clients
    history, sizes = stored(case, clients.sizes), clients.sizes
    limit = threshold(history, list(sizes), config.tolerance)
    pairs = {k: deque(maxlen=config.pairs) for k in sizes}
    weights, recovered, last = case.start, [], len(history) - config.final
    for t, r in enumerate(history):
        everybody = t < config.warm or t % config.every == 0 or t >= last
        estimates: dict[int, Tensor] = {}
        for k in sizes:
            if not everybody and k not in case.leaving and k in r.updates and pairs[k]:
                guess = _estimated(r, k, weights, pairs[k])
                if float(guess.abs().max()) <= limit:
                    estimates[k] = guess
        asked = [k for k in sizes if k not in estimates]
        exact = clients.updates(weights, "round", t, who=asked)
        _remember(pairs, r, weights, exact)
        clients.ledger.rounds += 1
        recovered.append(Round(weights, {k: {**exact, **estimates}[k] for k in sizes}, sizes))
        weights = weights + recovered[-1].average()
    return Outcome(weights, case.rounds, recovered)


def _estimated(r: Round, client: int, weights: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    S, Y = (torch.stack(part, 1) for part in zip(*pairs, strict=True))
    moved = curved(S, Y, weights.double() - r.weights.double())
    return (r.updates[client].double() + moved).to(weights.dtype)


def _remember(pairs: Mapping[int, deque], r: Round, weights: Tensor, exact: Mapping[int, Tensor]) -> None:
    s = weights.double() - r.weights.double()
    for k, update in exact.items():
        if k in r.updates and bool(s.any()):
            pairs[k].append((s, update.double() - r.updates[k].double()))
