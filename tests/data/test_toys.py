"""Points in the plane as examples."""

import numpy as np
import pytest
import torch

from unlearnlib.data import toys


def test_points_become_pixels_in_their_order():
    made = toys.plane(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]), dtype=torch.float64)
    assert made.images.shape == (2, 2, 1, 1) and made.images.dtype == torch.float64
    assert made.images.flatten().tolist() == [1, 2, 3, 4] and made.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"give points \[N, d\] and labels \[N\]"):
        toys.plane(np.zeros((2, 2)), np.zeros(3, dtype=int))


def test_a_grid_reads_row_by_row():
    made = toys.grid(np.array([-1.0, 1.0])).images.flatten(1).tolist()
    assert made == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


def test_clouds_lie_where_they_should_for_the_same_draws():
    points, classes, marked = toys.two_clouds(np.random.default_rng(7), each=2000)
    means = [points[classes == k].mean(0) for k in (0, 1)]
    assert np.allclose(means, [[-1, 0], [1, 0]], atol=4 * 0.75 / np.sqrt(2000))
    assert marked.sum() == 7
    away = np.linalg.norm(points - [-1.3, 0.7], axis=1)
    assert away[marked].max() < away[~marked].min()
    again = toys.two_clouds(np.random.default_rng(7), each=2000)
    assert all((a == b).all() for a, b in zip((points, classes, marked), again, strict=True))
