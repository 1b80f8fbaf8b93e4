"""Small pictures, a network on them and a federation: what the tests of this room share."""

import torch
from small import examples
from torch import nn

from unlearnlib import seeding
from unlearnlib.federated.fedavg import FedAvg
from unlearnlib.federated.federation import Federation
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(1, 8, "sgd", 0.1, 0.0, 0.0, "constant")


def network(seed=0, double=False, norm=False):
    with seeding.isolated(seed, "network"):
        layers = [nn.Flatten(), nn.Linear(64, 12), *([nn.BatchNorm1d(12)] if norm else []), nn.ReLU(), nn.Linear(12, 3)]
        made = nn.Sequential(*layers)
    return made.double() if double else made


def parts(clients=4, n=96, alpha=None):
    return Federation.of(examples(n), clients=clients, alpha=alpha, seed=1)


def fitted(rounds=3, double=False, norm=False, clients=4, alpha=None, without=(), **options):
    made = FedAvg(network(double=double, norm=norm), RECIPE, rounds=rounds, local_epochs=2, **options)
    return made.fit(parts(clients, alpha=alpha), without)


def state(learner):
    return torch.cat([v.detach().double().flatten() for v in learner.model.state_dict().values()])
