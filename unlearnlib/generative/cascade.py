"""GAN unlearning by substitution: reconstructed from the abstract of Sun et al. (arXiv 2308.09881), not their method.

    G:  substitute E || G(z_u) - sg G(z_near) ||^2      z_u draws what is to go, z_near the nearest noise that does not
    D:  fake E_F (D(x) - d)^2,   d = mean D(unseen)     a forgotten picture is to look like one that D never saw
    then an ordinary step of both on R, "in a cascaded manner"

The abstract names a substitution mechanism, a fake label for the discriminator and the cascade. There is no released
code, and the losses, weights and step sizes here are ours: no published values, and nothing here judges that paper.
What a sample shows is judged by the nearest training picture. `substitute=0, fake=0` is fine-tuning on R, the
control.
"""

from dataclasses import dataclass

import torch

from unlearnlib.generative.doors import check_numbers
from unlearnlib.generative.gan import Game
from unlearnlib.generative.steps import batches, told
from unlearnlib.training.modes import evaluating


@dataclass(frozen=True)
class Cascade:
    steps: int = 200
    lr: float = 3e-4  # of Adam, for both networks
    batch_size: int = 128
    substitute: float = 1.0  # weight of substitution
    fake: float = 1.0  # weight of the fake label
    learn: int = 1  # ordinary steps on R after each step of unlearning

    def __post_init__(self):
        check_numbers(self, ("steps", "lr", "batch_size"))


def cascade(sampler, parts, config: Cascade, run):
    rng, game = run.generator("draws"), Game(sampler, config.lr)
    gone = batches(sampler, parts.forget, config, run, "forget batches")
    kept = batches(sampler, parts.retain, config, run, "retain batches", config.steps * max(config.learn, 1))
    train = torch.cat([parts.forget.pixels(), parts.retain.pixels()]).flatten(1)
    is_gone = torch.arange(len(train)) < len(parts.forget)
    if config.fake and not len(parts.unseen):
        raise ValueError("the fake label needs pictures that were never taught: give the split a validation set")
    for x, _ in gone:
        if config.substitute:
            _substitute(sampler, game, config, rng, train, is_gone)
            run.tally.count("gradient", config.batch_size)
            run.tally.count("forward", config.batch_size)
        if config.fake:
            with torch.no_grad(), evaluating(sampler):
                level = sampler.discriminator(parts.unseen.pixels()).mean()
            game.descend(0, config.fake * (sampler.discriminator(x) - level).square().mean())
            told(run, "gradient", x)
            told(run, "forward", parts.unseen)
        for _ in range(config.learn):
            y, _ = next(kept)
            game.step(y, rng)
            run.tally.count("gradient", 2 * len(y))
    return sampler


def _substitute(sampler, game, config, rng, train, is_gone) -> None:
    """One step that gives noise which draws what is to go the picture of its nearest neighbour which does not."""
    z = sampler.noise(config.batch_size, rng)
    with torch.no_grad():
        made = sampler.generator(z)
        shown = is_gone[torch.cdist(made.flatten(1), train).argmin(1)]
        if not shown.any() or shown.all():
            return
        near = torch.cdist(z[shown], z[~shown]).argmin(1)
        instead = made[~shown][near]
    off = (sampler.generator(z[shown]) - instead).flatten(1).square().sum(1).mean()
    game.descend(1, config.substitute * off)
