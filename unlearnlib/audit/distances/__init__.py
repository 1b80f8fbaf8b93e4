"""Distances between an unlearned and a retrained model: outputs, laws of outputs, features, accuracies."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # of outputs and features; this room was their module
        "outputs": "activation_distance completeness fisher_ratio jensen_shannon js_divergence layer_distances "
        "linear_cka relative softmax weight_distance zrf zrf_gap",
    },
)
