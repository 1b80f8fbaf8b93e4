"""What is done to protected pictures: limits in which a defence does nothing, closed forms, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import small
import torch

from unlearnlib import prevention
from unlearnlib.data.examples import Examples
from unlearnlib.prevention import defences
from unlearnlib.training import models
from unlearnlib.training.loop import fit
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally

EPS = 16 / 255


def flat(value: int, channels: int = 3) -> Examples:
    return Examples(torch.full((4, channels, 8, 8), value, dtype=torch.uint8), torch.arange(4))


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_keeps_what_is_flat_and_loses_what_is_fine(channels):
    made = defences.jpeg(flat(120, channels), 30)
    assert made.images.shape == flat(120, channels).images.shape
    assert int((made.images.int() - 120).abs().max()) <= 1
    grid = torch.where((torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0, 8, -8)
    board = replace(flat(120, channels), images=(flat(120, channels).images.int() + grid).to(torch.uint8))
    coarse = defences.jpeg(board, 5).images
    assert (coarse == coarse[:, :, :1, :1]).all()  # a chequered noise of 8 levels is gone
    assert int((defences.jpeg(board, 95).images.int() - board.images.int()).abs().max()) <= 4


def test_blur_is_a_mean_over_squares():
    one = small.examples(6, channels=3)
    assert torch.equal(defences.blur(one, 1).images, one.images)
    middle = one.pixels()[:, :, 2:5, 3:6].mean((2, 3))
    assert torch.equal(defences.blur(one, 3).images[:, :, 3, 4], (255 * middle).round().to(torch.uint8))
    assert torch.equal(defences.blur(flat(77), 5).images, flat(77).images)
    signs = prevention.protect("random", flat(120), eps=EPS, seed=0, patch=1).examples
    spread = [float(m.images.float().std()) for m in (signs, defences.blur(signs, 3))]
    assert spread[1] == pytest.approx(spread[0] / 3, rel=0.15)  # the mean of nine independent signs


def test_grey_is_the_luminance_and_leaves_grey_pictures_alone():
    red = Examples(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4), torch.arange(2))
    assert (defences.grey(red).images == 76).all()
    for same in (flat(91), small.examples(5)):
        assert torch.equal(defences.grey(same).images, same.images)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_mixture_holds_exactly_its_share_of_unprotected_pictures_of_every_class(share):
    originals = small.examples(120)
    hidden = prevention.protect("class_wise", originals, eps=EPS, seed=0).examples
    made, mask = defences.mixed(hidden, originals, share, seed=0)
    assert torch.equal(made.images[mask], originals.images[mask])
    assert torch.equal(made.images[~mask], hidden.images[~mask])
    assert [int(mask[originals.labels == k].sum()) for k in range(3)] == [round(40 * share)] * 3


def test_without_a_radius_adversarial_training_is_training():
    ds, recipe = small.dataset(), Recipe(epochs=2, batch_size=16)
    model = models.build("cnn", ds, width=4)
    plain = fit(model, ds.train, recipe, 3, progress=False)
    bare = defences.adversarial(model, ds.train, recipe, radius=0.0, seed=3)
    for p, q in zip(plain.parameters(), bare.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_an_adversary_of_a_linear_network_of_two_classes_is_the_sign_of_its_weights():
    """One step of training by hand, at x - radius sign(w_y - w_other)."""
    examples = small.examples(10, classes=2)
    examples = replace(examples, images=examples.images.clamp(40, 215))
    ds = replace(small.dataset(), train=examples, test=examples, class_names=("a", "b"))
    model, recipe = models.build("mlp", ds, hidden=()), Recipe(epochs=1, batch_size=10, optimiser="sgd", momentum=0.0)
    tally = Tally()
    made = defences.adversarial(model, examples, recipe, radius=0.1, steps=3, seed=0, tally=tally)
    w, x, y = model[-1].weight.detach(), examples.pixels(), examples.labels
    away = torch.where(y[:, None] == 0, w[0] - w[1], w[1] - w[0]).sign().view(x.shape)
    worst = replace(examples, images=(x - 0.1 * away), limits=None)
    by_hand = fit(model, worst, recipe, 0, progress=False)
    assert torch.allclose(made[-1].weight, by_hand[-1].weight, atol=1e-7)
    assert tally.work == 3 * 10 * (1 + 3)


def test_adversarial_training_disturbs_nothing_and_is_seeded():
    ds, recipe, state = small.dataset(), Recipe(epochs=1, batch_size=20), torch.random.get_rng_state()
    torch.manual_seed(1)
    model = small.Stranger(3)
    state, before = torch.random.get_rng_state(), [v.clone() for v in model.state_dict().values()]
    made = [defences.adversarial(model, ds.train, recipe, radius=0.05, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
    first = [np.concatenate([p.detach().flatten() for p in m.parameters()]) for m in made]
    assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])
    assert all(p.grad is None for p in made[0].parameters())


MODEL, RECIPE = models.build("mlp", small.dataset()), Recipe(epochs=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda e: defences.jpeg(e, 0), "quality must be a whole number, at least 1"),
        (lambda e: defences.jpeg(flat(3, channels=2)), "not 2 channels"),
        (lambda e: defences.grey(flat(3, channels=2)), "not for 2 channels"),
        (lambda e: defences.blur(e, 2), "size must be odd"),
        (lambda e: defences.blur(e, 99), "size must be a whole number"),
        (lambda e: defences.jpeg(e.images), "must be Examples"),
        (lambda e: defences.grey(Examples(e.pixels(), e.labels)), "must be uint8"),
        (lambda e: defences.mixed(e, e[:5], 0.5, 0), "same pictures in the same order"),
        (lambda e: defences.mixed(e, e, 1.5, 0), "share must be at least 0 and below 1"),
        (lambda e: defences.adversarial(MODEL, e, RECIPE, radius=4, seed=0), "radius is a share"),
        (lambda e: defences.adversarial(MODEL, e, RECIPE, radius=0.1, steps=0, seed=0), "steps must be a whole number"),
        (lambda e: defences.adversarial(MODEL, e, replace(RECIPE, augment="flip"), radius=0.1, seed=0), "without aug"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call(small.examples(12))
    assert "\n" not in str(error.value)
