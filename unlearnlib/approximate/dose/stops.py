"""Parts that end a descent, or do not let it begin."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from unlearnlib.approximate.dose.base import Dose, check_number, on_board
from unlearnlib.approximate.steps import matched_mean, no_whole_classes
from unlearnlib.exact.retrain import Retrain, retrain
from unlearnlib.training.loop import Part, Stage
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class EarlyStop(Dose):
    """Stop when the forget set is no better known than pictures never seen: L_F >= the mean validation loss.

    The validation loss is that of the start, with the classes weighted as in the forget set. L_F is measured after
    every `every` steps, when all other parts have acted, at the cost of a forward pass over the forget set; no step
    follows the first measurement that reaches the validation loss. Raises ValueError where a whole class is forgotten:
    the start knows unseen pictures of that class as well as ever, and retraining does not.
    """

    every: int = 1

    def applied(self, program, split, run):
        check_number(self, "every", 1, whole=True)
        no_whole_classes("EarlyStop", split)
        held_out, model = split.validation, program.model
        losses = torch.zeros(0)
        if len(held_out):
            logits = predict(model, held_out, tally=run.tally)
            losses = F.cross_entropy(logits, held_out.labels, reduction="none")
        target = matched_mean(losses, held_out.labels, split.forget.labels)
        return on_board(program, Stop(target, split.forget, self.every, run.tally))


@dataclass(frozen=True)
class Stop(Part):
    target: float
    forget: object
    every: int
    tally: object

    stage = Stage.WATCH

    def after_step(self, model: nn.Module, step: int) -> bool:
        if (step + 1) % self.every:
            return False
        loss = F.cross_entropy(predict(model, self.forget, tally=self.tally), self.forget.labels)
        return loss.item() >= self.target


@dataclass(frozen=True)
class RatioCap(Dose):
    """Approximate only what is small: where |F| / |D| > kappa, refuse, or retrain from scratch.

    otherwise   "refuse" (ValueError) or "retrain" by `recipe`, which must be that of the original; the other parts of
                the call are then left out, but for a second cap that refuses

    Guarantees of approximate unlearning hold for few deletions: the deletion capacity of Sekhari et al. (sekhari2021).
    """

    kappa: float
    otherwise: str = "refuse"
    recipe: Recipe = field(default_factory=Recipe)

    def instead(self, model: nn.Module, split, run):
        check_number(self, "kappa", 0)
        if self.otherwise not in ("refuse", "retrain"):
            raise ValueError(f"RatioCap.otherwise is refuse or retrain: {self.otherwise!r}")
        if not isinstance(self.recipe, Recipe):
            raise ValueError(f"RatioCap.recipe is the Recipe of the original, not {self.recipe!r}")
        ratio = len(split.forget_index) / len(split.train)
        if ratio <= self.kappa:
            return None
        if self.otherwise == "retrain":
            return retrain(model, split, Retrain(self.recipe), run)
        raise ValueError(f"{ratio:.3g} of the data are to be forgotten, more than kappa = {self.kappa:.3g}: retrain")

    def applied(self, program, split, run):
        return program
