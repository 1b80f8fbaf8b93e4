"""Checks and conversions of tensors that the containers share."""

import hashlib
import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_vector(name: str, value: Any, n: int, dtype: torch.dtype | None = None) -> None:
    check(isinstance(value, Tensor), f"{name} must be a tensor, not {type(value).__name__}")
    check(value.shape == (n,), f"{name} must have shape [{n}], one entry an image, not {list(value.shape)}")
    check(dtype in (None, value.dtype), f"{name} must be {dtype}, not {value.dtype}: convert with .to({dtype})")


def check_kind(name: str, value: Any, kind: type, hint: str) -> None:
    """A ValueError in one line where somebody gave a DataLoader, a path or anything else that is not a `kind`."""
    check(isinstance(value, kind), f"{name} must be {kind.__name__}, not {type(value).__name__}: {hint}")


def check_fraction(name: str, value: Any, *, one: bool = False) -> None:
    """Refuse what is not a number from 0 on and below 1 (or 1 itself, where `one`)."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    inside = number and (0 <= value < 1 or (one and value == 1))
    bounds = "lie between 0 and 1" if one else "be at least 0 and below 1"
    check(inside, f"{name} must {bounds}, not {value!r:.60}")


def check_whole(name: str, value: Any, least: int, below: float = math.inf) -> None:
    """Refuse what is not a whole number from `least` on and below `below`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    bounds = f"at least {least}" if below == math.inf else f"at least {least} and below {below}"
    check(whole and least <= value < below, f"{name} must be a whole number, {bounds}, not {value!r:.60}")


def digest(*tensors: Tensor | None) -> str:
    """SHA-256 over type, shape and bytes of each tensor (None counts), the same on every device."""
    sha = hashlib.sha256()
    for each in tensors:
        if each is None:
            sha.update(b"none;")
            continue
        sha.update(f"{each.dtype}{list(each.shape)};".encode())
        sha.update(each.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def tensor(images: np.ndarray) -> Tensor:
    """Images as arrays, [N, H, W] or [N, H, W, C], as a contiguous tensor [N, C, H, W]."""
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images))


def integers(values) -> Tensor:
    """Any sequence of integers as an int64 tensor."""
    return torch.from_numpy(np.array(values, dtype=np.int64))
