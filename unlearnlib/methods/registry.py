"""One door to every unlearning method: `unlearn(name, model, split, seed=...)`, `unlearn_many(...)`, `methods()`.

A method is one function and one frozen dataclass of hyper-parameters in a file of its own, registered by `@method`.
The function gets a copy of the model that it may change in place, a split without test data, its configuration and
a `Run`. It returns the model, or a `Program`: a stream of weighted batches, which is run here - for one model, or
for many at once.
"""

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

from unlearnlib import _names, seeding
from unlearnlib.methods import common, costs
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.methods.records import Certificate, Cost
from unlearnlib.training.batches import Batch
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import Part, check_finite, descend, descend_many
from unlearnlib.training.modes import BatchNorm, norms_frozen
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import without_graphs, workable
from unlearnlib.training.stacking import Unstackable
from unlearnlib.training.work import Tally


@dataclass
class Run:
    """What a method is given beside model, split and configuration: its seed and the tally of its work.

    A method with a loop of its own trains inside `training_mode` and by `run.taught(recipe)`; programs need neither.
    """

    seed: int
    tally: Tally = field(default_factory=Tally)
    progress: bool = False
    freeze_norms: bool = False
    augment: str = "none"
    label_smoothing: float = 0.0
    given: nn.Module | None = None  # the model that was asked to forget: to compare with, never to change

    def generator(self, *labels: str | int) -> torch.Generator:
        return seeding.generator(self.seed, *labels)

    def taught(self, recipe: Recipe) -> Recipe:
        """`recipe` with the augmentation and label smoothing that were asked for."""
        wanted = {"augment": self.augment, "label_smoothing": self.label_smoothing}
        return dataclasses.replace(
            recipe, **{name: value for name, value in wanted.items() if value not in ("none", 0)}
        )


@dataclass(frozen=True)
class Program:
    """`steps` weighted batches of `split.train` on which `model` descends: what most gradient methods are."""

    model: nn.Module
    batches: Iterable[Batch]
    recipe: Recipe
    steps: int | Sequence[int]  # how many, or the number done at the end of each epoch
    parts: Sequence[Part] = ()  # penalties, projections, masks; a program with parts runs one model at a time
    finish: Callable[[nn.Module], nn.Module] | None = None  # what is done to the model after the last step


@dataclass(frozen=True)
class Method:
    """A registered method; the fields are what the method cards show."""

    name: str
    family: str  # "exact", "gradient", "distillation", "saliency", "curvature", "distribution", ...
    reads: str  # "retain", "forget", "retain, forget", or "none": such a method gets a split without pictures
    guarantee: str  # "exact" or "none"
    paper: str  # key in references.bib
    function: Callable
    config: type
    cost: str = ""  # work, a formula in the language of `costs`; or "at most ..."
    fails: str = ""  # when not to use it, in one or two sentences
    published: Mapping[str, object] = field(default_factory=dict)  # the authors' hyper-parameters; empty: none known
    origin: str = ""  # where these, or else the defaults, come from
    search: Mapping[str, tuple] = field(default_factory=dict)  # what `tuning` varies: name -> (low, high[, "log"])
    taught: bool | None = None  # whether it takes `augment` and `label_smoothing`; None: if `config` has a `recipe()`

    def __post_init__(self):
        if self.reads not in READS:
            raise ValueError(f"reads is one of {', '.join(map(repr, READS))}, not {self.reads!r}")
        taught = callable(getattr(self.config, "recipe", None)) if self.taught is None else self.taught
        object.__setattr__(self, "taught", taught)
        if not hasattr(self.config, "freeze_norms"):
            complete = common.with_common(self.config, taught, functools.partial(configure, self.name))
            object.__setattr__(self, "config", complete)
        if taught and self.published:  # authors' values are with the authors' own augmentation and labels
            plain = {f.name: f.default for f in dataclasses.fields(common.Taught) if f.name != "freeze_norms"}
            object.__setattr__(self, "published", {**plain, **self.published})

    @property
    def published_elsewhere(self) -> dict[str, object]:
        """The published values for data that are not the authors': all but `augment` and `label_smoothing`.

        These two belong to the authors' pictures. A shift by four pixels is a detail of 32 and a ruin of 8.
        """
        return {name: value for name, value in self.published.items() if name not in ("augment", "label_smoothing")}


@dataclass(frozen=True)
class Unlearned:
    """The result: a new model, what it cost, what is guaranteed, and what made it."""

    model: nn.Module
    cost: Cost
    certificate: Certificate | None
    method: str
    config: object
    seed: int


READS = ("retain", "forget", "retain, forget", "none")
_registered: dict[str, Method] = {}


def method(
    name: str,
    config: type,
    *,
    family: str,
    reads: str,
    guarantee: str = "none",
    paper: str,
    cost: str = "",
    fails: str = "",
    published: Mapping[str, object] | None = None,
    origin: str = "",
    search: Mapping[str, tuple] | None = None,
    taught: bool | None = None,
):
    """Register the decorated function under `name` with its dataclass of hyper-parameters; see `Method`.

    The dataclass gets the hyper-parameters of `common.Common` or `common.Taught`, which it need not repeat.
    """
    facts = {"cost": cost, "fails": fails, "published": published or {}, "origin": origin, "search": search or {}}

    def register(function: Callable) -> Callable:
        _registered[name] = Method(name, family, reads, guarantee, paper, function, config, **facts, taught=taught)
        return function

    return register


def find(name: str | Method) -> Method:
    """The method called `name`, or the one that is given. Raises ValueError naming the nearest one."""
    if isinstance(name, Method):
        return name
    if name not in _registered:
        if name not in HOMES:
            _names.entry(name, dict.fromkeys([*HOMES, *_registered]), "unlearning method")
        importlib.import_module(HOMES[name])
    return _registered[name]


def configure(name: str, **hyperparameters):
    """The method's hyper-parameters with the given ones changed. Raises ValueError naming the nearest valid one."""
    chosen = find(name)
    return _names.configured(chosen.name, chosen.config, hyperparameters)


def work(
    name: str,
    forget: int,
    retain: int,
    *,
    validation: int = 0,
    classes: int = 10,
    weights: int = 0,
    multiplications: float | None = None,
    **hyperparameters,
) -> float:
    """Work of a method on sets of these sizes, by the formula that it declares: exact, or an upper bound ("at most").

    The unit is that of `Cost.work`, a forward pass of one example. `classes`, `weights` (trainable) and
    `multiplications` (of one such pass, see `training.work`; None: a dense network's) count where the formula has them.
    Raises ValueError where no formula is declared.
    """
    sizes = {"F": forget, "R": retain, "V": validation, "C": classes, "P": weights}
    sizes["M"] = multiplications or max(weights, 1)
    return costs.evaluated(name, find(name).cost, configure(name, **hyperparameters), sizes)


evaluations = work  # its name when the unit was the gradient of one example


def unlearn(name: str, model: nn.Module, split, *, seed: int, progress: bool = False, **hyperparameters) -> Unlearned:
    """Make a model that should behave as if the forget set of `split` had not been trained on.

    model   trained on `split.train`; it is not changed
    split   a `data.Split`; its test part is withheld from the method
    seed    of all random draws of the method

    Every method also takes `freeze_norms=True`: batch norms then use their running statistics and leave them bit by
    bit. Without it, these move towards the pictures that the method trains on, and that alone can change answers much:
    for the worse where it trains on the forget set alone. Methods that teach by a recipe take `augment` and
    `label_smoothing`, which should be those of the original.

    The result has the precision, the trainable flags and the train/eval modes of `model`; what is below float32 is
    worked on in float32. Raises ValueError on an unknown name or hyper-parameter, on a model that is no classifier of
    such pictures and on an empty forget or retain set, and training.Diverged where the result, in the precision of
    `model`, is not finite.
    """
    config = configure(name, **hyperparameters)
    return _unlearn(find(name), model, split, config, seed, progress)


def _unlearn(chosen: Method, model, split, config, seed: int, progress: bool) -> Unlearned:
    run, started, parts = _run(config, seed, progress, model), time.perf_counter(), ()
    split = common.blinded(split) if chosen.reads == "none" else split
    with seeding.isolated(seed, "method"), norms_frozen(run.freeze_norms):  # dropout has no other generator
        made = _start(chosen, model, split, config, run)
        if isinstance(made, Program):
            stream = made.batches, made.recipe, made.steps
            settings = {"seed": seed, "tally": run.tally, "progress": progress, "parts": made.parts}
            trained, parts = descend(made.model, split.train, *stream, **settings), made.parts
            made = trained if made.finish is None else made.finish(trained)
    for part in parts:
        part.settle(model, made)
    return _finished(chosen, model, made, config, run, time.perf_counter() - started)


def unlearn_many(
    name: str, models: Sequence[nn.Module], splits: Sequence, *, seeds: Sequence[int], **hyperparameters
) -> list[Unlearned]:
    """`unlearn` for K models at once; the splits share one `train` and differ in what is to be forgotten.

    Result k equals `unlearn(name, models[k], splits[k], seed=seeds[k])` to rounding. Methods that are programs run
    stacked where their batches are alike and the architecture allows it; all others run one after another. The cost
    of a stacked run is shared equally among its models.
    """
    return run_many(find(name), models, splits, [configure(name, **hyperparameters)] * len(models), seeds)


def run_many(chosen: Method, models: Sequence[nn.Module], splits: Sequence, configs: Sequence, seeds: Sequence[int]):
    """`unlearn_many` where each model has a configuration of its own; they share what is in `common` and the recipe."""
    if not len(models) == len(splits) == len(configs) == len(seeds) >= 1:
        raise ValueError("unlearn_many needs equally many models, splits and seeds, and at least one")
    if any(s.train is not splits[0].train for s in splits):
        raise ValueError("the splits of unlearn_many must share one train: make them with dataclasses.replace")

    def one_by_one() -> list[Unlearned]:
        each = zip(models, splits, configs, seeds, strict=True)
        return [_unlearn(chosen, m, s, config, seed, False) for m, s, config, seed in each]

    if chosen.reads == "none":
        return one_by_one()
    started, made = time.perf_counter(), []
    runs = [_run(c, seed, given=model) for c, model, seed in zip(configs, models, seeds, strict=True)]
    for model, split, config, run in zip(models, splits, configs, runs, strict=True):
        with seeding.isolated(run.seed, "method"), norms_frozen(run.freeze_norms):
            made.append(_start(chosen, model, split, config, run))
        if not (isinstance(made[-1], Program) and made[-1].steps == made[0].steps and not made[-1].parts):
            return one_by_one()
    tally, starts, streams = Tally(), [p.model for p in made], [p.batches for p in made]
    try:
        with norms_frozen(configs[0].freeze_norms):
            results = descend_many(
                starts, splits[0].train, streams, made[0].recipe, made[0].steps, seeds=seeds, tally=tally
            )
    except Unstackable:
        return one_by_one()
    results = [r if p.finish is None else p.finish(r) for p, r in zip(made, results, strict=True)]
    for run in runs:
        run.tally.add(tally, share=len(runs))
    seconds = (time.perf_counter() - started) / len(runs)
    return [
        _finished(chosen, model, result, config, run, seconds)
        for model, result, config, run in zip(models, results, configs, runs, strict=True)
    ]


def _run(config, seed: int, progress: bool = False, given: nn.Module | None = None) -> Run:
    taught = {name: getattr(config, name) for name in ("augment", "label_smoothing") if hasattr(config, name)}
    return Run(seed, progress=progress, freeze_norms=config.freeze_norms, given=given, **taught)


def _start(chosen: Method, model, split, config, run: Run):
    if not len(split.forget_index):
        raise ValueError("the forget set is empty: nothing to unlearn")
    if not len(split.retain_index):
        raise ValueError("the retain set is empty: discard the model instead")
    check_model(model, split.train)
    working = workable(model)  # the result is cast back
    split = dataclasses.replace(split, test=None)
    parts = getattr(config, "parts", ())
    if not (isinstance(parts, (tuple, list)) and all(isinstance(part, Part) for part in parts)):
        raise ValueError("parts must be a tuple of training.Part, such as (dose.L2SP(0.1),)")
    replacements = [part.instead(working, split, run) for part in parts]  # all are asked: any of them may refuse
    for replacement in replacements:
        if replacement is not None:
            return replacement
    made = chosen.function(working, split, config, run)
    if isinstance(made, Program) and chosen.taught:
        made = dataclasses.replace(made, recipe=run.taught(made.recipe))
    for part in parts:
        if not isinstance(made, Program):
            raise ValueError(f"{chosen.name} takes no parts: it is not one stream of batches")
        made = part.applied(made, split, run)
    return made


@torch.no_grad()
def _finished(chosen: Method, model, made: nn.Module, config, run: Run, seconds: float) -> Unlearned:
    originals = dict(model.named_parameters())
    for name, p in made.named_parameters():
        p.requires_grad_(originals[name].requires_grad)
        p.grad = None
        p.data = p.data.to(originals[name].dtype)
    for (name, buffer), (_, old) in zip(made.named_buffers(), model.named_buffers(), strict=True):
        if buffer.dtype != old.dtype:
            owner, _, leaf = name.rpartition(".")
            made.get_submodule(owner)._buffers[leaf] = buffer.to(old.dtype)
    for (name, new), old in zip(made.named_modules(), model.modules(), strict=True):
        new.training = old.training
        if run.freeze_norms and isinstance(old, BatchNorm):
            if not all(torch.equal(a, b) for a, b in zip(new.buffers(), old.buffers(), strict=True)):
                raise RuntimeError(f"{chosen.name} moved the statistics of {name}: its loop must use training_mode")
    check_finite(made)
    exact = chosen.guarantee == "exact"
    certificate = Certificate("exact", "training on the retain set alone") if exact else None
    return Unlearned(without_graphs(made), Cost.of(run.tally, seconds), certificate, chosen.name, config, run.seed)


def methods() -> pd.DataFrame:
    """All methods: name, family, reads, guarantee, paper, and the defaults of their hyper-parameters."""
    rows = []
    for name in HOMES:
        found = find(name)
        defaults = {f.name: getattr(found.config(), f.name) for f in dataclasses.fields(found.config)}
        shown = ", ".join(f"{key}={value}" for key, value in defaults.items())
        rows.append((name, found.family, found.reads, found.guarantee, found.paper, shown))
    return pd.DataFrame(rows, columns=["name", "family", "reads", "guarantee", "paper", "defaults"])
