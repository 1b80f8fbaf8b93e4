"""Pin the numerics before torch is imported, for the tests and for every process and kernel that they start."""

import os
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    ATEN_CPU_CAPABILITY="avx2",
    ONEDNN_MAX_CPU_ISA="AVX2",
    MKL_CBWR="COMPATIBLE",
    OPENBLAS_CORETYPE="Haswell",
    NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR",
    MPLBACKEND="agg",
)
# Kernels start in the folder of their notebook; they must find this source tree.
tree = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tree, os.environ.get("PYTHONPATH")]))

import torch

torch.set_num_threads(1)

import pytest
from hypothesis import settings

# The same examples in every run: a failure found once is found again.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items) -> None:
    """`-m accelerator` selects the cases whose `device` is not the CPU (see cases.py)."""
    for item in items:
        params = getattr(item, "callspec", None).params.values() if hasattr(item, "callspec") else ()
        if any(str(getattr(value, "device", "cpu")) not in ("cpu", "None") for value in params):
            item.add_marker(pytest.mark.accelerator)
