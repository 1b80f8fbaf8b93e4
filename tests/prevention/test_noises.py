"""Known answers of each kind of noise: closed forms, limits in which one is another, and what separates."""

from dataclasses import replace

import pytest
import small
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from unlearnlib import prevention
from unlearnlib.prevention import controls, error_minimising
from unlearnlib.prevention.protection import further
from unlearnlib.training import models
from unlearnlib.training.loop import fit
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally

EPS = 8 / 255


def separated(noise, labels, held_out, held_out_labels):
    """The share of held-out noise that a linear model of noise puts into its class."""
    fitted = LogisticRegression(max_iter=500).fit(noise.flatten(1).sign().numpy(), labels)
    return fitted.score(held_out.flatten(1).sign().numpy(), held_out_labels)


def test_class_wise_noise_separates_linearly_on_pictures_not_yet_seen_and_random_noise_does_not():
    many, other = small.examples(900, classes=9, side=12), small.examples(450, classes=9, side=12, seed=5)
    scores = {}
    for name in ("class_wise", "random"):
        made = prevention.protect(name, many, eps=EPS, seed=0)
        scores[name] = separated(made.noise, many.labels, further(made, other).noise, other.labels)
    assert scores["class_wise"] == 1.0
    assert scores["random"] == pytest.approx(1 / 9, abs=0.06)  # four standard errors


def test_separation_of_the_noise_that_one_fits_to_proves_nothing():
    """More pixels than pictures: any noise separates in sample. The trap of judging a shortcut by its own pictures."""
    few = small.examples(60, classes=3, side=12)
    noise = prevention.protect("random", few, eps=EPS, seed=0, patch=1).noise
    assert separated(noise, few.labels, noise, few.labels) == 1.0


def test_a_class_wise_pattern_is_one_a_class_and_constant_on_squares():
    examples = small.examples(30, side=10, channels=3)
    noise = prevention.protect("class_wise", examples, eps=EPS, seed=0, patch=4).noise
    for k in range(3):
        rows = noise[examples.labels == k]
        assert (rows == rows[0]).all()
    assert torch.equal(noise.abs(), torch.full_like(noise, EPS))
    assert (noise[:, :, :4, 4:8] == noise[:, :, :1, 4:5]).all() and noise[:, :, 8:, 8:].shape[2:] == (2, 2)


def test_signs_are_fair_coins():
    drawn = controls.signs(4000, (1, 5, 5), 1, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == [-1.0, 1.0] and abs(float(drawn.mean())) < 4 / 100_000**0.5


@pytest.mark.parametrize("shared", ["picture", "class"])
def test_without_steps_of_the_noise_it_is_random(shared):
    examples = small.examples(24)
    made = prevention.protect("error_minimising", examples, eps=EPS, seed=0, descend=0, shared=shared, network="mlp")
    start = prevention.protect("error_minimising", examples, eps=EPS, seed=0, rounds=0, shared=shared)
    assert torch.equal(made.noise, start.noise)
    assert made.noise.unique(dim=0).shape[0] == (24 if shared == "picture" else 3)
    assert abs(float(made.noise.mean())) < 4 * EPS / 3**0.5 / (3 * 64) ** 0.5


def test_against_two_classes_of_a_linear_network_the_noise_is_the_sign_of_their_difference():
    """CE falls along w_y - w_other at every point, so that enough steps end at eps sign(w_y - w_other)."""
    examples = small.examples(20, classes=2)
    examples = replace(examples, images=examples.images.clamp(40, 215))  # no pixel is near its border
    network = models.build("mlp", small.dataset(), hidden=())
    kept = {}

    class Kept(error_minimising.Task):
        def surrogate(self, given):
            kept["model"] = super().surrogate(given)
            with torch.no_grad():
                kept["model"][-1].weight[2], kept["model"][-1].bias[2] = 0, -50.0  # the third class is out of reach
            return kept["model"]

    config = error_minimising.ErrorMinimising(rounds=1, learn=0, descend=25, stop=0.0, network=network)
    noise, _ = error_minimising.error_minimising(Kept(examples, EPS, 0, Tally()), config)
    w = kept["model"][-1].weight.detach()
    towards = torch.where(examples.labels[:, None] == 0, w[0] - w[1], w[1] - w[0]).sign().view(-1, 1, 8, 8)
    assert torch.allclose(noise, EPS * towards, atol=1e-7)


def test_one_step_by_hand():
    x, start = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.0, 0.3, -0.3]])
    stepped = error_minimising.signed_steps(lambda d: (x * d).sum(), start, 0.3, 0.1, 1, -1)
    assert torch.allclose(stepped, torch.tensor([[-0.1, 0.3, -0.3]]))
    climbed = error_minimising.signed_steps(lambda d: (x * d).sum(), start, 0.3, 0.1, 5, 1)
    assert torch.allclose(climbed, torch.tensor([[0.3, -0.2, -0.3]]))


def test_protected_pictures_are_easier_for_a_network_that_learnt_from_unprotected_ones():
    examples = small.examples(90)
    made = prevention.protect("error_minimising", examples, eps=20 / 255, seed=0, network="mlp", stop=0.0, rounds=3)
    model = fit(models.build("mlp", small.dataset(), seed=9), examples, Recipe(epochs=3), 9, progress=False)
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(e.pixels()), e.labels)) for e in (made.examples, examples)]
    assert losses[0] < losses[1]


def test_with_one_picture_a_class_both_kinds_of_error_minimising_noise_are_one():
    examples = small.examples(3)
    common = {"eps": EPS, "seed": 0, "network": "mlp", "rounds": 2}
    made = [prevention.protect("error_minimising", examples, shared=s, **common).noise for s in ("picture", "class")]
    assert torch.equal(*made)


def test_robust_noise_without_an_adversary_is_error_minimising_noise():
    examples, common = small.examples(24), {"eps": EPS, "seed": 0, "network": "cnn", "rounds": 2, "descend": 3}
    plain = prevention.protect("error_minimising", examples, **common).noise
    bare = prevention.protect("robust", examples, radius=0.0, transform="none", **common).noise
    assert torch.equal(plain, bare)
    for change in ({"radius": 0.5, "transform": "none"}, {"radius": 0.0, "transform": "shift"}):
        assert not torch.equal(plain, prevention.protect("robust", examples, **change, **common).noise)


def test_a_generator_that_sees_the_label_alone_is_class_wise():
    examples = small.examples(24)
    common = {"eps": EPS, "seed": 0, "network": "mlp", "steps": 5}
    kinds = {s: prevention.protect("generator", examples, sees=s, **common) for s in ("label", "picture", "both")}
    counts = {s: made.noise.unique(dim=0).shape[0] for s, made in kinds.items()}
    assert counts == {"label": 3, "picture": 24, "both": 24}
    relabelled = replace(examples, labels=examples.labels.roll(1))
    again = {s: further(made, relabelled).noise for s, made in kinds.items()}
    assert torch.equal(again["picture"], kinds["picture"].noise)  # it never asks for a label
    assert not torch.equal(again["both"], kinds["both"].noise)
    assert torch.equal(again["label"][1:], kinds["label"].noise[:-1])
