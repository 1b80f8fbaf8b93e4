"""What was computed from what, and where it is kept: digests of code, addresses of results, the cache."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what a result was made by
        "digests": "digest module_digests versions",
        # what a result was made from
        "addresses": "Unkeyable assuming key numerics",
        # where results and downloads are
        "cache": "Entry Store cache remember store using",
        "places": "home results",
    },
)
