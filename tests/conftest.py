"""Pin the numerics before torch is imported, for the tests and for every process and kernel that they start."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

os.environ.update(
    OMP_NUM_THREADS="1",
    ATEN_CPU_CAPABILITY="avx2",
    ONEDNN_MAX_CPU_ISA="AVX2",
    MKL_CBWR="COMPATIBLE",
    MPLBACKEND="agg",
)
# Kernels start in the folder of their notebook; they must find this source tree.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
