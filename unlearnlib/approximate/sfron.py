"""SFRon: climb where forgetting outweighs remembering, repair on the retain set, and move slowly.

    m = 1[ I_F >= I_R ],     I = E (grad CE)^2 at theta_0 on forget and retain set, weight by weight

Cycles of one forgetting step and `forget_every` retain steps, with losses l_i of a forget batch:

    fast    theta <- theta + lr alpha_k clip( m * sum_i e_i grad l_i ),     e_i = l_i^-lambda / sum_j l_j^-lambda
            theta <- theta - lr grad L_R(theta)                             `forget_every` times
    slow    theta_slow <- theta_slow + slow_rate (theta - theta_slow);  the next cycle starts there

alpha_k falls from alpha to 0 along a cosine; e_i gives most weight to the examples that are known best; clip bounds the
norm of the whole forgetting gradient, alpha_k included. Huang et al., NeurIPS 2024, arXiv 2409.19732. Limits: with
alpha 0, slow_rate 1 and neither momentum nor weight decay it is fine-tuning. Deviations: I is the mean of squared
gradients of single examples, not of batches, and is never read from a file; the defaults are ours. In the released code
slow_rate is 1, so that nothing is averaged; its other values for CIFAR-10 are lr 0.01, 1,500 retain steps, alpha 25,
lambda 0.5, five retain steps to a forgetting step, clip 7.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import copies, shaped, trainable
from unlearnlib.approximate.steps import Steps, endless, even, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import Part


@dataclass(frozen=True)
class SFRon(Steps):
    epochs: int = 5  # passes over the retain set
    alpha: float = 5.0  # weight of the first forgetting step
    adaptivity: float = 0.5  # lambda
    forget_every: int = 5  # retain steps to one forgetting step
    clip: float = 1.0  # largest norm of a forgetting gradient
    slow_rate: float = 0.5  # of the way to the fast weights that the slow ones go after each cycle

    def __post_init__(self):
        if self.forget_every < 1 or self.clip <= 0 or self.alpha < 0 or not 0 <= self.slow_rate <= 1:
            raise ValueError("sfron needs forget_every >= 1, clip > 0, alpha >= 0 and 0 <= slow_rate <= 1")


@method(
    "sfron",
    SFRon,
    family="saliency",
    reads="retain, forget",
    paper="huang2024",
    cost="F + R + epochs * R * (1 + 1 / forget_every)",
    fails=(
        "Where alpha times the rate is large, since forgetting climbs a loss without bound; slow weights and "
        "clipping only delay it."
    ),
    published={"lr": 0.01, "alpha": 25.0, "adaptivity": 0.5, "forget_every": 5, "clip": 7.0, "slow_rate": 1.0},
    origin="the released values for CIFAR-10, but for the number of steps",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "alpha": (0.5, 25.0, "log")},
)
def sfron(model, split, config: SFRon, run) -> Program:
    retain, count = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    forget = endless(split.forget_index, config.batch_size, run.generator("forget"))
    cycles = math.ceil(count / config.forget_every)
    parts = (split.forget, split.retain)
    importance = [fisher_diagonal(model, part, "empirical", tally=run.tally) for part in parts]
    mask = shaped(importance[0] >= importance[1], trainable(model))
    labels = split.train.labels

    def batches() -> Iterator[Batch]:
        for done, batch in enumerate(retain):
            if done % config.forget_every == 0:
                index = next(forget)
                alpha = config.alpha * 0.5 * (1 + math.cos(math.pi * (done // config.forget_every) / cycles))
                yield Batch(index, labels[index], even(index, -alpha))
            yield batch

    return Program(model, batches(), config.recipe(), count + cycles, (_Cycle(mask, config, count + cycles),))


def adaptive(losses: Tensor, adaptivity: float) -> Tensor:
    """e_i = l_i^-lambda / sum_j l_j^-lambda for losses [B]; losses of zero count as 1e-6."""
    return torch.softmax(-adaptivity * losses.clamp_min(1e-6).log(), dim=0)


class _Cycle(Part):
    """The adaptive weights, mask and clipping of forgetting steps, and the slow weights."""

    def __init__(self, mask: dict[str, Tensor], config: SFRon, steps: int):
        self._mask, self._config, self._steps = mask, config, steps

    def reweighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        if weights[0] < 0:
            return weights.sum() * adaptive(losses, self._config.adaptivity)
        return weights

    def after_gradient(self, model: nn.Module, step: int) -> None:
        if step % (self._config.forget_every + 1) == 0:
            self._slow = copies(model)  # where the last cycle came to rest, bounds of other parts included
            parameters = trainable(model)
            for name, p in parameters.items():
                if p.grad is not None:
                    p.grad.mul_(self._mask[name])
            torch.nn.utils.clip_grad_norm_(parameters.values(), self._config.clip)

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        if (step + 1) % (self._config.forget_every + 1) == 0 or step + 1 == self._steps:
            for name, p in trainable(model).items():
                p.copy_(torch.lerp(self._slow[name], p, self._config.slow_rate))
        return False
