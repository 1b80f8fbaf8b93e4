"""The registry of unlearning methods: one door to all of them, their names, and what a run reports.

The room is also its table: `unlearnlib.methods()`.
"""

import sys

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # using methods, adding one
        "registry": "Method Program Run Unlearned configure evaluations find method methods unlearn unlearn_many work",
        "catalogue": "HOMES",
        # what a run reports
        "records": "Certificate Cost Receipt",
    },
)
sys.modules[__name__].__class__ = _faces.CallableModule
