"""How far the margins of two kinds of models lie apart, example by example, in standard deviations."""

import numpy as np

from unlearnlib.audit.attacks.likelihood import Moments, prior_strength, shrunk


def standardised_gaps(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(mean of the `first` - mean of the `second`) / s for each column of x [models, examples], [examples].

    `first` and `second` [models, examples] are bool. s^2 is the variance within both, shrunk to the pool of all columns
    (`prior_strength`), so that it is steady with few models. Two unit Gaussians mu apart give mu, with an error of
    sqrt(1 / n_first + 1 / n_second). NaN where a side is empty; 0 where nothing varies and the means agree.
    """
    a, b = Moments.of(x, first), Moments.of(x, second)
    squares, freedom = a.squares + b.squares, a.freedom + b.freedom
    variance = shrunk(squares, freedom, prior_strength(squares, freedom))
    gap = a.mean - b.mean
    tiny = 1e-12 * np.abs(x).max(initial=0) + 1e-300
    found = np.where(np.abs(gap) <= tiny, 0.0, gap / np.sqrt(np.maximum(variance, tiny**2)))
    return np.where(np.minimum(a.n, b.n) > 0, found, np.nan)
