"""Work in one unit, a forward pass of one example: what each kind of work costs, and the tally of a run.

    work = forward passes + 3 (forward and backward passes) + sum_kind UNITS[kind] count_kind

A backward pass costs two forward passes, in theory and on processors, since it multiplies by every weight matrix
twice; where the first layers are frozen it costs less, and is counted as whole. Curvature products differ between
networks; their weights below are medians of what was measured. Algebra between gradients (Gram matrices, projections,
the solution of kernels) passes no example through the network: its multiplications are counted as the forward passes
that have as many.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unlearnlib.training.modes import device_of, evaluating

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
    "example_gradient": 4.5,  # the gradient of each example by itself, or a row of its Jacobian: 4.6 (3.5 to 5.5; 29 in
    # the MLP, by memory)
    "algebra": 1.0,  # as many multiplications as a forward pass of one example has, by definition: between 32 gradients
    # they take 3.5 times as long (1.0 to 3.9), between hundreds half as long
}


def work(gradients: float, forwards: float, products: Mapping[str, float]) -> float:
    """The sum of counts in units of a forward pass."""
    return UNITS["gradient"] * gradients + forwards + sum(UNITS[kind] * n for kind, n in products.items())


def multiplications(model: nn.Module, examples) -> float:
    """Those of a forward pass of one example: in products of matrices and convolutions, and at least one a weight.

    They are counted by torch, where a layer tells; `examples` is an Examples, of which one is passed through.
    """
    first = next(model.parameters())
    picture = examples.pixels([0], device=device_of(model), dtype=first.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(model):
        model(picture)
    return max(counter.get_total_flops() / 2, sum(p.numel() for p in model.parameters()))


@dataclass
class Tally:
    """Counts the work of a run, in examples: forward and backward, forward only, and products by kind (see `UNITS`)."""

    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    products: dict[str, float] = field(default_factory=dict)
    _forward: float | None = field(default=None, repr=False, compare=False)  # multiplications of one forward pass

    def count(self, kind: str, examples: float) -> None:
        """Add `examples` of one kind of work. Raises ValueError on an unknown kind."""
        if kind not in UNITS:
            raise ValueError(f"unknown kind of work {kind!r}: {', '.join(UNITS)}")
        if kind == "gradient":
            self.gradient_evaluations += examples
        elif kind == "forward":
            self.forward_evaluations += examples
        else:
            self.products[kind] = self.products.get(kind, 0) + examples

    def algebra(self, found: float, model: nn.Module, examples) -> None:
        """Add `found` multiplications between gradients, in forward passes of the `model` of this run."""
        if self._forward is None:
            self._forward = multiplications(model, examples)
        self.count("algebra", found / self._forward)

    def add(self, other: "Tally", share: int = 1) -> None:
        """Add what `other` counted, or its `share`-th part."""
        self.gradient_evaluations += other.gradient_evaluations // share
        self.forward_evaluations += other.forward_evaluations // share
        for kind, n in other.products.items():
            self.count(kind, n / share)

    @property
    def work(self) -> float:
        """In units of a forward pass of one example."""
        return work(self.gradient_evaluations, self.forward_evaluations, self.products)
