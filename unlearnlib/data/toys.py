"""Points in the plane, as pictures of two channels and one pixel: small enough to see what a network does with them."""

import numpy as np
import torch

from unlearnlib.data.examples import Examples


def plane(points: np.ndarray, labels: np.ndarray, *, dtype: torch.dtype = torch.float32) -> Examples:
    """Points [N, d] with labels [N] as examples [N, d, 1, 1]. Raises ValueError where the shapes do not fit."""
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise ValueError(f"give points [N, d] and labels [N], not {points.shape} and {labels.shape}")
    return Examples(torch.tensor(points, dtype=dtype)[:, :, None, None], torch.tensor(labels))


def grid(side: np.ndarray) -> Examples:
    """All points of `side` x `side` [G * G, 2], row by row from below, labelled 0: to read a network's regions off."""
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    return plane(points, np.zeros(len(points), dtype=np.int64))


def two_clouds(rng: np.random.Generator, *, each: int = 60, gone: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two round groups about (-1, 0) and (1, 0): (points [N, 2], classes [N], marked [N]).

    The `gone` points nearest to (-1.3, 0.7) are marked: with the wrong label, they bend a boundary around themselves.
    """
    classes = np.repeat([0, 1], each)
    points = rng.normal(size=(2 * each, 2)) * 0.75 + np.where(classes[:, None] == 0, [-1.0, 0.0], [1.0, 0.0])
    marked = np.zeros(2 * each, dtype=bool)
    marked[np.argsort(np.linalg.norm(points - [-1.3, 0.7], axis=1))[:gone]] = True
    return points, classes, marked
