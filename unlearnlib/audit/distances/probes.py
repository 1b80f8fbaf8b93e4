"""Linear probes on hidden features: what the encoder still knows when the head no longer says it.

Editing the last layer alone makes every black-box audit happy and leaves the features as they were. A probe trained on
the features of the unlearned model reads them all the same; the yardstick is the same probe on a retrained model.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from unlearnlib.audit.distances.outputs import linear_cka
from unlearnlib.audit.statistics.roc import as_array

KINDS = ("ridge", "logistic")


def _matrix(features, labels) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_array(features, np.float64), as_array(labels)
    x = x.reshape(len(x), -1)
    if len(x) != len(y) or np.isnan(x).any():
        raise ValueError(f"features [N, d] without NaN and labels [N] are needed, not {x.shape} and {y.shape}")
    return x, y


def probe_predictions(train_features, train_labels, test_features, *, kind: str = "ridge", penalty: float = 1.0):
    """Classes that a linear probe, fitted on the training features, gives the test features, [M]. Deterministic.

    Features are scaled to unit variance on the training part. "ridge" regresses one-hot labels,

        W = (X'X + penalty I)^{-1} X'(Y - mean Y),

    in closed form; "logistic" minimises cross-entropy + penalty ||W||^2 / 2 by L-BFGS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    x, y = _matrix(train_features, train_labels)
    t = as_array(test_features, np.float64).reshape(len(test_features), -1)
    if t.shape[1] != x.shape[1]:
        raise ValueError(f"train and test features differ in width: {x.shape[1]} and {t.shape[1]}")
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-12 * max(scale.max(), 1e-300), scale, 1.0)  # a constant feature stays at zero
    x, t = (x - centre) / scale, (t - centre) / scale
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a probe needs two classes or more")
    if kind == "logistic":
        return LogisticRegression(C=1 / penalty, solver="lbfgs", max_iter=5000, tol=1e-8).fit(x, y).predict(t)
    one_hot = np.eye(len(classes))[index]
    mean = one_hot.mean(0)
    weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (one_hot - mean))
    return classes[(t @ weight + mean).argmax(1)]


def probe_accuracy(
    train_features, train_labels, test_features, test_labels, *, kind: str = "ridge", penalty: float = 1.0
) -> float:
    """Accuracy on the test features of a linear probe fitted on the training features.

    Which examples and labels to give depends on the question: pictures of forgotten against retained classes for a
    class request, identities for an identity request, the task's labels for its collapse.
    """
    answers = probe_predictions(train_features, train_labels, test_features, kind=kind, penalty=penalty)
    return float((answers == as_array(test_labels)).mean())


@dataclass(frozen=True)
class Features:
    """Features of one model on the probe's training and test examples: [N, d] and [M, d]."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class ProbeGap:
    """Probe accuracies of three models, and how far the unlearned one is from the retrained one."""

    unlearned: float
    retrained: float
    original: float
    residual: float  # (unlearned - retrained) / (original - retrained): 0 as retrained, 1 as if nothing was done
    cka_to_original: float  # debiased linear CKA of the test features; 1 for an untouched encoder, NaN where undefined
    head_only: bool  # features equal the original's: only what follows them was edited


def compare_probes(
    unlearned: Features,
    retrained: Features,
    original: Features,
    train_labels,
    test_labels,
    *,
    kind: str = "ridge",
    penalty: float = 1.0,
) -> ProbeGap:
    """The same probe on the features of the unlearned, the retrained and the original model.

    `residual` is NaN where original and retrained probes agree to within a test example: there is nothing to find.
    The linear-probe counterpart of the information difference index of Jeon et al., arXiv 2405.17878.
    """
    accuracies = [
        probe_accuracy(f.train, train_labels, f.test, test_labels, kind=kind, penalty=penalty)
        for f in (unlearned, retrained, original)
    ]
    room = accuracies[2] - accuracies[1]
    ours, before = (as_array(f.test, np.float64).reshape(len(f.test), -1) for f in (unlearned, original))
    same = ours.shape == before.shape and np.allclose(ours, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    return ProbeGap(
        unlearned=accuracies[0],
        retrained=accuracies[1],
        original=accuracies[2],
        residual=(accuracies[0] - accuracies[1]) / room if abs(room) * len(before) > 1 else float("nan"),
        cka_to_original=_alignment(ours, before),
        head_only=bool(same),
    )


def _alignment(features: np.ndarray, other: np.ndarray) -> float:
    try:
        return linear_cka(features, other)
    except ValueError:  # constant features, or too few: the other readings stand
        return float("nan")


def collapse(unlearned_accuracy: float, retrained_accuracy: float) -> float:
    """1 - (task probe accuracy, unlearned) / (retrained): 0 for features that still carry the task, 1 for none."""
    if retrained_accuracy <= 0:
        raise ValueError("the retrained model's probe is never right: there is nothing to collapse from")
    return 1 - unlearned_accuracy / retrained_accuracy
