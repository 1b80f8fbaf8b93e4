"""DLFD, distribution-level feature distancing: the method as written, as released, and what they are made of.

unlearnlib.unlearn("dlfd", model, split, seed=0)                as_written.py
unlearnlib.unlearn("dlfd_as_released", model, split, seed=0)    as_released.py
plan, error = dlfd.sinkhorn(cost, 0.05)                         transport.py, and other distances in distances.py
moved, work = dlfd.perturb(model, images, labels, ...)          perturbation.py, its passes through frozen.py
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # the two methods
        "as_written": "Dlfd",
        "as_released": "DlfdAsReleased early_plan released_noise released_score released_transport",
        # what they are made of
        "distances": "DISTANCES distance",
        "transport": "cosine_cost sinkhorn",
        "perturbation": "perturb random_signs",
        "monitor": "Monitor Rule membership_score",
    },
)
