"""Explicit randomness: every draw in the library comes from a generator made here.

A stream is named by a seed and labels, so that adding a draw in one place never moves the draws of another.
"""

import contextlib
import hashlib

import numpy as np
import torch


def _number(seed: int, labels: tuple) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed!r}")
    text = "/".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *labels: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream `(seed, *labels)`: equal names give equal streams, others are independent."""
    return torch.Generator(device=device).manual_seed(_number(seed, labels))


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(_number(seed, labels))


@contextlib.contextmanager
def isolated(seed: int, *labels: str | int):
    """Seed torch's global generators inside the block and restore them afterwards.

    Dropout and layer initialisation can only draw from the global generator; this keeps them reproducible
    without disturbing the caller's stream.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_number(seed, labels))
        yield
