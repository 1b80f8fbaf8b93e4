"""Exact unlearning: learners with `fit(examples)`, `forget(indices) -> Receipt` and `logits(images)`."""

import importlib

_HOMES = {
    "ClassModules": "modules",
    "DareForest": "forest",
    "KernelRidge": "kernel",
    "LinearHead": "ridge",
    "NaiveBayes": "naive_bayes",
    "NearestMean": "naive_bayes",
    "NearestNeighbours": "neighbours",
    "Ridge": "ridge",
    "Sisa": "sisa",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    # On first use: a page that needs shards does not depend on the code of trees, nor wait for its compiler.
    if name in _HOMES:
        return getattr(importlib.import_module(f"unlearnlib.exact.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unlearnlib.exact' has no attribute {name!r}")
