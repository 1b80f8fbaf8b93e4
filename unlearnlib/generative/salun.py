"""SalUn for samplers: answer for another class, moving only the weights that forgetting asks for most.

    g = | sum over batches of F of grad loss |,   m = the largest share `keep` of g
    push E_F || p_theta(x_t, c_f) - sg p_theta(x_t, c') ||^2  +  retain E_R loss,     gradients times m

c' is the class after c_f, sg stops the gradient; p_theta(., c') is that of the sampler as it is, not of the original.
Fan et al., ICLR 2024. Published: as the released DDPM loop is run by its README, with the forget loss a mean over
3,072 values and the retain loss a sum with weight .001; the mask is applied after the clip. Deviations: the mask is
found without guidance, and conditions are not dropped in training, as the samplers here have no guidance.
"""

from dataclasses import dataclass

import torch

from unlearnlib.generative.steps import CIFAR, Descent, gradients, masking, neighbour, told, two_batches


@dataclass(frozen=True)
class Salun(Descent):
    push: float = 1.0  # weight of the loss on forgotten pictures
    keep: float = 0.5  # share of the weights that may move

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and up to 1, not {self.keep!r}")


PUBLISHED = {
    "diffusion": {"steps": 1000, "lr": 1e-4, "batch_size": 128, "clip": 1.0, "push": 1 / CIFAR, "retain": 1e-3}
}


def salient(sampler, parts, config: Salun, run) -> torch.Tensor:
    """m [all weights]."""
    total = sum(gradients(sampler, parts.forget, config, run, "mask")).abs()
    order = torch.argsort(total, descending=True, stable=True)
    mask = torch.zeros_like(total, dtype=torch.bool)
    mask[order[: int(len(order) * config.keep)]] = True
    return mask


def salun(sampler, parts, config: Salun, run):
    mask = salient(sampler, parts, config, run)

    def loss(x, c, y, d, rng):
        kept = sampler.loss(y, d, rng).mean()
        seen = sampler.noised(x, rng)
        said = sampler.predict(seen.x, seen.t, c)
        instead = sampler.predict(seen.x, seen.t, neighbour(c, sampler.classes)).detach()
        told(run, "gradient", x, y)
        told(run, "forward", x)
        return config.push * (said - instead).square().sum(1).mean() + config.retain * kept

    return two_batches(sampler, parts, config, run, loss, after=masking(mask))
