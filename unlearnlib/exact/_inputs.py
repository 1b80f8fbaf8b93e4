"""What the exact learners share at the door: images to matrices, and requests to checked row numbers."""

import numpy as np
import torch


def matrix(images) -> np.ndarray:
    """Images [n, ...] (uint8 read as 0..255 -> [0, 1], or floating) as a float64 matrix [n, features]."""
    images = torch.as_tensor(images).detach().cpu()
    flat = images.reshape(len(images), -1).numpy()
    return flat / 255.0 if images.dtype == torch.uint8 else flat.astype(np.float64)


def class_labels(labels, n_classes: int | None = None) -> tuple[np.ndarray, int]:
    """Labels [n] as int64 and the number of classes, by default the largest label + 1."""
    labels = torch.as_tensor(labels).detach().cpu().numpy().astype(np.int64)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels must be a non-empty vector, not of shape {labels.shape}")
    known = int(labels.max()) + 1
    if labels.min() < 0 or (n_classes is not None and known > n_classes):
        raise ValueError(f"labels must lie in 0..{(n_classes or known) - 1}; found {labels.min()}..{labels.max()}")
    return labels, n_classes or known


def rows_to_forget(indices, alive: np.ndarray) -> np.ndarray:
    """Sorted row numbers of a deletion request; `alive` [n] bool marks what has not been forgotten yet.

    Raises ValueError if the request is empty, out of range, repeats a row, names a forgotten one, or leaves nothing.
    """
    rows = np.atleast_1d(np.asarray(indices.cpu() if torch.is_tensor(indices) else indices))
    if rows.dtype == bool:
        if rows.shape != alive.shape:
            raise ValueError(f"a mask must have {len(alive)} entries, one for each fitted example, not {rows.shape}")
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or not rows.size or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError("forget needs a non-empty vector of integer positions in the fitted examples")
    rows = np.sort(rows.astype(np.int64))
    if rows[0] < 0 or rows[-1] >= len(alive):
        raise ValueError(f"positions must lie in 0..{len(alive) - 1}; found {rows[0]}..{rows[-1]}")
    if (rows[1:] == rows[:-1]).any():
        raise ValueError("the request names an example twice; pass each position once")
    if not alive[rows].all():
        gone = rows[~alive[rows]]
        raise ValueError(f"already forgotten: {gone[:5].tolist()}; positions keep their numbers after a deletion")
    if alive.sum() == len(rows):
        raise ValueError("the request would leave no example; discard the learner instead")
    return rows
