"""Exact unlearning: retraining, and learners with `fit(examples)`, `forget(indices) -> Receipt`, `logits(images)`."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # training divided into parts
        "sisa": "Sisa",
        "modules": "ClassModules",
        # trees
        "forest": "DareForest",
        # closed forms
        "ridge": "LinearHead Ridge",
        "kernel": "KernelRidge",
        "naive_bayes": "NaiveBayes NearestMean",
        "neighbours": "NearestNeighbours",
        # deletions over time, and who exploits them
        "streams": "streams",
        "shard_attack": "shard_attack",
    },
)
