"""Distilled: a few pictures of each class, made while the data are there, on which one step teaches most.

    x~ = argmin  E_theta  L_R(theta - eta grad CE_x~(theta)),      theta drawn anew (untrained) for each step

x~ are `per_class` pictures of each class of R with these labels, L_R the loss of a batch of R. Dataset distillation,
Wang et al., arXiv 1811.10959; that few distilled pictures of each class may stand for a large set is the use of
Liu et al., arXiv 2005.08551, which deals with facial expressions. Kept for a later repair they are our reconstruction:
neither paper repairs a model. They come from R, so they are data about R, compressed; who may not keep R should ask
whether these may be kept. Start: the mean picture of each class and a little noise.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unlearnlib.approximate.zero_shot.repairing import counts, numbers
from unlearnlib.seeding import generator
from unlearnlib.training.modes import evaluating
from unlearnlib.training.renewal import fresh
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Distilled:
    """How pictures are distilled."""

    per_class: int = 5
    steps: int = 100  # of Adam, on the pictures
    lr: float = 0.02  # of these steps
    inner_lr: float = 0.5  # eta
    batch_size: int = 256  # of R in each step

    def __post_init__(self):
        counts("per_class", self.per_class, 1)
        counts("steps", self.steps, 0)
        counts("batch_size", self.batch_size, 1)
        numbers(self, "lr", "inner_lr", above=0.0)


def distilled(
    model: nn.Module, examples, config: Distilled, seed: int, *, tally: Tally | None = None
) -> tuple[Tensor, Tensor]:
    """Pictures [n, C, H, W] and their labels [n] for the classes of `examples`; of `model` the architecture is used."""
    like, rng = next(model.parameters()), generator(seed, "distilled")
    classes = examples.labels.unique()
    means = torch.stack([examples.pixels((examples.labels == c).nonzero()[:, 0]).mean(0) for c in classes])
    labels = classes.repeat(config.per_class)
    x = means.repeat(config.per_class, 1, 1, 1)
    x = (x + 0.1 * torch.randn(x.shape, generator=rng)).to(like).requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=config.lr)
    for step in range(config.steps):
        start = fresh(model, seed * 1_000_003 + step, examples.pixels([0, 1]))
        drawn = torch.randperm(len(examples), generator=rng)[: config.batch_size]
        seen = examples.pixels(drawn, device=like.device, dtype=like.dtype)
        with evaluating(start), torch.enable_grad():
            parameters = {name: p for name, p in start.named_parameters() if p.requires_grad}
            inner = F.cross_entropy(start(x), labels.to(like.device))
            slopes = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
            moved = {n: p - config.inner_lr * g for (n, p), g in zip(parameters.items(), slopes, strict=True)}
            loss = F.cross_entropy(functional_call(start, moved, (seen,)), examples.labels[drawn].to(like.device))
            x.grad = torch.autograd.grad(loss, x)[0]
        optimiser.step()
        if tally is not None:
            tally.count("linearise", len(x))
            tally.count("hvp", len(x))
            tally.count("gradient", len(drawn))
    return x.detach().cpu(), labels
