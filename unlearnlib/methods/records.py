"""What an unlearning run reports about itself: its cost, what it touched and what it certifies."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearnlib.training.work import Tally, work


@dataclass(frozen=True)
class Cost:
    """Work done: wall seconds, examples that went forward and backward, or forward only, and curvature products."""

    seconds: float = 0.0
    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    products: Mapping[str, float] = field(default_factory=dict)  # kind (see `training.UNITS`) -> examples

    @staticmethod
    def of(tally: Tally, seconds: float = 0.0) -> "Cost":
        """What a run has counted."""
        return Cost(seconds, tally.gradient_evaluations, tally.forward_evaluations, dict(tally.products))

    @property
    def work(self) -> float:
        """All of it in one unit, a forward pass of one example: forward 1, forward and backward 3, products `UNITS`."""
        return work(self.gradient_evaluations, self.forward_evaluations, self.products)

    def __add__(self, other: "Cost") -> "Cost":
        kinds = {**self.products, **other.products}
        return Cost(
            self.seconds + other.seconds,
            self.gradient_evaluations + other.gradient_evaluations,
            self.forward_evaluations + other.forward_evaluations,
            {kind: self.products.get(kind, 0) + other.products.get(kind, 0) for kind in kinds},
        )


@dataclass(frozen=True)
class Certificate:
    """A guarantee with its reference: `compared_with` says what the unlearned law is close to.

    `kind` is "exact" (equal in law, epsilon = delta = 0) or "approximate" (epsilon, delta).
    """

    kind: str
    compared_with: str
    epsilon: float = 0.0
    delta: float = 0.0


@dataclass(frozen=True)
class Receipt:
    """What one call of `forget` did: cost, the parts touched (name -> count) and the certificate, if any."""

    cost: Cost
    touched: Mapping[str, int] = field(default_factory=dict)
    certificate: Certificate | None = None
