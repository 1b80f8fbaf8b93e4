"""What the exact learners share at the door: images to matrices, labels to targets, requests to row numbers."""

import numpy as np
import torch


def pixels(images) -> torch.Tensor:
    """Images [n, ...] on the CPU as float32 (uint8 divided by 255) or in the floating type that they have."""
    images = torch.as_tensor(getattr(images, "images", images)).detach().cpu()
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def matrix(images) -> np.ndarray:
    """Images [n, ...] (uint8 read as 0..255 -> [0, 1], or floating) as a float64 matrix [n, features]."""
    images = torch.as_tensor(getattr(images, "images", images)).detach().cpu()
    flat = images.reshape(len(images), -1).numpy()
    return flat / 255.0 if images.dtype == torch.uint8 else flat.astype(np.float64)


def to_logits(values: np.ndarray) -> torch.Tensor:
    """float32 [n, classes]."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def class_labels(labels, n_classes: int | None = None) -> tuple[np.ndarray, int]:
    """Labels [n] as int64 and the number of classes, by default the largest label + 1."""
    labels = labels.detach().cpu().numpy() if torch.is_tensor(labels) else np.asarray(labels)
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be a non-empty vector of integers, not {labels.dtype} of shape {labels.shape}")
    classes = int(labels.max()) + 1 if n_classes is None else n_classes
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}; found {labels.min()}..{labels.max()}")
    return labels.astype(np.int64), classes


def coded(labels: np.ndarray, classes: int, targets: str) -> np.ndarray:
    """Class targets [n, classes]: "onehot" (0 and 1) or "signed" (-1 and 1)."""
    if targets not in ("onehot", "signed"):
        raise ValueError(f'targets must be "onehot" or "signed", not {targets!r}')
    onehot = np.eye(classes)[labels]
    return onehot if targets == "onehot" else 2 * onehot - 1


def rows_to_forget(indices, alive: np.ndarray) -> np.ndarray:
    """Sorted row numbers of a deletion request; `alive` [n] bool marks what has not been forgotten yet.

    Raises ValueError if the request is empty, out of range, repeats a row, names a forgotten one, or leaves nothing.
    """
    rows = np.atleast_1d(indices.cpu().numpy() if torch.is_tensor(indices) else np.asarray(indices))
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
