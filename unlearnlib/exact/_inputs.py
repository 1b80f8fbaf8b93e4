"""What the exact learners share at the door: features to matrices, labels to targets, and no answer before a fit."""

import numpy as np
import torch

from unlearnlib.data import doors


class NotFitted(ValueError, AttributeError):
    """A learner was asked for what only `fit` gives it."""


class Fitted:
    """Base of the exact learners: what `fit` has not set yet is refused in one line, whatever is asked for."""

    _ledger = "_alive"  # the attribute that says who has not been forgotten; `fit` makes it

    def __getattr__(self, name: str):  # only called for attributes that do not exist
        if name.startswith("__") or self._ledger in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        raise NotFitted(f"{type(self).__name__} is not fitted yet: call fit(examples) first")


def matrix(x, width: int | None = None, copy: bool = False) -> np.ndarray:
    """Pictures or features [n, ...] as a finite float64 matrix [n, features], with `width` features if given.

    Read as `doors.pixels` reads pictures (bytes divided by 255). Other integers are taken as they are where
    they are [n, features], and refused as pictures. It may share memory with x unless `copy`.
    """
    x = doors.as_tensor(x)
    if x.ndim == 2 and not (x.is_floating_point() or x.is_complex() or x.dtype in (torch.uint8, torch.bool)):
        x = x.double()
    flat = doors.pixels(x).detach().cpu().flatten(1).to(torch.float64, copy=copy).numpy()
    if width is not None and flat.shape[1] != width:
        raise ValueError(f"the learner was fitted to {width} features, these have {flat.shape[1]}: bring them to one")
    return flat


def labelled(x, labels, n_classes: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Features [n, d] of their own, labels [n] and the number of classes, after checking that they belong together."""
    x = matrix(x, copy=True)
    labels, classes = class_labels(labels, n_classes)
    if len(x) != len(labels) or not x.shape[1]:
        raise ValueError(f"x must be [n, features] with one label for each row; got {x.shape} and {labels.shape}")
    return x, labels, classes


def to_logits(values: np.ndarray) -> torch.Tensor:
    """float32 [n, classes]; ValueError where finite values do not fit."""
    if np.isfinite(values).any() and np.abs(values[np.isfinite(values)]).max() > np.finfo(np.float32).max:
        raise ValueError("the answers exceed single precision: scale the features to about [-1, 1]")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def class_labels(labels, n_classes: int | None = None) -> tuple[np.ndarray, int]:
    """Labels [n] as int64 and the number of classes, by default the largest label + 1."""
    labels = labels.detach().cpu().numpy() if torch.is_tensor(labels) else np.asarray(labels)
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be a non-empty vector of integers, not {labels.dtype} of shape {labels.shape}")
    if n_classes is not None:
        doors.whole(n_classes=n_classes)
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
    """Sorted row numbers of a deletion request, as `doors.deletion` has them."""
    return doors.deletion(indices, alive).numpy()
