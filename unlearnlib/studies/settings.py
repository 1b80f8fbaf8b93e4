"""The models of an experiment by name: original, retrained and unlearned, each made once.

    setting = Setting("mnist5k", "mlp", forget="random:0.1")
    model = original(setting, seed=0)                # trained on retain and forget set
    oracle = retrained(setting, seed=0)              # trained on the retain set alone
    done = unlearned(setting, "scrub", seed=0)       # ul.unlearn("scrub", model, ...): model, cost, certificate

Every model is cached (see `cache`) and depends on its arguments alone: not on what else was asked for, nor on what the
cache held. So models are trained one at a time on the CPU, where a stack of them would save little (1.0 to 1.4 times
in pinned numerics) and would make the last bits depend on the company; on an accelerator, whose bits nobody promises,
they are trained together.

Random streams never meet, because their seeds lie in ranges of their own (`seed_of`):

    original                 seed
    retrain                  1,000,000 + seed       its own initialisation and order
    retrain, other seed      2,000,000 + seed       the null: what retraining again would give
    unlearning               3,000,000 + seed       draws of the method
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from unlearnlib.data import loading, splits
from unlearnlib.data.examples import Dataset, Split
from unlearnlib.data.tensors import check_kind
from unlearnlib.methods import registry
from unlearnlib.methods.records import Certificate, Cost
from unlearnlib.methods.registry import Unlearned
from unlearnlib.store import addresses, cache
from unlearnlib.training import loop, many, models, recipes
from unlearnlib.training.recipe import Recipe

ROLES = ("original", "retrain", "retrain, other seed", "unlearning")
ORIGINAL, RETRAIN, NULL = ROLES[:3]
_RANGE = 1_000_000

# What makes a result, beside what is named at each address: `addresses.code` follows their imports.
_DATA = ("unlearnlib.data.examples",)

Options = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Setting:
    """What is learnt and what is to be forgotten. Options may be given as mappings; equal settings hash alike."""

    dataset: str = "mnist5k"  # a name that `data.load` knows
    model: str = "mlp"  # a name that `models.build` knows
    forget: str = "random:0.1"  # a forget request
    label_noise: float = 0.0  # the fraction of training labels that are wrong
    validation: float = 0.1  # the fraction of the training data that is held out
    split_seed: int = 0  # of the validation set, the forget set and the label noise
    recipe: Recipe | None = None  # None: `recipes.recipe_for(dataset, model)`
    model_options: Options | Mapping[str, object] = ()
    dataset_options: Options | Mapping[str, object] = ()

    def __post_init__(self):
        for name in ("dataset", "model", "forget"):
            check_kind(name, getattr(self, name), str, "give a name")
        if self.recipe is not None:
            check_kind("recipe", self.recipe, Recipe, "see training.Recipe")
        for name in ("model_options", "dataset_options"):
            try:
                options = dict(getattr(self, name))
            except (TypeError, ValueError):
                raise ValueError(f"{name} must be {{name: value}}, not {getattr(self, name)!r:.60}") from None
            plain = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            object.__setattr__(self, name, tuple(sorted(plain.items())))
        if self.recipe is None:
            object.__setattr__(self, "recipe", recipes.recipe_for(self.dataset, self.model))

    def data(self) -> Dataset:
        """The data set, with its label noise. Shared within the process: not to be changed."""
        return _dataset(self.dataset, self.dataset_options, self.label_noise, self.split_seed)

    def split(self) -> Split:
        """The data set divided by the forget request. Shared within the process: not to be changed."""
        return _material(self).split

    def network(self, seed: int = 0) -> nn.Module:
        """An untrained network."""
        return _material(self).architecture.initialised(seed)


@functools.lru_cache(maxsize=4)
def _dataset(name: str, options: Options, label_noise: float, seed: int) -> Dataset:
    ds = loading.load(name, **dict(options))
    return splits.add_label_noise(ds, label_noise, seed) if label_noise else ds


@dataclass(frozen=True, eq=False)
class _Material:
    """What a setting stands for, and the checksums of it that addresses are made of."""

    split: Split
    architecture: models.Architecture
    train: str  # of the training set
    divided: str  # of all that a method sees
    unseen: str  # of what it does not


@functools.lru_cache(maxsize=8)
def _material(setting: Setting) -> _Material:
    ds = setting.data()
    split = splits.split(ds, setting.forget, setting.split_seed, setting.validation)
    network = models.build(setting.model, ds, **dict(setting.model_options))
    train = split.train.checksum()
    mask = hashlib.sha256(split.is_forget.numpy().tobytes()).hexdigest()
    unseen = "" if split.test is None else split.test.checksum()
    return _Material(split, network.architecture, train, f"{train} {mask} {split.validation.checksum()}", unseen)


def unseen(setting: Setting) -> str:
    """The checksum of the test part, which only audits read."""
    return _material(setting).unseen


def seed_of(role: str, seed: int) -> int:
    """The seed of one stream of an experiment's `seed`; the module's first lines have the table."""
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}: {', '.join(ROLES)}")
    if isinstance(seed, bool) or not 0 <= seed < _RANGE:
        raise ValueError(f"the seed of an experiment lies between 0 and {_RANGE - 1}, not {seed!r}")
    return ROLES.index(role) * _RANGE + int(seed)


def device() -> torch.device:
    """Where models are trained: on the accelerator in the fast mode (UNLEARN_FAST=1), else on the CPU."""
    if os.environ.get("UNLEARN_FAST") == "1" and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.get_default_device()


def original(setting: Setting, seed: int) -> nn.Module:
    """The model that knows the forget set: `training.fit(setting.network(seed), split.train, recipe, seed)`."""
    entry = cache.remember(address_of_original(setting, seed), lambda: _trained(setting, seed))
    return _loaded(setting, entry)


def retrained(setting: Setting, seed: int, *, other: bool = False) -> nn.Module:
    """The model that never saw the forget set: the oracle. `other` gives the null, one more from another seed.

    `unlearned(setting, "retrain", seed)` is the same model with its cost.
    """
    return retraining(setting, seed, NULL if other else RETRAIN).model


def taught(setting: Setting, method: str, hyperparameters: Mapping[str, object]) -> dict[str, object]:
    """The hyper-parameters with the augmentation and label smoothing of the setting's recipe, where not given.

    Retraining goes by that recipe. A method that teaches without them would be compared for their lack, and not for
    how it forgets. Methods that teach by no recipe are left as they are.
    """
    names = ("augment", "label_smoothing") if registry.find(method).taught else ()
    return {**{name: getattr(setting.recipe, name) for name in names}, **hyperparameters}


def unlearned(setting: Setting, method: str, seed: int, **hyperparameters) -> Unlearned:
    """`registry.unlearn(method, original(setting, seed), split, ...)`, or retraining where `method` is "retrain"."""
    if method == "retrain" and not hyperparameters:
        return retraining(setting, seed, RETRAIN)
    hyperparameters = taught(setting, method, hyperparameters)
    config = registry.configure(method, **hyperparameters)

    def make() -> cache.Entry:
        model = original(setting, seed)
        done = registry.unlearn(
            method, model, setting.split(), seed=seed_of("unlearning", seed), progress=True, **hyperparameters
        )
        return _entry(done, setting)

    try:
        entry = cache.remember(address_of_unlearned(setting, method, seed, **hyperparameters), make)
    except addresses.Unkeyable:  # a hyper-parameter is a function, say: its result cannot be found again
        entry = make()
    return _unlearned(setting, entry, method, config, seed_of("unlearning", seed))


def originals(setting: Setting, seeds: Sequence[int]) -> list[nn.Module]:
    """`original` for several seeds; on an accelerator the missing ones are trained together."""
    _together(setting, seeds, address_of_original, _trained_together)
    return [original(setting, seed) for seed in seeds]


def retraineds(setting: Setting, seeds: Sequence[int], *, other: bool = False) -> list[nn.Module]:
    """`retrained` for several seeds; on an accelerator the missing ones are trained together."""
    role = NULL if other else RETRAIN
    _together(
        setting,
        seeds,
        functools.partial(address_of_retrained, role=role),
        functools.partial(_retrained_together, role=role),
    )
    return [retrained(setting, seed, other=other) for seed in seeds]


def address_of_original(setting: Setting, seed: int) -> str:
    """Where the cache keeps `original(setting, seed)`."""
    made = _material(setting)
    return addresses.key(
        what="original",
        architecture=made.architecture,
        train=made.train,
        recipe=setting.recipe,
        seed=seed_of("original", seed),
        **_circumstances(*_DATA, "unlearnlib.training.models", "unlearnlib.training.loop", *_together_by()),
    )


def address_of_retrained(setting: Setting, seed: int, role: str = RETRAIN) -> str:
    """Where the cache keeps `unlearned(setting, "retrain", seed)`, or its null."""
    made = _material(setting)
    return addresses.key(
        what="retrain",
        architecture=made.architecture,
        split=made.divided,
        recipe=setting.recipe,
        seed=seed_of(role, seed),
        **_circumstances(*_DATA, "unlearnlib.methods.registry", "unlearnlib.exact.retrain"),
    )


def address_of_unlearned(setting: Setting, method: str, seed: int, **hyperparameters) -> str:
    """Where the cache keeps `unlearned(setting, method, seed, ...)`. Raises addresses.Unkeyable where it cannot."""
    hyperparameters = taught(setting, method, hyperparameters)
    config, home = registry.configure(method, **hyperparameters), registry.find(method).function.__module__
    return addresses.key(
        what="unlearned",
        method=method,
        config=config,
        split=_material(setting).divided,
        original=address_of_original(setting, seed),
        seed=seed_of("unlearning", seed),
        **_circumstances(*_DATA, "unlearnlib.methods.registry", home, *sorted(addresses.homes(config))),
    )


def _together_by() -> tuple[str, ...]:
    """The module that trains several originals at once, where that is done."""
    return ("unlearnlib.training.many",) if stacks(device()) else ()


def _circumstances(*modules: str) -> dict[str, object]:
    return {
        "code": addresses.code(*modules),
        "versions": addresses.versions(),
        "numerics": addresses.numerics(device()),
    }


def _trained(setting: Setting, seed: int) -> cache.Entry:
    train, start = setting.split().train, seed_of("original", seed)
    model = loop.fit(setting.network(start).to(device()), train, setting.recipe, start)
    return cache.Entry(model.state_dict(), {"what": "original", "setting": _shown(setting), "seed": start})


def retraining(setting: Setting, seed: int, role: str = RETRAIN) -> Unlearned:
    """A retrained model with its cost: the oracle, or with the role NULL the one from another seed."""
    start = seed_of(role, seed)

    def make() -> cache.Entry:
        # Only the architecture of the model is read, so no original has to be trained first.
        blank = setting.network().to(device())
        done = registry.unlearn("retrain", blank, setting.split(), seed=start, progress=True, recipe=setting.recipe)
        return _entry(done, setting)

    entry = cache.remember(address_of_retrained(setting, seed, role), make)
    return _unlearned(setting, entry, "retrain", registry.configure("retrain", recipe=setting.recipe), start)


def _entry(done: Unlearned, setting: Setting) -> cache.Entry:
    about = {
        "what": done.method,
        "setting": _shown(setting),
        "seed": done.seed,
        "cost": asdict(done.cost),
        "certificate": None if done.certificate is None else asdict(done.certificate),
    }
    return cache.Entry(done.model.state_dict(), about)


def _unlearned(setting: Setting, entry: cache.Entry, method: str, config: object, seed: int) -> Unlearned:
    cost, certificate = Cost(**entry.about["cost"]), entry.about["certificate"]
    guarantee = None if certificate is None else Certificate(**certificate)
    return Unlearned(_loaded(setting, entry), cost, guarantee, method, config, seed)


def _loaded(setting: Setting, entry: cache.Entry) -> nn.Module:
    model = setting.network()
    model.load_state_dict(entry.value)
    return model.to(device())


def _shown(setting: Setting) -> str:
    return f"{setting.dataset} {setting.model} {setting.forget}, noise {setting.label_noise:g}, {setting.split_seed}"


def _together(setting: Setting, seeds: Sequence[int], address, make) -> None:
    """Fill the cache with the missing models of `seeds` at once, where that pays and the bits are not promised."""
    kept = cache.store()
    if kept is None or not stacks(device()):
        return
    missing = [seed for seed in dict.fromkeys(seeds) if kept.read(address(setting, seed)) is None]
    if len(missing) > 1:
        for seed, entry in zip(missing, make(setting, missing), strict=True):
            kept.keep(address(setting, seed), entry)


def stacks(where: torch.device) -> bool:
    """Whether several small models are trained as one: not on the CPU, for the reasons above."""
    return where.type != torch.device("cpu").type


def _trained_together(setting: Setting, seeds: Sequence[int]) -> list[cache.Entry]:
    train, starts = setting.split().train, [seed_of("original", seed) for seed in seeds]
    masks = torch.ones(len(seeds), len(train), dtype=torch.bool)
    made = many.fit_many(lambda seed: setting.network(seed).to(device()), train, masks, setting.recipe, starts)
    about = [{"what": "original", "setting": _shown(setting), "seed": start} for start in starts]
    return [cache.Entry(model.state_dict(), facts) for model, facts in zip(made, about, strict=True)]


def _retrained_together(setting: Setting, seeds: Sequence[int], role: str) -> list[cache.Entry]:
    starts, split = [seed_of(role, seed) for seed in seeds], setting.split()
    blanks = [setting.network().to(device()) for _ in seeds]
    done = registry.unlearn_many("retrain", blanks, [split] * len(seeds), seeds=starts, recipe=setting.recipe)
    return [_entry(one, setting) for one in done]
