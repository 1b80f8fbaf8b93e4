"""The U-Net of pixels: what it computes before it is taught, what it depends on, and that a sampler learns with it."""

import pytest
import torch
from toys import weights

from unlearnlib import data, generative
from unlearnlib.generative.diffusion import Diffusion, cosine_levels
from unlearnlib.generative.latent import Latent
from unlearnlib.generative.unet import Block, UNet
from unlearnlib.seeding import generator

SHAPE = (1, 8, 8)


def net(seed=0, shape=SHAPE, **options):
    return UNet.build(shape, 2, seed, steps=10, width=8, **options)


def stirred(seed=0, **options):
    """One whose last layers are not zero."""
    made, rng = net(**options), generator(seed, "stirred")
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=rng)
    return made.double()


def test_untaught_it_predicts_nothing_and_its_blocks_change_nothing():
    x, t, c = torch.randn(3, 64), torch.arange(3), torch.tensor([0, 1, 0])
    assert not net()(x, t, c).any()
    features = torch.randn(3, 8, 4, 4)
    assert torch.equal(Block(8, 5)(features, torch.randn(3, 5)), features)


def test_a_prediction_depends_on_step_and_label_and_on_no_other_picture():
    made, rng = stirred(), generator(0, "x")
    x = torch.randn(4, 64, generator=rng, dtype=torch.float64)
    t, c = torch.tensor([0, 3, 6, 9]), torch.tensor([0, 1, 0, 1])
    together = made(x, t, c)
    alone = torch.cat([made(x[i : i + 1], t[i : i + 1], c[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    assert not torch.allclose(made(x, 9 - t, c), together) and not torch.allclose(made(x, t, 1 - c), together)


@pytest.mark.parametrize("patch", [1, 2])
def test_every_pixel_is_seen_by_every_pixel_of_a_small_picture(patch):
    """Two resolutions reach across 8 pixels; a wrong way back from channels to pixels would leave gaps."""
    made = stirred(patch=patch)
    x = torch.randn(1, 64, generator=generator(1, "x"), dtype=torch.float64)
    t, c = torch.tensor([4]), torch.tensor([1])
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v, t, c), x).view(64, 64)
    assert (jacobian.abs() > 0).all()


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    assert torch.equal(weights(net(3)), weights(net(3))) and not torch.equal(weights(net(3)), weights(net(4)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "said"), [({"shape": (1, 10, 8)}, "multiples of 4"), ({"patch": 3}, "multiples of 6"), ({}, "width")]
)
def test_what_does_not_divide_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        UNet.build(**{"shape": SHAPE, "classes": 2, "width": 8 if options else 12, **options})


def test_a_sampler_of_pixels_learns_two_kinds_of_stripes_and_forgets_one():
    rng = generator(0, "stripes")
    labels = torch.arange(64) % 2
    lines = (torch.arange(8) % 4 < 2).float().expand(1, 8, 8)
    pictures = torch.stack([lines.mT if label else lines for label in labels])
    pictures = (0.1 + 0.8 * pictures + 0.02 * torch.randn(pictures.shape, generator=rng)).clamp(0, 1)
    examples = data.Examples(pictures, labels)
    untaught = Diffusion(net(), Latent.pixels(SHAPE), cosine_levels(10), 2)
    teaching = generative.Teaching(steps=150, batch_size=32, lr=5e-3, average=0.9)
    sampler = generative.fit(untaught, examples, teaching, seed=0)

    def seen(model, label):
        """How many of 40 samples are nearer to the stripes of a label."""
        drawn = model.sample(model.noise(40, generator(1, "z")), torch.full((40,), label))
        far = [(drawn - (0.1 + 0.8 * kind)).square().sum((1, 2, 3)) for kind in (lines, lines.mT)]
        return (torch.stack(far).argmin(0) == label).float().mean().item()

    assert seen(sampler, 0) > 0.9 and seen(sampler, 1) > 0.9
    split = data.Split.of(retain=examples[labels == 0], forget=examples[labels == 1])
    before = weights(sampler)
    done = generative.unlearn("redirect", sampler, split, seed=0, steps=80, lr=3e-3, distil=1.0)
    assert seen(done.model, 1) < 0.1 and seen(done.model, 0) > 0.9
    assert torch.equal(before, weights(sampler))
