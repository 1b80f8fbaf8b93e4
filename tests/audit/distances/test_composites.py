"""Composites: published and hand-computed values, and the failures that they are known for."""

import numpy as np
import pytest
import torch

from unlearnlib.audit.distances.composites import (
    Accuracies,
    accuracy,
    average_gap,
    forgetting_score,
    indiscernibility,
    nomus,
    tow,
    tow_mia,
    unlearning_accuracy,
)


def test_accuracy_counts_and_takes_leading_axes():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert accuracy(logits, labels) == 0.75
    assert unlearning_accuracy(logits, labels) == 0.25
    np.testing.assert_array_equal(accuracy(torch.stack([logits, -logits]), labels), [0.75, 0.25])
    assert accuracy([[np.nan, 1.0]], [1]) == accuracy([[np.nan, 1.0]], [0]) == 0.0
    with pytest.raises(ValueError, match="N > 0"):
        accuracy(np.empty((0, 3)), np.empty(0, int))


def test_nomus_published_value():
    assert nomus(0.6329787, 0.6923588) == pytest.approx(0.6241306, abs=1e-7)
    assert forgetting_score(0.6923588) == pytest.approx(0.1923588)
    np.testing.assert_allclose(
        nomus(np.array([0.6084, 0.6197]), 0.5 + np.array([0.0548, 0.0279])), [0.7494, 0.7819], atol=6e-5
    )


def test_nomus_from_the_majority_rate_of_the_attack_set():
    assert forgetting_score(332 / 639) == pytest.approx(0.0195618, abs=5e-8)
    assert nomus(0.7194, 332 / 639) == pytest.approx(0.8401, abs=5e-5)


def test_nomus_is_not_anchored_at_retraining():
    retrained, candidate = nomus(0.6084, 0.5548), nomus(0.6197, 0.5279)
    broken, original = nomus(0.4907, 0.5309), nomus(0.6330, 0.6924)  # 49% accuracy against 63%
    assert candidate > retrained and broken > original


def test_nomus_and_its_swapped_arguments_differ():
    assert nomus(0.9, 0.6) == pytest.approx(0.85) and nomus(0.6, 0.9) == pytest.approx(0.4)
    assert nomus(0.9, 0.6) == pytest.approx(0.5 * 0.9 + 0.5 * (1 - 2 * 0.1))


def test_percentages_are_refused():
    with pytest.raises(ValueError, match="percentages"):
        nomus(63.3, 0.69)
    with pytest.raises(ValueError, match="percentages"):
        Accuracies(99.0, 0.9, 0.9)


def test_indiscernibility():
    assert indiscernibility(0.5) == 1.0 and indiscernibility(1.0) == indiscernibility(0.0) == 0.0


def test_tow_and_average_gap_known_values():
    retrained, unlearned = Accuracies(0.80, 0.97, 0.90), Accuracies(0.90, 0.95, 0.87)
    assert tow(unlearned, retrained) == pytest.approx(0.85554, abs=1e-9)
    assert average_gap(unlearned, retrained) == pytest.approx(0.05)
    assert tow(retrained, retrained) == 1.0 and average_gap(retrained, retrained) == 0.0
    assert tow(retrained, unlearned) == tow(unlearned, retrained)


def test_terms_with_an_attack():
    retrained, unlearned = Accuracies(0.80, 0.97, 0.90), Accuracies(0.90, 0.95, 0.87)
    assert tow_mia(unlearned, retrained, 0.6, 0.5) == pytest.approx(tow(unlearned, retrained))  # gap .10 either way
    assert tow_mia(unlearned, retrained, 0.5, 0.5) == pytest.approx(0.98 * 0.97)
    assert average_gap(unlearned, retrained, 0.63, 0.5) == pytest.approx((0.10 + 0.02 + 0.03 + 0.13) / 4)
    with pytest.raises(ValueError, match="both"):
        average_gap(unlearned, retrained, 0.5)


def test_dropping_a_term_shows():
    retrained, unlearned = Accuracies(0.80, 0.97, 0.90), Accuracies(0.90, 0.97, 0.90)
    assert tow(unlearned, retrained) == pytest.approx(0.9) and average_gap(unlearned, retrained) == pytest.approx(
        0.1 / 3
    )
