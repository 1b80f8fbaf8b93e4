"""The 2023 competition's solutions: what each changes before it descends, what it reads, its limits, its refusals."""

import math

import pytest
import torch
from small import dataset, examples, split
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import cfw, competition, fcs, kde, msg, prmq, rni
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.seeding import generator
from unlearnlib.training import models
from unlearnlib.training.prediction import predict

NAMES = ("fcs", "msg", "cfw", "prmq", "ct", "kde", "rni")


def pooled(channels=3, kernel=3) -> nn.Module:
    """A network whose last map is pooled, so that it does not know which side is up."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(channels, 5, kernel, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 6, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )


@pytest.fixture
def parts():
    return split()


def named(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, after):
    return {name: int((before[name] != after[name]).sum()) for name in before}


def run(name, model, parts, **options):
    return ul.unlearn(name, model, parts, seed=1, **options).model


def test_the_transposed_network_answers_transposed_pictures(parts):
    model = pooled(parts.train.shape[0])
    turned = run("ct", model, parts, epochs=0)
    pixels = parts.train.pixels()
    with torch.no_grad():
        upright, over = model.eval()(pixels), turned.eval()(pixels.transpose(2, 3))
    assert torch.allclose(upright, over, atol=1e-5) and not torch.allclose(upright, turned(pixels), atol=1e-3)
    again = run("ct", turned, parts, epochs=0)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_transposing_is_refused_where_it_means_nothing(parts):
    with pytest.raises(ValueError, match="ct needs a convolution"):
        run("ct", models.build("mlp", dataset()), parts)
    with pytest.raises(ValueError, match="3 by 1"):
        narrow = nn.Conv2d(parts.train.shape[0], 2, (3, 1))
        run("ct", nn.Sequential(narrow, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)), parts)


def test_msg_draws_a_share_of_every_convolution_and_nothing_else(parts):
    model = pooled(parts.train.shape[0])
    before, after = named(model), named(run("msg", model, parts, epochs=0, share=0.3))
    weights = {n: before[n].numel() for n in ("0.weight", "2.weight")}
    found = changed(before, after)
    assert {n: found.pop(n) for n in weights} == {n: round(0.3 * size) for n, size in weights.items()}
    assert set(found.values()) == {0}


def test_the_drawn_weights_are_those_on_which_the_sets_agree(parts):
    model = pooled(parts.train.shape[0]).double()
    names, config = ["0.weight", "2.weight"], msg.Msg(batch_size=1000)
    gaps = msg.disagreement(model, parts, names, config, registry.Run(seed=1))
    factors = msg.redrawn(model, gaps, 0.5, 0.1, generator(0))
    for name in names:
        drawn = factors[name] == 1
        assert gaps[name][drawn].abs().max() <= gaps[name][~drawn].abs().min()
        assert set(factors[name].unique().tolist()) == {0.1, 1.0}


def test_the_rate_of_msg_rises_and_falls():
    recipe = msg.Msg(epochs=5, lr=3.0).recipe()
    assert [round(recipe.rate(s, 10), 9) for s in range(0, 10, 2)] == [1, 2, 3, 2, 1]
    assert msg.Msg(epochs=1).recipe().rate(0, 4) == msg.Msg().lr


def test_without_noise_and_with_even_classes_cfw_is_fine_tuning():
    train = examples(n=90, classes=3)
    train = train[torch.cat([(train.labels == c).nonzero()[:20, 0] for c in range(3)])]
    gone = torch.zeros(60, dtype=torch.bool)
    gone[[0, 20, 40]] = True  # one of each class
    parts = Split(train, gone, examples(n=20, classes=3, seed=2), None, "given", 0, None)
    options = {"epochs": 3, "lr": 0.01, "batch_size": 16, "schedule": "cosine", "per_epoch": True}
    model = pooled(train.shape[0])
    plain = named(run("finetune", model, parts, **options))
    still = named(run("cfw", model, parts, sigma=0.0, last_sigma=0.0, **options))
    assert all(torch.allclose(plain[n], still[n], atol=1e-6) for n in plain)
    noisy = changed(named(model), named(run("cfw", model, parts, epochs=0, sigma=0.1)))
    assert {n for n, count in noisy.items() if count} == {"0.weight", "2.weight"}
    first = changed(named(model), named(run("cfw", model, parts, epochs=0, sigma=0.1, as_released=True)))
    assert {n for n, count in first.items() if count} == {"0.weight"}


def test_classes_weigh_as_much_together():
    labels = torch.tensor([0, 0, 0, 2])
    weights = cfw.balanced(labels)
    assert weights.tolist() == [4 / 6, 0.0, 2.0]
    assert weights[labels].sum() == len(labels)


def test_the_contrastive_loss_is_least_where_all_similarities_are_equal():
    z, alike = torch.randn(5, 4, generator=generator(1)), torch.randn(1, 4, generator=generator(2)).repeat(7, 1)
    assert fcs.repulsion(z, alike, 1.15).item() == pytest.approx(math.log(7), abs=1e-5)
    assert fcs.repulsion(z, torch.randn(7, 4, generator=generator(3)), 1.15) > math.log(7) + 1e-3
    assert fcs.unsure(torch.zeros(6, 4)).item() == pytest.approx(0, abs=1e-6)
    assert fcs.unsure(torch.eye(4) * 5) > 1


def test_fcs_never_reads_the_labels_of_the_forget_set(parts):
    model = pooled(parts.train.shape[0])
    wrong = parts.train.labels.clone()
    wrong[parts.forget_index] = (wrong[parts.forget_index] + 1) % 3
    other = Split(
        type(parts.train)(parts.train.images, wrong), parts.is_forget, parts.validation, None, parts.request, 0, None
    )
    options = {"epochs": 1, "batch_size": 32, "forget_batch": 4}
    one, two = (named(run("fcs", model, p, **options)) for p in (parts, other))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_the_warm_up_of_kde_is_held_out_of_the_rest(parts):
    warm, rest = kde.parts_of(parts, 0.25, generator(1))
    assert len(warm) == round(0.25 * len(parts.retain_index))
    assert torch.cat([warm, rest]).sort().values.equal(parts.retain_index)
    model = pooled(parts.train.shape[0])
    moved = changed(named(model), named(run("kde", model, parts, epochs=0, warm_epochs=0)))
    assert {n.split(".")[0] for n, count in moved.items() if count} == {"0", "7"}


def test_prmq_keeps_the_largest_and_rounds(parts):
    model = pooled(parts.train.shape[0])
    layers = [m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))]
    before = named(model)
    prmq.pruned(layers, 0.4, generator(0))
    after = named(model)
    inside = [n for n in before if n.split(".")[0] != "3"]
    size = torch.cat([before[n].abs().flatten() for n in inside])
    kept = torch.cat([(before[n] == after[n]).flatten() for n in inside])
    assert kept.sum() == round(0.4 * len(size)) and size[kept].min() >= size[~kept].max()
    biases = [n for n in inside if n.endswith("bias")]
    assert all((after[n][before[n] != after[n]] == 0).all() for n in biases)
    made = run("prmq", pooled(parts.train.shape[0]), parts, passes=0.5, batch_size=16)
    assert all(torch.equal(p, p.half().float()) for p in made.parameters())
    assert prmq.entropies(torch.zeros(2, 4)).tolist() == pytest.approx([math.log(4)] * 2)


def test_rni_moves_what_was_chosen_and_the_norms(parts):
    model = pooled(parts.train.shape[0])
    options = {"epochs": 1, "rates": (), "layers": 1, "batch_size": 16, "lr": 0.01, "weight_decay": 0.01}
    start = models.reinitialised(model, 1, only={"7"})
    found = changed(named(start), named(run("rni", model, parts, **options)))
    layers, norms = rni.sides(model)
    assert norms == ["3.weight", "3.bias"] and all(found[n] for n in norms)
    assert sum(bool(found[n]) for n in layers) == 1
    everything = changed(named(start), named(run("rni", model, parts, **options | {"rates": (0.01,)})))
    assert all(everything.values())


def test_a_tensor_that_was_chosen_before_is_never_shaken(parts):
    model = pooled(parts.train.shape[0])
    options = {"epochs": 3, "rates": (), "layers": 99, "lr": 0.0, "batch_size": 16}
    start = named(models.reinitialised(model, 1, only={"7"}))
    assert set(changed(start, named(run("rni", model, parts, sigma=9.0, **options))).values()) == {0}


def test_every_tensor_is_shaken_once_but_those_of_the_first_epoch(parts):
    model = pooled(parts.train.shape[0])
    options = {"epochs": 40, "rates": (), "layers": 1, "share": 1.0, "lr": 0.0, "batch_size": 64}
    start = named(models.reinitialised(model, 1, only={"7"}))
    shaken = named(run("rni", model, parts, sigma=0.5, **options))
    found = changed(start, shaken)
    layers, norms = rni.sides(model)
    assert sum(found[n] == 0 for n in layers) == 1 and not any(found[n] for n in norms)
    size = torch.cat([(shaken[n] - start[n]).flatten() for n in layers if found[n]]).std()
    assert size.item() == pytest.approx(0.5, rel=0.25)  # twice would be 0.71


def test_a_frozen_stem_stays(parts):
    model = pooled(parts.train.shape[0])
    model[0].requires_grad_(False)
    for name in NAMES:
        made = run(name, model, parts, **({"epochs": 1} if name != "prmq" else {"passes": 0.5}))
        assert torch.equal(made[0].weight, model[0].weight), name


def test_inner_linear_layers_stand_in_for_convolutions():
    parts, model = split(), models.build("mlp", dataset(), hidden=(8,))
    example = parts.train.pixels([0])
    assert len(competition.convolutions("msg", model, example)) == 1
    linear = nn.Sequential(nn.Flatten(), nn.Linear(example[0].numel(), 3))
    with pytest.raises(ValueError, match="msg needs a convolution or inner linear layer"):
        run("msg", linear, parts)


def test_all_of_them_answer(parts):
    model = pooled(parts.train.shape[0])
    for name in NAMES:
        assert predict(run(name, model, parts, batch_size=16), parts.train).isfinite().all(), name


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("msg", {"share": 1.5}),
        ("msg", {"kept": -1.0}),
        ("cfw", {"sigma": -0.1}),
        ("cfw", {"sigma": float("nan")}),
        ("fcs", {"temperature": 0.0}),
        ("fcs", {"forget_batch": 0}),
        ("kde", {"held_out": 0.0}),
        ("kde", {"temperature": -1.0}),
        ("prmq", {"keep": 2.0}),
        ("rni", {"layers": 0}),
        ("rni", {"rates": (-1.0,)}),
        ("rni", {"rates": 0.1}),
    ],
)
def test_wrong_values_are_one_line(name, wrong):
    with pytest.raises(ValueError) as error:
        registry.configure(name, **wrong)
    assert name in str(error.value) and "\n" not in str(error.value)
