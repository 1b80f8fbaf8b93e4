"""Accuracies and the single numbers that papers make of them.

None of them says anything about distributions, and all can be met by editing the last layer alone: report them beside
an attack, never instead of one. All take fractions in [0, 1], not percentages.
"""

from dataclasses import dataclass, fields

import numpy as np

from unlearnlib.audit.statistics.roc import as_array


def accuracy(logits, labels):
    """Share of `logits` [..., N, C] whose largest entry is at `labels` [N]: a float, or an array over leading axes.

    A row with NaN counts as wrong.
    """
    z, y = as_array(logits), as_array(labels)
    if z.ndim < 2 or y.shape[-1:] != z.shape[-2:-1] or z.shape[-2] == 0:
        raise ValueError(f"logits must be [..., N, C] and labels [N] with N > 0, not {z.shape} and {y.shape}")
    right = (z.argmax(-1) == y) & ~np.isnan(z).any(-1)
    share = right.mean(-1)
    return float(share) if share.ndim == 0 else share


def unlearning_accuracy(logits, labels):
    """UA = 1 - accuracy on the forget set. The target is the retrained model's UA, not a high one."""
    return 1 - accuracy(logits, labels)


def _fraction(value, name: str):
    v = np.asarray(value, float)
    if np.any((v < 0) | (v > 1)):
        raise ValueError(f"{name} must be a fraction in [0, 1], not {value}; divide percentages by 100")
    return float(v) if v.ndim == 0 else v


@dataclass(frozen=True)
class Accuracies:
    """Accuracy on the forget set, the retain set and the test set, as fractions."""

    forget: float
    retain: float
    test: float

    def __post_init__(self):
        for field in fields(self):
            _fraction(getattr(self, field.name), field.name)


def forgetting_score(attack_accuracy):
    """|attack accuracy - 1/2|: 0 for an attacker at chance. Blind to which side of 1/2 it is on."""
    return abs(_fraction(attack_accuracy, "attack_accuracy") - 0.5)


def nomus(test_accuracy, attack_accuracy):
    """NoMUS = (test accuracy + 1 - 2 |attack accuracy - 1/2|) / 2, 1 at best.

    Not anchored at retraining: a candidate can score above the retrained model, and a broken model (49% accuracy)
    above a good one. Choi and Na, arXiv 2409.14747 and 2311.02240.
    """
    return (_fraction(test_accuracy, "test_accuracy") + 1 - 2 * forgetting_score(attack_accuracy)) / 2


def indiscernibility(attack_value):
    """1 - |v - 1/2| / (1/2) for an attack's accuracy or AUC v: 1 at chance. Deep Unlearn, arXiv 2410.01276."""
    return 1 - 2 * forgetting_score(attack_value)


def tow(unlearned: Accuracies, retrained: Accuracies) -> float:
    """Tug of war: the product over forget, retain and test of (1 - |accuracy - retrained accuracy|), 1 at best.

    Zhao et al. (RUM), arXiv 2406.01257.
    """
    return float(
        np.prod([1 - abs(getattr(unlearned, f.name) - getattr(retrained, f.name)) for f in fields(Accuracies)])
    )


def tow_mia(unlearned: Accuracies, retrained: Accuracies, unlearned_mia: float, retrained_mia: float) -> float:
    """`tow` with the forget-set accuracy replaced by the score of a membership attack on the forget set."""
    gap = abs(_fraction(unlearned_mia, "unlearned_mia") - _fraction(retrained_mia, "retrained_mia"))
    return float(
        (1 - gap) * (1 - abs(unlearned.retain - retrained.retain)) * (1 - abs(unlearned.test - retrained.test))
    )


def average_gap(
    unlearned: Accuracies,
    retrained: Accuracies,
    unlearned_mia: float | None = None,
    retrained_mia: float | None = None,
) -> float:
    """Mean absolute difference to the retrained model over UA, RA, TA and, where given, MIA; 0 at best.

    SalUn's table averages four terms; without the attack it is three. Fan et al., arXiv 2310.12508.
    """
    if (unlearned_mia is None) != (retrained_mia is None):
        raise ValueError("give the attack's score of both models, or of neither")
    gaps = [abs(getattr(unlearned, f.name) - getattr(retrained, f.name)) for f in fields(Accuracies)]
    if unlearned_mia is not None:
        gaps.append(abs(_fraction(unlearned_mia, "unlearned_mia") - _fraction(retrained_mia, "retrained_mia")))
    return float(np.mean(gaps))
