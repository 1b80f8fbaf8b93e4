"""Correlation collapse, measured: what unlearning did to the features of the task and to those of the person.

Choi and Na (arXiv 2409.14747) show pictures of feature planes. Numbers for the same question, each to be read beside
that of a retrained model: task probe and Fisher ratio (`probes`, `distances`) say what is left of the task,
`verification_auc` what is left of the person, `energy_share` in which directions the features went.
"""

from dataclasses import dataclass

import numpy as np

from unlearnlib.audit.distances.outputs import fisher_ratio, linear_cka
from unlearnlib.audit.distances.probes import probe_accuracy
from unlearnlib.audit.statistics.roc import as_array, roc


def _features(features) -> np.ndarray:
    x = as_array(features, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"features must be a finite matrix [N, d], not of shape {x.shape}")
    return x


def verification_auc(features, groups) -> float:
    """AUC of "two pictures with similar features show the same person": all pairs of features [N, d], by cosine.

    The features are centred first. 1 where everybody has a corner of their own, 1/2 where features know nothing
    about people. Raises ValueError without both kinds of pairs.
    """
    x, people = _features(features), as_array(groups)
    x = x - x.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(x), k=1)
    same = people[first] == people[second]
    if len(people) != len(x) or same.all() or not same.any():
        raise ValueError("verification needs one group an example, and pairs of the same and of different people")
    return roc((x @ x.T)[first, second], same).auc


def directions(features, labels) -> np.ndarray:
    """Orthonormal basis [k, d] of what separates the groups' mean features: all but one of the labels' directions."""
    x, y = _features(features), as_array(labels)
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError("directions between groups need two groups or more")
    means = np.zeros((len(classes), x.shape[1]))
    np.add.at(means, index, x)
    means /= counts[:, None]
    return span(means - means.mean(0))


def span(vectors) -> np.ndarray:
    """Orthonormal basis [k, d] of the span of vectors [m, d]."""
    _, sizes, basis = np.linalg.svd(_features(vectors), full_matrices=False)
    return basis[sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)]


def without(basis, other) -> np.ndarray:
    """Orthonormal basis of what is left of span(basis) after the directions `other` are projected out of it."""
    b, o = _features(basis), span(other)
    left = b - b @ o.T @ o
    _, sizes, kept = np.linalg.svd(left, full_matrices=False)
    return kept[sizes > 1e-6]


def energy_share(moves, basis) -> float:
    """Share of the squared length of moves [N, d] that lies in the span of an orthonormal basis [k, d], in [0, 1].

    Moves without a preferred direction share k / d.
    """
    v, b = _features(moves), _features(basis)
    if not np.allclose(b @ b.T, np.eye(len(b)), atol=1e-6):
        raise ValueError("the basis must be orthonormal: take it from span or directions")
    total = float((v**2).sum())
    return float(((v @ b.T) ** 2).sum() / total) if total > 0 else float("nan")


@dataclass(frozen=True)
class FeatureAudit:
    """What a linear reader finds in one model's features."""

    task: float  # accuracy of a ridge probe for the task, fitted on retained pictures, on unseen ones
    fisher: float  # spread between the task's classes over spread within, on unseen pictures
    verification: float  # AUC for "the same person" on pictures of the forgotten people
    cka: float  # debiased linear CKA to the retrained model's features on unseen pictures


def feature_audit(retain, retain_labels, unseen, unseen_labels, forgotten, people, *, retrained) -> FeatureAudit:
    """Read features of one model: retain [N, d], unseen [M, d], forgotten [K, d]; `retrained` is [M, e] of the oracle.

    `people` [K] are the identities of the forgotten pictures. Features that are the same for all unseen pictures have
    nothing in common with the retrained model's, and nothing between their classes: CKA and Fisher ratio are 0.
    """
    constant = not np.ptp(_features(unseen), axis=0).any()
    return FeatureAudit(
        task=probe_accuracy(retain, retain_labels, unseen, unseen_labels, penalty=10.0),
        fisher=0.0 if constant else fisher_ratio(unseen, unseen_labels),
        verification=verification_auc(forgotten, people),
        cka=0.0 if constant else linear_cka(unseen, retrained),
    )
