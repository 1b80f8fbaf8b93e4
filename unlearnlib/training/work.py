"""Work in one unit, a forward pass of one example: what each kind of work costs, and the tally of a run.

    work = forward passes + 3 (forward and backward passes) + sum_kind UNITS[kind] count_kind

A backward pass costs two forward passes, in theory and on processors, since it multiplies by every weight matrix
twice. Curvature products differ between networks; their weights below are medians of what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# One example each. Measured as CPU time over that of a forward pass in eval mode; the range is over the networks of
# `benchmarks/units.py`, which prints this table again.
UNITS: Mapping[str, float] = {
    "forward": 1.0,  # by definition
    "gradient": 3.0,  # forward and backward
    "linearise": 4.0,  # a graph that curvature products can be taken from: forward, backward with a graph of its own
    "jvp": 3.0,  # J v from a kept graph
    "vjp": 2.0,  # J^T u from a kept graph
    "hvp": 5.0,  # H v from a kept graph
    "ggn": 5.0,  # G v from a kept graph: J v, then J^T
    "example_gradient": 4.0,  # the gradient of each example by itself (vmap)
    "jacobian_row": 3.0,  # J of each example, for each of its classes (vmap)
}


def work(gradients: float, forwards: float, products: Mapping[str, float]) -> float:
    """The sum of counts in units of a forward pass."""
    return UNITS["gradient"] * gradients + forwards + sum(UNITS[kind] * n for kind, n in products.items())


@dataclass
class Tally:
    """Counts the work of a run, in examples: forward and backward, forward only, and products by kind (see `UNITS`)."""

    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    products: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, examples: int) -> None:
        """Add `examples` of one kind of work. Raises ValueError on an unknown kind."""
        if kind not in UNITS:
            raise ValueError(f"unknown kind of work {kind!r}: {', '.join(UNITS)}")
        if kind == "gradient":
            self.gradient_evaluations += examples
        elif kind == "forward":
            self.forward_evaluations += examples
        else:
            self.products[kind] = self.products.get(kind, 0) + examples

    def add(self, other: "Tally", share: int = 1) -> None:
        """Add what `other` counted, or its `share`-th part."""
        self.gradient_evaluations += other.gradient_evaluations // share
        self.forward_evaluations += other.forward_evaluations // share
        for kind, n in other.products.items():
            self.count(kind, n // share)

    @property
    def work(self) -> float:
        """In units of a forward pass of one example."""
        return work(self.gradient_evaluations, self.forward_evaluations, self.products)
