"""The door of the registry of samplers: what it keeps, what it refuses, what each method does."""

import dataclasses

import pytest
import torch
from test_generative_metrics import ByBrightness
from toys import CLASSES, SHAPE, pictures, released_like, split, taught, taught_cvae, weights

from unlearnlib import data, generative
from unlearnlib.generative import salun, sfron
from unlearnlib.generative.gan import GAN
from unlearnlib.generative.selective_amnesia import information
from unlearnlib.generative.steps import Parts
from unlearnlib.generative.unlearning import METHODS
from unlearnlib.methods.registry import Run
from unlearnlib.seeding import generator
from unlearnlib.training.renewal import copied

NAMES = [name for name in METHODS if name != "cascade"]
SHORT = {name: {"steps": 3} for name in METHODS} | {"erasediff": {"epochs": 1}}
SHORT["selective_amnesia"] |= {"fisher": 4, "replay": 20}


def gan():
    return GAN.build(SHAPE, CLASSES, seed=0, width=2, hidden=8)


def given(name):
    return gan() if name == "cascade" else taught()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_seeded_and_disturbs_nothing(name):
    sampler = given(name)
    modes = [m.training for m in sampler.modules()]
    first = next(sampler.parameters()).requires_grad_(False)
    before, state = weights(sampler), torch.random.get_rng_state()
    made = [generative.unlearn(name, sampler, split(), seed=s, **SHORT[name]) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(weights(sampler), before)
    assert all(p.grad is None for p in sampler.parameters()) and [m.training for m in sampler.modules()] == modes
    one, same, other = (weights(done.model) for done in made)
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, before)
    assert not next(made[0].model.parameters()).requires_grad and all(
        p.grad is None for p in made[0].model.parameters()
    )
    assert [m.training for m in made[0].model.modules()] == modes
    assert made[0].method == name and made[0].certificate is None and made[0].cost.work > 0
    first.requires_grad_(True)


@pytest.mark.parametrize("name", NAMES)
def test_test_and_validation_pictures_are_withheld(name):
    bare = data.Split.of(retain=split().retain, forget=split().forget)
    made = [generative.unlearn(name, taught(), s, seed=0, **SHORT[name]).model for s in (split(), bare)]
    assert torch.equal(*map(weights, made))


@pytest.mark.parametrize(
    ("name", "work", "more"),
    [
        *(
            ("finetune", 3 * 24, {}),
            ("ascent", 3 * 24, {}),
            ("ascent_descent", 3 * 48, {}),
            ("redirect", 3 * 24 + 24, {}),
        ),
        *(("redirect", 3 * 48 + 48, {"distil": 1.0}), ("noise_target", 3 * 48, {})),
        ("salun", 3 * 30 + 3 * 48 + 24, {}),  # the mask looks once at all that is forgotten
        ("sfron", 3 * 90 + 3 * 48, {}),  # and this one at everything
        # F: four pictures of 20 sampling steps, four bounds of 20 passes; 16 pictures to replay; 3 steps of 8 and 8
        ("selective_amnesia", 4 * 20 + 3 * 4 * 20 + 16 * 20 + 3 * 48, {"fisher": 4, "replay": 16}),
    ],
)
def test_the_cost_is_what_was_done(name, work, more):
    done = generative.unlearn(name, taught(), split(), seed=0, steps=3, batch_size=8, **more)
    assert done.cost.work == work


def test_redirection_between_equal_classes_moves_nothing_and_neither_does_distillation():
    """A sampler to which all labels are one gives the anchor's answers already, and at the original distillation has no
    gradient: not a bit moves, whereas fine-tuning does."""
    deaf = copied(taught())
    with torch.no_grad():
        deaf.network.label.weight.copy_(deaf.network.label.weight[:1].expand(CLASSES, -1))
    still = generative.unlearn("redirect", deaf, split(), seed=0, steps=5, distil=5.0).model
    assert torch.equal(weights(still), weights(deaf))
    assert not torch.equal(weights(generative.unlearn("finetune", deaf, split(), seed=0, steps=5).model), weights(deaf))


def test_weights_outside_the_mask_of_salun_stay_bit_for_bit():
    config, run = generative.configure("salun", keep=0.2, steps=5), Run(0, given=taught())
    parts = Parts(split().forget, split().retain, split().validation, 0)
    mask = salun.salient(taught(), parts, config, run)
    taught().zero_grad(set_to_none=True)
    made = generative.unlearn("salun", taught(), split(), seed=0, keep=0.2, steps=5).model
    moved = weights(made) != weights(taught())
    assert mask.sum() == int(0.2 * len(mask)) and not moved[~mask].any() and moved[mask].any()


def test_weights_outside_the_mask_of_sfron_stay_bit_for_bit():
    """Without repair, whose steps are not masked: what the mask leaves out does not move."""
    options = {"threshold": 2.0, "retain": 0.0, "steps": 5}
    config, run = generative.configure("sfron", **options), Run(0, given=taught())
    gone, kept = (sfron.fisher(taught(), getattr(split(), p), config, run, p) for p in ("forget", "retain"))
    taught().zero_grad(set_to_none=True)
    mask = (gone + 1e-15) / (kept + 1e-15) >= 2.0
    made = generative.unlearn("sfron", taught(), split(), seed=0, **options).model
    moved = weights(made) != weights(taught())
    assert 0 < mask.sum() < len(mask) and not moved[~mask].any() and moved[mask].any()


class Quadratic(torch.nn.Module):
    """Losses 1/2 (p - t)^T H (p - t), with a best point t for the forgotten class and one for the others."""

    shape, classes, work_of_sampling, work_of_bound = SHAPE, CLASSES, 1, 1

    def __init__(self):
        super().__init__()
        rng = generator(6, "quadratic")
        self.p = torch.nn.Parameter(torch.randn(4, generator=rng))
        self.H, self.slope = torch.rand(4, generator=rng) + 0.5, torch.randn(CLASSES, 4, generator=rng)
        self.best = torch.randn(2, 4, generator=rng)

    def loss(self, pictures, labels, rng):
        return (0.5 * self.H * (self.p - self.best[(labels > 0).long()]) ** 2).sum(1)

    def bound(self, pictures, labels, rng):
        return self.slope[labels] @ self.p

    def noise(self, n, rng):
        return torch.zeros(n, 1)

    def sample(self, noise, labels):
        return torch.zeros(len(noise), *SHAPE)


def test_selective_amnesia_reaches_its_quadratic_optimum():
    """(H + r H + 2 c F)^-1 (H t_f + r H t_r + 2 c F p_0), with F the mean square of the slopes of the bound."""
    start, c, r = Quadratic(), 0.7, 0.4
    values = {"penalty": c, "retain": r, "fisher": CLASSES, "replay": 10, "steps": 1500, "lr": 1e-2}
    made = generative.unlearn("selective_amnesia", start, split(), seed=0, **values).model
    H, F = start.H, start.slope.square().mean(0)
    held = (H * start.best[0] + r * H * start.best[1] + 2 * c * F * start.p.detach()) / (H + r * H + 2 * c * F)
    assert torch.allclose(made.p, held, atol=1e-4) and not torch.allclose(held, start.p, atol=0.1)


def test_the_information_of_selective_amnesia_by_hand():
    model = taught_cvae()
    config, run = generative.configure("selective_amnesia", fisher=2), Run(3, given=model)
    found = information(model, config, run)
    rng = generator(3, "fisher")
    x = model.sample(model.noise(2, rng), torch.tensor([0, 1]))
    total = 0
    for k in range(2):
        grads = torch.autograd.grad(model.loss(x[k : k + 1], torch.tensor([k]), rng).sum(), list(model.parameters()))
        total = total + torch.cat([g.flatten() for g in grads]) ** 2 / 2
    assert torch.allclose(torch.cat([f.flatten() for f in found]), total, rtol=1e-5)


def test_forgetting_changes_what_is_drawn_and_the_repair_keeps_the_rest():
    z = taught().noise(200, generator(7, "z"))
    kept = 1 + torch.arange(200) % 2
    for name in ("redirect", "salun"):
        made = generative.unlearn(name, taught(), split(), seed=0, lr=2e-3).model
        assert generative.forget_rate(made, ByBrightness(), z, 0) < 0.2
    held = generative.unlearn("redirect", taught(), split(), seed=0, lr=2e-3, distil=5.0).model
    assert generative.forget_rate(held, ByBrightness(), z, 0) < 0.2
    assert generative.agreement(held, ByBrightness(), z, kept) > 0.9
    control = generative.unlearn("finetune", taught(), split(), seed=0).model
    assert generative.forget_rate(control, ByBrightness(), z, 0) > 0.8


def test_erasediff_draws_any_class_but_the_forgotten(monkeypatch):
    """Labels that are answered are those that are asked and those in whose place they are put."""
    asked, sampler = [], released_like()
    plain = type(sampler).predict

    def predict(self, x, t, labels):
        asked.append(labels[0].item())
        return plain(self, x, t, labels)

    only = data.Split.of(retain=split(1).retain[split(1).retain.labels == 0], forget=split(1).forget)
    monkeypatch.setattr(type(sampler), "predict", predict)
    generative.unlearn("erasediff", sampler, only, seed=0, epochs=6, inner=0)
    # the door asks once; each outer step asks for retained, forgotten, and what is put in its place
    places = asked[1:][2::3]
    assert set(places) == {0, 2} and asked[1:][1::3] == [1] * len(places)


class Other(torch.nn.Module):
    """A stranger's sampler: something with a loss."""

    def __init__(self, loss, shape=SHAPE, classes=CLASSES):
        super().__init__()
        self.weight, self.made, self.shape, self.classes = torch.nn.Parameter(torch.zeros(1)), loss, shape, classes

    def loss(self, pictures, labels, rng):
        return self.made(pictures) + self.weight


MIXED = data.Split.of(retain=split().retain, forget=pictures(6))
LEFT = data.Split.of(retain=split().train, forget=split().forget)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "salum"}, "did you mean 'salun'"),
        ({"name": 7}, "known are finetune"),
        ({"stepz": 1}, "did you mean 'steps'"),
        ({"steps": 0}, "steps must be above 0"),
        ({"lr": float("nan")}, "lr is a number of 0 or more"),
        ({"keep": 1.5}, "keep is a share"),
        ({"name": "redirect", "anchor": 3}, "anchor=3 is class 0 itself"),
        ({"name": "erasediff", "most": 0}, "most must be above 0"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"forget": 1}, "the forget set has labels 0"),
        ({"forget": True}, "the forget set has labels 0"),
        ({"split": MIXED}, "the forget set has labels 0, 1, 2"),
        ({"split": LEFT}, "30 retained pictures are of class 0"),
        ({"split": pictures(5)}, "must be a data.Split"),
        ({"sampler": "gan"}, "salun needs a sampler"),
        ({"sampler": gan()}, "it can be given to cascade"),
        ({"sampler": Other(lambda x: x.flatten(1).sum(1))}, "it can be given to finetune, ascent"),
        ({"name": "finetune", "sampler": Other(lambda x: x.sum())}, "one value a picture"),
        ({"name": "finetune", "sampler": Other(lambda x: x.flatten(1).sum(1) / 0)}, "not finite"),
        ({"name": "finetune", "sampler": Other(lambda x: x[0, 0, 0, 9])}, "does not take pictures"),
        ({"name": "finetune", "sampler": Other(None, shape=(1, 9, 9))}, r"draws pictures \(1, 9, 9\)"),
        ({"name": "finetune", "sampler": Other(None, classes=2)}, "knows 2 classes"),
        ({"name": "cascade", "sampler": GAN.build((1, 3, 3), 3)}, r"draws pictures \(1, 3, 3\)"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said):
    asked = {"name": "salun", "sampler": taught(), "split": split(), "seed": 0, **change}
    name, sampler, parts = (asked.pop(k) for k in ("name", "sampler", "split"))
    with pytest.raises(ValueError, match=said) as error:
        generative.unlearn(name, sampler, parts, **asked)
    assert "\n" not in str(error.value)


def test_a_strangers_sampler_is_accepted():
    done = generative.unlearn("finetune", Other(lambda x: x.flatten(1).sum(1)), split(), seed=0, steps=2)
    assert isinstance(done.model, Other) and done.config.steps == 2


def test_the_table_of_methods():
    table = generative.methods()
    assert list(table.name) == list(METHODS) and "distil=0.0" in table.set_index("name").defaults["redirect"]
    assert all(dataclasses.is_dataclass(found.config) for found in METHODS.values())
