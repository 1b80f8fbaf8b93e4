"""A phantom: a model whose unlearning can be computed by hand, on which every audit must find the known answer.

Noisy gradient descent on (w - c)^2 / 2, where c is the mean of the training data:

    w <- w - eta (w - c) + sqrt(2 eta) s xi,    xi ~ N(0, 1)

Its stationary law is N(c, sd^2) with sd^2 = 2 eta s^2 / (1 - (1 - eta)^2). The original is stationary on D, whose mean
lies `gap` above that of R; unlearning continues for k steps on R; the retrained model is stationary on R. So

    unlearned ~ N(c_R + (1 - eta)^k gap, sd^2)    against    retrained ~ N(c_R, sd^2):

two Gaussians mu_k = (1 - eta)^k gap / sd apart, for which AUC, KL, epsilon and everything else is in closed form.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.audit.statistics.state import FORGET, RETAIN, check_state
from unlearnlib.seeding import numpy_generator


@dataclass(frozen=True)
class Phantom:
    """`eta` step size, `noise` s, `gap` the distance between the means of D and R."""

    eta: float = 0.1
    noise: float = 0.05
    gap: float = 0.1

    def __post_init__(self):
        if not 0 < self.eta <= 1 or self.noise <= 0:
            raise ValueError(f"needs 0 < eta <= 1 and positive noise, not {self.eta} and {self.noise}")

    @property
    def sd(self) -> float:
        """Of the stationary law."""
        return float(np.sqrt(2 * self.eta * self.noise**2 / (1 - (1 - self.eta) ** 2)))

    def mu(self, k: float) -> float:
        """Distance in standard deviations after k steps; `k` may be infinite (retrained)."""
        return float((1 - self.eta) ** k * self.gap / self.sd) if k > 0 else self.gap / self.sd

    def auc(self, k: float) -> float:
        """Phi(mu / sqrt 2), of the best attack."""
        return float(norm.cdf(abs(self.mu(k)) / np.sqrt(2)))

    def tpr(self, k: float, fpr: float) -> float:
        """Phi(mu - z_{1 - fpr})."""
        return float(norm.cdf(abs(self.mu(k)) - norm.isf(fpr)))

    def advantage(self, k: float) -> float:
        """max over thresholds of TPR - FPR, 2 Phi(mu / 2) - 1."""
        return float(2 * norm.cdf(abs(self.mu(k)) / 2) - 1)

    def kl(self, k: float) -> float:
        """KL(unlearned || retrained) = mu^2 / 2, in nats, either way round."""
        return self.mu(k) ** 2 / 2

    def epsilon(self, k: float, delta: float = 1e-5) -> float:
        """The exact epsilon of unlearning at delta."""
        return gaussian_epsilon(abs(self.mu(k)), delta)

    def weights(self, law: str, shape, *, k: int = 0, seed: int = 0, stream: str = "phantom") -> np.ndarray:
        """Independent weights of `shape` under "original", "unlearned" (after k steps) or "retrained", with c_R = 0.

        The k steps are run, not drawn from their closed form.
        """
        if law not in ("original", "unlearned", "retrained"):
            raise ValueError(f"law is 'original', 'unlearned' or 'retrained', not {law!r}")
        rng = numpy_generator(seed, stream, law)
        w = self.sd * rng.normal(size=shape)
        if law != "retrained":
            w += self.gap
        return self._descend(w, 0.0, k, rng) if law == "unlearned" else w

    def margins(self, state, *, k: int, seed: int = 0, difficulty: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """Margins of models with one weight for each example: (unlearned, retrained), both [models, examples].

        Example i moves the mean of weight i by `gap` where it is trained on. Model m starts stationary on what
        `state[m]` says it was trained on, then takes k steps on what it retains: retained weights stay where they
        are, forgotten ones decay, never-trained ones lie at 0. Its retrained counterpart is stationary on the
        retained examples. A margin is its weight plus an offset of standard deviation `difficulty` that belongs to
        the example, as real examples differ far more than membership moves them.
        """
        codes = check_state(state)
        rng = numpy_generator(seed, "phantom-margins")
        offset = difficulty * rng.normal(size=codes.shape[1])
        target = self.gap * (codes == RETAIN)
        start = self.gap * (codes == FORGET) + target + self.sd * rng.normal(size=codes.shape)
        unlearned = self._descend(start, target, k, rng)
        return offset + unlearned, offset + target + self.sd * rng.normal(size=codes.shape)

    def _descend(self, w: np.ndarray, centre, k: int, rng: np.random.Generator) -> np.ndarray:
        for _ in range(k):
            w = w - self.eta * (w - centre) + np.sqrt(2 * self.eta) * self.noise * rng.normal(size=w.shape)
        return w
