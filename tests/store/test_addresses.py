"""Addresses follow what a result depends on, and nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from unlearnlib.store import addresses


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
    loop = addresses.code("unlearnlib.training.loop")
    expected = ("batches", "doors", "loop", "modes", "networks", "precision", "progress", "recipe", "renewal")
    expected += ("stacking", "work")
    assert set(loop) == {"unlearnlib.seeding", *(f"unlearnlib.training.{name}" for name in expected)}
    retrain = addresses.code("unlearnlib.methods.registry", "unlearnlib.exact.retrain")
    more = ("methods.common", "methods.costs", "methods.records", "methods.registry", "exact.retrain")
    more += ("training.models", "data.examples")
    assert set(retrain) == {*loop, *(f"unlearnlib.{name}" for name in more)}
    battery = addresses.code("unlearnlib.audit.batteries.battery")
    assert "unlearnlib.audit.statistics.roc" in battery
    assert not any("dlfd" in name for name in battery)  # methods are found at run time
    with pytest.raises(addresses.Unkeyable, match="no source of nowhere"):
        addresses.code("nowhere")
