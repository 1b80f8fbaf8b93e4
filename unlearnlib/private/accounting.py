"""Privacy accounting: what a sequence of noisy steps guarantees, and how much noise a guarantee needs.

A mechanism M is (epsilon, delta)-DP if for all neighbouring D, D' and all events S
P(M(D) in S) <= e^epsilon P(M(D') in S) + delta. Everywhere here neighbours differ by adding or removing one example,
and batches are drawn by Poisson sampling (each example independently with probability `sample_rate`). Fixed-size or
shuffled batches are another mechanism and are refused.

The composition of subsampled Gaussians is left to maintained accountants, by name ("pld", "prv", "rdp", "gdp"): what
each of them is stands in `accountants`. All but "gdp" are upper bounds.

By hand, although dp-accounting has them: the search for the noise (half its time, because Renyi DP tells the tight
accountants where to look) and the conversion (for thousands of orders at once, and Mironov's); the tests compare both.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from unlearnlib.private import accountants
from unlearnlib.private.accountants import Phase as Phase
from unlearnlib.private.accountants import convert as _convert
from unlearnlib.private.checks import check_budget, check_choice, check_positive
from unlearnlib.private.gaussian import gaussian_delta as gaussian_delta
from unlearnlib.private.gaussian import gaussian_epsilon as gaussian_epsilon
from unlearnlib.private.gaussian import gaussian_sigma as gaussian_sigma
from unlearnlib.private.gaussian import gdp_epsilon as gdp_epsilon
from unlearnlib.private.gaussian import laplace_delta as laplace_delta

ACCOUNTANTS = tuple(accountants.BY_NAME)
CONVERSIONS = accountants.CONVERSIONS
ORDERS = accountants.ORDERS


@dataclass(frozen=True)
class Spent:
    """A guarantee with everything that it depends on named; an approximation, no guarantee, if not `bound`."""

    epsilon: float
    delta: float
    accountant: str
    conversion: str
    sampling: str = "Poisson"
    adjacency: str = "add or remove one example"
    bound: bool = True

    def certified(self) -> float:
        """epsilon, if it is an upper bound; else ValueError: an approximation certifies nothing."""
        if not self.bound:
            raise ValueError(f"{self.accountant!r} is {self.conversion}: it certifies nothing, use 'pld' or 'rdp'")
        return self.epsilon

    def __str__(self) -> str:
        claim = "-DP" if self.bound else ", approximately and not guaranteed"
        return (
            f"({self.epsilon:.4g}, {self.delta:g}){claim} ({self.adjacency}; {self.sampling} sampling; "
            f"{self.accountant}, {self.conversion})"
        )


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
    without_sampling = gdp_epsilon(accountants.gdp_mu(phases, amplified=False), delta, size)
    if all(p.sample_rate == 1 for p in phases):
        return without_sampling
    return min(without_sampling, _mixture_epsilon(tuple(phases), delta, size))


@functools.lru_cache(maxsize=64)
def _mixture_epsilon(phases: tuple[Phase, ...], delta: float, size: int) -> float:
    from dp_accounting.pld import privacy_loss_distribution as distributions

    grid = max(4e-3, accountants.GRID * size**2)  # losses grow like the square of the group; rounding is upwards
    if accountants.span(phases, size) / grid > accountants.LARGEST:
        return math.inf
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
        return max(0.0, float(whole.get_epsilon_for_delta(delta)))
    except ValueError:  # dp-accounting rounds below zero where a large group is in nearly every batch
        return math.inf


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
    """Smallest s, to 2e-4 of its size from above, with `spent(phases(s), delta).epsilon <= epsilon`.

    ValueError for an accountant that is no upper bound: the noise would not keep what it promises.
    """
    check_budget(epsilon, delta)

    @functools.cache
    def excess(log_s: float) -> float:
        return spent(phases(math.exp(log_s)), delta, accountant, conversion).certified() - epsilon

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

    return math.exp(brentq(excess, -40.0, 30.0, xtol=1e-12) - 1e-11)  # rounded to the safe side


def _checked_phases(phases: Iterable[Phase]) -> list[Phase]:
    phases = list(phases)
    if not all(isinstance(p, Phase) for p in phases):
        raise ValueError("phases must be Phase(noise_multiplier, sample_rate, steps) objects")
    return [p for p in phases if p.steps > 0]


@functools.lru_cache(maxsize=256)
def _spent(phases: tuple[Phase, ...], delta: float, accountant: str, conversion: str) -> Spent:
    """Composition takes a second where an audit asks a thousand times about one run."""
    value, how = accountants.BY_NAME[accountant](list(phases), delta, conversion)
    if math.isnan(value):
        raise ValueError(f"{accountant!r} has no answer for these numbers: use 'pld' or 'rdp', or change delta")
    bound = accountant != "gdp" or all(p.sample_rate == 1 for p in phases)
    return Spent(max(0.0, float(value)), delta, accountant, how, bound=bound)
