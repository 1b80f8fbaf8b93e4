"""Logistic regression on one feature, many fits at once: the attacker of the population attacks."""

import numpy as np
from scipy.special import expit


def logistic_1d(x: np.ndarray, y: np.ndarray, c: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regressions on one feature, all rows at once: slope and intercept [rows] for `x`, `y` [rows, n].

        min_{w,b}  w^2/2 + c sum_i log(1 + exp(-(2 y_i - 1)(w x_i + b)))

    which is scikit-learn's default objective. Newton's method with step halving, two unknowns a row.
    """
    theta = np.zeros((2, len(x)))
    target = y.astype(np.float64)

    def objective(w, b):
        z = w[:, None] * x + b[:, None]
        return w**2 / 2 + c * (np.logaddexp(0, z) - target * z).sum(1)

    value = objective(*theta)
    for _ in range(100):
        w, b = theta
        p = expit(w[:, None] * x + b[:, None])
        curvature, error = p * (1 - p), p - target
        gradient = np.stack([w + c * (error * x).sum(1), c * error.sum(1)])
        hww, hwb = 1 + c * (curvature * x * x).sum(1), c * (curvature * x).sum(1)
        hbb = c * curvature.sum(1) + 1e-12
        determinant = hww * hbb - hwb**2
        step = np.stack([hbb * gradient[0] - hwb * gradient[1], hww * gradient[1] - hwb * gradient[0]]) / determinant
        scale = np.ones(len(x))
        for _ in range(40):
            trial = theta - scale * step
            trial_value = objective(*trial)
            worse = trial_value > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            scale[worse] /= 2
        theta, value = np.where(worse, theta, trial), np.where(worse, value, trial_value)
        if np.abs(scale * step).max() < 1e-10 * (1 + np.abs(theta).max()):
            break
    return theta[0], theta[1]
