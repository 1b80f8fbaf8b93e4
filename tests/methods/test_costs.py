"""Cost: what a method declares is what a run counts and what it computes, on small, uneven and large sets."""

from dataclasses import dataclass

import pytest
from small import BY_CLASS, CONVOLVES, dataset, ingredients, split
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import unlearnlib as ul
from unlearnlib.approximate.amnesiac import fit_recording
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.methods.records import Cost
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import UNITS, Tally, multiplications

SIZES = ((10, 90), (33, 64), (150, 60))
OPTIONS = {
    "retrain": {"recipe": Recipe(epochs=2, batch_size=16)},
    "bad_teacher": {"retain_fraction": 0.3},
    "unsir": {"retain_fraction": 0.5, "noise_images": 20, "noise_steps": 3},
    "scrub": {"forget_epochs": 1, "forget_batch_size": 24},
    "scrub_r": {"forget_epochs": 1, "forget_batch_size": 24},
    "jit": {"samples": 3},
    "dlfd": {"noise_steps": 2},
    "dlfd_as_released": {"noise_steps": 2},
    "pbrf": {"steps": 5},
    "influence": {"iterations": 5},
    "newton": {"iterations": 5},
    "noise": {"steps": 5, "pictures": 40},
    "inversion": {"steps": 5, "pictures": 8, "inversion_steps": 3},
    "recall": {"rounds": 3, "inversion_steps": 4},
    "gkt": {"rounds": 3, "threshold": 0.35, "width": 20},  # a generator about as large as the network
}
ONE_CLASS = ("boundary_shrink", "boundary_expand", "unsir", *BY_CLASS)
LAST_LAYERS = {"cf_k", "eu_k"}  # a backward pass that ends at frozen layers counts as a whole one


def options(name: str) -> dict:
    found = dict(OPTIONS.get(name, {}))
    if {"epochs", "batch_size"} <= set(vars(registry.configure(name))) and name != "unrolled_sgd":
        found |= {"epochs": 2, "batch_size": 16}
    return found


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions, forward and backward."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


def sized(name: str, forget: int, retain: int, hidden: tuple[int, ...]):
    """A dense network, a split of these sizes that suits the method, and its options."""
    parts, given = split(n=forget + retain, forget=forget), options(name)
    if name in ONE_CLASS:  # one whole class of two
        parts.train.labels[parts.is_forget], parts.train.labels[~parts.is_forget] = 0, 1
    model = models.build("mlp", dataset(), hidden=hidden) if name not in CONVOLVES else models.build("cnn", dataset())
    if name == "amnesiac":
        model, given["record"] = fit_recording(model, parts.train, Recipe(epochs=1))
    given |= ingredients(name, parts)
    return model, parts, given


def declared_and_counted(name: str, forget: int, retain: int) -> tuple[float, float]:
    model, parts, given = sized(name, forget, retain, hidden=(4,))
    counted = ul.unlearn(name, model, parts, seed=0, **given).cost.work
    weights, passed = sum(p.numel() for p in model.parameters()), multiplications(model, parts.train)
    sizes = {"validation": len(parts.validation), "classes": 3, "weights": weights, "multiplications": passed}
    return registry.work(name, forget, retain, **sizes, **given), counted


def holds(name: str) -> bool:
    bound = registry.find(name).cost.startswith("at most ")
    pairs = [declared_and_counted(name, *sizes) for sizes in SIZES]
    return all(0 < counted <= declared if bound else counted == pytest.approx(declared) for declared, counted in pairs)


@pytest.mark.parametrize("name", HOMES)
def test_what_is_declared_is_what_is_counted(name):
    assert holds(name)


@pytest.mark.parametrize("name", HOMES)
def test_what_is_counted_is_what_is_computed(name):
    """In a dense network, where a backward pass costs 1.45 forward passes: the first layer passes nothing on."""
    for sizes in SIZES:
        model, parts, given = sized(name, *sizes, hidden=(24, 24, 24))
        with Operations() as computed:
            counted = ul.unlearn(name, model, parts, seed=0, **given).cost.work
        one = 2 * multiplications(model, parts.train)
        assert (0.4 if name in LAST_LAYERS else 0.55) < computed.total / one / counted < 1.3


@pytest.mark.parametrize("kind", ["defaults", "published"])
@pytest.mark.parametrize("name", [n for n in HOMES if n not in BY_CLASS])  # which are loops of their own
def test_programs_say_how_many_steps_they_take(name, kind):
    """Schedules go by it, and nothing else notices."""
    model, parts, given = sized(name, 33, 64, hidden=(4,))
    found = registry.find(name)
    if kind == "published":
        given |= {**found.published, **{k: v for k, v in given.items() if k in ("epochs", "k")}}
    program = found.function(model, parts, registry.configure(name, **given), registry.Run(0))
    if isinstance(program, registry.Program):
        steps = program.steps if isinstance(program.steps, int) else program.steps[-1]
        assert steps == sum(1 for _ in program.batches) > 0


def test_work_is_one_unit():
    tally = Tally(10, 4)
    tally.count("hvp", 3)
    tally.count("forward", 1)
    assert tally == Tally(10, 5, {"hvp": 3}) and tally.work == 30 + 5 + 3 * UNITS["hvp"]
    assert Cost.of(tally, 2.0).work == tally.work and (Cost.of(tally) + Cost.of(tally)).work == 2 * tally.work
    half = Tally()
    half.add(Tally(10, 4, {"ggn": 6}), share=2)
    assert half == Tally(5, 2, {"ggn": 3})
    with pytest.raises(ValueError, match="unknown kind of work 'hessian'"):
        tally.count("hessian", 1)
    assert UNITS["ggn"] == UNITS["jvp"] + UNITS["vjp"]


@dataclass(frozen=True)
class _Config:
    epochs: int = 2
    batch_size: int = 16
    keep_last: bool = False
    samples: int | None = None


@pytest.mark.parametrize(
    "formula, options, value",
    [
        ("gradient * epochs * seen(F, batch_size) + forward * R", {}, 3 * 2 * 32 + 64),
        ("gradient * epochs * seen(F, batch_size)", {"keep_last": True}, 3 * 2 * 33),
        ("steps(F, batch_size) + steps(F, batch_size, True) + seen(5, 16) + seen(0, 16)", {}, 2 + 3 + 5),
        ("at most hvp * (R if samples is None else min(R, samples))", {}, UNITS["hvp"] * 64),
        ("at most hvp * (R if samples is None else min(R, samples))", {"samples": 7}, UNITS["hvp"] * 7),
        ("example_gradient * F * C + V + P", {}, UNITS["example_gradient"] * 33 * 5 + 7 + 100),
    ],
)
def test_the_language_of_formulas(formula, options, value, monkeypatch):
    made = registry.Method("toy", "toy", "retain", "none", "none", lambda *_: None, _Config, cost=formula)
    monkeypatch.setitem(registry._registered, "toy", made)
    assert registry.work("toy", 33, 64, validation=7, classes=5, weights=100, **options) == value


@pytest.mark.parametrize("formula", ["", "epochs *", "passes * R", "open('x')", "R / 0", "samples * R"])
def test_formulas_that_do_not_compute_are_refused(formula, monkeypatch):
    made = registry.Method("toy", "toy", "retain", "none", "none", lambda *_: None, _Config, cost=formula)
    monkeypatch.setitem(registry._registered, "toy", made)
    with pytest.raises(ValueError, match="toy"):
        registry.work("toy", 1, 1)
