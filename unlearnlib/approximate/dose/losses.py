"""Parts that change what is descended on: a bound on what is climbed, and pulls to the start.

They act through the gradient. What a bound on the weights or on the steps takes out of a step's gradient, it takes out
of the pull as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.dose.base import Dose, check_number, on_board
from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import copies, shaped, trainable
from unlearnlib.training.loop import Part


@dataclass(frozen=True)
class BoundedLoss(Part):
    """Forget no further than tau: L_F counts as min(L_F, tau).

    L_F is the mean cross-entropy of the examples of a step that are climbed: those with negative weights, of the labels
    or of a teacher's answers. At tau and above they get weight 0. Raises ValueError unless tau >= 0.
    """

    tau: float

    def applied(self, program, split, run):
        check_number(self, "tau", 0)
        return on_board(program, self)

    def reweighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        climbed = weights < 0
        if climbed.any() and losses[climbed].mean() >= self.tau:
            return weights.where(~climbed, torch.zeros_like(weights))
        return weights


@dataclass(frozen=True)
class L2SP(Dose):
    """A pull to the start: adds (rho / 2) ||theta - theta_0||^2 to the loss.

    With a quadratic loss of Hessian H and minimum theta* the result tends to (H + rho I)^-1 (H theta* + rho theta_0).
    """

    rho: float

    def applied(self, program, split, run):
        check_number(self, "rho", 0)
        return on_board(program, Pull(copies(program.model), self.rho / 2))


@dataclass(frozen=True)
class EWC(Dose):
    """A pull to the start where the retain set needs it: adds rho sum_i F_i (theta_i - theta_0,i)^2.

    fisher   F by parameter name; None: the diagonal of the empirical Fisher matrix of the retain set at the start,
             E_R (grad CE)^2, which costs one gradient for each retained example

    Elastic weight consolidation, as Heng and Soh 2023 use it to forget (key heng2023).
    """

    rho: float
    fisher: Mapping[str, Tensor] | None = None

    def applied(self, program, split, run):
        check_number(self, "rho", 0)
        start = copies(program.model)
        if self.fisher is None:
            fisher = shaped(fisher_diagonal(program.model, split.retain, "empirical", tally=run.tally), start)
        else:
            given = self.fisher if isinstance(self.fisher, Mapping) else {}
            fits = {n: getattr(t, "shape", None) for n, t in given.items()} == {n: t.shape for n, t in start.items()}
            if not (fits and all((t >= 0).all() for t in given.values())):
                raise ValueError(
                    "EWC.fisher must have one tensor for each trainable parameter, by its name and in its shape, "
                    "with no negative entry"
                )
            fisher = {name: self.fisher[name].to(start[name]) for name in start}
        return on_board(program, Pull(start, self.rho, fisher))


class Pull(Part):
    """weight * sum_i F_i (theta_i - theta_0,i)^2, F = 1 where None."""

    def __init__(self, start: dict[str, Tensor], weight: float, fisher: dict[str, Tensor] | None = None):
        self._start, self._weight, self._fisher = start, weight, fisher

    def penalty(self, model: nn.Module) -> Tensor:
        squares = {name: (p - self._start[name]).square() for name, p in trainable(model).items()}
        if self._fisher is not None:
            squares = {name: self._fisher[name] * square for name, square in squares.items()}
        return self._weight * sum(square.sum() for square in squares.values())
