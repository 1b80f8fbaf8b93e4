"""Redirection: asked for the forgotten class, predict what the original predicts for another.

    E_F || p_theta(x_t, c_f) - p_0(x_t, c_a) ||^2  +  distil E_R || p_theta(x_t, c) - p_0(x_t, c) ||^2

p is what the network predicts (v or the noise), p_0 that of the frozen original, c_a the anchor, by default the class
after c_f. The first term is the model-based concept ablation of Kumari et al. (ICCV 2023); they noise generated
pictures of the anchor, here it is the forgotten pictures. The second, self-distillation, is a plain way to care for
integrity: it asks for the original's own answers, and has no gradient at the original.
"""

from dataclasses import dataclass

import torch

from unlearnlib.generative.steps import Descent, neighbour, told, two_batches


@dataclass(frozen=True)
class Redirect(Descent):
    distil: float = 0.0  # weight of self-distillation on retained pictures
    anchor: int = 1  # how many classes further is the one that is drawn instead
    retain: float = 0.0  # weight of the ordinary loss on retained pictures


def redirect(sampler, parts, config: Redirect, run):
    if config.anchor % sampler.classes == 0:
        raise ValueError(f"anchor={config.anchor} is class {parts.label} itself, of {sampler.classes} classes")

    def loss(x, c, y, d, rng):
        seen, kept = sampler.noised(x, rng), sampler.noised(y, rng)
        instead = neighbour(c, sampler.classes, config.anchor)
        total = (sampler.predict(seen.x, seen.t, c) - _before(run, seen, instead)).square().sum(1).mean()
        told(run, "gradient", x)
        if config.distil:
            said = sampler.predict(kept.x, kept.t, d)
            total = total + config.distil * (said - _before(run, kept, d)).square().sum(1).mean()
            told(run, "gradient", y)
        if config.retain:
            total = total + config.retain * sampler.loss(y, d, rng).mean()
            told(run, "gradient", y)
        return total

    return two_batches(sampler, parts, config, run, loss)


@torch.no_grad()
def _before(run, seen, labels):
    """What the original predicts there."""
    told(run, "forward", labels)
    return run.given.predict(seen.x, seen.t, labels)
