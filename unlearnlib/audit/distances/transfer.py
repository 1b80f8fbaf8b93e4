"""Transfer: what the features of an unlearned model still know, read on a task that was never its own.

Answers can be mended by the last layer alone. Its features, used for something else, show what the encoder has kept: on
a downstream task (other pictures with labels of their own; near the forgotten classes it bites most), three numbers a
model,

    k-NN      accuracy of a vote of the k nearest training pictures, by cosine, for the test pictures
    original  debiased linear CKA (`outputs.linear_cka`) of its features of the test pictures with the original's
    retrained mean debiased CKA with those of retrained models

each beside the same numbers of retrained models (`statistics.against_null`); a retrained model is compared with the
others. A head-only edit has CKA 1 with the original where retrained models have less, and is caught however good its
answers are. An encoder that was wrecked to get rid of the class has k-NN and CKA below the retrained models'.

*Direction*: CKA with the original above the retrained models' is residual; k-NN below theirs is damage. *Units*:
accuracy and CKA, in [-1, 1]. *Null*, level and power: those of `against_null`. The biased CKA grows with width over
examples and would call all encoders alike; the debiased one does not. CKA says nothing about *what* is alike, and is
blind to rotation and scale. *Cost*: forward passes on the downstream pictures; K >= 2 retrained models; nothing is
trained.

Kim, Cha and Kim, arXiv 2503.06991. **Reconstruction** from the abstract and public summaries (CKA, and k-NN on
downstream tasks whose classes resemble the forgotten ones). The debiased estimate and the comparison with retrained
models are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from unlearnlib.audit.distances.outputs import linear_cka
from unlearnlib.audit.distances.probes import Features
from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.models import features


@dataclass(frozen=True, eq=False)
class Transfer:
    """`knn`: downstream accuracy; `original`, `retrained`: CKA with the original and with retrained models; each of the
    candidates beside retrained models. `knn_original`: accuracy on the original's features. `head_only` [M]: features
    are the original's, so only what follows them was edited.
    """

    knn: AgainstNull
    original: AgainstNull
    retrained: AgainstNull
    knn_original: float
    head_only: np.ndarray

    def residual(self, level: float = 0.95) -> bool:
        """Are the features closer to the original's than retraining leaves them?"""
        return bool(self.head_only.any()) or (self.original.gap > 0 and self.original.detected(level))

    def damaged(self, level: float = 0.95) -> bool:
        """Do they serve the downstream task worse than those of retrained models?"""
        return self.knn.gap < 0 and self.knn.detected(level)


def transfer(
    unlearned, retrained: Sequence[nn.Module], original: nn.Module, train, test, *, k: int = 20, level: float = 0.95
) -> Transfer:
    """Audit the penultimate features of one network or a list of them on downstream Examples `train` and `test`.

    The candidates were all unlearned from `original`. Models are read and never changed. Raises ValueError as
    `compare_transfer` does.
    """
    models = [unlearned] if isinstance(unlearned, nn.Module) else list(unlearned)
    pixels = train.pixels(), test.pixels()
    ours, theirs, first = (
        [Features(*(as_array(features(m, x), np.float64) for x in pixels)) for m in side]
        for side in (models, retrained, [original])
    )
    return compare_transfer(ours, theirs, first[0], train.labels, test.labels, k=k, level=level)


def compare_transfer(
    unlearned: Sequence[Features],
    retrained: Sequence[Features],
    original: Features,
    train_labels,
    test_labels,
    *,
    k: int = 20,
    level: float = 0.95,
) -> Transfer:
    """As `transfer`, on features that are there already.

    Raises ValueError for fewer than three retrained models or no candidate, labels that do not fit, and k outside
    1..training pictures, and where features are constant or not finite.
    """
    if len(unlearned) < 1 or len(retrained) < 3:
        raise ValueError(f"needs a candidate and three retrained models, not {len(unlearned)} and {len(retrained)}")
    y, z = as_array(train_labels), as_array(test_labels)
    for f in (*unlearned, *retrained, original):
        if f.train.ndim != 2 or f.test.ndim != 2 or len(f.train) != len(y) or len(f.test) != len(z):
            raise ValueError(
                f"needs features [N, d] and [M, d] of {len(y)} and {len(z)} labelled pictures for each model"
            )
    if isinstance(k, bool) or not 1 <= k <= len(y):
        raise ValueError(f"k must be 1 to {len(y)}, the number of training pictures, not {k}")

    def accuracy(f: Features) -> float:
        if not (np.isfinite(f.train).all() and np.isfinite(f.test).all()):
            raise ValueError("features are not finite: drop or repair that model before auditing it")
        vote = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(f.train, y)
        return float((vote.predict(f.test) == z).mean())

    knn = [[accuracy(f) for f in side] for side in (unlearned, retrained)]
    first = [[linear_cka(f.test, original.test) for f in side] for side in (unlearned, retrained)]
    near = [np.mean([linear_cka(f.test, r.test) for r in retrained]) for f in unlearned]
    among = [np.mean([linear_cka(f.test, r.test) for r in retrained if r is not f]) for f in retrained]
    size = np.abs(original.test).max()
    same = [
        f.test.shape == original.test.shape and np.allclose(f.test, original.test, rtol=1e-4, atol=1e-5 * size)
        for f in unlearned
    ]
    return Transfer(
        against_null(*knn, level),
        against_null(*first, level),
        against_null(near, among, level),
        accuracy(original),
        np.array(same),
    )
