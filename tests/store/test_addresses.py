"""Addresses follow what a result depends on, and nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from unlearnlib.store import addresses
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class First:
    rate: float = 0.1
    layers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Second:
    rate: float = 0.1
    layers: tuple[int, ...] = (1, 2)


def test_a_key_follows_content_and_nothing_else():
    assert addresses.key(a=1, b={"x": 1, "y": [1, 2]}) == addresses.key(b={"y": (1, 2), "x": 1}, a=1)
    assert addresses.key(c=First()) == addresses.key(c=First(layers=(1, 2)))
    assert addresses.key(a=np.float64(0.1), n=np.int64(2)) == addresses.key(a=0.1, n=2)
    different = [1, 1.0, True, "1", None, [1], {"a": 1}, First(), Second(), First(rate=0.2), First(layers=(12,))]
    assert len({addresses.key(a=value) for value in different}) == len(different)


@pytest.mark.parametrize(
    "value",
    [print, torch.zeros(2), object(), {"inner": [lambda: 0]}],
    ids=["function", "tensor", "object", "inside"],
)
def test_what_has_no_content_has_no_key(value):
    with pytest.raises(addresses.Unkeyable, match="cannot be part of a cache key"):
        addresses.key(a=value)


@dataclass(frozen=True)
class Outer:
    parts: tuple = ()
    options: object = None


def test_the_homes_of_nested_parts_are_found():
    deep = Outer(parts=(First(), [Outer(options={"recipe": Recipe()})]))
    assert addresses.homes(deep) == {__name__, "unlearnlib.training.recipe"}
    assert addresses.homes({"a": 1, "b": (None, "x")}) == set()


def test_numerics_tell_pinned_from_fast(monkeypatch):
    pinned = addresses.numerics()
    assert pinned["one_thread"] and pinned["limits"] == {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
    monkeypatch.delenv("MKL_CBWR")
    assert addresses.numerics() != pinned
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert addresses.numerics() == pinned
    torch.set_num_threads(2)
    try:
        assert addresses.numerics() != pinned
    finally:
        torch.set_num_threads(1)
    with addresses.assuming({"device": "another"}):
        assert addresses.numerics() == {"device": "another"}
    assert addresses.numerics() == pinned


def test_the_code_of_a_result_is_all_that_its_module_imports():
    training = set(addresses.code("unlearnlib.training.loop"))
    rooms = ("loop", "networks", "stacking", "batches", "precision", "recipe")
    assert {"unlearnlib.seeding", *(f"unlearnlib.training.{name}" for name in rooms)} <= training
    assert not [name for name in training if ".audit." in name or ".methods." in name or ".store." in name]
    retrain = set(addresses.code("unlearnlib.methods.registry", "unlearnlib.exact.retrain"))
    assert training | {f"unlearnlib.{n}" for n in ("methods.records", "methods.registry", "exact.retrain")} <= retrain
    battery = addresses.code("unlearnlib.audit.batteries.battery")
    assert "unlearnlib.audit.statistics.roc" in battery
    assert not [name for name in battery if name.startswith("unlearnlib.dlfd")]  # methods are found at run time
    with pytest.raises(addresses.Unkeyable, match="no source of nowhere"):
        addresses.code("nowhere")
