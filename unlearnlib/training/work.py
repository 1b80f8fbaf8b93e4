"""Work in one unit, a forward pass of one example: what each kind of work costs, and the tally of a run.

    work = forward passes + 3 (forward and backward passes) + sum_kind UNITS[kind] count_kind

A backward pass costs two forward passes, in theory and on processors, since it multiplies by every weight matrix
twice. Curvature products differ between networks; their weights below are medians of what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# One example each, beside a forward pass in eval mode. Forward and backward is 3 by definition; the others are medians
# of CPU times over the five networks of `benchmarks/units.py`, which prints the table again, with their range.
UNITS: Mapping[str, float] = {
    "forward": 1.0,  # by definition
    "gradient": 3.0,  # forward and backward: measured 2.4 (1.8 to 3.1)
    "linearise": 3.0,  # the graph that products are taken from, forward and a differentiable backward: 2.8 (1.9 to 3.6)
    "jvp": 3.0,  # J v from a kept graph, by two reverse passes: 2.8 (1.1 to 5.3)
    "vjp": 1.5,  # J^T u from a kept graph: 1.4 (0.8 to 2.1)
    "hvp": 4.5,  # H v from a kept graph: 4.3 (2.2 to 7.7)
    "ggn": 4.5,  # G v from a kept graph, J v and then J^T: 4.2 (2.0 to 7.5)
    "example_gradient": 4.5,  # the gradient of each example by itself: 4.6 (3.5 to 4.6; 29 in the MLP, by memory)
    "jacobian_row": 3.0,  # J of each example, each of its rows: 2.8 (2.0 to 3.0; 21 in the MLP, by memory)
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
