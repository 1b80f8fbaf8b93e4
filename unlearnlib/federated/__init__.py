"""Federations: clients that share updates and keep their data, training with them, and forgetting one of them."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # who holds what
        "federation": "Federation",
        # training in rounds, and forgetting; a registry of its own
        "fedavg": "FedAvg",
        "unlearning": "configure methods",
        "arrivals": "online",
        # bounded in advance
        "private": "DpFedAvg",
        # visible evidence
        "backdoor": "obeyed planted triggered",
        # real clients (extra: flower)
        "flower": "flower",
    },
)
