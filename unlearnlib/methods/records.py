"""What an unlearning run reports about itself: its cost, what it touched and what it certifies."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """Work done: wall seconds, and examples that went forward and backward, or forward only."""

    seconds: float = 0.0
    gradient_evaluations: int = 0
    forward_evaluations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds,
            self.gradient_evaluations + other.gradient_evaluations,
            self.forward_evaluations + other.forward_evaluations,
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
