"""Clients with quadratic losses, whose rounds have closed forms: an engine that the tests of this room share.

F_k(w) = 1/2 (w - c_k)^T H_k (w - c_k),     U_k = -lr H_k (w - c_k)          one full step a round
"""

import torch
from torch import nn

from unlearnlib.data.examples import Examples
from unlearnlib.federated.fedavg import FedAvg
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.vectors import vector
from unlearnlib.training.recipe import Recipe

P, LR = 6, 0.2


class Point(nn.Module):
    """A point of weights; its first two coordinates are its answer to every picture."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, P, dtype=torch.float64))

    def forward(self, x):
        return self.w[:2].expand(len(x), 2)


class Quadratic:
    def __init__(self, clients=4, seed=0):
        rng = torch.Generator().manual_seed(seed)
        root = torch.randn(clients, P, P, generator=rng, dtype=torch.float64)
        self.H = root @ root.mT / P + 0.1 * torch.eye(P, dtype=torch.float64)
        self.c = torch.randn(clients, P, generator=rng, dtype=torch.float64)
        self.asked = []

    def step(self, k, w):
        return -LR * self.H[k] @ (w - self.c[k])

    def updates(self, model, federation, tasks):
        self.asked += [task.client for task in tasks]
        return [self.step(task.client, vector(model)) for task in tasks]

    def with_null(self):
        """Client 0 made to answer what the others answer on average, wherever it is asked."""
        self.H[0] = self.H[1:].mean(0)
        pull = (self.H[1:] @ self.c[1:, :, None])[..., 0].mean(0)
        self.c[0] = torch.linalg.solve(self.H[0], pull)
        return self


def federation(clients=4, each=5):
    n = clients * each
    examples = Examples(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n) % 2)
    return Federation(examples, torch.arange(n) % clients)


def learner(engine, rounds=8, clients=4, **options):
    made = FedAvg(Point(), Recipe(), rounds=rounds, local_epochs=1, engine=engine, **options)
    return made.fit(federation(clients))


def weights(fitted):
    return vector(fitted.model)
