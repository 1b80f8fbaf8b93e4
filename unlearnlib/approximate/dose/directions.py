"""Where a step may go: the weights that are free to move, and the gradients that it must not follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.gradients import example_gradients, mean_gradient, orthonormal
from unlearnlib.approximate.steps import endless
from unlearnlib.training.modes import device_of


@dataclass(frozen=True)
class Directions:
    """A subspace of steps [P]: zero where not `free` [P], and orthogonal to the orthonormal rows of `basis` [k, P]."""

    free: Tensor | None = None
    basis: Tensor | None = None

    def part(self, v: Tensor) -> Tensor:
        """The orthogonal projection of v [P] on the subspace."""
        v = v if self.free is None else v.where(self.free, torch.zeros_like(v))
        return v if self.basis is None else v - self.basis.T @ (self.basis @ v)

    def without(self, rows: Sequence[Tensor]) -> "Directions":
        """The steps of this subspace that are orthogonal to all `rows`, each [m, P] and in it already."""
        return Directions(self.free, orthonormal(torch.cat(tuple(rows)))) if len(rows) else self


class Leading(nn.Module):
    """`model` with its first outputs alone, where a method has added more that it drops again in the end."""

    def __init__(self, model: nn.Module, outputs: int | None):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, : self.outputs]


class Span:
    """The gradients of retained examples where the weights are now: of their mean loss, or of each of them.

    outputs      how many outputs are returned; None: all that the model has
    climb_only   only a step's gradient is kept orthogonal to them, and `repair` times their mean is added to it then
    """

    def __init__(
        self, split, run, batch_size: int, per_example: bool, *, outputs=None, climb_only=False, repair: float = 0.0
    ):
        self._train, self._tally, self._per_example, self._outputs = split.train, run.tally, per_example, outputs
        self._retained = endless(split.retain_index, batch_size, run.generator("projection"))
        self.climb_only, self.repair = climb_only, repair

    def rows(self, model: nn.Module) -> Tensor:
        """Of the next batch, [m, P] float64."""
        examples, model = self._train[next(self._retained)], Leading(model, self._outputs)
        if not self._per_example:
            return mean_gradient(model, examples, tally=self._tally)[None].double()
        device, dtype = device_of(model), next(model.parameters()).dtype
        self._tally.count("example_gradient", len(examples))
        found = example_gradients(model, examples.pixels(device=device, dtype=dtype), examples.labels.to(device))
        # an orthonormal basis of their span from their Gram matrix, and a projection on it
        self._tally.algebra(2 * len(found) * (len(found) + 1) * found.shape[1], model, examples)
        return found.double()
