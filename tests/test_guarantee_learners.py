"""What the benchmark of guarantees asks and measures: known requests, and learners whose gap is known to be zero."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from unlearnlib import data, exact

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    found = importlib.util.spec_from_file_location("guarantees_script", FOLDER / "guarantees.py")
    module = importlib.util.module_from_spec(found)
    sys.modules["guarantees_script"] = module
    found.loader.exec_module(module)
    return module


def test_a_class_goes_whole_and_is_judged_by_unseen_pictures_of_its_own(script):
    ds = data.load("digits")
    gone, parts = script.asked(ds, "class:3", 0)
    assert (parts["forget"].labels == 3).all() and (parts["unseen"].labels == 3).all() and len(parts["unseen"])
    assert not (parts["retain"].labels == 3).any() and not (parts["test"].labels == 3).any()
    assert len(gone) + len(parts["retain"]) == len(ds.train)


def test_the_one_picture_is_of_the_random_tenth_and_draws_depend_on_the_seed(script):
    ds = data.load("digits")
    tenth, one = script.forgotten(ds, "random:0.1", 0), script.forgotten(ds, "one picture", 0)
    assert len(tenth) == len(ds.train) // 10 and one.tolist() == tenth[:1].tolist()
    assert not torch.equal(tenth, script.forgotten(ds, "random:0.1", 1))


def test_an_exact_learner_without_randomness_has_no_gap(script):
    ds = data.load("digits")
    rows = script.measured("ridge", lambda seed: exact.Ridge(lam=10.0, n_classes=ds.n_classes), ds, 0)
    compared = [r["gap"] for r in rows if r["statistic"] in ("TA", "RA", "UA", "AUC") and r["gap"] == r["gap"]]
    assert len(compared) == 8 and compared == pytest.approx([0] * 8, abs=1e-9)
    assert {r["value"] for r in rows if r["statistic"] == "epsilon"} == {0.0}
