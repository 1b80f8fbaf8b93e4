"""Checks at the door, shared by everything that takes positions of examples, pictures or numbers.

Positions are whole numbers, or a mask with one boolean an example. Pixels are bytes, read as 0..255 -> [0, 1], or
floats, taken as they are; half precision is cast up. Anything else is a ValueError of one line that says what to do:
a float that would be cut to an integer, or integers that may or may not mean 0..255, would be a silent wrong answer.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def positions(indices, n: int, *, distinct: bool = True, empty: bool = False, from_end: bool = False) -> Tensor:
    """Positions [k] int64 among `n` examples, in the order given; a mask [n] of booleans gives those that are True.

    indices   a whole number, a vector of whole numbers (list, range, array, tensor), or a mask
    distinct  refuse a position that is given twice
    empty     allow none
    from_end  allow -1 for the last example, -2 for the one before it, and so on

    Raises ValueError on anything else: floats, even whole ones, booleans that are no mask, other shapes, positions
    out of range.
    """
    found = _vector(indices, n)
    if found.dtype == bool:
        if found.shape != (n,):
            raise ValueError(f"a mask must have {n} entries, one an example, not {found.size}")
        found = np.flatnonzero(found)
    if not found.size and not empty:
        raise ValueError("no position is given: name at least one example")
    lowest = -n if from_end else 0
    outside = found[(found < lowest) | (found >= n)]
    if outside.size:
        raise ValueError(f"positions run from 0 to {n - 1}, {outside[0]} is out of range")
    found = found.astype(np.int64)
    found[found < 0] += n
    if distinct and len(np.unique(found)) < len(found):
        values, counts = np.unique(found, return_counts=True)
        raise ValueError(f"position {values[counts > 1][0]} is given twice: name each example once")
    return torch.from_numpy(found)


def _vector(indices: Any, n: int) -> np.ndarray:
    """One-dimensional integers or booleans; no values are checked."""
    wanted = f"positions must be one-dimensional integers from 0 to {n - 1}, or a mask of {n} booleans"
    if isinstance(indices, (list, tuple)):
        kinds = {isinstance(i, (bool, np.bool_)) for i in indices}
        if len(kinds) > 1:  # numpy would read True as 1
            raise ValueError(f"{wanted}, not a mixture of both")
    try:
        if isinstance(indices, Tensor):
            found = indices.detach().cpu().numpy()
        else:
            found = np.asarray(indices)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted}, not {type(indices).__name__}") from error
    if found.ndim == 0 and np.issubdtype(found.dtype, np.integer):
        found = found[None]
    if found.ndim != 1:
        raise ValueError(f"{wanted}, not of shape {list(found.shape)}: flatten() them")
    if found.dtype != bool and not np.issubdtype(found.dtype, np.integer):
        if found.size:
            raise ValueError(f"{wanted}, not {found.dtype}")
        found = found.astype(np.int64)  # an empty list has no type of its own
    return found


def deletion(indices, alive) -> Tensor:
    """Ascending positions [k] int64 of a request to forget; `alive` [n] bool marks what has not been forgotten yet.

    Raises ValueError as `positions` does, and if the request names a forgotten example or leaves none.
    """
    alive = torch.as_tensor(alive)
    index = positions(indices, len(alive)).sort().values
    gone = index[~alive[index]].tolist()
    if gone:
        raise ValueError(f"already forgotten: {gone[:5]}; positions keep their numbers after a deletion")
    if len(index) == int(alive.sum()):
        raise ValueError("this would forget every example and leave none: discard the learner instead")
    return index


def present(n: int, without) -> Tensor:
    """[n] bool: False at the positions in `without`, which may be none of them, but not all."""
    kept = torch.ones(n, dtype=torch.bool)
    kept[positions(without, n, empty=True)] = False
    if not kept.any():
        raise ValueError("this leaves out every example: keep at least one")
    return kept


def whole(least: int = 1, most: float = math.inf, **values) -> None:
    """ValueError unless every value is a whole number (no float, no boolean) from `least` to `most`."""
    for name, value in values.items():
        number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            bounds = f"of at least {least}" if most == math.inf else f"in {least}..{most}"
            raise ValueError(f"{name} must be a whole number {bounds}, not {value!r}")


def real(value) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(np.isfinite(value))


def floating(images: Tensor, device=None, dtype: torch.dtype | None = None) -> Tensor:
    """uint8 divided by 255, floats as they are; in `dtype`, by default their own but at least float32. No check."""
    byte = images.dtype == torch.uint8
    if dtype is None:
        dtype = torch.float32 if images.dtype.itemsize < 4 else images.dtype
    images = images.to(device=device or images.device).to(dtype)  # bytes travel, floats are made at the far end
    return images.div_(255) if byte else images


def check_pixels(images: Tensor) -> None:
    """ValueError unless `images` are uint8, or floating and finite."""
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 (0..255) or floating point, not {images.dtype}: convert them first")
    if not bool(torch.isfinite(images if images.dtype.itemsize > 1 else images.float()).all()):
        raise ValueError("images hold values that are not finite: clean or clip them first")


def as_tensor(images) -> Tensor:
    """A tensor as it is; an array, nested lists of numbers, or the images of Examples as a tensor."""
    images = getattr(images, "images", images)
    if isinstance(images, Tensor):
        return images
    try:
        return torch.as_tensor(np.ascontiguousarray(images))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"images must be a tensor or an array of numbers, not {type(images).__name__}") from error


def pixels(images, *, shape: tuple[int, ...] | None = None, device=None, dtype: torch.dtype | None = None) -> Tensor:
    """Images [n, ...] (a tensor, an array or Examples) as `floating` has them, after all checks.

    `shape`, if given, is what one image must have, for example (C, H, W). No images are fine.
    """
    images = as_tensor(images)
    if images.ndim < 2:
        raise ValueError(f"images must be [n, ...], not of shape {list(images.shape)}: add the axis of images")
    if shape is not None and images.shape[1:] != shape:
        raise ValueError(f"each image must have shape {list(shape)}, not {list(images.shape[1:])}")
    check_pixels(images)
    return floating(images, device, dtype)
