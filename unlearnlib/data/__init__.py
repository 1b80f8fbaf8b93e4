"""Data sets, forget requests and splits.

ds = load("mnist5k")                          # Dataset: train, test, class_names
part = split(ds, forget="random:0.1", seed=0) # Split: retain, forget, validation, test
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # containers of tensors
        "examples": "Dataset Examples Split pixel_limits",
        # data sets by name
        "loading": "describe load names",
        # dividing them
        "splits": "add_label_noise overlap split",
        "strata": "stratified",
        "requests": "GRAMMAR stamp",
    },
)
