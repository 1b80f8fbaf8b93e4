"""The divergence that KLTrustRegion bounds, and the step of a given divergence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.curvature.products import Curvature
from unlearnlib.approximate.curvature.solvers import conjugate_gradients
from unlearnlib.approximate.dose.directions import Directions, Leading
from unlearnlib.approximate.gradients import pixel_batches
from unlearnlib.approximate.steps import endless
from unlearnlib.training.modes import evaluating


@dataclass(frozen=True)
class Trust:
    """A KLTrustRegion that has seen the start."""

    config: object  # a limits.KLTrustRegion
    share: float  # delta_1, the KL of one step; 0: no step is taken
    answers: Tensor  # log p_theta_0 of the retain set, [R, classes] float64
    retain: object
    train: object
    batches: Iterator[Tensor]
    tally: object

    def divergence(self, model: nn.Module) -> float:
        """E_R KL(p_theta_0 || p_theta), over the outputs that p_theta_0 has."""
        now = _answers(Leading(model, self.answers.shape[1]), self.retain, self.tally)
        return F.kl_div(now, self.answers, reduction="batchmean", log_target=True).item()

    def from_start(self, model: nn.Module) -> "Trust":
        """The same with theta_0 as `model` has it."""
        return replace(self, answers=_answers(model, self.retain, self.tally))

    def step(self, model: nn.Module, gradient: Tensor, allowed: Directions) -> Tensor:
        """-sqrt(2 delta_1 / (g^T x)) x with (F + damping I) x = g among the directions allowed: [P] for g [P]."""
        dtype, config = next(model.parameters()).dtype, self.config
        fisher = Curvature(Leading(model, self.answers.shape[1]), self.train[next(self.batches)], tally=self.tally)

        def product(v: Tensor) -> Tensor:
            return allowed.part(fisher(v.to(dtype)).double()) + config.damping * v

        x, _ = conjugate_gradients(product, gradient, config.iterations, 1e-6)
        slope = torch.dot(gradient, x).item()
        return -math.sqrt(2 * self.share / slope) * x if slope > 0 else torch.zeros_like(x)


def trusted(config, start: nn.Module, program, split, run) -> Trust:
    """`config` for a program that returns `start` where it takes no step."""
    steps = program.steps if isinstance(program.steps, int) else max(program.steps, default=0)
    share = config.delta / max(steps, 1) ** 2 if program.recipe.lr > 0 else 0.0
    batches = endless(split.retain_index, config.batch_size, run.generator("trust region"))
    answers = _answers(start, split.retain, run.tally)
    return Trust(config, share, answers, split.retain, split.train, batches, run.tally)


@torch.no_grad()
def _answers(model: nn.Module, examples, tally) -> Tensor:
    """log p [n, classes] in eval mode, in the model's own precision whatever the mode of computing, then float64."""
    with evaluating(model):
        logits = torch.cat([model(pixels) for pixels, _ in pixel_batches(model, examples, 1024)])
    tally.count("forward", len(examples))
    return torch.log_softmax(logits.double(), 1)
