"""What each training example does to each answer, and unlearning by matching the answers that retraining would give.

datamodels      outputs regressed on the sets that models were trained on; how well they rank and predict
influence       the same numbers from curvature, out of a few models: a cheap stand-in
matching        datamodel_matching; oracle_matching, its upper bound, which reads a retrained model
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what training on an example does
        "datamodels": "Datamodel break_even lds subset_masks",
        "influence": "influence_datamodel",
        # unlearning with it
        "matching": "direct oracle_matching oracle_matching_many",
    },
)
