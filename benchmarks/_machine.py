"""What a benchmark runs on: the environment of its process, and what is said of the machine beside the numbers."""

import multiprocessing
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

# glibc otherwise returns the memory of every step to the system and faults it in again.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine() -> dict[str, str]:
    """What ratios depend on: processor, its matrix instructions, cores, versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    flags = set((re.search(r"^flags\s*: (.+)$", info, re.MULTILINE) or [""])[0].split())
    import numpy
    import torch

    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "instructions": ", ".join(flag for flag in FLAGS if flag in flags) or "unknown",
        "cores": str(os.cpu_count()),
        "threads": "1",
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "numpy": numpy.__version__,
    }


def alone(work: Callable, *args, start: str):
    """`work(*args)` in a process of its own, begun by "fork" or "spawn". Raises EOFError where it fails."""
    context = multiprocessing.get_context(start)
    here, there = context.Pipe()
    process = context.Process(target=_sent, args=(there, work, args))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _sent(out, work: Callable, args: tuple) -> None:
    out.send(work(*args))


def peak_memory(work: Callable) -> float:
    """Megabytes that `work` needs beyond what this process held before, as Linux counts them."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _megabytes("VmRSS")
    work()
    return _megabytes("VmHWM") - before


def _megabytes(kind: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024
