"""MSG: draw anew the weights on which the gradients of retain and forget set agree, then fine-tune the others gently.

    G = sum_b grad CE(R'_b) - sum_b grad CE(F_b),       R' a random part of R as large as F
    in every convolution the share p of weights with the smallest |G| is drawn anew, N(0, 2 / (k^2 out)),
    then descent on R, where the gradients of all other convolutional weights are multiplied by 0.1

One of the competition's published solutions ("masked small gradients"; code: munl/unlearning/kgltop2.py of arXiv
2410.01276, in whose comparison it comes first). Where the two gradients are alike, a weight serves both sets and
forgetting cannot be told from retaining. The learning rate rises over the first half of the epochs and falls over the
second. Weight decay and momentum are not scaled. With share 0 only the factor is left; with R' = F, G = 0.

The batches of G are in train mode, as released, so that the statistics of batch norms see them. Deviations: the
released code gives a convolution with a bias a new random bias; here biases stay. In a network without convolutions
its inner linear layers stand in their place.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.competition import convolutions
from unlearnlib.approximate.steps import HEAVY_BALL, Descent, Steps, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import minibatches
from unlearnlib.training.loop import Part
from unlearnlib.training.modes import training_mode
from unlearnlib.training.recipe import Recipe

COLLECTED = 64  # examples in a batch of R' when gradients are collected


class Rising(Recipe):
    """A rate that rises in equal steps over the first half of the epochs and falls over the second."""

    def rate(self, step: int, steps) -> float:
        epoch, epochs = self._epoch(step, steps)
        top, all_ = (epochs + 1) // 2, epochs + 1
        if epoch + 1 <= top:
            return self.lr * (epoch + 1) / top
        return self.lr * (all_ - epoch - 1) / (all_ - top)


@dataclass(frozen=True)
class Msg(Steps):
    epochs: int = 5  # passes over the retain set
    lr: float = 1e-3
    share: float = 0.3  # of the weights of each convolution that are drawn anew
    kept: float = 0.1  # what the gradients of the others are multiplied by

    def __post_init__(self):
        if not 0 <= self.share <= 1 or self.kept < 0:
            raise ValueError(f"msg needs 0 <= share <= 1 and kept >= 0, not {self.share} and {self.kept}")

    def recipe(self) -> Rising:
        return Rising(**{f.name: getattr(self, f.name) for f in fields(Descent)})


class Damped(Part):
    """Multiplies the gradients of the named weights by tensors of their shape."""

    def __init__(self, factors: dict[str, Tensor]):
        self._factors = factors

    def after_gradient(self, model: nn.Module, step: int) -> None:
        for name, factor in self._factors.items():
            weight = model.get_parameter(name)
            if weight.grad is not None:
                weight.grad.mul_(factor)


def disagreement(model: nn.Module, split, names: list[str], config: Msg, run) -> dict[str, Tensor]:
    """G of the named weights: name -> a tensor of the weight's shape."""
    weights = [model.get_parameter(name) for name in names]
    rng = run.generator("collected")
    few = split.retain_index[torch.randperm(len(split.retain_index), generator=rng)[: len(split.forget_index)]]
    total = [torch.zeros_like(w) for w in weights]
    with training_mode(model, split.train.pixels([0])), torch.enable_grad():
        for sign, where, size in ((1, few, COLLECTED), (-1, split.forget_index, config.batch_size)):
            for inside in minibatches(len(where), size, 1, rng, keep_last=True):
                index = where[inside]
                pixels = split.train.pixels(index, device=weights[0].device, dtype=weights[0].dtype)
                loss = F.cross_entropy(model(pixels), split.train.labels[index].to(pixels.device))
                run.tally.count("gradient", len(index))
                for sum_, g in zip(total, torch.autograd.grad(loss, weights), strict=True):
                    sum_.add_(g, alpha=sign)
    return dict(zip(names, total, strict=True))


@torch.no_grad()
def redrawn(model: nn.Module, gaps: dict[str, Tensor], share: float, kept: float, rng) -> dict[str, Tensor]:
    """Draw anew the `share` of each weight with the smallest |gap|, in place; the factors of their gradients."""
    factors = {}
    for name, gap in gaps.items():
        weight = model.get_parameter(name)
        count = round(share * weight.numel())
        chosen = torch.topk(-gap.abs().flatten(), count).indices
        fan_out = weight.shape[0] * weight[0, 0].numel()
        drawn = torch.randn(weight.shape, generator=rng).to(weight) * (2 / fan_out) ** 0.5
        weight.view(-1)[chosen] = drawn.flatten()[chosen]
        factor = torch.full_like(weight, kept)
        factor.view(-1)[chosen] = 1
        factors[name] = factor
    return factors


@method(
    "msg",
    Msg,
    family="saliency",
    reads="retain, forget",
    paper="cadet2024",
    cost="gradient * (epochs * seen(R, batch_size) + min(F, R) + F)",
    fails=(
        "It takes much of every convolution away, so a few passes must rebuild it: with little retained data "
        "accuracy goes with the forgotten."
    ),
    published=HEAVY_BALL | {"epochs": 5, "lr": 1e-3, "weight_decay": 5e-4, "batch_size": 64, "share": 0.3, "kept": 0.1},
    origin="the solution's own values, in the benchmark's code",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 5), "share": (0.05, 0.6)},
)
def msg(model, split, config: Msg, run) -> Program:
    layers = convolutions("msg", model, split.train.pixels([0]))
    names = [f"{name}.weight" for name in layers]
    gaps = disagreement(model, split, names, config, run)
    factors = redrawn(model, gaps, config.share, config.kept, run.generator("drawn"))
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps, (Damped(factors),))
