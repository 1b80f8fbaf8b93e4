"""Cost: what a method declares is what a run counts, on small, uneven and large sets; the language of formulas."""

from dataclasses import dataclass

import pytest
from small import dataset, ingredients, split

import unlearnlib as ul
from unlearnlib.approximate.amnesiac import fit_recording
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.methods.records import Cost
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.work import UNITS, Tally

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
}
# Counted in another unit than declared, until the parts of `dose` count gradients of single examples as such.
NOT_YET: set[str] = set()


def options(name: str) -> dict:
    found = dict(OPTIONS.get(name, {}))
    if {"epochs", "batch_size"} <= set(vars(registry.configure(name))) and name != "unrolled_sgd":
        found |= {"epochs": 2, "batch_size": 16}
    return found


def declared_and_counted(name: str, forget: int, retain: int) -> tuple[float, float]:
    parts, given = split(n=forget + retain, forget=forget), options(name)
    if name in ("boundary_shrink", "boundary_expand", "unsir"):  # one whole class of two
        parts.train.labels[parts.is_forget], parts.train.labels[~parts.is_forget] = 0, 1
    model = models.build("mlp", dataset(), hidden=(4,))
    if name == "amnesiac":
        model, given["record"] = fit_recording(model, parts.train, Recipe(epochs=1))
    given |= ingredients(name, parts)
    counted = ul.unlearn(name, model, parts, seed=0, **given).cost.work
    weights = sum(p.numel() for p in model.parameters())
    sizes = {"validation": len(parts.validation), "classes": 3, "weights": weights}
    return registry.work(name, forget, retain, **sizes, **given), counted


def holds(name: str) -> bool:
    bound = registry.find(name).cost.startswith("at most ")
    pairs = [declared_and_counted(name, *sizes) for sizes in SIZES]
    return all(0 < counted <= declared if bound else counted == pytest.approx(declared) for declared, counted in pairs)


@pytest.mark.parametrize("name", HOMES)
def test_what_is_declared_is_what_is_counted(name):
    assert holds(name) == (name not in NOT_YET)


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
        ("jacobian_row * F * C + V + P", {}, UNITS["jacobian_row"] * 33 * 5 + 7 + 100),
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
