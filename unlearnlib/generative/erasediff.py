"""EraseDiff as released: descent on retained pictures, with the forgotten class drawn towards another.

    inner: `inner` passes over F that descend on  q = push E_F || p_theta(x_t, c_f) - sg p_theta(x_t, c') ||^2; undone
    outer: a pass over pairs of batches that descends on  retain E_R loss + weight (q - q_inner)

c' is a class drawn for each batch, sg stops the gradient. Wu et al., "Erasing Undesirable Influence in Diffusion
Models", CVPR 2025. The paper has two levels: what is forgotten shall be no better than the inner problem leaves it.
In the released loop, as it is run by default, q_inner is a number that is subtracted: it has no gradient. All that is
left of the inner passes are Adam's moments, which survive when the weights are put back, and moved norms. So this is,
in effect, one weighted loss. It is kept as released for that reason; `noise_target` has the loss that the paper
starts from.

Published: the defaults of the released DDPM program, means over 3,072 values in both losses. Deviations: c' is any
class but c_f (released: one of 1 to 9, also c_f itself unless that is 0); both parts are noised at steps of their own
(released: forgotten pictures at the steps of the retained ones); as it stands, the released function stops at a name
that it does not define, `criteria`, which is read here as the mean squared error that it is elsewhere in the file.
Conditions are not dropped.
"""

from dataclasses import dataclass

import torch

from unlearnlib.generative.doors import check_numbers
from unlearnlib.generative.steps import CIFAR, batches, stepper, told
from unlearnlib.training.batches import steps as steps_of


@dataclass(frozen=True)
class EraseDiff:
    epochs: int = 6
    rounds: int = 2  # inner and outer passes in an epoch
    inner: int = 2  # passes over the forget set that are undone
    weight: float = 1.0  # of the forgetting loss in the outer passes
    push: float = 1.0  # scale of the forgetting loss
    retain: float = 1.0  # weight of the loss on retained pictures
    lr: float = 3e-4  # of Adam, constant
    batch_size: int = 64
    clip: float = 0.0  # the largest norm of a gradient in outer passes; 0: not clipped
    most: int = 4500  # retained pictures of an outer pass

    def __post_init__(self):
        check_numbers(self, ("epochs", "rounds", "lr", "batch_size", "most"))


PUBLISHED = {
    "diffusion": {
        **{"epochs": 4, "rounds": 2, "inner": 2, "weight": 0.1, "push": 1 / CIFAR, "retain": 1 / CIFAR},
        **{"lr": 1e-4, "batch_size": 128, "clip": 1.0, "most": 4500},
    }
}


def erasediff(sampler, parts, config: EraseDiff, run):
    rng, step = run.generator("draws"), stepper(sampler, config)

    def redirected(x, c):
        others = [k for k in range(sampler.classes) if k != parts.label]
        instead = torch.full_like(c, others[torch.randint(len(others), (), generator=rng)])
        seen = sampler.noised(x, rng)
        said, there = sampler.predict(seen.x, seen.t, c), sampler.predict(seen.x, seen.t, instead).detach()
        told(run, "gradient", x)
        told(run, "forward", x)
        return config.push * (said - there).square().sum(1).mean()

    passes = [steps_of(len(part), config.batch_size, keep_last=True) for part in (parts.forget, parts.retain)]
    count = min(*passes, config.most // config.batch_size + 1)
    for turn in range(config.epochs * config.rounds):
        before = [p.detach().clone() for p in sampler.parameters()]
        for inner in range(config.inner):
            for x, c in batches(sampler, parts.forget, config, run, f"inner {turn} {inner}", passes[0]):
                step(redirected(x, c), clipped=False)
        with torch.no_grad():
            for p, old in zip(sampler.parameters(), before, strict=True):
                p.copy_(old)
        gone = batches(sampler, parts.forget, config, run, f"forget {turn}", count)
        kept = batches(sampler, parts.retain, config, run, f"retain {turn}", count)
        for (x, c), (y, d) in zip(gone, kept, strict=True):
            kept_loss = config.retain * sampler.loss(y, d, rng).mean()
            step(kept_loss + config.weight * redirected(x, c))
            told(run, "gradient", y)
    return sampler
