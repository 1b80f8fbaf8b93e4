"""Approximate unlearning: one file a method, each reached through `unlearnlib.unlearn(name, ...)`.

gradients, steps     vectors of parameters; streams of batches and their schedules
driven               the loop of methods whose step is not the gradient of one loss
fisher, curvature/   diagonals and products of curvature matrices, their approximations and inverses
dose/                parts that bound or mask what a method may change
pruning              a part that holds small weights at zero
zero_shot/           forgetting and repairing without data
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what methods share
        "curvature": "curvature",
        "dose": "dose",
        "fisher": "fisher",
        "gradients": "gradients",
        "pruning": "pruning",
        "zero_shot": "zero_shot",
    },
)
