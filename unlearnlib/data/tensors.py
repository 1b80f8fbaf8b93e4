"""Checks and conversions of tensors that the containers share."""

import hashlib
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
