"""The methods of 2024 and 2025: closed forms, limits and conservation laws that a wrong implementation breaks."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import seeding, training
from unlearnlib.approximate import amun, lotus, mu_mis, munba, negmerge, uam
from unlearnlib.approximate.gradients import weights
from unlearnlib.data.examples import Examples
from unlearnlib.methods import registry
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import Tally

PLAIN = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "seed": 0}


def linear(classes: int = 3, scale: float = 1.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).double()
    with torch.no_grad():
        net[1].weight.mul_(scale)
    return net


def normed() -> nn.Module:
    net = models.build("resnet_bn", dataset(), width=4).double()
    with torch.no_grad():
        net.train()
        net(examples().pixels(dtype=torch.float64))
    return net.eval()


def gradient(model: nn.Module, part) -> torch.Tensor:
    loss = F.cross_entropy(model(part.pixels(dtype=torch.float64)), part.labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# AMUN


def wrong_of(model, part, **options):
    tally = Tally()
    return *amun.nearest_wrong(model, part, registry.configure("amun", **options), tally), tally


def test_amun_finds_the_nearest_picture_behind_a_linear_boundary():
    grey = Examples(examples(40, classes=2).images // 3 + 80, torch.arange(40) % 2)  # far from black and white
    model = linear(2, scale=0.3)
    moved, answers, found, _ = wrong_of(model, grey)
    clean = grey.pixels(dtype=torch.float64)
    z, w = model(clean).detach(), model[1].weight.detach()
    margin = (z.gather(1, grey.labels[:, None]) - z.gather(1, 1 - grey.labels[:, None]))[:, 0] / (w[0] - w[1]).norm()
    distance = (moved - clean).flatten(1).norm(dim=1)
    assert len(found) == 40 and (answers != grey.labels).all() and torch.equal(model(moved).argmax(1), answers)
    already = margin < 0
    assert already.any() and not already.all()
    assert torch.equal(moved[already], clean[already])
    for m, d in zip(margin[~already].tolist(), distance[~already].tolist(), strict=True):
        eps, gone, steps = 0.04, 0.0, 0  # the path is straight: how far it has gone when it crosses
        while gone < m:
            gone, steps = min(gone + eps / 10, eps), steps + 1
            eps = 0.04 * 2 ** (steps // 50)
        assert d == pytest.approx(gone, rel=1e-9)
    assert (margin > 0.04).any()  # some balls were doubled


def test_amun_stays_among_valid_pictures_and_in_the_ball():
    black = Examples(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 3)
    moved, answers, found, _ = wrong_of(linear(), black)
    assert moved.min() >= 0 and moved.max() <= 1 and (answers != black.labels[found]).all()


def test_amun_searches_where_the_loss_has_no_gradient_left():
    model, part = linear(scale=1e6).float(), examples(30)
    part = dataclasses.replace(part, labels=model(part.pixels()).argmax(1))
    pixels = part.pixels().requires_grad_(True)
    loss = F.cross_entropy(model(pixels), part.labels, reduction="sum")
    assert (torch.autograd.grad(loss, pixels)[0] == 0).flatten(1).all(1).any()
    moved, answers, found, _ = wrong_of(model, part)
    assert len(found) == 30 and (answers != part.labels).all() and torch.equal(model(moved).argmax(1), answers)


def test_amun_gives_up_on_a_constant_answer_and_counts_its_search():
    model, part = linear(), examples(12, classes=1)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    _, _, found, tally = wrong_of(model, part, attack_steps=5, doublings=2)
    assert not len(found) and tally == Tally(12 * 5 * 3, 0)


def test_amun_trains_on_retain_forget_and_wrong_pictures_once_a_pass():
    parts, options = split(n=60, forget=13), {"batch_size": 16, "keep_last": True, "seed": 0}
    work = [ul.unlearn("amun", linear(), parts, epochs=e, **options).cost.work for e in (1, 3)]
    assert work[1] - work[0] == 2 * 3 * (60 + 13)


# LoTUS


def test_lotus_teaches_answers_of_the_original():
    n, logits = 60_000, torch.tensor([1.0, 0.0, -1.0])
    drawn = lotus.gumbel((n, 3), torch.Generator().manual_seed(0)).float()
    gone = torch.arange(n) < n // 2
    t = lotus.targets(logits.expand(n, 3), drawn, gone, tau=0.7)
    assert torch.allclose(t.sum(1), torch.ones(n)) and set(t[~gone].flatten().tolist()) == {0.0, 1.0}
    p = torch.softmax(logits, 0)
    for half in (t[gone], t[~gone]):  # at any temperature the likeliest class is a draw from the original's answer
        shares = torch.bincount(half.argmax(1), minlength=3) / (n // 2)
        assert ((shares - p).abs() < 5 * (p * (1 - p) / (n // 2)).sqrt()).all()
    assert t[gone].max(1).values.mean() < 0.95  # soft
    flat = lotus.targets(logits.expand(n, 3), drawn, gone, tau=1e6)[gone]
    assert torch.allclose(flat, torch.full_like(flat, 1 / 3), atol=1e-4)


def held_out(n_right: int, model: nn.Module) -> Examples:
    """Forty pictures of which the model gets so many right."""
    part = examples(40, seed=5)
    said = model(part.pixels(dtype=torch.float64)).argmax(1)
    return dataclasses.replace(part, labels=torch.where(torch.arange(40) < n_right, said, (said + 1) % 3))


def test_lotus_reads_no_retain_label_and_the_validation_set_by_one_accuracy():
    model, parts = linear(), split(n=60, forget=20)

    def run(parts, **options):
        settings = {"epochs": 2, "batch_size": 16, "margin": 2.0, "seed": 0, **options}
        return state(ul.unlearn("lotus", model, parts, **settings).model)

    labels = parts.train.labels.clone()
    labels[parts.retain_index] = labels[parts.retain_index].roll(1)
    assert same(run(parts), run(dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))))
    few, many = (dataclasses.replace(parts, validation=held_out(n, model)) for n in (4, 36))
    other = dataclasses.replace(few, validation=few.validation[torch.randperm(40, generator=torch.Generator())])
    assert same(run(few), run(other)) and not same(run(few), run(many))
    assert same(run(few, alpha=0.0), run(many, alpha=0.0))  # tau is 1 whatever the accuracies


def test_lotus_ends_where_the_forget_set_is_answered_worse_than_unseen_pictures():
    model, parts = linear(), split(n=60, forget=20)
    parts = dataclasses.replace(parts, validation=held_out(40, model))  # all right, which the forget set is not
    done = ul.unlearn("lotus", model, parts, seed=0, epochs=2, batch_size=16)
    assert same(state(done.model), state(model)) and done.cost.work == 40 + 20
    settings = {"seed": 0, "batch_size": 16, "alpha": 0.0}
    one = ul.unlearn("lotus", model, dataclasses.replace(parts, validation=held_out(0, model)), epochs=1, **settings)
    assert not same(state(one.model), state(model))
    with pytest.raises(ValueError, match="validation part"):
        ul.unlearn("lotus", model, dataclasses.replace(parts, validation=parts.validation[[]]), seed=0)


# task vectors


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_task_vector_of_one_step_is_a_step_up(scale):
    model, parts = linear(), split()
    after = ul.unlearn("task_vector", model, parts, batch_size=20, lr=0.1, scale=scale, **PLAIN).model
    expected = weights(model) + scale * 0.1 * gradient(model, parts.forget)
    assert torch.allclose(weights(after), expected, atol=1e-12)


def test_limits_of_task_vectors():
    model, parts = normed(), split()
    settings = {"seed": 0, "epochs": 2, "batch_size": 8, "lr": 0.05}
    assert same(state(ul.unlearn("task_vector", model, parts, scale=0.0, **settings).model), state(model))
    for name in ("task_vector", "negmerge"):  # statistics are the original's, bit for bit, and variances positive
        after = ul.unlearn(name, model, parts, scale=1.0, **settings).model
        kept = dict(model.named_buffers())
        assert all(torch.equal(value, kept[key]) for key, value in after.named_buffers())
        assert not torch.equal(weights(after), weights(model))
    one = ul.unlearn("negmerge", model, parts, descents=1, scale=0.5, **settings).model
    assert same(state(one), state(ul.unlearn("task_vector", model, parts, scale=0.5, **settings).model))


def test_consensus_keeps_the_weights_on_whose_sign_all_agree():
    taus = noise(4, 50)
    taus[:, :5] = taus[:, :5].abs()
    taus[1, 2] = 0.0
    merged = negmerge.consensus(taus)
    agreed = (taus > 0).all(0) | (taus < 0).all(0)
    assert torch.equal(merged != 0, agreed) and not merged[2] and agreed[:2].all()
    assert torch.allclose(merged[agreed], taus.mean(0)[agreed], atol=1e-15)
    assert torch.allclose(negmerge.consensus(taus[[2, 0, 3, 1]]), merged, atol=1e-15)
    assert torch.allclose(negmerge.consensus(torch.cat([taus, taus])), merged, atol=1e-15)
    assert torch.equal(negmerge.consensus(taus[:1]), taus[0])
    assert not negmerge.consensus(torch.stack([taus[0], -taus[0]])).any()
    support = [set(negmerge.consensus(taus[:n]).nonzero()[:, 0].tolist()) for n in (1, 2, 3, 4)]
    assert all(more >= fewer for more, fewer in zip(support, support[1:], strict=False))


def test_negmerge_spreads_the_rate_evenly():
    config = registry.configure("negmerge", lr=0.01, spread=4.0, descents=5)
    assert negmerge.rates(config) == pytest.approx([0.0025, 0.005, 0.01, 0.02, 0.04])


# UAM


def test_uam_mirrors_projects_or_leaves_the_step():
    g, axis = noise(2, 30)
    along = axis / axis.norm()
    for gamma in (0.0, 1.0, 2.0):
        assert torch.allclose(along @ uam.mirrored(g, axis, gamma), (1 - gamma) * along @ g, atol=1e-12)
    assert uam.mirrored(g, axis, 2.0).norm() == pytest.approx(float(g.norm()))
    assert torch.equal(uam.mirrored(g, 0 * axis, 2.0), g)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_step_of_uam(gamma):
    model, parts, rho, lr = linear(), split(n=40, forget=20), 1e-4, 0.1
    options = {"batch_size": 20, "lr": lr, "rho": rho, "gamma": gamma}
    after = ul.unlearn("uam", model, parts, **options, **PLAIN).model
    start, up = weights(model), gradient(model, parts.forget)
    raised = linear()
    nn.utils.vector_to_parameters(start + rho * up / (up @ up), raised.parameters())
    loss = [F.cross_entropy(m(parts.forget.pixels(dtype=torch.float64)), parts.forget.labels) for m in (model, raised)]
    assert (loss[1] - loss[0]).item() == pytest.approx(rho, rel=1e-3)
    g = gradient(raised, parts.retain)
    expected = start - lr * (g - gamma * (g @ up) / (up @ up) * up)
    assert torch.allclose(weights(after), expected, atol=1e-12)


def test_uam_without_forgetting_is_finetuning():
    model, parts = linear(), split()
    settings = {"seed": 0, "epochs": 2, "batch_size": 16, "lr": 0.05}
    plain = ul.unlearn("finetune", model, parts, **settings).model
    after = ul.unlearn("uam", model, parts, rho=0.0, gamma=0.0, **settings).model
    assert torch.allclose(weights(after), weights(plain), atol=1e-12)


# MUNBa


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-4, 3.0), (50.0, 1e-3)])
def test_a_bargain_solves_its_equation(sizes):
    first, second = noise(2, 30) * torch.tensor(sizes, dtype=torch.float64)[:, None]
    g = munba.bargain(first, second)
    shares = [1 / (v @ g) for v in (first, second)]  # a_i = 1 / (g_i . g)
    assert min(shares) > 0 and torch.allclose(g, shares[0] * first + shares[1] * second, atol=1e-12)
    assert float(g @ g) == pytest.approx(2)
    assert torch.allclose(munba.bargain(first, 10 * second), g, atol=1e-12)
    others = noise(200, 30)
    others = others / others.norm(dim=1, keepdim=True) * math.sqrt(2)  # none in the ball is better
    gains = (others @ torch.stack([first, second]).T).clamp_min(1e-300).log().sum(1)
    assert (gains < float((first @ g).log() + (second @ g).log())).all()


def test_a_bargain_of_small_gradients_which_the_released_formula_misses():
    first = torch.tensor([0.01, 0.0])
    second = 0.5 * torch.tensor([-0.1, math.sqrt(0.99)])
    g1, g2, g3 = first @ first, first @ second, second @ second
    a = torch.sqrt((g1 * g3 - g2 * torch.sqrt(g1 * g3)) / (g1 * g1 * g3 - g1 * g2 * g2 + 1e-8))
    assert (1 - g1 * a * a) / (g2 * a + 1e-8) < 0  # its weight of forgetting
    g = munba.bargain(first, second)
    assert first @ g > 0 and second @ g > 0


def test_where_there_is_no_bargain():
    g = noise(30)
    assert munba.bargain(g, -3 * g) is None and munba.bargain(g, 0 * g) is None and munba.bargain(0 * g, g) is None
    assert torch.allclose(munba.bargain(g, 2 * g), math.sqrt(2) * g / g.norm())


def test_a_step_of_munba_is_the_unit_bisector_and_reads_no_forget_label():
    model, parts = linear(), split(n=40, forget=20)
    options = {"batch_size": 20, "lr": 0.1, **PLAIN}
    after = weights(ul.unlearn("munba", model, parts, **options).model)
    step = (weights(model) - after) / 0.1
    seen = parts.forget[torch.randperm(20, generator=seeding.generator(0, "forget"))]
    drawn = torch.randint(0, 3, (20,), generator=seeding.generator(0, "labels"))
    both = [gradient(model, parts.retain), gradient(model, dataclasses.replace(seen, labels=drawn))]
    bisector = sum(g / g.norm() for g in both)
    assert torch.allclose(step, bisector / bisector.norm(), atol=1e-5)  # clipping adds 1e-6 to the length
    labels = parts.train.labels.clone()
    labels[parts.forget_index] = labels[parts.forget_index].roll(1)
    shuffled = dataclasses.replace(parts, train=dataclasses.replace(parts.train, labels=labels))
    assert torch.equal(weights(ul.unlearn("munba", model, shuffled, **options).model), after)


# MU-Mis


def test_a_step_of_mu_mis_on_a_linear_network():
    model, parts = linear(), split(n=40, forget=1)
    after = ul.unlearn("mu_mis", model, parts, lr=0.1, **PLAIN).model
    ratio = after[1].weight / model[1].weight
    own = int(parts.forget.labels)
    grown = [c for c in range(3) if torch.allclose(ratio[c], torch.full((64,), 1.2, dtype=torch.float64))]
    assert torch.allclose(ratio[own], torch.full((64,), 0.8, dtype=torch.float64))
    assert len(grown) == 1 and grown[0] != own
    assert torch.equal(ratio[3 - own - grown[0]], torch.ones(64, dtype=torch.float64))
    assert torch.equal(after[1].bias, model[1].bias)


def test_sensitivities_are_of_each_logit_and_each_picture():
    net, pixels = normed(), examples(6).pixels(dtype=torch.float64)
    own, others = torch.arange(6) % 3, (torch.arange(6) + 1) % 3
    with torch.no_grad():
        net[-1].bias += 3.0
    found = mu_mis.sensitivities(net, pixels, own, others)
    for i in range(6):  # in eval mode a batch is its pictures one by one
        rows = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], pixels[i]).detach().flatten(1)
        for values, classes in zip(found, (own, others), strict=True):
            assert values[i].item() == pytest.approx(float(rows[classes[i]].square().sum()))


def test_mu_mis_ends_where_the_other_classes_have_recovered():
    parts, settings = split(n=60, forget=20), {"epochs": 20, "batch_size": 20}
    model = training.fit(normed(), parts.train, Recipe(epochs=5, batch_size=16), progress=False)

    def work(recovery, lr):
        return ul.unlearn("mu_mis", model, parts, recovery=recovery, lr=lr, seed=0, **settings).cost.work

    whole = registry.work("mu_mis", 20, 40, **settings)
    assert work(0.0, 0.01) < work(0.2, 0.01) < work(0.5, 0.01) < whole == work(1e9, 1e-3)


@pytest.mark.parametrize(
    "name, options",
    [
        ("amun", {"radius": 0.0}),
        ("amun", {"attack_steps": 0}),
        ("amun", {"doublings": -1}),
        ("lotus", {"retain_fraction": 1.1}),
        ("negmerge", {"descents": 0}),
        ("negmerge", {"spread": 0.0}),
        ("uam", {"rho": -1.0}),
        ("uam", {"forget_batch_size": 0}),
        ("munba", {"clip": 0.0}),
        ("mu_mis", {"recovery": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{name} needs .*{next(iter(options))}"):
        registry.configure(name, **options)
