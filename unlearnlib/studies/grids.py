"""What a study is made of: candidates, their models, the cells in which they are audited, and the grid of them all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unlearnlib.audit.batteries.battery import RUNGS
from unlearnlib.audit.batteries.rungs import Relearning
from unlearnlib.audit.verdicts import tidy
from unlearnlib.data.tensors import check, check_kind
from unlearnlib.methods import registry
from unlearnlib.methods.records import Cost
from unlearnlib.store import addresses
from unlearnlib.studies import settings
from unlearnlib.studies.settings import NULL, ORIGINAL, RETRAIN, Setting

BASELINES = (ORIGINAL, RETRAIN, NULL)
ENSEMBLE = 16  # seeds from which the battery can compare distributions over seeds


@dataclass(frozen=True)
class Candidate:
    """A method in a grid: its label in the table, its name (or that of a baseline) and its hyper-parameters."""

    label: str
    method: str
    hyperparameters: tuple[tuple[str, object], ...] = ()
    tuned_trials: int | None = None  # how many trials chose the hyper-parameters; None: they were not tuned

    @staticmethod
    def of(given) -> "Candidate":
        """Read `name`, `(name, {hyper-parameters})`, `(label, name, {...})` or `(label, name, {...}, trials)`."""
        known = isinstance(given, (str, tuple, list))
        parts = (given, given, {}) if isinstance(given, str) else tuple(given) if known else ()
        parts = (parts[0], *parts) if len(parts) == 2 else parts
        parts = (*parts, None) if len(parts) == 3 else parts
        if len(parts) != 4 or not isinstance(parts[2], Mapping):
            raise ValueError(f"a method is name, (name, {{...}}) or (label, name, {{...}}), not {given!r}")
        label, name, hyperparameters, trials = parts
        registry.configure(name, **hyperparameters)
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in hyperparameters.items()}
        return Candidate(str(label), name, tuple(sorted(plain.items())), trials)

    @property
    def home(self) -> str:
        """The module that registers the method."""
        return (
            "unlearnlib.exact.retrain" if self.method in BASELINES else registry.find(self.method).function.__module__
        )


@dataclass(frozen=True)
class Model:
    """One model of a grid: that of a candidate, in a setting, from a seed."""

    setting: Setting
    candidate: Candidate
    seed: int

    @property
    def name(self) -> str:
        return addresses.key(model=self)

    @property
    def start(self) -> "Model":
        """The original that a method starts from."""
        return Model(self.setting, Candidate(ORIGINAL, ORIGINAL), self.seed)

    @property
    def is_baseline(self) -> bool:
        """Whether it is the original, the oracle or the null; retraining by another recipe is a method."""
        return self.candidate.method in BASELINES and not self.candidate.hyperparameters

    def address(self) -> str | None:
        """Where the cache keeps it; None where it cannot (a method whose code is in a notebook)."""
        method, options = self.candidate.method, dict(self.candidate.hyperparameters)
        if method == ORIGINAL:
            return settings.address_of_original(self.setting, self.seed)
        if self.is_baseline:
            return settings.address_of_retrained(self.setting, self.seed, method)
        try:
            return settings.address_of_unlearned(self.setting, method, self.seed, **options)
        except addresses.Unkeyable:
            return None

    def made(self):
        """The network and what it cost, out of the cache or made now."""
        method, options = self.candidate.method, dict(self.candidate.hyperparameters)
        if method == ORIGINAL:
            return settings.original(self.setting, self.seed), Cost()
        if self.is_baseline:
            done = settings.retraining(self.setting, self.seed, method)
        else:
            done = settings.unlearned(self.setting, method, self.seed, **options)
        return done.model, done.cost


@dataclass(frozen=True)
class Cell:
    """One model and what it is audited with: the rows that are made and stored together."""

    model: Model
    oracles: tuple[Model, ...]  # retrained models to compare with, one a seed
    siblings: tuple[Model, ...]  # the same method from other seeds, where distributions are compared
    study: str
    rungs: tuple[str, ...]
    relearning: Relearning | None

    @property
    def name(self) -> str:
        return addresses.key(cell=self)

    @property
    def needs(self) -> tuple[Model, ...]:
        return tuple(dict.fromkeys((self.model.start, *self.oracles, self.model, *self.siblings)))

    def address(self, address_of: Callable[[Model], str | None] = Model.address) -> str | None:
        """Where the rows are stored; None where one of the models cannot be."""
        models = [address_of(model) for model in self.needs]
        if None in models:
            return None
        code = addresses.code("unlearnlib.studies.runs", "unlearnlib.audit.batteries.battery")
        return addresses.key(
            what="rows", cell=self, models=models, unseen=settings.unseen(self.model.setting), code=code
        )

    def tags(self, address: str | None) -> dict[str, object]:
        """The columns of the table that say which cell a row belongs to."""
        setting, candidate = self.model.setting, self.model.candidate
        configuration = addresses.key(
            setting=(setting.dataset_options, setting.model_options, setting.label_noise, setting.recipe),
            method=candidate.method,
            hyperparameters=candidate.hyperparameters,
        )
        return {
            "study": self.study,
            "dataset": setting.dataset,
            "arch": setting.model,
            "method": candidate.label,
            "config_hash": configuration[:12],
            "forget_set_id": f"{setting.forget}, seed {setting.split_seed}",
            "forget_kind": setting.forget.partition(":")[0],
            "seed_train": self.model.seed,
            "tuned_trials": tidy.NAN if candidate.tuned_trials is None else candidate.tuned_trials,
            "run_id": address[:12] if address else tidy.NAN,
        }


@dataclass(frozen=True)
class Grid:
    """What a study compares. Everything is checked here, before anything is trained.

    methods     names, (name, {hyper-parameters}) or (label, name, {hyper-parameters}); original, retrain and the null
                are always there
    rungs       the audits of the battery
    relearning  relearn time is measured where this is given
    """

    settings: Sequence[Setting]
    methods: Sequence
    seeds: Sequence[int] = (0, 1, 2)
    name: str = "study"
    rungs: Sequence[str] = RUNGS
    relearning: Relearning | None = None
    candidates: tuple[Candidate, ...] = field(init=False)

    def __post_init__(self):
        for name in ("settings", "methods", "seeds", "rungs"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, (str, Setting)) else value
            check(isinstance(value, Iterable), f"{name} of a grid must be a list, not {value!r:.60}")
            object.__setattr__(self, name, tuple(value))
        for setting in self.settings:
            check_kind("each of settings", setting, Setting, "see studies.Setting")
        methods = tuple(Candidate.of(given) for given in self.methods)
        object.__setattr__(self, "candidates", (*(Candidate(name, name) for name in BASELINES), *methods))
        for what, values in (("setting", self.settings), ("seed", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"a grid needs at least one {what}, and no {what} twice")
        labels = [candidate.label for candidate in self.candidates]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise ValueError(f"two candidates are called {twice!r}: give (label, name, {{...}})")
        for seed in self.seeds:
            settings.seed_of(ORIGINAL, seed)
        unknown = [name for name in self.rungs if name not in RUNGS]
        if unknown:
            raise ValueError(f"rungs are {', '.join(RUNGS)}; not {', '.join(unknown)}")

    def cells(self) -> list[Cell]:
        """All cells, in the order of the rows: settings, then seeds, then candidates."""
        return [
            self._cell(setting, seed, candidate)
            for setting in self.settings
            for seed in self.seeds
            for candidate in self.candidates
        ]

    def _cell(self, setting: Setting, seed: int, candidate: Candidate) -> Cell:
        retrain = Candidate(RETRAIN, RETRAIN)
        itself = seed if candidate == retrain else None  # no oracle is compared with itself
        oracles = tuple(Model(setting, retrain, s) for s in self.seeds if s != itself)
        several = len(self.seeds) >= ENSEMBLE and "ensemble" in self.rungs and candidate != retrain
        others = self.seeds[1:] if several and seed == self.seeds[0] else ()  # once for all seeds
        siblings = tuple(Model(setting, candidate, s) for s in others)
        model = Model(setting, candidate, seed)
        return Cell(model, oracles, siblings, self.name, self.rungs, self.relearning)
