"""Prevention: pictures published so that nobody should learn from them, and what undoes it."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # before publication: one door to every kind of noise, and their table
        "protection": "configure further methods protect",
        "protected": "Protected published",
        # after it: what somebody who trains on the pictures can do about the noise
        "defences": "defences",
    },
)
