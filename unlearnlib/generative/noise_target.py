"""Noise for an answer: on forgotten pictures the network is to see noise of another law than was added.

    E_F || e_theta(x_t, c_f) - u ||^2  +  retain E_R loss,     u ~ uniform on [0, 1]^d, drawn anew

e_theta is the noise that the prediction says is in x_t. This is the forgetting loss of EraseDiff's paper (Wu et al.,
CVPR 2025) without its two levels. In the released code it stands as a comment, see `erasediff`; so there are no
published values.
"""

from dataclasses import dataclass

import torch

from unlearnlib.generative.steps import Descent, told, two_batches


@dataclass(frozen=True)
class NoiseTarget(Descent):
    push: float = 1.0  # weight of the loss on forgotten pictures


def noise_target(sampler, parts, config: NoiseTarget, run):
    def loss(x, c, y, d, rng):
        seen = sampler.noised(x, rng)
        wanted = torch.rand(seen.x.shape, generator=rng, dtype=seen.x.dtype).to(seen.x.device)
        _, said = sampler.parts(seen.x, seen.t, sampler.predict(seen.x, seen.t, c))
        told(run, "gradient", x, y)
        off = (said - wanted).square().sum(1).mean()
        return config.push * off + config.retain * sampler.loss(y, d, rng).mean()

    return two_batches(sampler, parts, config, run, loss)
