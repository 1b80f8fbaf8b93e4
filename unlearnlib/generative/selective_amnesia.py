"""Selective Amnesia: teach noise in place of the class, replay what the original draws, hold the weights that matter.

    push E_u loss(u, c_f) + retain E_(z, c) loss(G_0(z, c), c) + penalty sum_i F_i (theta_i - theta_0i)^2

u are pictures of uniform noise, c the other classes, F_i = E (d bound / d theta_i)^2 at the original, over pictures
that it draws of all classes; the bound is the negative evidence bound, for diffusion the sum of the loss over all
steps. So no training picture is read. Heng & Soh, NeurIPS 2023; for a conditional VAE and for diffusion, by the same
formula.

Published: as the released programs are run by their README. The VAE's loss is a sum over its batch of 256, hence its
weights. Deviations: the labels of the pictures for F are balanced and not drawn; with diffusion, no flips of replayed
pictures, no dropped conditions and no running average of weights. In a latent space u is a noisy picture, encoded.
"""

from dataclasses import dataclass

import torch

from unlearnlib.data.examples import Examples
from unlearnlib.generative.steps import Descent, batches, stepper, told
from unlearnlib.training.modes import evaluating


@dataclass(frozen=True)
class SelectiveAmnesia(Descent):
    push: float = 1.0  # weight of the loss on noise
    penalty: float = 0.1  # weight of the distance to the original, in units of F
    fisher: int = 100  # pictures for F
    replay: int = 1000  # pictures drawn beforehand to be replayed; 0: new ones in each step


PUBLISHED = {
    "diffusion": {
        **{"steps": 20000, "lr": 1e-4, "batch_size": 128, "clip": 1.0, "penalty": 10.0, "fisher": 5000, "replay": 4500}
    },
    "cvae": {
        **{"steps": 10000, "lr": 1e-4, "batch_size": 256, "clip": 0.0, "penalty": 100.0, "fisher": 50000, "replay": 0},
        **{"push": 256.0, "retain": 256.0},
    },
}


def drawn(sampler, labels: torch.Tensor, run, rng: torch.Generator) -> torch.Tensor:
    """Pictures that the original draws of these labels."""
    run.tally.count("forward", len(labels) * sampler.work_of_sampling)
    with torch.no_grad():
        return run.given.sample(sampler.noise(len(labels), rng), labels)


def information(sampler, config: SelectiveAmnesia, run) -> list[torch.Tensor]:
    """F, one tensor a parameter: the mean over drawn pictures of the squared gradient of the bound."""
    rng, parameters = run.generator("fisher"), list(sampler.parameters())
    labels = torch.arange(config.fisher) % sampler.classes
    pictures = drawn(sampler, labels, run, rng)
    found = [torch.zeros_like(p) for p in parameters]
    with evaluating(sampler):
        for k in range(len(labels)):
            bound = sampler.bound(pictures[k : k + 1], labels[k : k + 1], rng).sum()
            for total, g in zip(found, torch.autograd.grad(bound, parameters, allow_unused=True), strict=True):
                if g is not None:
                    total.add_(g.square() / len(labels))
            run.tally.count("gradient", sampler.work_of_bound)
    return found


def selective_amnesia(sampler, parts, config: SelectiveAmnesia, run):
    hold = information(sampler, config, run) if config.penalty and config.fisher else []
    start = [p.detach().clone() for p in sampler.parameters()]
    others = torch.tensor([k for k in range(sampler.classes) if k != parts.label])
    step, rng, n = stepper(sampler, config), run.generator("draws"), config.batch_size
    if config.replay:
        asked = others[torch.arange(config.replay) % len(others)]
        pool = Examples(drawn(sampler, asked, run, run.generator("replay")), asked)
        replayed = batches(sampler, pool, config, run, "replay batches")
    for _ in range(config.steps):
        if config.replay:
            y, d = next(replayed)
        else:
            d = others[torch.randint(len(others), (n,), generator=rng)]
            y = drawn(sampler, d, run, rng)
        u = torch.rand((len(d), *sampler.shape), generator=rng, dtype=y.dtype)
        shared = {"t": sampler.times(len(d), rng)} if hasattr(sampler, "times") else {}
        loss = config.push * sampler.loss(u, torch.full_like(d, parts.label), rng, **shared).mean()
        loss = loss + config.retain * sampler.loss(y, d, rng, **shared).mean()
        for f, p, p0 in zip(hold, sampler.parameters(), start, strict=False):
            loss = loss + config.penalty * (f * (p - p0) ** 2).sum()
        step(loss)
        told(run, "gradient", u, y)
    return sampler
