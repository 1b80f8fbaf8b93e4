"""The accountants of subsampled Gaussian steps, each a function (phases, delta, conversion) -> (epsilon, how).

"pld"  privacy loss distributions, dp-accounting; an upper bound, tight to its grid of 1e-4 (the default). Where
       that grid would be too large, or delta is below what it resolves, a looser upper bound
"prv"  privacy random variables, Opacus (Gopi et al. 2021); an upper bound, epsilon within 0.01. Refused where it
       would need too much memory
"rdp"  Renyi DP: the curve of Opacus, which agrees with quadrature to 1e-12 at fractional orders (dp-accounting's
       is 1e-4 above it there), converted to (epsilon, delta) by `conversion`
"gdp"  mu = q sqrt(T (e^{1/sigma^2} - 1)), the central limit for sample_rate q < 1: an approximation, NOT an upper
       bound, so that it neither certifies nor calibrates; exact, mu = sqrt(T)/sigma, where the sample rate is 1
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unlearnlib.private.checks import check_positive
from unlearnlib.private.gaussian import gdp_epsilon

LARGEST = 2**24  # points of a grid: about a gigabyte and half a minute
CONVERSIONS = ("improved", "mironov")
ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(11, 64), *(2**k for k in range(6, 11)))
GRID = 1e-4  # spacing of the privacy loss distribution


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
        if not (0 <= self.steps < math.inf) or self.steps != int(self.steps):
            raise ValueError(f"steps must be a whole number, not {self.steps!r}")


def convert(orders: np.ndarray, curve: np.ndarray, delta: float, conversion: str) -> float:
    """The smallest epsilon at `delta` of a Renyi curve [orders], by the conversion (see `accounting.spent`)."""
    if conversion == "mironov":
        return float(np.nanmin(curve + math.log(1 / delta) / (orders - 1)))
    bound = curve + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.nanmin(bound)))


def span(phases: Iterable[Phase], size: int = 1) -> float:
    """How far the privacy losses of the phases reach, up to a mass of 1e-15, whatever the sample rate."""
    phases = list(phases)
    mus = [size * math.sqrt(p.steps) / p.noise_multiplier for p in phases]
    alone = max(size / p.noise_multiplier for p in phases)
    together = math.hypot(*mus)
    whole = together**2 / 2 + 8 * together
    if size == 1:
        whole = min(whole, rdp(phases, 1e-15, "improved")[0])
    return max(whole, alone**2 / 2 + 8 * alone)


def pld(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    known = min(rdp(phases, delta, "improved")[0], gdp_epsilon(gdp_mu(phases, amplified=False), delta))
    how = "the smaller of Renyi DP and of a Gaussian without sampling, upper bound"
    if known == 0 or span(phases) / GRID > LARGEST:
        return known, how
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=GRID)
    for p in phases:
        gaussian = dp_event.GaussianDpEvent(p.noise_multiplier)
        step = gaussian if p.sample_rate == 1 else dp_event.PoissonSampledDpEvent(p.sample_rate, gaussian)
        accountant.compose(dp_event.SelfComposedDpEvent(step, p.steps))
    value = accountant.get_epsilon(delta)
    if value == math.inf:  # delta is below the mass that the grid leaves out
        return known, how
    return value, f"privacy loss distribution on a grid of {GRID:g}, upper bound"


def prv(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    from opacus.accountants import PRVAccountant

    how = "privacy random variables, upper bound within 0.01"
    if rdp(phases, delta, "improved")[0] == 0:  # the library finds no epsilon there, or one below 0
        return 0.0, how
    error = math.sqrt(sum(p.steps for p in phases) * math.log(12e3 / delta) / 2) / 0.01
    if 2 * (rdp(phases, delta / 4e3, "improved")[0] + 3) * error > LARGEST:
        raise ValueError("'prv' would need too much memory for this little noise or this many steps: use 'pld'")
    accountant = PRVAccountant()
    accountant.history = [(p.noise_multiplier, p.sample_rate, p.steps) for p in phases]
    with warnings.catch_warnings():  # about the orders with which it finds the size of its grid
        warnings.simplefilter("ignore")
        try:
            return accountant.get_epsilon(delta), how
        except RuntimeError as problem:
            raise ValueError(f"'prv' has no answer for these numbers ({problem}): use 'pld'") from problem


def rdp(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    from opacus.accountants.analysis.rdp import compute_rdp

    curve = sum(
        compute_rdp(q=p.sample_rate, noise_multiplier=p.noise_multiplier, steps=p.steps, orders=list(ORDERS))
        for p in phases
    )
    curve = np.maximum(curve, 0.0)  # rounding where hardly anything is spent
    return convert(np.asarray(ORDERS, dtype=float), curve, delta, conversion), f"{conversion} conversion"


def gdp_mu(phases: list[Phase], amplified: bool) -> float:
    """mu of the composition; the central limit is never taken above what it would be without sampling."""

    def square(p: Phase) -> float:
        alone = p.noise_multiplier**-2
        if not amplified or p.sample_rate == 1 or alone > 700:
            return alone
        return min(alone, p.sample_rate**2 * math.expm1(alone))

    return math.sqrt(sum(p.steps * square(p) for p in phases))


def gdp(phases: list[Phase], delta: float, conversion: str) -> tuple[float, str]:
    exact = all(p.sample_rate == 1 for p in phases)
    how = "Gaussian, exact" if exact else "central limit, an approximation and not a bound"
    return gdp_epsilon(gdp_mu(phases, amplified=True), delta), how


BY_NAME = {"pld": pld, "prv": prv, "rdp": rdp, "gdp": gdp}
