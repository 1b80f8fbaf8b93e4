"""The sampler's algebra and its known answers; the latent space; teaching."""

import pytest
import torch
from toys import CLASSES, SHAPE, pictures, released_like, split, taught, taught_cvae, weights

from unlearnlib import generative
from unlearnlib.generative.diffusion import cosine_levels
from unlearnlib.seeding import generator
from unlearnlib.training.work import Tally


def test_the_schedule_falls_and_keeps_the_variance():
    levels = cosine_levels(100)
    assert len(levels) == 100 and bool((levels.diff() < 0).all()) and levels[0] > 0.99 and levels[-1] <= 1e-3
    sampler = released_like()
    big = (
        torch.rand(20000, *SHAPE, generator=generator(1, "p"), dtype=torch.float64) * 12**0.5 / 2
    )  # latents of variance 1
    for t in (0, 5, 9):
        seen = sampler.noised(big, generator(2, "n"), torch.full((20000,), t))
        assert seen.x.var(0).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("predicts", ["v", "noise"])
def test_the_target_says_what_is_in_the_picture(predicts):
    """What the network should predict inverts to the latent and the noise that were put in."""
    sampler = released_like()
    sampler.predicts = predicts
    seen = sampler.noised(torch.rand(50, *SHAPE, generator=generator(3, "p"), dtype=torch.float64), generator(4, "n"))
    start, noise = sampler.parts(seen.x, seen.t, sampler.target(seen))
    assert torch.allclose(start, seen.start, atol=1e-10) and torch.allclose(noise, seen.noise, atol=1e-10)


def test_steps_are_drawn_in_mirrored_pairs():
    t = released_like().times(9, generator(0, "t"))
    assert len(t) == 9 and torch.equal(t[:4] + t[5:], torch.full((4,), 9)) and len(t.unique()) > 2


class Exact(torch.nn.Module):
    """The best prediction of the noise in x_t, where x_0 ~ N(mean, C C^T)."""

    def __init__(self, levels, mean, C):
        super().__init__()
        self.levels, self.mean, self.cov = levels, mean, C @ C.T

    def forward(self, x, t, labels):
        a = self.levels[t[0]]
        full = a * self.cov + (1 - a) * torch.eye(len(self.mean), dtype=x.dtype)
        return (1 - a).sqrt() * torch.linalg.solve(full, (x - a.sqrt() * self.mean).T).T


def test_ddim_with_the_exact_answer_maps_noise_affinely_to_the_law():
    """A Gaussian law has a linear score: samples are A z + b with A A^T = C C^T, as the number of steps grows."""
    rng = generator(5, "law")
    mean, C = torch.randn(2, generator=rng, dtype=torch.float64), torch.tensor([[1.0, 0], [0.6, 0.5]]).double()
    levels = cosine_levels(4000).double()
    latent = generative.Latent.pixels((1, 1, 2)).double()
    sampler = generative.Diffusion(Exact(levels, mean, C), latent, levels, 1, predicts="noise")
    sampler.sampling_steps = 4000
    base = torch.stack([torch.zeros(2), torch.eye(2)[0], torch.eye(2)[1], torch.tensor([2.0, -3.0])]).double()
    b, first, second, other = sampler.latents(base, torch.zeros(4, dtype=torch.long))
    A = torch.stack([first - b, second - b], 1)
    assert torch.allclose(other, A @ base[3] + b, atol=1e-10)
    assert torch.allclose(b, mean, atol=0.03) and torch.allclose(A @ A.T, C @ C.T, atol=0.03)


def test_a_latent_space_is_white_and_inverts():
    examples = pictures(200)
    latent = generative.Latent.fit(examples, rank=6)
    z = latent.encode(examples.pixels())
    assert torch.allclose(torch.cov(z.T), torch.eye(6), atol=1e-4) and torch.allclose(
        z.mean(0), torch.zeros(6), atol=1e-5
    )
    assert torch.allclose(latent.decode(z), examples.pixels(), atol=1e-5)
    plain = generative.Latent.pixels(SHAPE)
    assert torch.allclose(plain.encode(examples.pixels()), examples.pixels().flatten(1) * 2 - 1)
    assert torch.allclose(plain.decode(plain.encode(examples.pixels())), examples.pixels())


def test_the_bound_is_the_sum_of_the_loss_over_all_steps():
    sampler = released_like().eval()
    x, y = pictures(2).pixels(dtype=torch.float64), torch.tensor([0, 1])
    e, total = torch.randn(20, 6, generator=generator(1, "b"), dtype=torch.float64), []
    for k in range(2):
        a, own = sampler.levels[:, None], e[10 * k : 10 * k + 10]
        seen = a.sqrt() * (x[k].flatten() * 2 - 1) + (1 - a).sqrt() * own
        total.append((sampler.network(seen, torch.arange(10), y[k].repeat(10)) - own).square().sum())
    assert torch.allclose(sampler.bound(x, y, generator(1, "b")), torch.stack(total), rtol=1e-9)


@pytest.mark.parametrize("sampler", [taught, taught_cvae])
def test_a_taught_sampler_draws_the_class_that_is_asked_for(sampler):
    made = sampler()
    labels = torch.arange(300) % CLASSES
    bright = made.sample(made.noise(300, generator(0, "z")), labels).mean((1, 2, 3))
    for k, mean in enumerate((0.2, 0.5, 0.8)):
        assert bright[labels == k].mean().item() == pytest.approx(mean, abs=0.05)


def test_teaching_is_seeded_counted_and_leaves_the_given_sampler():
    start = released_like()
    before, tally = weights(start), Tally()
    teaching = generative.Teaching(steps=3, batch_size=8)
    one, same = (generative.fit(start, split().train, teaching, seed=1, tally=tally) for _ in range(2))
    other = generative.fit(start, split().train, teaching, seed=2)
    assert torch.equal(weights(start), before) and torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other)) and tally.work == 2 * 3 * 8 * 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: generative.Latent.fit(pictures(5), rank=5), "rank is a whole number from 1 to 4"),
        (lambda: generative.Latent.fit(pictures(50)[[0] * 20], rank=3), "do not vary in 3 directions"),
        (lambda: generative.Teaching(steps=0), "steps must be above 0"),
        (lambda: generative.Teaching(average=1.0), "average is below 1"),
        (lambda: generative.Diffusion(None, None, torch.tensor([0.5, 0.9]), 2), "do not rise"),
        (lambda: generative.Diffusion(None, None, torch.tensor([0.5]), 2, predicts="x"), 'predicts is "v" or "noise"'),
        (lambda: generative.fit(torch.nn.Linear(2, 2), pictures(5)), "torch module with loss"),
        (lambda: generative.fit(taught(), pictures(5)[:0]), "no pictures"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
