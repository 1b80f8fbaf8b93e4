"""Hyper-parameters chosen without peeking: one protocol, the same for every method.

    bench = Bench(setting)                                  # development models and splits, none of them reported
    found = tuned(bench, "scrub", trials=8)                 # Tuned: the chosen values, all trials, what it cost
    rows = study.run(Grid([setting], [found.row()]))        # a row "scrub, tuned"

*What it may see.* The retain set of the setting, and nothing else of it: no picture of the reported forget set, of the
reported validation set or of the test set is read, no retrained model is made, and no reported training seed is used.
That set is divided anew, `seeds` times: a development forget set, which the request draws, a part that is held out, and
a development original, trained on all but the latter by the setting's own recipe. Of what is held out a third is the
validation part that the method is given, and two thirds are V, which only the objective reads: a method that looks at
validation pictures to decide when to stop would otherwise be scored by what it looked at.

*What is minimised.* One objective, frozen, a mean over the development splits. With theta the unlearned model, theta_0
the original, F the development forget set and V as above, weighted to have F's share of each class,

    J(theta) = ( |acc_F - acc_V| + |conf_F - conf_V| ) / 2  +  max(0, bacc_V(theta_0) - bacc_V)

acc is the accuracy of theta, conf its mean probability of the label, bacc the mean over the classes of the accuracy on
V. To a model that never saw F the two sets are alike, so the first term is zero for retraining but for chance, from
above or from below; the second is what was damaged. It is balanced because a constant answer makes the first term zero,
and where one class is common costs next to nothing in accuracy. Neither the attacks that are reported nor the losses
that they read enter. J is between 0 and 2.

*Equal trials.* Each method gets the same number. The first is its defaults, the others are drawn from `Method.search`
by the tree-structured Parzen estimator of optuna with a seed of its own, at random for the first half. A run that
diverges, or whose numbers allow no result (a Hessian that is not positive), scores 2, with its reason. *Cost.* Work
(forward 1, forward and backward 3) of all trials and of the development originals, as a fraction of one retraining on a
development split: what tuning adds to the price of a method that has to be tuned.

Each trial is cached by what it was made from, so a run that was killed goes on where it stopped, and is the same for
ever after. J cannot tune requests for whole classes, to which V has no counterpart: ValueError.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from unlearnlib._extras import optional
from unlearnlib.approximate.steps import matched_mean
from unlearnlib.data.examples import Dataset, Examples, Split
from unlearnlib.data.splits import split
from unlearnlib.data.strata import stratified
from unlearnlib.methods import registry
from unlearnlib.seeding import generator
from unlearnlib.store import addresses, cache
from unlearnlib.studies import settings
from unlearnlib.studies.settings import Setting
from unlearnlib.training import models
from unlearnlib.training.doors import check_model
from unlearnlib.training.jobs import described
from unlearnlib.training.loop import fit
from unlearnlib.training.prediction import predict
from unlearnlib.training.work import Tally, multiplications

WORST = 2.0  # the largest value of the objective
_MAKERS = ("unlearnlib.training.loop", "unlearnlib.training.models", "unlearnlib.data.examples")
# How methods end whose numbers allow no result; Diverged is an ArithmeticError.
_NUMERICAL = (ValueError, ArithmeticError, torch.linalg.LinAlgError)
_SEEDS = 4_000_000  # development draws: above all the ranges of `settings`


@dataclass(frozen=True)
class Bench:
    """Where hyper-parameters of a setting are tried: `seeds` development splits, each with an original of its own."""

    setting: Setting
    seeds: int = 1
    request: str | None = None  # the development forget request; None: that of the setting
    validation: float = 0.3  # the fraction of the retain set that is held out: a third for the method, the rest for J

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"tuning needs at least one development split, not {self.seeds}")

    def split(self, number: int) -> Split:
        """Development split `number`, as a method is given it: of the retain set alone, without a test part."""
        return _development(self, number).split

    def judged(self, number: int) -> Split:
        """The same with V, which no method is given, as its validation part: what the objective reads."""
        made = _development(self, number)
        return dataclasses.replace(made.split, validation=made.unseen)

    def original(self, number: int) -> nn.Module:
        """The model that development split `number` starts from."""
        return _original(self, number)[0]

    def original_cost(self) -> float:
        """Work of training all development originals."""
        return sum(_original(self, number)[1] for number in range(self.seeds))

    def retrain_cost(self) -> float:
        """Work of retraining on a development split: the unit of cost. Nothing is retrained."""
        recipe, sizes = self.setting.recipe, [len(self.split(k).retain_index) for k in range(self.seeds)]
        return sum(registry.work("retrain", 0, size, recipe=recipe) for size in sizes) / self.seeds


@dataclass(frozen=True, eq=False)
class _Development:
    """A development split with the network that suits it."""

    split: Split
    unseen: Examples  # held out from the method too
    architecture: models.Architecture


@functools.lru_cache(maxsize=8)
def _development(bench: Bench, number: int) -> _Development:
    whole, seed = bench.setting.split(), _SEEDS + number
    kept = whole.train[whole.retain_index]
    ds = Dataset("development", kept, kept[:0], bench.setting.data().class_names, "a retain set")
    made = split(ds, bench.request or bench.setting.forget, seed, bench.validation)
    given = stratified(made.validation.labels, 1 / 3, generator(seed, "given to the method"))
    unseen = made.validation[~given]
    unlike = ~torch.isin(made.forget.labels, made.retain.labels)
    if unlike.any() or not len(unseen):
        raise ValueError("tuning compares forgotten with unseen pictures of the same classes: not for whole classes")
    network = models.build(bench.setting.model, ds, **dict(bench.setting.model_options))
    made = dataclasses.replace(made, validation=made.validation[given], test=None)
    return _Development(made, unseen, network.architecture)


def _address(bench: Bench, number: int, *modules: str, **more) -> str:
    made = _development(bench, number)
    split, mask = made.split, made.split.is_forget.to(torch.uint8)
    return addresses.key(
        architecture=made.architecture,
        train=split.train.checksum(),
        forget="".join(map(str, mask.tolist())),
        recipe=bench.setting.recipe,
        number=number,
        code=addresses.code(*_MAKERS, *modules),
        versions=addresses.versions(),
        numerics=addresses.numerics(settings.device()),
        **more,
    )


@functools.lru_cache(maxsize=8)
def _original(bench: Bench, number: int) -> tuple[nn.Module, float]:
    """The development original and the work that it took."""
    made, seed = _development(bench, number), _SEEDS + number

    def make() -> cache.Entry:
        tally, network = Tally(), made.architecture.initialised(seed).to(settings.device())
        model = fit(network, made.split.train, bench.setting.recipe, seed, tally=tally)
        return cache.Entry(model.state_dict(), {"work": tally.work})

    entry = cache.remember(_address(bench, number, what="development original"), make)
    model = made.architecture.initialised(seed)
    model.load_state_dict(entry.value)
    return model.to(settings.device()), entry.about["work"]


@dataclass(frozen=True)
class Score:
    """The objective in its two parts."""

    unlike: float  # (|acc_F - acc_V| + |conf_F - conf_V|) / 2
    damage: float  # max(0, bacc_V(theta_0) - bacc_V(theta))

    @property
    def value(self) -> float:
        return self.unlike + self.damage


def _accuracy_and_confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    probability = torch.softmax(logits.double(), dim=1).gather(1, labels[:, None])[:, 0]
    return (logits.argmax(1) == labels).double(), probability


def objective(model: nn.Module, original: nn.Module, split: Split) -> Score:
    """J of the module's first lines for one model: 0 for an undamaged model that treats F as it treats V.

    V is the validation part of this split; tuning gives one that no method has seen (`Bench.judged`).
    """
    held_out, forgotten = split.validation.labels, split.forget.labels
    ours = _accuracy_and_confidence(predict(model, split.forget), forgotten)
    unseen = _accuracy_and_confidence(predict(model, split.validation), held_out)
    gaps = [abs(f.mean().item() - matched_mean(v, held_out, forgotten)) for f, v in zip(ours, unseen, strict=True)]
    before, _ = _accuracy_and_confidence(predict(original, split.validation), held_out)
    lost = matched_mean(before - unseen[0], held_out, held_out.unique())  # each class counts once
    return Score(sum(gaps) / 2, max(0.0, lost))


@dataclass(frozen=True)
class Trial:
    """One choice of hyper-parameters, its objective over the development splits, and its work."""

    hyperparameters: tuple[tuple[str, object], ...]
    value: float
    unlike: float
    damage: float
    work: float
    reason: str = ""  # why it failed


@dataclass(frozen=True)
class Tuned:
    """What tuning chose for one method, with all trials in their order."""

    method: str
    trials: tuple[Trial, ...]
    retrain_cost: float  # work of one retraining on a development split
    original_cost: float  # of all development originals

    @property
    def best(self) -> Trial:
        """The trial with the smallest objective; of equals the first, which prefers the defaults."""
        return min(self.trials, key=lambda trial: trial.value)

    @property
    def hyperparameters(self) -> dict[str, object]:
        return dict(self.best.hyperparameters)

    @property
    def cost(self) -> float:
        """Work of all trials and development originals, as a fraction of one retraining."""
        return (self.original_cost + sum(trial.work for trial in self.trials)) / self.retrain_cost

    def row(self, label: str | None = None) -> tuple[str, str, dict[str, object], int]:
        """The method for a `study.Grid`: label, name, hyper-parameters, number of trials."""
        return label or f"{self.method}, tuned", self.method, self.hyperparameters, len(self.trials)

    def table(self) -> pd.DataFrame:
        """The trials, one a row."""
        facts = ("value", "unlike", "damage", "work", "reason")
        return pd.DataFrame([{**dict(t.hyperparameters), **{f: getattr(t, f) for f in facts}} for t in self.trials])


def tuned(
    bench: Bench, method: str, trials: int = 8, seed: int = 0, *, fixed: Mapping[str, object] | None = None
) -> Tuned:
    """The hyper-parameters of `method`, chosen in `trials` trials by the protocol of the module's first lines.

    fixed     hyper-parameters that all trials have in common; they are not searched

    Raises ValueError for a method that declares nothing to search, and for requests that the objective cannot judge.
    """
    fixed = dict(fixed or {})
    space = {name: span for name, span in distributions(method).items() if name not in fixed}
    if trials < 1:
        raise ValueError(f"tuning needs at least one trial, not {trials}")
    optuna = optional("optuna")  # slow to import, and needed here alone
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(n_startup_trials=max(1, trials // 2), seed=seed)
        search = optuna.create_study(sampler=sampler)
        defaults = registry.configure(method, **fixed)
        search.enqueue_trial({name: getattr(defaults, name) for name in space})
        made = []
        for _ in range(trials):
            asked = search.ask(space)
            made.append(tried(bench, method, **fixed, **asked.params))
            search.tell(asked, made[-1].value)
    finally:
        optuna.logging.set_verbosity(before)
    return Tuned(method, tuple(made), bench.retrain_cost(), bench.original_cost())


def distributions(method: str) -> dict[str, object]:
    """`Method.search` for optuna: (low, high) of whole or real numbers, uniform, or log-uniform with "log"."""
    declared = registry.find(method).search
    if not declared:
        raise ValueError(f"{method} declares nothing to search: register it with search={{'lr': (1e-3, 1e-1, 'log')}}")
    made = optional("optuna.distributions")
    kinds = {int: made.IntDistribution, float: made.FloatDistribution}
    return {name: kinds[type(low)](low, high, log=bool(log)) for name, (low, high, *log) in declared.items()}


def tried(bench: Bench, method: str, **hyperparameters) -> Trial:
    """One trial: the method with these hyper-parameters on every development split."""
    results = [_one(bench, number, method, hyperparameters) for number in range(bench.seeds)]
    reasons = [result["reason"] for result in results if result["reason"]]
    value = WORST if reasons else sum(r["unlike"] + r["damage"] for r in results) / len(results)
    parts = {name: sum(r[name] for r in results) / len(results) for name in ("unlike", "damage")}
    spent = sum(r["work"] for r in results)
    return Trial(tuple(sorted(hyperparameters.items())), value, **parts, work=spent, reason="; ".join(reasons))


def _one(bench: Bench, number: int, method: str, hyperparameters: Mapping[str, object]) -> Mapping[str, object]:
    """The facts of one run on one development split, out of the cache or made now."""
    hyperparameters = settings.taught(bench.setting, method, hyperparameters)
    config, seed = registry.configure(method, **hyperparameters), _SEEDS + number

    def make() -> cache.Entry:
        split, model = bench.split(number), bench.original(number)
        try:
            done = registry.unlearn(method, model, split, seed=seed, progress=True, **hyperparameters)
        except _NUMERICAL as error:  # found at the end, when all has been paid
            score, reason = Score(math.nan, math.nan), described(error)
            sizes = len(split.forget_index), len(split.retain_index)
            counts = {"validation": len(split.validation), "classes": check_model(model, split.train)}
            weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
            counts |= {"weights": weights, "multiplications": multiplications(model, split.train)}
            spent = registry.work(method, *sizes, **counts, **hyperparameters)
        else:
            score, reason = objective(done.model, model, bench.judged(number)), ""
            spent = done.cost.work
        facts = {"unlike": score.unlike, "damage": score.damage, "work": spent, "reason": reason}
        return cache.Entry(None, facts)

    home = registry.find(method).function.__module__
    try:
        validation = f"{bench.split(number).validation.checksum()} {bench.judged(number).validation.checksum()}"
        own = ("unlearnlib.studies.tuning", "unlearnlib.methods.registry", home)
        modules = (*own, *sorted(addresses.homes(config)))
        address = _address(bench, number, *modules, what="trial", method=method, config=config, validation=validation)
    except addresses.Unkeyable:  # a method of a notebook, or a hyper-parameter that is a function
        return make().about
    return cache.remember(address, make).about
