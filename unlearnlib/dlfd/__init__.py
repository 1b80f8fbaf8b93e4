"""DLFD, distribution-level feature distancing: the method as written, as released, and what they are made of.

unlearnlib.unlearn("dlfd", model, split, seed=0)                as_written.py
unlearnlib.unlearn("dlfd_as_released", model, split, seed=0)    as_released.py
plan, error = dlfd.sinkhorn(cost, 0.05)                         transport.py, and other distances in distances.py
moved, work = dlfd.perturb(model, images, labels, ...)          perturbation.py, its passes through frozen.py
"""

from unlearnlib.dlfd.as_released import DlfdAsReleased, early_plan, released_noise, released_score, released_transport
from unlearnlib.dlfd.as_written import Dlfd
from unlearnlib.dlfd.distances import DISTANCES, distance
from unlearnlib.dlfd.monitor import Monitor, Rule, membership_score
from unlearnlib.dlfd.perturbation import perturb, random_signs
from unlearnlib.dlfd.transport import cosine_cost, sinkhorn

__all__ = [
    "DISTANCES",
    "Dlfd",
    "DlfdAsReleased",
    "Monitor",
    "Rule",
    "cosine_cost",
    "distance",
    "early_plan",
    "membership_score",
    "perturb",
    "random_signs",
    "released_noise",
    "released_score",
    "released_transport",
    "sinkhorn",
]
