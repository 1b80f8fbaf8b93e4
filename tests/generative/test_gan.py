"""A GAN in the plane, and the reconstruction of its unlearning: what each of its parts does."""

import functools

import pytest
import torch

from unlearnlib import data, generative
from unlearnlib.generative.gan import GAN, Game, fit_gan
from unlearnlib.seeding import generator


def points(n, seed=0):
    """Two blobs, at -1 and 1 of the first coordinate."""
    labels = torch.arange(n) % 2
    x = 0.1 * torch.randn(n, 2, generator=generator(seed, "blobs"))
    x[:, 0] += 2.0 * labels - 1
    return data.Examples(x.view(n, 1, 1, 2), labels)


@functools.cache
def parts():
    train = points(400)
    gone = train.labels == 1
    return data.Split.of(retain=train[~gone], forget=train[gone], validation=points(60, 1))


@functools.cache
def taught():
    return fit_gan(GAN.build((1, 1, 2), 2, width=2, hidden=32), parts().train, 600, lr=2e-3)


def share(gan):
    """Of samples that lie on the side of class 1."""
    return (gan.sample(gan.noise(1000, generator(9, "z")))[:, 0, 0, 0] > 0).float().mean().item()


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_a_gan_learns_both_blobs():
    x = taught().sample(taught().noise(1000, generator(9, "z"))).view(-1, 2)
    near = (x[:, 0].abs() - 1).abs() + x[:, 1].abs()
    assert 0.3 < share(taught()) < 0.7 and (near < 0.5).float().mean() > 0.7


def test_a_step_of_one_network_leaves_the_other():
    gan = GAN.build((1, 1, 2), 2)
    game, z = Game(gan, 1e-3), gan.noise(8, generator(0, "z"))
    before = weights(gan.generator), weights(gan.discriminator)
    game.descend(0, gan.discriminator(gan.generator(z)).mean())
    assert torch.equal(weights(gan.generator), before[0]) and not torch.equal(weights(gan.discriminator), before[1])
    after = weights(gan.discriminator)
    game.descend(1, gan.discriminator(gan.generator(z)).mean())
    assert torch.equal(weights(gan.discriminator), after) and not torch.equal(weights(gan.generator), before[0])


def test_each_part_moves_its_own_network():
    """Substitution alone moves G, the fake label alone D."""
    alone = {"learn": 0, "steps": 5}
    fake = generative.unlearn("cascade", taught(), parts(), seed=0, substitute=0.0, **alone).model
    assert torch.equal(weights(fake.generator), weights(taught().generator))
    assert not torch.equal(weights(fake.discriminator), weights(taught().discriminator))
    other = generative.unlearn("cascade", taught(), parts(), seed=0, fake=0.0, **alone).model
    assert torch.equal(weights(other.discriminator), weights(taught().discriminator))
    assert not torch.equal(weights(other.generator), weights(taught().generator))


def test_substitution_takes_samples_away_from_what_is_to_go():
    made = generative.unlearn("cascade", taught(), parts(), seed=0, fake=0.0, learn=0, steps=150).model
    assert share(made) < 0.5 * share(taught())


def test_the_fake_label_is_reached():
    """D of forgotten pictures goes to the mean that it has on pictures never taught, which moves with it."""
    made = generative.unlearn("cascade", taught(), parts(), seed=0, substitute=0.0, learn=0, steps=150, lr=1e-3).model
    D = made.discriminator
    off = (D(parts().forget.pixels()) - D(parts().validation.pixels()).mean()).square().mean()
    was = taught().discriminator
    before = (was(parts().forget.pixels()) - was(parts().validation.pixels()).mean()).square().mean()
    assert off < 0.3 * before


def test_the_fake_label_needs_unseen_pictures():
    bare = data.Split.of(retain=parts().retain, forget=parts().forget)
    with pytest.raises(ValueError, match="give the split a validation set"):
        generative.unlearn("cascade", taught(), bare, seed=0)
    generative.unlearn("cascade", taught(), bare, seed=0, fake=0.0, steps=2)
