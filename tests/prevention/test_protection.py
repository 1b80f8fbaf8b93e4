"""The door of protection: the budget after rounding, what is left alone, and what is refused."""

from dataclasses import replace

import pytest
import small
import torch
from torch import nn

from unlearnlib import prevention
from unlearnlib.data.examples import Examples
from unlearnlib.prevention.protection import METHODS, further
from unlearnlib.training import models

NAMES = list(METHODS)
TRAINED = ("error_minimising", "robust", "generator")
QUICK = {
    "error_minimising": {"rounds": 1, "learn": 2, "descend": 2},
    "robust": {"rounds": 1, "learn": 2, "descend": 2},
    "generator": {"steps": 3, "width": 4},
}


def pictures(n=36, **options) -> Examples:
    """With saturated corners, where clamping could break a budget or hide a defect."""
    made = small.examples(n, **options)
    images = made.images.clone()
    images[:, :, 0, :2], images[:, :, -1, :2] = 0, 255
    return replace(made, images=images)


def protect(name, examples=None, eps=8 / 255, seed=0, **options):
    given = {**QUICK.get(name, {}), **options}
    return prevention.protect(name, pictures() if examples is None else examples, eps=eps, seed=seed, **given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [1, 8, 30])
def test_no_published_grey_level_leaves_the_budget(name, levels):
    given = pictures()
    made = protect(name, given, eps=levels / 255)
    moved = (made.examples.images.int() - given.images.int()).abs()
    assert made.examples.images.dtype == torch.uint8 and int(moved.max()) <= levels
    assert made.noise.shape == given.images.shape and float(made.noise.abs().max()) <= levels / 255 + 1e-6
    assert (levels == 1 and name == "generator") or (int(moved.max()) == 0) == (name == "nothing")


def test_a_noise_beyond_its_budget_is_cut_and_never_wraps_around():
    given = pictures()
    noise = torch.full(given.images.shape, 20.6 / 255) * torch.where(torch.arange(8) % 2 == 0, 1, -1)
    levels = prevention.published(given, noise, 8 / 255).images.int() - given.images.int()
    assert levels.min() == -8 and levels.max() == 8
    assert int(prevention.published(given, noise, 8.9 / 255).images.int().sub(given.images.int()).max()) == 8
    black, white = (given.images == 0), (given.images == 255)
    assert not levels[black].lt(0).any() and not levels[white].gt(0).any()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_budget_the_pictures_come_back_bit_for_bit(name):
    given = pictures()
    made = protect(name, given, eps=0)
    assert torch.equal(made.examples.images, given.images) and not made.noise.any()


@pytest.mark.parametrize("name", NAMES)
def test_protection_is_seeded_and_disturbs_nothing(name):
    given, state = pictures(), torch.random.get_rng_state()
    before = given.images.clone()
    one, same, other = (protect(name, given, seed=s).noise for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(given.images, before)
    assert torch.equal(one, same) and (name == "nothing" or not torch.equal(one, other))


def test_labels_groups_and_attributes_stay():
    given = pictures()
    given = replace(given, groups=torch.arange(len(given)), attributes={"shot": torch.arange(len(given))})
    made = protect("class_wise", given).examples
    assert torch.equal(made.labels, given.labels) and torch.equal(made.groups, given.groups)
    assert torch.equal(made.attributes["shot"], given.attributes["shot"])


@pytest.mark.parametrize("name", TRAINED)
def test_a_strangers_network_gives_its_architecture_and_is_left_alone(name):
    torch.manual_seed(0)
    model = small.Stranger(3).train()
    before = [p.detach().clone() for p in [*model.parameters(), *model.buffers()]]
    made = protect(name, network=model)
    assert made.noise.abs().max() > 0 and made.cost.work > 0
    assert all(torch.equal(a, b) for a, b in zip([*model.parameters(), *model.buffers()], before, strict=True))
    assert all(p.grad is None for p in model.parameters()) and model.training


def test_the_surrogate_does_not_start_where_a_learner_with_the_same_seed_starts():
    from unlearnlib.prevention.protected import Task
    from unlearnlib.training.work import Tally

    ds = small.dataset()
    built = models.build("mlp", ds, seed=4)
    mine, other = (Task(ds.train, 0.1, s, Tally()).surrogate(built) for s in (4, 5))
    first = [next(m.parameters()) for m in (built, mine, other)]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("nothing", 0),
        ("random", 0),
        ("class_wise", 0),
        # 2 rounds of 3 steps on 12 pictures, 4 steps of 36, and a look at 36
        ("error_minimising", 2 * (3 * 3 * 12 + 3 * 4 * 36 + 36)),
        # the same, and in each of these steps an adversary of 2
        ("robust", 2 * (3 * 3 * 12 * 3 + 3 * 4 * 36 * 3 + 36)),
    ],
)
def test_the_cost_is_what_was_done(name, work):
    given = {"rounds": 2, "learn": 3, "descend": 4, "stop": 0.0, "batch_size": 12} if name in TRAINED else {}
    assert protect(name, **given).cost.work == work


def test_the_cost_of_a_generator_is_counted_in_passes_of_the_network():
    given = pictures()
    network = models.build("mlp", small.dataset(), hidden=())  # 64 x 3 weights and 3 more
    made = protect("generator", given, network=network, steps=5, batch_size=12, width=2, sees="label")
    # mix: 16 pixels x 2 x 2 x 9; out: 64 pixels x 2 x 1 x 9
    passes = (16 * 36 + 64 * 18) / (64 * 3 + 3)
    assert made.cost.work == pytest.approx(5 * 12 * 3 * (1 + passes) + 36 * passes)
    assert further(made, given[:5]).cost.work == pytest.approx(5 * passes)


@pytest.mark.parametrize("name", ["class_wise", "generator"])
def test_further_pictures_get_the_noise_that_they_would_have_got(name):
    given = pictures()
    made = protect(name, given)
    more = further(made, given[:7])
    assert torch.equal(more.examples.images, made.examples.images[:7]) and len(more.noise) == 7
    assert made.cost.work >= more.cost.work


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.weight * torch.zeros(len(x), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "error_minimizing"}, "did you mean 'error_minimising'"),
        ({"name": 3}, "known are nothing, random"),
        ({"patsh": 2}, "did you mean 'patch'"),
        ({"patch": 0}, "patch is a whole number above 0"),
        ({"patch": 2.0}, "patch is a whole number"),
        ({"eps": 8}, "eps is a share of the pixel range"),
        ({"eps": -0.1}, "eps is a share"),
        ({"eps": float("nan")}, "eps is a share"),
        ({"eps": True}, "eps is a share"),
        ({"eps": 0.5 / 255}, "below one grey level"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"examples": [1]}, "examples must be Examples"),
        ({"examples": Examples(torch.rand(4, 1, 8, 8), torch.arange(4))}, "must be uint8"),
        ({"examples": pictures()[:0]}, "there is no picture"),
        ({"examples": pictures()[::3]}, "one label"),
        ({"name": "error_minimising", "shared": "person"}, "shared is 'picture' or 'class'"),
        ({"name": "error_minimising", "shared": 1}, "shared is a word"),
        ({"name": "error_minimising", "network": "cn"}, "unknown model 'cn'"),
        ({"name": "error_minimising", "network": 7}, "network is a name or a torch module"),
        ({"name": "error_minimising", "network": Wrong()}, "answers 2 classes"),
        ({"name": "error_minimising", "stop": 1.5}, "stop is a number 0 or more and at most 1"),
        ({"name": "error_minimising", "rounds": True}, "rounds is a whole number"),
        ({"name": "robust", "transform": "twist"}, "transform is one of none, shift"),
        ({"name": "generator", "sees": "all"}, "sees is one of both, label, picture"),
        ({"name": "generator", "blur": 2}, "blur must be odd"),
        ({"name": "generator", "lr": float("inf")}, "lr is a number"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said):
    given = {"name": "class_wise", "examples": pictures(), "eps": 8 / 255, "seed": 0, **change}
    name, examples = given.pop("name"), given.pop("examples")
    with pytest.raises(ValueError, match=said) as error:
        prevention.protect(name, examples, **given)
    assert "\n" not in str(error.value)


def test_what_cannot_be_done_to_further_pictures_is_refused():
    with pytest.raises(ValueError, match="protect all of them at once"):
        further(protect("error_minimising"), pictures())
    made = protect("class_wise")
    with pytest.raises(ValueError, match="the noise is made for"):
        further(made, pictures(side=10))
    for name in ("class_wise", "generator"):
        with pytest.raises(ValueError, match="labels 0 to 2"):
            further(protect(name), pictures(classes=4))


def test_the_table_of_methods():
    table = prevention.methods()
    assert list(table.name) == NAMES and "patch=4" in table.defaults[2] and "network=cnn" in table.defaults[3]
