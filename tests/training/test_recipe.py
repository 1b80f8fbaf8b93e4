"""Recipes say what authors' loops say: optimisers, schedules and clipping equal torch's, wrong values are refused."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, state
from torch import nn
from torch.optim import lr_scheduler

from unlearnlib import training
from unlearnlib.training import batches, models
from unlearnlib.training.batches import Batch
from unlearnlib.training.lookahead import Lookahead
from unlearnlib.training.recipe import Recipe, clip, optimiser_of, set_rate

PLAIN = Recipe(epochs=3, batch_size=20, optimiser="sgd", lr=0.1, schedule="constant", weight_decay=0.01)


def by_hand(model, ds, order, optimiser_of, prepare=lambda model: None, scheduler=None):
    """An author's loop: one pass a list of positions, a scheduler that is stepped after each epoch."""
    model = copy.deepcopy(model).train()
    optimiser = optimiser_of(model.parameters())
    schedule = scheduler and scheduler(optimiser)
    for epoch in order:
        for index in epoch:
            optimiser.zero_grad()
            pixels = ds.pixels(index, dtype=next(model.parameters()).dtype)
            F.cross_entropy(model(pixels), ds.labels[index]).backward()
            prepare(model)
            optimiser.step()
        if schedule:
            schedule.step()
    return model


def epochs_of(recipe, n, seed=0):
    from unlearnlib import seeding

    rng = seeding.generator(seed, "order")
    return [
        list(batches.minibatches(n, recipe.batch_size, 1, rng, keep_last=recipe.keep_last))
        for _ in range(recipe.epochs)
    ]


def close(first, second, tolerance=1e-6):
    return all(torch.allclose(a.float(), b.float(), atol=tolerance) for a, b in zip(first, second, strict=True))


SGD, ADAM = torch.optim.SGD, torch.optim.Adam
CASES = {
    "heavy ball": (replace(PLAIN, nesterov=False), lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01), None, None),
    "nesterov": (PLAIN, lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True), None, None),
    "adam with L2": (
        replace(PLAIN, optimiser="adam", lr=5e-4, weight_decay=0.1),
        lambda p: ADAM(p, lr=5e-4, weight_decay=0.1),
        None,
        None,
    ),
    "adamw": (replace(PLAIN, optimiser="adamw"), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01), None, None),
    "step decay": (
        replace(PLAIN, schedule="step-decay", milestones=(1, 2), nesterov=False),
        lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01),
        None,
        lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    ),
    "cosine by epochs": (
        replace(PLAIN, schedule="cosine", per_epoch=True, nesterov=False),
        lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01),
        None,
        lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    ),
    "clipped by norm": (
        replace(PLAIN, clip_norm=0.05, nesterov=False),
        lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01),
        lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.05),
        None,
    ),
    "clipped by value": (
        replace(PLAIN, clip_value=0.01, nesterov=False),
        lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01),
        lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.01),
        None,
    ),
    "last batch kept": (replace(PLAIN, keep_last=True), lambda p: SGD(p, 0.1, 0.9, 0, 0.01, nesterov=True), None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_the_loop_that_it_describes(name):
    recipe, optimiser, prepare, scheduler = CASES[name]
    ds = dataset(n=110)
    model = models.build("fastnet", ds, width=8, hidden=8).double()  # Adam blows rounding up where gradients vanish
    ours = training.fit(model, ds.train, recipe, seed=4)
    epochs = epochs_of(recipe, 110, seed=4)
    assert [len(e) for e in epochs] == [6 if recipe.keep_last else 5] * 3
    theirs = by_hand(model, ds.train, epochs, optimiser, prepare or (lambda m: None), scheduler)
    assert close(state(ours).values(), state(theirs).values(), 1e-7)
    plain = training.fit(model, ds.train, PLAIN, seed=4)
    assert name == "nesterov" or not close(state(ours).values(), state(plain).values(), 1e-4)  # the field acts


@pytest.mark.parametrize(
    "recipe, made",
    [
        (Recipe(epochs=17, lr=0.03, schedule="cosine", per_epoch=True), lr_scheduler.CosineAnnealingLR),
        (Recipe(epochs=17, lr=0.03, schedule="step-decay", milestones=(5, 8, 9), factor=0.1), lr_scheduler.MultiStepLR),
        (Recipe(epochs=17, lr=0.03, schedule="step-decay", milestones=(9, 5, 5), factor=0.3), lr_scheduler.MultiStepLR),
    ],
)
@pytest.mark.parametrize("ends", [False, True])
def test_schedules_by_epochs_are_torchs_bit_for_bit(recipe, made, ends):
    optimiser = SGD([nn.Parameter(torch.zeros(1))], recipe.lr)
    cosine = recipe.schedule == "cosine"
    scheduler = made(optimiser, 17) if cosine else made(optimiser, recipe.milestones, recipe.factor)
    sizes = [4 if ends and epoch < 3 else 7 for epoch in range(17)]  # the first epochs are shorter
    steps = tuple(torch.tensor(sizes).cumsum(0).tolist()) if ends else 17 * 7
    step = 0
    for size in sizes:
        for _ in range(size):
            assert recipe.rate(step, steps) == optimiser.param_groups[0]["lr"]
            step += 1
        optimiser.step()
        scheduler.step()


def test_schedules_by_steps_are_torchs_to_rounding():
    recipe, optimiser = Recipe(lr=0.03, schedule="cosine"), SGD([nn.Parameter(torch.zeros(1))], 0.03)
    scheduler = lr_scheduler.CosineAnnealingLR(optimiser, 40)
    for step in range(40):
        assert recipe.rate(step, 40) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        scheduler.step()
    by_epoch = Recipe(epochs=10, lr=1.0, schedule="one-cycle", per_epoch=True)
    plain = Recipe(epochs=10, lr=1.0, schedule="one-cycle")
    assert [by_epoch.rate(4 * e + i, 40) for e in range(10) for i in range(4)] == [
        plain.rate(e, 10) for e in range(10) for _ in range(4)
    ]


def test_epochs_that_do_not_divide_the_steps_are_refused():
    with pytest.raises(ValueError, match="41 steps are not 10 equal epochs"):
        Recipe(epochs=10, schedule="cosine", per_epoch=True).rate(0, 41)


def test_stacked_models_are_clipped_each_by_its_own_norm():
    ds = dataset(n=60)
    recipe = replace(PLAIN, clip_norm=0.3, clip_value=0.2, keep_last=True, epochs=2, batch_size=16)

    def build(seed):
        model = models.build("resnet_bn", ds, seed=seed, width=4).double()
        with torch.no_grad():
            model[-1].weight.mul_(1 + 5 * seed)  # their gradients differ much in length
        return model

    masks = torch.ones(3, 60, dtype=torch.bool)
    masks[2, :10] = False  # another incomplete batch
    many = training.fit_many(build, ds.train, masks, recipe, [0, 1, 2])
    for seed, (mask, model) in enumerate(zip(masks, many, strict=True)):
        alone = training.fit(build(seed), ds.train[mask], recipe, seed)
        assert close(state(model).values(), state(alone).values(), 1e-9)


def test_clipping_leaves_short_gradients_alone():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([0.1, -0.2, 0.3])
    clip([p], Recipe(clip_norm=1.0, clip_value=0.5))
    assert torch.equal(p.grad, torch.tensor([0.1, -0.2, 0.3]))
    clip([p], Recipe(clip_value=0.2))
    assert torch.equal(p.grad, torch.tensor([0.1, -0.2, 0.2]))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epochs": "3"}, "epochs must be a whole number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"lr": "0.1"}, "lr must be a finite number"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"momentum": None}, "momentum must be a finite number"),
        ({"momentum": 1.5}, "momentum < 1"),
        ({"nesterov": 1}, "nesterov must be True or False"),
        ({"channels_last": "yes"}, "channels_last must be True or False"),
        ({"optimiser": ["sgd"]}, "optimiser must be one of"),
        ({"milestones": 5, "schedule": "step-decay"}, "milestones must be a tuple of epochs"),
        ({"milestones": (0,), "schedule": "step-decay"}, "milestones must be a tuple of epochs"),
        ({"schedule": "step-decay"}, "belong together"),
        ({"milestones": (3,)}, "belong together"),
        ({"clip_norm": 0.0}, "above 0"),
        ({"clip_value": "1"}, "clip_value must be a finite number or None"),
        ({"label_smoothing": 1.5}, "label_smoothing <= 1"),
        ({"epochs": -1}, "epochs >= 0"),
    ],
)
def test_wrong_values_are_refused_in_one_line(wrong, message):
    with pytest.raises(ValueError, match=message) as refused:
        Recipe(**wrong)
    assert "\n" not in str(refused.value)


def test_lists_of_a_notebook_are_tuples_and_recipes_hash():
    recipe = Recipe(schedule="step-decay", milestones=[3, 5])
    assert recipe.milestones == (3, 5) and hash(recipe) == hash(replace(recipe, milestones=(3, 5)))


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()


def test_matching_logits_is_the_closed_form_on_a_linear_network():
    ds, model = examples(n=12), linear()
    x = torch.cat([ds.pixels(dtype=torch.float64).flatten(1), torch.ones(12, 1, dtype=torch.float64)], 1)
    targets, weights = torch.randn(12, 3, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    recipe = Recipe(optimiser="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    none = torch.zeros(12, dtype=torch.float64)
    batch = Batch(torch.arange(12), ds.labels, none, targets=targets, target_weights=weights)
    after = training.descend(copy.deepcopy(model), ds, [batch], recipe, 1, seed=0)[1]
    theta = torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach()
    expected = theta - 0.1 * ((x @ theta.T - targets) * weights[:, None]).T @ x
    assert torch.allclose(torch.cat([after.weight, after.bias[:, None]], 1), expected, atol=1e-12)
    mean = training.descend(copy.deepcopy(model), ds, [replace(batch, target_weights=None)], recipe, 1, seed=0)[1]
    expected = theta - 0.1 * (x @ theta.T - targets).T @ x / 12
    assert torch.allclose(torch.cat([mean.weight, mean.bias[:, None]], 1), expected, atol=1e-12)


def test_targets_of_weight_zero_change_no_bit_and_wrong_ones_are_refused():
    ds = examples(n=48)
    model, recipe = models.build("resnet_bn", dataset(), width=4), replace(PLAIN, epochs=1)
    index = torch.arange(48)
    plain, aimed = (
        Batch(index, ds.labels),
        Batch(index, ds.labels, targets=torch.randn(48, 3), target_weights=0 * index),
    )
    results = [training.descend(copy.deepcopy(model), ds, [b] * 3, recipe, 3, seed=0) for b in (plain, aimed)]
    assert all(torch.equal(a, b) for a, b in zip(*(state(r).values() for r in results), strict=True))
    with pytest.raises(ValueError, match=r"logits \[B, 3\], not \[48, 1\]"):
        training.descend(copy.deepcopy(model), ds, [replace(aimed, targets=torch.zeros(48, 1))], recipe, 1, seed=0)


def test_targets_run_stacked():
    ds, recipe = examples(n=48), replace(PLAIN, epochs=1)
    nets = [models.build("cnn", dataset(), seed=s, width=4, hidden=8).double() for s in (0, 1)]
    rng = torch.Generator().manual_seed(0)
    streams = [
        [Batch(torch.randperm(48, generator=rng)[:16], ds.labels[:16], targets=torch.randn(16, 3, generator=rng))] * 4
        for _ in nets
    ]
    many = training.descend_many(nets, ds, streams, recipe, 4, seeds=[0, 1])
    for net, stream, model in zip(nets, streams, many, strict=True):
        alone = training.descend(copy.deepcopy(net), ds, stream, recipe, 4, seed=0)
        assert close(state(model).values(), state(alone).values(), 1e-10)


@pytest.mark.parametrize("size, tall, wide", [((40, 4), 5, 0), ((32, 12), 4, 1), ((4, 40), 0, 5), ((8, 16), 1, 2)])
def test_crops_pad_each_side_by_its_own_eighth(size, tall, wide):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(400, 1, *size, generator=rng)
    draws = batches.draws_for(400, "crop", size, rng)
    assert set(draws[:, 0].tolist()) == set(range(2 * tall + 1))
    assert set(draws[:, 1].tolist()) == set(range(2 * wide + 1))
    moved = batches.augmented(pixels, "crop", draws)
    padded = F.pad(pixels, (wide, wide, tall, tall), mode="reflect")
    for k in range(20):
        row, column, _ = draws[k].tolist()
        assert torch.equal(moved[k], padded[k, :, row : row + size[0], column : column + size[1]])


@pytest.mark.parametrize("size", [(40, 4), (32, 12)])
def test_crops_train_on_oblong_pictures(size):
    from unlearnlib.data.examples import Dataset, Examples

    ds = Examples(torch.rand(24, 1, *size), torch.arange(24) % 3)
    model = models.build("mlp", Dataset("oblong", ds, ds, ("a", "b", "c"), "tests"))
    training.fit(model, ds, Recipe(epochs=1, batch_size=8, augment="crop"))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_gradient_or_moment_laid_out_otherwise_in_memory_is_the_same_step(kind):
    rng = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(4, 3, 2, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(weight.clone().contiguous(memory_format=torch.channels_last))
        made = optimiser_of([p], replace(PLAIN, optimiser=kind))
        for _ in range(2):
            p.grad = gradient.clone().contiguous(memory_format=layout)
            made.step()
            for name, value in made.state[p].items():  # as a checkpoint that was read would have them
                if value is not None and value.dim() == 4:
                    made.state[p][name] = value.contiguous(memory_format=layout)
        found.append(p.detach())
    assert torch.equal(*found)


def test_vectors_learn_at_a_multiple_of_the_rate_and_decay_as_the_rest():
    recipe = replace(PLAIN, momentum=0.0, vector_rate=64.0)
    weight, bias = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    made = optimiser_of([weight, bias], recipe)
    set_rate(made, 0.2)
    weight.grad, bias.grad = torch.full_like(weight, 0.5), torch.full_like(bias, 0.5)
    made.step()
    assert torch.allclose(weight, torch.tensor(1 - 0.2 * 0.5 - 0.2 * 0.01))
    assert torch.allclose(bias, torch.tensor(1 - 64 * 0.2 * 0.5 - 0.2 * 0.01))
    with pytest.raises(ValueError, match="vector_rate must be above 0"):
        replace(PLAIN, vector_rate=0.0)


def test_alternate_flips_show_each_side_every_other_time_and_the_first_by_chance():
    draw = batches.Draws(200, "alternate", (32, 32), torch.Generator().manual_seed(0))
    turns = torch.stack([draw(torch.arange(200)) for _ in range(4)])
    flips, offsets = turns[..., 2], turns[..., :2]
    assert torch.equal(flips[0], 1 - flips[1]) and torch.equal(flips[0], flips[2])
    assert 60 < int(flips[0].sum()) < 140
    assert offsets.min() == 0 and offsets.max() == 4  # two pixels to each side of 32
    draw(torch.tensor([7]))  # an example's turns are counted by themselves
    assert torch.equal(draw(torch.arange(200))[:, 2] == flips[0], torch.arange(200) != 7)


def test_look_ahead_is_its_formula():
    layer, steps = nn.BatchNorm1d(2, dtype=torch.float64), 12
    ahead, rng = Lookahead(layer, steps), torch.Generator().manual_seed(0)
    slow = fast = layer.weight.detach().clone()
    for step in range(steps):
        move = torch.randn(2, generator=rng, dtype=torch.float64)
        fast = fast + move
        with torch.no_grad():
            layer.weight.add_(move)
            layer.running_mean.add_(move)
        ahead.follow(step)
        if step in (4, 9):
            a = 0.95**5 * ((step + 1) / steps) ** 3
            slow = a * slow + (1 - a) * fast
            fast = slow
        assert torch.allclose(layer.weight, slow if step == steps - 1 else fast)
    assert torch.allclose(layer.running_mean, layer.weight - 1)  # statistics are averaged alike


def test_look_ahead_takes_no_parts():
    ds = dataset()
    model, recipe = models.build("mlp", ds), replace(PLAIN, lookahead=True)
    index = torch.arange(8)
    stream = [Batch(index, ds.train.labels[index])]
    with pytest.raises(ValueError, match="look-ahead averaging"):
        training.descend(model, ds.train, stream, recipe, 1, seed=0, parts=[training.Part()])
