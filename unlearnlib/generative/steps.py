"""What the methods of this room share: their hyper-parameters, batches, one optimiser step, the noise target's partner.

Losses are sums over the values of a latent or a picture and means over a batch. Authors who take the mean over d
values have the weights `push` or `retain` 1/d in their published values.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.data.examples import Examples
from unlearnlib.generative.doors import check_numbers, kind_of
from unlearnlib.methods.registry import Run
from unlearnlib.training.batches import minibatches
from unlearnlib.training.modes import evaluating

CIFAR = 3072  # values of a picture of 32 x 32 in colour, over which the authors' means go


@dataclass(frozen=True)
class Descent:
    """What all methods take."""

    steps: int = 200  # optimiser steps
    lr: float = 3e-4  # of Adam, constant
    batch_size: int = 64  # pictures of the forget set in a step, and as many of the retain set
    clip: float = 0.0  # the largest norm of a gradient; 0: not clipped
    retain: float = 1.0  # weight of the loss on retained pictures

    def __post_init__(self):
        check_numbers(self, ("steps", "lr", "batch_size"))


@dataclass(frozen=True)
class Parts:
    """What a method sees: the forgotten class with its label, what is retained, and pictures that nobody was taught."""

    forget: Examples
    retain: Examples
    unseen: Examples
    label: int


def batches(
    sampler, examples: Examples, config, run: Run, name: str, steps: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches (pictures, labels) of shuffled passes; the last of a pass may be smaller."""
    steps, (device, dtype) = steps or config.steps, kind_of(sampler)
    passes = minibatches(len(examples), config.batch_size, steps, run.generator(name), keep_last=True)
    for index in itertools.islice(passes, steps):
        yield examples.pixels(index, device, dtype), examples.labels[index].to(device)


def stepper(sampler: nn.Module, config) -> Callable[..., None]:
    """`step(loss)`: one step of Adam; `before` and `after` change gradients before and after they are clipped."""
    parameters = list(sampler.parameters())
    optimiser = torch.optim.Adam(parameters, lr=config.lr)

    def step(loss: Tensor, before: Callable | None = None, after: Callable | None = None, clipped: bool = True) -> None:
        optimiser.zero_grad()
        loss.backward()
        if before is not None:
            before(parameters)
        if config.clip and clipped:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        if after is not None:
            after(parameters)
        optimiser.step()

    return step


def masking(mask: Tensor) -> Callable:
    """What leaves the gradients where `mask` [all weights] is true, and sets the others to zero."""

    def change(parameters) -> None:
        start = 0
        for p in parameters:
            part = mask[start : start + p.numel()].view_as(p)
            start += p.numel()
            if p.grad is not None:
                p.grad.mul_(part)

    return change


def gradients(sampler: nn.Module, examples: Examples, config, run: Run, name: str) -> Iterator[Tensor]:
    """The gradient [all weights] of the mean loss on each batch of one pass, in eval mode, clipped as in a step."""
    parameters, rng = list(sampler.parameters()), run.generator(name, "draws")
    count = -(-len(examples) // min(len(examples), config.batch_size))
    with evaluating(sampler):
        for pictures, labels in batches(sampler, examples, config, run, name, count):
            sampler.zero_grad()
            sampler.loss(pictures, labels, rng).mean().backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            run.tally.count("gradient", len(labels))
            yield torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    sampler.zero_grad()


def neighbour(labels: Tensor, classes: int, further: int = 1) -> Tensor:
    """The class after each, and the first after the last: what forgotten pictures are redirected to."""
    return (labels + further) % classes


def two_batches(
    sampler: nn.Module, parts: Parts, config, run: Run, loss: Callable[..., Tensor], **changes
) -> nn.Module:
    """`steps` steps on loss(forgotten pictures, labels, retained pictures, labels, rng)."""
    step, rng = stepper(sampler, config), run.generator("draws")
    gone = batches(sampler, parts.forget, config, run, "forget batches")
    kept = batches(sampler, parts.retain, config, run, "retain batches")
    for (x, c), (y, d) in zip(gone, kept, strict=True):
        step(loss(x, c, y, d, rng), **changes)
    return sampler


def told(run: Run, kind: str, *batches: Tensor) -> None:
    """Count the work of these batches."""
    for batch in batches:
        run.tally.count(kind, len(batch))
