"""One door to protection: `protect(name, examples, eps=, seed=)`, `methods()`.

A method finds delta with |delta| <= eps for pictures x that are about to be published, so that whoever trains on
x + delta learns little of the task that their labels name. Nobody's pictures are taken back by it, and nothing is
guaranteed: a network that ignores the noise learns as before, and so does one that is trained on other pictures.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from unlearnlib import _names, seeding
from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Cost
from unlearnlib.prevention import class_wise, controls, error_minimising, generator, robust
from unlearnlib.prevention.protected import Protected, Task, check_budget, check_pictures, published
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Method:
    """One entry: its configuration, what it is, its source in references.bib ("" without), and the function."""

    config: type
    idea: str
    paper: str
    function: Callable


METHODS = {
    "nothing": Method(controls.Nothing, "publish the pictures as they are: the control", "", controls.nothing),
    "random": Method(controls.Random, "signs drawn for each picture: the control", "", controls.random),
    "class_wise": Method(class_wise.ClassWise, "one drawn pattern a class", "yu2022", class_wise.class_wise),
    "error_minimising": Method(
        error_minimising.ErrorMinimising,
        "noise with which a network makes no errors",
        "huang2021",
        error_minimising.error_minimising,
    ),
    "robust": Method(robust.Robust, "the same against a network that trains adversarially", "fu2022", robust.robust),
    "generator": Method(
        generator.Generator,
        "a generator that is told the label: a reconstruction of an idea",
        "zhang2025segue",
        generator.generator,
    ),
}
BELOW_ONE = ("stop", "lr")
MAY_BE_ZERO = ("rounds", "learn", "descend", "ascend", "radius", "stop", "step")


def configure(name: str, **hyperparameters):
    """The hyper-parameters of a method. Raises ValueError naming the nearest method or hyper-parameter."""
    made = _names.configured(name, _names.entry(name, METHODS, "protection").config, hyperparameters)
    for field in dataclasses.fields(made):
        _check(field, getattr(made, field.name))
    return made


def _check(field: dataclasses.Field, value: object) -> None:
    """ValueError where a value is not of the kind of its default, or out of range."""
    name, default = field.name, field.default
    if name == "network":
        if not isinstance(value, (str, nn.Module)):
            raise ValueError(f"network is a name or a torch module, not {type(value).__name__}")
        return
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{name} is a word such as {default!r}, not {value!r:.60}")
        return
    whole = isinstance(default, int)
    kinds = int if whole else (int, float)
    least = "0 or more" if name in MAY_BE_ZERO else "above 0"
    fits = isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < float("inf")
    if not fits or (not value and name not in MAY_BE_ZERO) or (name in BELOW_ONE and value > 1):
        most = " and at most 1" if name in BELOW_ONE else ""
        raise ValueError(f"{name} is a {'whole number' if whole else 'number'} {least}{most}, not {value!r:.60}")
    if name == "blur" and value % 2 == 0:
        raise ValueError(f"blur must be odd, so that a square has a middle, not {value}")


def protect(name: str, examples: Examples, *, eps: float, seed: int, **hyperparameters) -> Protected:
    """Pictures to publish in place of `examples`.

    examples   uint8 pictures with the labels of the task that is not to be learnt from them, two classes or more; they
               are not changed
    eps        the budget: how far a pixel may move, as a share of its range (8/255 is eight grey levels). eps=0 gives
               the pictures back, bit for bit
    seed       of all draws

    Raises ValueError in one line on an unknown name or hyper-parameter, a budget below one grey level, pictures that
    are not uint8, and a network that is no classifier of such pictures.
    """
    config = configure(name, **hyperparameters)
    check_pictures(examples)
    eps = check_budget(eps)
    if len(examples.labels.unique()) < 2:
        raise ValueError("all pictures have one label: there is nothing to learn, and nothing to protect")
    started, tally = time.perf_counter(), Tally()
    task = Task(examples, eps, seed, tally)
    with seeding.isolated(seed, "prevention", name), torch.enable_grad():
        noise, more = METHODS[name].function(task, config)
    cost = Cost.of(tally, time.perf_counter() - started)
    return Protected(published(examples, noise, eps), noise, cost, name, config, eps, seed, more)


def further(made: Protected, examples: Examples) -> Protected:
    """Further pictures with the noise that `made` knows how to make; its cost is that of these pictures alone.

    Raises ValueError where the method has to start anew for other pictures (`error_minimising`, `robust`).
    """
    if made.more is None:
        raise ValueError(f"{made.method} makes noise for the pictures that it was given: protect all of them at once")
    check_pictures(examples)
    known = tuple(made.examples.shape)
    if tuple(examples.shape) != known:
        raise ValueError(f"these pictures are {tuple(examples.shape)}, the noise is made for {known}")
    started, tally = time.perf_counter(), Tally()
    noise = made.more(examples, tally)
    cost = Cost.of(tally, time.perf_counter() - started)
    return dataclasses.replace(made, examples=published(examples, noise, made.eps), noise=noise, cost=cost)


def methods() -> pd.DataFrame:
    """All methods: name, idea, paper, and the defaults of their hyper-parameters."""
    rows = []
    for name, found in METHODS.items():
        shown = ", ".join(f"{f.name}={getattr(found.config(), f.name)}" for f in dataclasses.fields(found.config))
        rows.append((name, found.idea, found.paper, shown))
    return pd.DataFrame(rows, columns=["name", "idea", "paper", "defaults"])
