"""SFR-on for samplers: a masked step of ascent that fades, then a step of repair, in turns.

    m = [ F_F / F_R >= threshold ],      F the mean over batches of squared gradients
    ascent:  - rise (1 + cos(pi k / steps)) / 2  E_F w l,   w = l^-power / mean l^-power,   gradients times m
    repair:  retain E_R l

l is the loss of a picture; w gives those a small part that are already badly drawn. Both steps share Adam. Huang et
al., NeurIPS 2024. Published: as the README runs the released DDPM loop, method "ron". Deviations: the mask is found
without guidance, and conditions are not dropped. The released running average of weights keeps 1e-4 of the past, so
it is none, and is left out. The released method "joint" multiplies by its mask the gradients of the step before, then
clears them: it has no mask. It is not offered here.
"""

import math
from dataclasses import dataclass

import torch

from unlearnlib.generative.steps import Descent, batches, gradients, masking, stepper, told


@dataclass(frozen=True)
class Sfron(Descent):
    steps: int = 40
    rise: float = 1.0  # weight of the ascent at its start
    power: float = 0.5  # how much less a picture counts whose loss is high
    threshold: float = 1.0  # of the ratio of Fisher information above which a weight may move


PUBLISHED = {
    "diffusion": {
        "steps": 150,
        "lr": 1e-4,
        "batch_size": 128,
        "clip": 1.0,
        "rise": 10.0,
        "power": 0.5,
        "threshold": 1.0,
    }
}


def fisher(sampler, examples, config: Sfron, run, name: str) -> torch.Tensor:
    """The mean over batches of squared gradients: [all weights]."""
    squares = [gradient.square() for gradient in gradients(sampler, examples, config, run, name)]
    return sum(squares) / len(squares)


def faded(losses: torch.Tensor, power: float) -> torch.Tensor:
    """The weighted mean of losses [n] in which high ones count less."""
    weight = 1 / (losses.detach() ** power + 1e-8)
    return (weight / weight.sum() * losses).sum()


def sfron(sampler, parts, config: Sfron, run):
    gone, kept = (
        fisher(sampler, part, config, run, name) for part, name in ((parts.forget, "forget"), (parts.retain, "retain"))
    )
    mask = (gone + 1e-15) / (kept + 1e-15) >= config.threshold
    step, rng = stepper(sampler, config), run.generator("draws")
    first = batches(sampler, parts.forget, config, run, "forget batches")
    second = batches(sampler, parts.retain, config, run, "retain batches")
    for k, ((x, c), (y, d)) in enumerate(zip(first, second, strict=True)):
        dose = config.rise * (1 + math.cos(math.pi * k / config.steps)) / 2
        step(-dose * faded(sampler.loss(x, c, rng), config.power), before=masking(mask))
        step(config.retain * sampler.loss(y, d, rng).mean())
        told(run, "gradient", x, y)
    return sampler
