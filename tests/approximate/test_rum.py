"""RUM: what each of its algorithms is asked, in which order, and what is left of it with one part, or nothing to do."""

import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import rum
from unlearnlib.methods import registry
from unlearnlib.store import addresses
from unlearnlib.training import models
from unlearnlib.training.loop import fit
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe

SHORT = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def trained():
    parts = split(n=80, forget=11)
    parts = dataclasses.replace(parts, index=torch.arange(80) + 5)
    return fit(models.build("resnet_bn", dataset(), width=4), parts.train, Recipe(epochs=2, batch_size=16)), parts


@dataclasses.dataclass(frozen=True)
class Plain:
    mark: int = 0
    lr: float = 2.0


@pytest.fixture
def asked(monkeypatch):
    """The method `recorder`: it notes what it is asked and adds its mark to the bias of the head, after halving it."""
    requests = []

    def recorder(model, parts, config, run):
        requests.append((config, parts, run))
        run.tally.count("gradient", len(parts.retain_index))
        with torch.no_grad():
            list(model.parameters())[-1].mul_(0.5).add_(config.mark)
        return model

    made = registry.Method("recorder", "toy", "retain, forget", "none", "none", recorder, Plain, cost="gradient * R")
    monkeypatch.setitem(registry._registered, "recorder", made)
    return requests


def identities(examples):
    return {tuple(x.tolist()) for x in examples.images.flatten(1)}


@pytest.mark.parametrize("name", ["finetune", "salun", "scrub", "ssd"])
def test_one_part_is_the_algorithm_bit_for_bit(name, trained):
    model, parts = trained
    options = SHORT if name != "ssd" else {}
    alone = ul.unlearn(name, model, parts, seed=3, **options)
    wrapped = ul.unlearn("rum", model, parts, seed=3, algorithms=((name, options),))
    assert same(state(alone.model), state(wrapped.model)) and not same(state(model), state(alone.model))
    assert wrapped.cost.work == alone.cost.work + len(parts.forget_index)


def test_with_nothing_to_do_it_is_the_original(trained):
    model, parts = trained
    done = ul.unlearn("rum", model, parts, seed=0, algorithms=("nothing", "nothing"))
    assert same(state(done.model), state(model)) and done.cost.gradient_evaluations == 0


def test_parts_are_the_forget_set_from_the_least_memorised_on_and_later_ones_are_retained(trained, asked):
    model, parts = trained
    scores = torch.randn(80, generator=torch.Generator().manual_seed(1))
    done = ul.unlearn("rum", model, parts, seed=0, algorithms=("recorder",) * 3, scores=scores)
    forgotten = [p.forget for _, p, _ in asked]
    assert [len(f) for f in forgotten] == rum.shares(11, 3) == [3, 4, 4]
    position = {tuple(x.tolist()): k for k, x in enumerate(parts.train.images.flatten(1))}
    found = [[scores[position[i]] for i in identities(f)] for f in forgotten]
    assert max(found[0]) < min(found[1]) and max(found[1]) < min(found[2])
    assert set().union(*map(identities, forgotten)) == identities(parts.forget)
    retained = [identities(p.retain) for _, p, _ in asked]
    assert retained[2] == identities(parts.retain)
    assert retained[1] == retained[2] | identities(forgotten[2])
    assert retained[0] == retained[1] | identities(forgotten[1])
    assert all(p.test is None and len(p.index) == len(p.train) for _, p, _ in asked)
    at = asked[1][1].index - 5  # where the second request's examples stand in the data set
    assert torch.equal(parts.train.images[at], asked[1][1].train.images)
    assert [run.seed for _, _, run in asked] == [0, 1, 2]
    assert done.cost.gradient_evaluations == sum(len(p.retain_index) for _, p, _ in asked)
    sizes = {"weights": 1, "algorithms": ("recorder",) * 3}
    assert registry.work("rum", 11, 69, **sizes) == done.cost.work + 11  # no confidence was asked for


def test_the_order_of_the_algorithms_matters(trained, asked):
    model, parts = trained
    both = [("recorder", {"mark": 1}), ("recorder", {"mark": 3})]
    bias = list(model.parameters())[-1]
    for order in (both, both[::-1]):
        first, second = (options["mark"] for _, options in order)
        done = ul.unlearn("rum", model, parts, seed=0, algorithms=order)
        assert torch.allclose(list(done.model.parameters())[-1], bias / 4 + first / 2 + second)


def test_without_scores_the_surest_answers_come_first(trained, asked):
    model, parts = trained
    ul.unlearn("rum", model, parts, seed=0, algorithms=("recorder", "recorder"))
    loss = [F.cross_entropy(predict(model, p.forget).double(), p.forget.labels, reduction="none") for _, p, _ in asked]
    assert loss[0].max() < loss[1].min()


def test_ties_do_not_fall_in_the_order_of_the_file():
    parts = split(n=80, forget=20)
    halves = [
        {tuple(rum.parts_of(parts, torch.zeros(20), 2, torch.Generator().manual_seed(s))[0].tolist())} for s in (0, 1)
    ]
    assert halves[0] != halves[1] and halves[0] != {tuple(parts.forget_index[:10].tolist())}


def test_a_single_example_falls_to_the_last_algorithm(trained, asked):
    parts = split(n=40, forget=1)
    ul.unlearn("rum", trained[0], parts, seed=0, algorithms=(("recorder", {"mark": 1}), ("recorder", {"mark": 2})))
    assert [config.mark for config, _, _ in asked] == [2]


def test_what_is_shared_reaches_the_algorithms_unless_they_say_otherwise():
    algorithms = ["nothing", "ssd", ["finetune", {"augment": "none"}], "salun"]
    made = registry.configure("rum", algorithms=algorithms, augment="flip", freeze_norms=True, rate=0.5)
    nothing, ssd, finetune, salun = (a.config for a in made.algorithms)
    assert nothing is None and ssd.freeze_norms and finetune.augment == "none" and salun.augment == "flip"
    assert salun.lr == 0.5 * registry.configure("salun").lr
    again = dataclasses.replace(made, rate=2.0).algorithms[3].config
    assert again.lr == 2 * registry.configure("salun").lr
    assert pickle.loads(pickle.dumps(made)) == made
    assert "unlearnlib.approximate.salun" in addresses.homes(made)  # so that its code is part of a result's address
    assert repr(registry.configure("rum").algorithms) == "('nothing', 'finetune', 'salun')"


def test_frozen_norms_stay(trained):
    model, parts = trained
    algorithms = ("nothing", ("finetune", SHORT), ("salun", SHORT))
    found = state(ul.unlearn("rum", model, parts, seed=0, algorithms=algorithms, freeze_norms=True).model)
    assert all(torch.equal(found[k], v) for k, v in state(model).items() if "running" in k)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithms": ()}, "rum takes algorithms such as"),
        ({"algorithms": "salun"}, "rum takes algorithms such as"),
        ({"algorithms": (3,)}, "rum takes algorithms such as"),
        ({"algorithms": (("nothing", {"lr": 1.0}),)}, "rum takes algorithms such as"),
        ({"algorithms": ("salum",)}, "did you mean 'salun'"),
        ({"algorithms": (("salun", {"rate": 1.0}),)}, "salun has no hyper-parameter 'rate'"),
        ({"rate": -1.0}, "rate >= 0"),
        ({"scores": torch.zeros(3)}, r"a tensor \[40\]"),
        ({"scores": torch.full((40,), torch.nan)}, "finite"),
    ],
)
def test_what_makes_no_sense_is_one_line(wrong, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match=message) as error:
        ul.unlearn("rum", model, split(n=40, forget=6), seed=0, **wrong)
    assert "\n" not in str(error.value)
