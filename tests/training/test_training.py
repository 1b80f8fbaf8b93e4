"""The training loop: determinism, closed forms of its steps, and many models at once equal to one at a time."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, same, split, state, stranger
from torch import nn

from unlearnlib import seeding, training
from unlearnlib.data.examples import Examples
from unlearnlib.training import models, stacking
from unlearnlib.training.batches import Batch
from unlearnlib.training.recipe import Recipe

SGD = Recipe(epochs=2, batch_size=16, optimiser="sgd", lr=0.05, schedule="cosine")


def test_fit_repeats_bit_for_bit_and_touches_nothing_else():
    ds = dataset()
    model = models.build("resnet_bn", ds, seed=0)
    before, mode, rng = state(model), model.training, torch.get_rng_state()
    recipe = Recipe(epochs=2, augment="flip-crop")
    first = training.fit(model, ds.train, recipe, seed=3)
    torch.manual_seed(1)
    assert same(state(first), state(training.fit(model, ds.train, recipe, seed=3)))
    assert not same(state(first), state(training.fit(model, ds.train, recipe, seed=4)))
    assert same(state(model), before) and model.training == mode
    torch.set_rng_state(rng)
    training.fit(stranger(), ds.train, recipe, seed=3)  # dropout draws from the global generator
    assert torch.equal(torch.get_rng_state(), rng)


def test_one_sgd_step_is_the_gradient_step():
    ds = examples(n=12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    plain = {"optimiser": "sgd", "momentum": 0.0, "schedule": "constant"}
    recipe = Recipe(epochs=1, batch_size=12, lr=0.1, weight_decay=0.01, **plain)
    pixels, weight, bias = ds.pixels().flatten(1), model[1].weight.detach(), model[1].bias.detach()
    residual = torch.softmax(pixels @ weight.T + bias, 1) - F.one_hot(ds.labels, 3)
    expected = weight - 0.1 * (residual.T @ pixels / 12 + 0.01 * weight)
    assert torch.allclose(training.fit(model, ds, recipe)[1].weight, expected, atol=1e-6)


def test_weights_of_a_batch_scale_its_losses():
    ds = examples(n=12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    recipe = Recipe(optimiser="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    index = torch.arange(12)
    ascent = Batch(index, ds.labels, torch.full((12,), -1 / 12))
    up = training.descend(copy.deepcopy(model), ds, [ascent], recipe, 1, seed=0)
    down = training.descend(copy.deepcopy(model), ds, [Batch(index, ds.labels)], recipe, 1, seed=0)
    assert torch.allclose(up[1].weight + down[1].weight, 2 * model[1].weight, atol=1e-6)


def test_soft_targets_pull_towards_the_teacher():
    ds = examples(n=12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    recipe = Recipe(optimiser="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    index, teacher = torch.arange(12), torch.softmax(torch.randn(12, 3, dtype=torch.float64), 1)
    none, even = torch.zeros(12, dtype=torch.float64), torch.full((12,), 1 / 12, dtype=torch.float64)
    batch = Batch(index, ds.labels, none, teacher, even, temperature=2.0)
    after = training.descend(copy.deepcopy(model), ds, [batch], recipe, 1, seed=0)
    pixels = ds.pixels(dtype=torch.float64)
    distance = F.kl_div(F.log_softmax(model(pixels) / 2, 1), teacher, reduction="batchmean")
    gradient = torch.autograd.grad(4 * distance, model[1].weight)[0]
    assert torch.allclose(after[1].weight, model[1].weight - 0.1 * gradient, atol=1e-12)


def test_parts_see_every_step_and_may_stop():
    class Counting(training.Part):
        def __init__(self):
            self.gradients, self.steps = 0, 0

        def penalty(self, model):
            return 0.5 * (model[1].weight ** 2).sum()

        def after_gradient(self, model, step):
            self.gradients += 1
            model[1].bias.grad.zero_()

        def after_step(self, model, step):
            self.steps += 1
            return step == 2

    ds, part = examples(n=12), Counting()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    recipe = Recipe(optimiser="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    nothing = Batch(torch.arange(12), ds.labels, torch.zeros(12))
    after = training.descend(copy.deepcopy(model), ds, [nothing] * 9, recipe, 9, seed=0, parts=[part])
    assert (part.gradients, part.steps) == (3, 3)
    assert torch.allclose(after[1].weight, model[1].weight * 0.9**3, atol=1e-6)
    assert torch.equal(after[1].bias, model[1].bias)


@pytest.mark.parametrize("recipe", [SGD, Recipe(epochs=2, batch_size=16, augment="flip-crop")], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "fastnet", "resnet_bn", "resnet_gn"])
def test_many_models_equal_each_model_alone(name, recipe):
    # In double precision: what single precision adds is rounding, which training amplifies (the next test bounds it).
    ds = dataset(n=90, side=16)
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 90, generator=rng) < 0.6
    masks[0] = True  # another number of steps: another stack
    seeds = [0, 1, 2, 3]

    def build(seed):
        return models.build(name, ds, seed=seed).double()

    many = training.fit_many(build, ds.train, masks, recipe, seeds)
    for mask, seed, model in zip(masks, seeds, many, strict=True):
        alone = training.fit(build(seed), ds.train[mask], recipe, seed)
        for key, value in alone.state_dict().items():
            assert torch.allclose(model.state_dict()[key], value, atol=1e-9, rtol=1e-9), (name, key)


@pytest.mark.parametrize("name", ["mlp", "cnn", "fastnet", "resnet_bn", "resnet_gn"])
def test_many_models_equal_each_model_alone_in_single_precision(name):
    ds = dataset(n=90, side=16)
    masks = torch.ones(3, 90, dtype=torch.bool)
    recipe = Recipe(epochs=1, batch_size=45, optimiser="sgd", lr=0.02)  # two steps: rounding has no time to grow
    many = training.fit_many(lambda s: models.build(name, ds, seed=s), ds.train, masks, recipe, [0, 1, 2])
    for seed, model in enumerate(many):
        alone = training.fit(models.build(name, ds, seed=seed), ds.train, recipe, seed)
        for key, value in alone.state_dict().items():
            assert torch.allclose(model.state_dict()[key].float(), value.float(), atol=1e-5), (name, key)


def test_what_cannot_be_stacked_is_trained_alone():
    ds = dataset()
    masks = torch.ones(2, 120, dtype=torch.bool)
    with pytest.raises(stacking.Unstackable, match="tied"):
        stacking.Stack([stranger(0), stranger(1)], ds.train.pixels([0]))
    many = training.fit_many(stranger, ds.train, masks, SGD, [0, 1])
    assert same(state(many[1]), state(training.fit(stranger(1), ds.train, SGD, 1)))


def test_a_stack_that_would_compute_something_else_is_refused():
    class Crossing(nn.Sequential):
        def forward(self, x):
            return super().forward(x.flip(1))  # reads across dimension 1, where the models lie side by side

    pair = [Crossing(nn.Conv2d(1, 3, 8), nn.Flatten()) for _ in range(2)]
    with pytest.raises(stacking.Unstackable, match="does not compute what the models do"):
        stacking.Stack(pair, examples(n=2).pixels())


def test_frozen_layers_stay_frozen_in_a_stack():
    ds = dataset()
    built = [models.build("cnn", ds, seed=s) for s in (0, 1)]
    for model in built:
        model[1].requires_grad_(False)
    stack = stacking.Stack(built, ds.train.pixels([0]))
    frozen = [name for name, p in stack.module.named_parameters() if not p.requires_grad]
    assert frozen == ["1.weight", "1.bias"]


def test_minibatches_partition_each_pass_and_drop_the_rest():
    rng = torch.Generator().manual_seed(0)
    batches = list(training.minibatches(10, 4, 2, rng))
    assert [len(b) for b in batches] == [4] * 4
    assert len(torch.cat(batches[:2]).unique()) == 8
    assert [len(b) for b in training.minibatches(3, 4, 2, rng)] == [3, 3]
    assert training.steps_of(10, Recipe(epochs=2, batch_size=4)) == 4
    with pytest.raises(ValueError, match="empty"):
        next(training.minibatches(0, 4, 1, rng))


def test_schedules():
    cycle = Recipe(lr=1.0, schedule="one-cycle")
    rates = [cycle.rate(t, 100) for t in range(100)]
    assert max(rates) == rates[19] == 1.0 and 0 < rates[0] <= 0.05 and 0 < rates[-1] < 0.02
    cosine = Recipe(lr=1.0, schedule="cosine")
    assert cosine.rate(0, 10) == 1.0 and math.isclose(cosine.rate(5, 10), 0.5)


def test_augmentation_moves_and_flips_exactly():
    pixels = examples(n=4, side=16).pixels()
    centre = torch.tensor([[2, 2, 0]] * 4)  # padding is 16 / 8 = 2: the middle crop is the picture itself
    assert torch.equal(training.augmented(pixels, "flip-crop", centre), pixels)
    flipped = training.augmented(pixels, "flip", torch.tensor([[0, 0, 1]] * 4))
    assert torch.equal(flipped, pixels.flip(3))
    shifted = training.augmented(pixels, "shift", torch.tensor([[0, 1, 0]] * 4))  # one row down, black comes in
    assert torch.equal(shifted[:, :, 1:], pixels[:, :, :-1]) and not shifted[:, :, 0].any()


def test_a_float64_model_answers_in_float64():
    ds = examples(12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    answers = training.predict(model, ds)
    assert answers.dtype == torch.float64 and torch.equal(answers, model(ds.pixels(dtype=torch.float64)).detach())
    assert training.predict(model.half(), ds).dtype == torch.float32


def test_predict_restores_modes_and_counts():
    net, ds, tally = stranger(), examples(), training.Tally()
    net.norm.eval()
    modes = [m.training for m in net.modules()]
    first = training.predict(net, ds, batch_size=7, tally=tally)
    assert [m.training for m in net.modules()] == modes and tally.forward_evaluations == 120
    assert torch.allclose(first, training.predict(net, ds.pixels()), atol=1e-6)
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert training.predict(half, ds).dtype == torch.float32


def test_divergence_and_bad_recipes_are_refused():
    recipe = Recipe(epochs=3, optimiser="sgd", lr=1e20, schedule="constant")
    with pytest.raises(training.Diverged, match="not finite"):
        training.fit(models.build("mlp", dataset()), examples(), recipe)
    with pytest.raises(ValueError, match="optimiser must be one of sgd, adam, adamw, not 'lion'"):
        Recipe(optimiser="lion")
    frozen = models.build("mlp", dataset()).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        training.fit(frozen, examples(), SGD)
    with pytest.raises(ValueError, match="masks must be bool"):
        training.fit_many(stranger, examples(), torch.ones(1, 3), SGD, [0])


def test_checkpoints_round_trip_and_refuse_damage(tmp_path):
    net, path = stranger(0), tmp_path / "net.safetensors"
    training.save(net, path)
    assert same(state(training.load(stranger(1), path)), state(net))
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="does not hold weights"):
        training.load(net, path)
    training.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="does not hold weights"):
        training.load(net, path)


def test_bfloat16_trains():
    ds = dataset()
    recipe = Recipe(epochs=6, precision="bfloat16", channels_last=True)
    trained = training.fit(models.build("cnn", ds), ds.train, recipe)
    assert training.accuracy(trained, ds.test) > 0.9
    assert next(trained.parameters()).dtype == torch.float32


def test_streams_are_named_by_seed_and_labels():
    draw = [torch.rand(3, generator=seeding.generator(*name)) for name in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2]) and not torch.equal(draw[0], draw[3])
    with pytest.raises(ValueError, match="non-negative integer"):
        seeding.generator(-1)


def test_float_pictures_are_used_as_they_are():
    images = torch.randn(8, 1, 8, 8)
    given = Examples(images, torch.zeros(8, dtype=torch.int64))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert torch.allclose(training.predict(net, given), net(images).detach())
    assert len(split().train) == 120
