"""Privacy accounting: what a sequence of noisy steps guarantees, and how much noise a guarantee needs.

A mechanism M is (epsilon, delta)-DP if for all neighbouring D, D' and all events S
P(M(D) in S) <= e^epsilon P(M(D') in S) + delta. Everywhere here neighbours differ by adding or removing one example,
and batches are drawn by Poisson sampling (each example independently with probability `sample_rate`). Fixed-size or
shuffled batches are another mechanism and are refused.

The composition of subsampled Gaussians is left to maintained accountants:

    "pld"  privacy loss distributions, dp-accounting; an upper bound, tight to its grid of 1e-4 (the default)
    "prv"  privacy random variables, Opacus (Gopi et al. 2021); an upper bound, epsilon within 0.01
    "rdp"  Renyi DP: the curve of Opacus, which agrees with quadrature to 1e-12 at fractional orders (dp-accounting's
           is 1e-4 above it there), converted to (epsilon, delta) by `conversion`
    "gdp"  mu = q sqrt(T (e^{1/sigma^2} - 1)), the central limit for sample_rate q < 1: an approximation, NOT an upper
           bound; exact, mu = sqrt(T)/sigma, where the sample rate is 1
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import binom

from unlearnlib._extras import optional
from unlearnlib.private.learner import check_budget, check_choice, check_positive

ACCOUNTANTS = ("pld", "prv", "rdp", "gdp")
CONVERSIONS = ("improved", "mironov")
ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(11, 64), *(2**k for k in range(6, 11)))
_GRID = 1e-4  # spacing of the privacy loss distribution


@dataclass(frozen=True)
class Phase:
    """`steps` steps of DP-SGD at one noise multiplier (noise std / clip norm) and one Poisson sample rate."""

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self):
        check_positive(noise_multiplier=self.noise_multiplier)
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must lie in (0, 1], not {self.sample_rate!r}: expected batch / examples")
        if self.steps != int(self.steps) or self.steps < 0:
            raise ValueError(f"steps must be a whole number, not {self.steps!r}")


@dataclass(frozen=True)
class Spent:
    """A guarantee with everything that it depends on named."""

    epsilon: float
    delta: float
    accountant: str
    conversion: str
    sampling: str = "Poisson"
    adjacency: str = "add or remove one example"

    def __str__(self) -> str:
        return (
            f"({self.epsilon:.4g}, {self.delta:g})-DP ({self.adjacency}; {self.sampling} sampling; "
            f"{self.accountant}, {self.conversion})"
        )


# --- one Gaussian -----------------------------------------------------------------------------------------------


def gaussian_delta(epsilon: float, sigma: float, sensitivity: float = 1.0) -> float:
    """Smallest delta of the Gaussian mechanism: Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu), mu = sensitivity/sigma.

    Exact (Balle & Wang 2018, key balle2018).
    """
    check_positive(sigma=sigma, sensitivity=sensitivity)
    mu = sensitivity / sigma
    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(first) * -math.expm1(min(second - first, 0.0)))


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """Smallest noise std that makes a query of L2 `sensitivity` (epsilon, delta)-DP: the analytic Gaussian mechanism.

    The root of `gaussian_delta(epsilon, sigma, sensitivity) = delta` (key balle2018). Linear in the sensitivity.
    """
    check_budget(epsilon, delta)
    check_positive(sensitivity=sensitivity)
    low, high = -30.0, 30.0
    root = brentq(lambda s: gaussian_delta(epsilon, math.exp(s)) - delta, low, high, xtol=1e-14)
    return math.exp(root) * sensitivity


def gaussian_epsilon(sigma: float, delta: float, sensitivity: float = 1.0) -> float:
    """Smallest epsilon of the Gaussian mechanism at `delta`; a group of k examples has k times the sensitivity."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, not {delta!r}")
    if gaussian_delta(0.0, sigma, sensitivity) <= delta:
        return 0.0
    mu = sensitivity / sigma
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1  # the bound of concentrated DP, and one more
    return float(brentq(lambda e: gaussian_delta(e, sigma, sensitivity) - delta, 0.0, high, xtol=1e-12))


def gdp_epsilon(mu: float, delta: float, size: int = 1) -> float:
    """epsilon of mu-GDP at `delta` for a group of `size`: a group of k is k mu-GDP, exactly."""
    check_positive(mu=mu, size=size)
    return gaussian_epsilon(1.0, delta, mu * size)


def laplace_delta(epsilon: float, scale_epsilon: float) -> float:
    """delta at `epsilon` of the Laplace mechanism that is (e, 0)-DP, e = `scale_epsilon`: 1 - e^{(epsilon - e)/2}."""
    check_positive(scale_epsilon=scale_epsilon)
    return -math.expm1((epsilon - scale_epsilon) / 2) if epsilon < scale_epsilon else 0.0


# --- groups -----------------------------------------------------------------------------------------------------


def group_privacy(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """What (epsilon, delta)-DP for one example says about `size`: (k eps, delta (e^{k eps} - 1)/(e^eps - 1)).

    The factor on delta is sum_{i<k} e^{i eps}, k for epsilon = 0; it is at most 1 here. For DP-SGD, `group_epsilon`
    is far tighter.
    """
    if size < 1 or size != int(size):
        raise ValueError(f"size must be a whole number of at least 1, not {size!r}")
    if epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError("need epsilon >= 0 and 0 <= delta <= 1")
    if delta == 0:
        return size * epsilon, 0.0
    if epsilon == 0:
        return 0.0, min(1.0, size * delta)
    log_factor = size * epsilon + math.log1p(-math.exp(-size * epsilon)) - math.log(math.expm1(epsilon))
    return size * epsilon, math.exp(min(0.0, math.log(delta) + log_factor))


def group_epsilon(phases: Iterable[Phase], delta: float, size: int) -> float:
    """epsilon at `delta` of DP-SGD for a group of `size` examples (add or remove all of them; Poisson sampling).

    The number J of the group's members in a batch is Binomial(size, q), so a step is dominated by the mixture
    sum_j P(J = j) N(j, sigma^2) against N(0, sigma^2) (Ganesh 2024, key ganesh2024), composed as privacy loss
    distributions. At sample rate 1 the composition is Gaussian with mu = size sqrt(sum steps/sigma^2), exactly.
    """
    phases = _checked_phases(phases)
    if size < 1 or size != int(size):
        raise ValueError(f"size must be a whole number of at least 1, not {size!r}")
    if not phases:
        return 0.0
    if size == 1:
        return spent(phases, delta).epsilon
    if all(p.sample_rate == 1 for p in phases):
        return gdp_epsilon(_gdp_mu(phases, amplified=False), delta, size)
    return _mixture_epsilon(tuple(phases), delta, size)


@functools.lru_cache(maxsize=64)
def _mixture_epsilon(phases: tuple[Phase, ...], delta: float, size: int) -> float:
    distributions = optional("dp_accounting.pld.privacy_loss_distribution")

    grid = max(4e-3, _GRID * size**2)  # losses grow like the square of the group; rounding is upwards
    counts = np.arange(size + 1)
    whole = None
    try:
        for phase in phases:
            step = distributions.from_mixture_gaussian_mechanism(
                phase.noise_multiplier,
                counts.astype(float).tolist(),
                binom.pmf(counts, size, phase.sample_rate).tolist(),
                value_discretization_interval=grid,
            ).self_compose(phase.steps)
            whole = step if whole is None else whole.compose(step)
        return float(whole.get_epsilon_for_delta(delta))
    except ValueError:  # dp-accounting rounds below zero where a large group is in nearly every batch
        return gdp_epsilon(_gdp_mu(phases, amplified=False), delta, size)  # no sampling at all: an upper bound


# --- DP-SGD -----------------------------------------------------------------------------------------------------


def spent(phases: Iterable[Phase], delta: float, accountant: str = "pld", conversion: str = "improved") -> Spent:
    """What the phases, one after the other, guarantee at `delta`.

    `conversion` matters for "rdp" only, with R(a) the Renyi curve:
        "improved"  min_a R(a) + log((a-1)/a) - (log delta + log a)/(a-1)      (Canonne, Kamath & Steinke 2020)
        "mironov"   min_a R(a) + log(1/delta)/(a-1)                            (Mironov 2017; older, larger numbers)
    Raises ValueError on an unknown accountant or conversion, or on values out of range.
    """
    phases = _checked_phases(phases)
    check_choice("accountant", accountant, ACCOUNTANTS)
    check_choice("conversion", conversion, CONVERSIONS)
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, not {delta!r}")
    if not phases:
        return Spent(0.0, delta, accountant, "nothing was released")
    return _spent(tuple(phases), delta, accountant, conversion)


def epsilon(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: str = "pld",
    *,
    sampling: str = "poisson",
    conversion: str = "improved",
) -> float:
    """epsilon of `steps` Poisson-sampled Gaussian steps at `delta`; see `spent` for the accountants.

    `sampling` exists to be wrong: anything but "poisson" is refused, because no accountant here covers it.
    """
    if sampling != "poisson":
        raise ValueError(f"no accountant here covers {sampling!r} batches: draw them by Poisson sampling")
    return spent([Phase(noise_multiplier, sample_rate, steps)], delta, accountant, conversion).epsilon


def noise_multiplier(
    epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: str = "pld",
    *,
    conversion: str = "improved",
) -> float:
    """Smallest noise multiplier, to 2e-4 of its size from above, whose `steps` steps spend at most `epsilon`."""
    return calibrate(lambda s: [Phase(s, sample_rate, steps)], epsilon, delta, accountant, conversion=conversion)


def calibrate(
    phases: Callable[[float], Iterable[Phase]],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
    *,
    conversion: str = "improved",
) -> float:
    """Smallest s, to 2e-4 of its size from above, with `spent(phases(s), delta).epsilon <= epsilon`."""
    check_budget(epsilon, delta)

    @functools.cache
    def excess(log_s: float) -> float:
        return spent(phases(math.exp(log_s)), delta, accountant, conversion).epsilon - epsilon

    guess = 0.0
    if accountant in ("pld", "prv"):  # tighter and slower than Renyi DP, whose answer is a little above theirs
        guess = math.log(calibrate(phases, epsilon, delta, "rdp"))
    low, high = guess - 0.1, guess
    while excess(high) > 0:
        low, high = high, high + 0.5
        if high > 14:
            raise ValueError(f"no noise reaches epsilon {epsilon} with {accountant}: raise epsilon or delta")
    while excess(low) <= 0:
        low, high = low - 0.3, low
        if low < -4:
            return math.exp(high)
    root = brentq(excess, low, high, xtol=1e-4)
    while excess(root) > 0:
        root += 5e-5
    return math.exp(root)


def clipping_noise_split(noise_multiplier: float, count_std: float) -> float:
    """Gradient noise multiplier that leaves room for a private count: (z^-2 - (2 sigma_b)^-2)^(-1/2).

    Adaptive clipping releases, beside the clipped gradients, how many norms were below the clip norm, with noise of
    std sigma_b = `count_std`; centred at 1/2 an example moves that count by 1/2. Together the two spend what one
    Gaussian of multiplier z = `noise_multiplier` does (Andrew et al. 2021, key andrew2021).
    """
    check_positive(noise_multiplier=noise_multiplier, count_std=count_std)
    left = noise_multiplier**-2 - (2 * count_std) ** -2
    if left <= 0:
        raise ValueError(f"count_std must exceed noise_multiplier/2 = {noise_multiplier / 2:g}, not {count_std!r}")
    return left**-0.5


def zcdp_rho(epsilon: float, delta: float) -> float:
    """Largest rho such that Renyi divergences of at most rho * alpha, all alpha > 1, give (epsilon, delta).

    Converted by the improved rule of `spent`, minimised over real alpha.
    """
    check_budget(epsilon, delta)
    orders = 1 + np.logspace(-3, 6, 40001)

    def excess(log_rho: float) -> float:
        return _convert(orders, math.exp(log_rho) * orders, delta, "improved") - epsilon

    return math.exp(brentq(excess, -40.0, 30.0, xtol=1e-12))


def _checked_phases(phases: Iterable[Phase]) -> list[Phase]:
    phases = list(phases)
    if not all(isinstance(p, Phase) for p in phases):
        raise ValueError("phases must be Phase(noise_multiplier, sample_rate, steps) objects")
    return [p for p in phases if p.steps > 0]


def _convert(orders: np.ndarray, curve: np.ndarray, delta: float, conversion: str) -> float:
    if conversion == "mironov":
        return float(np.nanmin(curve + math.log(1 / delta) / (orders - 1)))
    bound = curve + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.nanmin(bound)))


@functools.lru_cache(maxsize=256)
def _spent(phases: tuple[Phase, ...], delta: float, accountant: str, conversion: str) -> Spent:
    """Composition takes a second where an audit asks a thousand times about one run."""
    value, how = {"pld": _pld, "prv": _prv, "rdp": _rdp, "gdp": _gdp}[accountant](list(phases), delta, conversion)
    return Spent(float(value), delta, accountant, how)


def _pld(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    dp_event = optional("dp_accounting.dp_event")
    accountant = optional("dp_accounting.pld").PLDAccountant(value_discretization_interval=_GRID)
    for p in phases:
        gaussian = dp_event.GaussianDpEvent(p.noise_multiplier)
        step = gaussian if p.sample_rate == 1 else dp_event.PoissonSampledDpEvent(p.sample_rate, gaussian)
        accountant.compose(dp_event.SelfComposedDpEvent(step, p.steps))
    return accountant.get_epsilon(delta), f"privacy loss distribution on a grid of {_GRID:g}, upper bound"


def _prv(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    accountant = optional("opacus.accountants").PRVAccountant()
    accountant.history = [(p.noise_multiplier, p.sample_rate, p.steps) for p in phases]
    return accountant.get_epsilon(delta), "privacy random variables, upper bound within 0.01"


def _rdp(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    compute_rdp = optional("opacus.accountants.analysis.rdp").compute_rdp
    curve = sum(
        compute_rdp(q=p.sample_rate, noise_multiplier=p.noise_multiplier, steps=p.steps, orders=list(ORDERS))
        for p in phases
    )
    return _convert(np.asarray(ORDERS, dtype=float), curve, delta, conversion), f"{conversion} conversion"


def _gdp_mu(phases: list[Phase], amplified: bool) -> float:
    terms = [
        p.steps * p.sample_rate**2 * math.expm1(p.noise_multiplier**-2)
        if amplified and p.sample_rate < 1
        else p.steps / p.noise_multiplier**2
        for p in phases
    ]
    return math.sqrt(sum(terms))


def _gdp(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    exact = all(p.sample_rate == 1 for p in phases)
    how = "Gaussian, exact" if exact else "central limit, an approximation and not a bound"
    return gdp_epsilon(_gdp_mu(phases, amplified=True), delta), how
