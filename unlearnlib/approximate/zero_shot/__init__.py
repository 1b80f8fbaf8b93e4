"""Forgetting and repairing without data: pictures out of the model itself, or of nothing, and what is taught on them.

    repair(model, teacher, pictures, gone)      the model, taught to answer the pictures as its teacher, less classes

Where the pictures come from: `Canvas.noise` (nothing), `inverted` (the model's own idea of a class), `recalled` (where
a model and its teacher differ most), `distilled` (made while the data were there), or what is real. Four methods forget
whole classes so and read no picture: `noise`, `inversion`, `recall`, and `gkt`, which teaches a new network.
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # teaching on pictures
        "canvas": "Canvas",
        "repairing": "Repair repair without",
        # where pictures come from
        "inversion": "Inversion inverted total_variation",
        "recall": "Recall recalled recalling",
        "distilling": "Distilled distilled",
        # a new network, taught by the old one
        "gkt": "GKT students",
    },
)
