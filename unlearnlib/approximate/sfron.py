"""SFRon: climb where forgetting outweighs remembering, repair on the retain set, and move slowly.

    m = 1[ I_F >= I_R ],     I = E (grad CE)^2 at theta_0 on forget and retain set, weight by weight

Cycles of one forgetting step and `forget_every` retain steps, with losses l_i of a forget batch:

    fast    theta <- theta + lr alpha_k clip( m * sum_i e_i grad l_i ),     e_i = l_i^-lambda / sum_j l_j^-lambda
            theta <- theta - lr grad L_R(theta)                             `forget_every` times
    slow    theta_slow <- theta_slow + slow_rate (theta - theta_slow);  the next cycle starts there

alpha_k falls from alpha to 0 along a cosine in the retain steps done; e_i gives most weight to the examples that are
known best (losses below 1e-6 count as that); clip bounds the norm of the whole forgetting gradient, alpha_k included.
Huang et al., NeurIPS 2024, arXiv 2409.19732. Limits: with alpha 0, slow_rate 1 and neither momentum nor weight decay it
is fine-tuning. Momentum and weight decay move masked weights, as in the released code.

Deviations: I is the mean of squared gradients of single examples; the defaults are ours. The published row takes the
released importance by `group_size`: squared gradients of the mean loss of shuffled, augmented batches, in eval mode.
There slow_rate is 1, so that nothing is averaged, and 1,500 retain steps are counted, not passes; the learning rate
falls along a cosine in the retain steps, which the forgetting step before them shares.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import batch_gradients, copies, shaped, trainable
from unlearnlib.approximate.steps import HEAVY_BALL, Steps, endless, even
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, augmented, draws_for, minibatches, steps
from unlearnlib.training.loop import Part


@dataclass(frozen=True)
class SFRon(Steps):
    epochs: int = 5  # passes over the retain set
    iterations: int | None = None  # retain steps; None: those of `epochs` passes
    alpha: float = 5.0  # weight of the first forgetting step
    adaptivity: float = 0.5  # lambda
    forget_every: int = 5  # retain steps to one forgetting step
    clip: float = 1.0  # largest norm of a forgetting gradient
    slow_rate: float = 0.5  # of the way to the fast weights that the slow ones go after each cycle
    group_size: int = 1  # examples whose gradients are averaged before they are squared: 1 is the Fisher diagonal

    def __post_init__(self):
        if self.forget_every < 1 or not (self.clip > 0 and self.alpha >= 0 and 0 <= self.slow_rate <= 1):
            raise ValueError("sfron needs forget_every >= 1, clip > 0, alpha >= 0 and 0 <= slow_rate <= 1")
        if self.group_size < 1 or (self.iterations is not None and self.iterations < 0):
            raise ValueError("sfron needs group_size >= 1 and iterations >= 0 or None")


@method(
    "sfron",
    SFRon,
    family="saliency",
    reads="retain, forget",
    paper="huang2024",
    cost=(
        "(lambda t, r, f: gradient * ((F + R)"
        " + t // r * seen(R, batch_size) + t % r * min(R, batch_size)"
        " + -(-t // forget_every) // f * seen(F, batch_size) + -(-t // forget_every) % f * min(F, batch_size)))"
        "(epochs * steps(R, batch_size) if iterations is None else iterations,"
        " max(1, steps(R, batch_size)), max(1, steps(F, batch_size)))"
    ),
    fails=(
        "Where alpha times the rate is large, since forgetting climbs a loss without bound; slow weights and "
        "clipping only delay it."
    ),
    published=HEAVY_BALL
    | {
        "iterations": 1500,
        "batch_size": 128,
        "lr": 0.01,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": "flip-crop-zero",
        "alpha": 25.0,
        "adaptivity": 0.5,
        "forget_every": 5,
        "clip": 7.0,
        "slow_rate": 1.0,
        "group_size": 128,
    },
    origin="the released values for a tenth of CIFAR-10",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "alpha": (0.5, 25.0, "log")},
)
def sfron(model, split, config: SFRon, run) -> Program:
    per_pass = steps(len(split.retain_index), config.batch_size, config.keep_last)
    count = config.epochs * per_pass if config.iterations is None else config.iterations
    retain, forget = (
        endless(where, config.batch_size, run.generator(name), keep_last=config.keep_last)
        for where, name in ((split.retain_index, "order"), (split.forget_index, "forget"))
    )
    importance = [_importance(model, part, config, run) for part in (split.forget, split.retain)]
    mask, labels = shaped(importance[0] >= importance[1], trainable(model)), split.train.labels

    def batches() -> Iterator[Batch]:
        for done, index in enumerate(islice(retain, count)):
            if done % config.forget_every == 0:
                gone = next(forget)
                alpha = config.alpha * 0.5 * (1 + math.cos(math.pi * done / count))
                yield Batch(gone, labels[gone], even(gone, -alpha))
            yield Batch(index, labels[index])

    recipe, ends = config.recipe(), tuple(n + 1 + n // config.forget_every + 1 for n in range(count))
    total = ends[-1] if ends else 0
    if recipe.schedule in ("cosine", "one-cycle") and not recipe.per_epoch:
        recipe = replace(recipe, per_epoch=True)  # of the retain steps, each with the forgetting step before it
    elif recipe.schedule != "constant":
        ends = tuple(ends[min(n, count) - 1] for n in range(per_pass, count + per_pass, per_pass))
    return Program(model, batches(), recipe, ends, (_Cycle(mask, config, total),))


def _importance(model: nn.Module, examples, config: SFRon, run) -> Tensor:
    if config.group_size == 1:
        return fisher_diagonal(model, examples, "empirical", tally=run.tally)
    order, draws = run.generator("mask"), run.generator("mask", "augmentation")

    def changed(pixels: Tensor) -> Tensor:
        return augmented(pixels, run.augment, draws_for(len(pixels), run.augment, pixels.shape[2:], draws))

    groups = list(minibatches(len(examples), config.group_size, 1, order, keep_last=True))
    gradients = batch_gradients(model, examples, groups, changed=changed, tally=run.tally)
    return sum(g.square() for g in gradients) / len(groups)


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
