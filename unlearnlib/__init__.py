"""Machine unlearning: exact, approximate, certified and private methods behind one interface, and their audits."""

import importlib

__version__ = "0.1.0"
__all__ = ["Unlearned", "methods", "unlearn", "unlearn_many"]


def __getattr__(name: str):
    # Read on first use: a bare import stays light, and a page depends on the code that it uses.
    if name in __all__:
        return getattr(importlib.import_module("unlearnlib.registry"), name)
    raise AttributeError(f"module 'unlearnlib' has no attribute {name!r}")
