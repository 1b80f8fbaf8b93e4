"""N-grams forget exactly: integers, whatever the order, and nothing else moves."""

import itertools

import numpy as np
import pytest
from tiny import tiny_world

from unlearnlib.language import NGram

TEXTS = [tiny_world().texts().read(k) for k in range(64)]
WORDS = tiny_world().words


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_subtracting_documents_is_counting_the_others(order):
    gone = [3, 40, 41, 7]
    model = NGram(order).fit(TEXTS, WORDS)
    receipt = model.forget(gone)
    kept = NGram(order).fit([t for k, t in enumerate(TEXTS) if k not in gone], WORDS)
    assert dict(model.counts) == dict(kept.counts) and all(type(n) is int and n > 0 for n in model.counts.values())
    assert all(np.array_equal(model.probability(t), kept.probability(t)) for t in TEXTS)
    assert receipt.certificate.kind == "exact" and receipt.touched["counts"] > 0


def test_requests_commute_and_the_last_leaves_nothing():
    ends = []
    for order in itertools.permutations(([0], [1, 2], [5])):
        model = NGram(3).fit(TEXTS, WORDS)
        for request in order:
            model.forget(request)
        ends.append(dict(model.counts))
    assert all(end == ends[0] for end in ends)
    model.forget(sorted(model.documents))
    assert not model.counts
    assert np.allclose(model.probability(TEXTS[0]), 1 / len(WORDS))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order):
    model = NGram(order, add=0.3).fit(["a b a", "b a c"])
    for context in ("", "a", "a b", "c c"):
        total = sum(model.probability(f"{context} {word}".strip())[-1] for word in "abc")
        assert total == pytest.approx(1)


def test_by_hand():
    model = NGram(2, add=1.0).fit(["a b", "a a"])
    assert model.probability("a b") == pytest.approx([3 / 4, 2 / 4])  # after the beginning: a, a; after a: b, a


def test_a_context_is_not_taken_for_a_shorter_document():
    """A document that says the mark of a context in words: the counts stay apart."""
    model = NGram(2).fit(["2 a", "a b"])
    model.forget([0])
    assert dict(model.counts) == dict(NGram(2).fit(["a b"], ["2", "a", "b"]).counts)


@pytest.mark.parametrize("bad", [[64], [-1], [], [1, 1], [0, 99]])
def test_a_bad_request_changes_nothing(bad):
    model = NGram(3).fit(TEXTS, WORDS)
    before = dict(model.counts)
    with pytest.raises(ValueError, match="documents to forget are different"):
        model.forget(bad)
    assert dict(model.counts) == before and len(model.documents) == 64


def test_bad_input_is_refused():
    for make, said in (
        (lambda: NGram(0), "order 1, 2"),
        (lambda: NGram(2, add=0), "add above 0"),
        (lambda: NGram().fit("a b"), "documents are a list"),
        (lambda: NGram().fit(["a", " "]), "documents are a list"),
        (lambda: NGram().fit(["a b"], ["a"]), "'b' is not in the vocabulary"),
        (lambda: NGram().fit(["a b"]).probability("z"), "'z'"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
