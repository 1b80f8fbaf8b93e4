"""A receipt: any changed byte is found, nothing personal is in it, and a person can read it."""

import copy
import json

import pytest

from unlearnlib.desk import ids, receipt
from unlearnlib.methods.records import Certificate

SALT = "a secret"


def made() -> dict:
    content = {
        "schema": receipt.SCHEMA,
        "number": 2,
        "requests": [{"key": ids.pseudonym(SALT, "jane"), "asked": "2026-01-02T00:00:00+00:00", "ids": 1}],
        "examples": {
            "deleted": 1,
            "retained": 9,
            "pseudonyms": ids.pseudonyms(SALT, ["photos/jane <1>.png"]),
            "exact copies": 1,
            "near copies": 0,
        },
        "model": {"before": "a" * 64, "after": "b" * 64},
        "data": {"before": "c" * 64, "after": "d" * 64},
        "method": {
            "name": "finetune",
            "parameters": {"lr": 0.1, "parts": []},
            "seed": 0,
            "code": "0" * 16,
            "versions": {"torch": "2"},
        },
        "guarantee": receipt.in_words(None, 1),
        "audits": [
            {
                "audit": "membership by loss, AUC",
                "before": [0.6, 0.5, 0.7],
                "after": [0.5, 0.4, 0.6],
                "detectable": 0.1,
                "verdict": "not told <from> unseen",
            }
        ],
        "cost": {"seconds": 1.0, "work": 10.0, "share": None},
        "ended": "2026-01-03T00:00:00+00:00",
        "previous": "e" * 64,
    }
    return receipt.sealed(content, SALT)


def leaves(value, path=()):
    """Every place in nested plain data that holds a single value."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for key, inner in enumerate(value) for leaf in leaves(inner, (*path, key))]
    return [path]


def changed(told: dict, path) -> dict:
    other = copy.deepcopy(told)
    place = other
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = (old + "x") if isinstance(old, str) else [1] if isinstance(old, list) else (old or 0) + 1
    return other


@pytest.mark.parametrize("path", leaves(made()), ids=str)
def test_a_change_anywhere_is_found(path):
    told = made()
    assert receipt.intact(told) and receipt.sealed_by(told, SALT)
    other = changed(told, path)
    assert not receipt.intact(other) or not receipt.sealed_by(other, SALT)
    if path != ("seal",):
        assert not receipt.intact(other)


def test_who_makes_the_digest_anew_still_lacks_the_seal():
    forged = receipt.sealed(changed(made(), ("examples", "deleted")), "another secret")
    assert receipt.intact(forged) and not receipt.sealed_by(forged, SALT)


def test_nothing_personal_is_in_it():
    told = made()
    for text in (receipt.written(told).decode(), receipt.page(told)):
        assert "jane" not in text and "photos" not in text
    guessed = [ids.pseudonym(salt, "jane") for salt in ("", "a", told["digest"])]
    assert told["requests"][0]["key"] not in guessed


def test_pseudonyms_are_keyed_distinct_and_without_order():
    names = [f"id{k}" for k in range(500)]
    assert len(set(ids.pseudonyms(SALT, names))) == 500
    assert ids.pseudonyms(SALT, names) == ids.pseudonyms(SALT, reversed(names))
    assert ids.new_salt() != ids.new_salt()


def test_the_page_says_what_the_receipt_says():
    told = made()
    page = receipt.page(told)
    for word in ("No guarantee", "not told &lt;from&gt; unseen", "finetune", told["digest"], told["model"]["after"]):
        assert word in page
    assert "<from>" not in page and "http" not in page and "<script" not in page


def test_guarantees_in_words():
    exact = receipt.in_words(Certificate("exact", "training on the retain set alone"), 0)
    assert exact["words"].startswith("Exact: ") and "copies" not in exact["words"]
    assert "hold 3 copies" in receipt.in_words(Certificate("exact", "x"), 3)["words"]
    some = receipt.in_words(Certificate("approximate", "training anew", 1.0, 1e-5), 0)
    assert "epsilon 1, delta 1e-05" in some["words"]
    assert "forgotten" not in json.dumps([exact, some, receipt.in_words(None, 0)])


def test_the_pdf_has_the_pages(tmp_path):
    pytest.importorskip("matplotlib")
    assert receipt.pdf(made()).startswith(b"%PDF") and receipt.pdf(made()) == receipt.pdf(made())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.pop("seal"), "seal is missing"),
        (lambda told: told.update(extra=1), "extra is missing"),
        (lambda told: told.update(number="2"), "number is missing"),
        (lambda told: told.update(schema="another"), "its schema is not"),
    ],
)
def test_what_is_no_receipt_is_one_line(tmp_path, change, said):
    told = made()
    change(told)
    path = tmp_path / "receipt.json"
    path.write_bytes(receipt.written(told))
    with pytest.raises(ValueError, match=said) as found:
        receipt.read(path)
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_json_or_not_there_is_one_line(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff{")
    for name, said in (("a", "no JSON"), ("b", "No such file")):
        with pytest.raises(ValueError, match=said):
            receipt.read(tmp_path / name)
