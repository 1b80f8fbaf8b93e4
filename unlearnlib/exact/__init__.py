"""Exact unlearning: learners with `fit(examples)`, `forget(indices) -> Receipt` and `logits(images)`."""

from unlearnlib.exact.forest import DareForest
from unlearnlib.exact.kernel import KernelRidge
from unlearnlib.exact.modules import ClassModules
from unlearnlib.exact.naive_bayes import NaiveBayes, NearestMean
from unlearnlib.exact.neighbours import NearestNeighbours
from unlearnlib.exact.ridge import LinearHead, Ridge
from unlearnlib.exact.sisa import Sisa

__all__ = [
    "ClassModules",
    "DareForest",
    "KernelRidge",
    "LinearHead",
    "NaiveBayes",
    "NearestMean",
    "NearestNeighbours",
    "Ridge",
    "Sisa",
]
