"""What a deletion is about and how it is answered, as plain data; and the one job that makes the new model."""

import ast
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.ssd import chosen_alpha, dampen
from unlearnlib.data.examples import Split
from unlearnlib.desk import networks, plan, recording, sources
from unlearnlib.desk.queue import Batching
from unlearnlib.methods import registry
from unlearnlib.methods.records import Certificate, Cost
from unlearnlib.store import addresses
from unlearnlib.store.digests import content_digest
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Case:
    """What a desk is about, fixed by its first batch.

    model, weights    see `networks`
    data, held_out, size    see `sources`
    mean, std         the normalisation of the pipeline, for networks from elsewhere
    recipe            how the model was trained: for retraining, and to say what that costs
    start             weights that training began with and that saw none of the data (a pretrained network); None: drawn
    record            the folder of a `Recorder` that was there in training
    """

    model: str
    weights: str | None
    data: str
    held_out: str | None = None
    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    recipe: Recipe | None = None
    start: str | None = None
    record: str | None = None

    def source(self) -> sources.Source:
        return sources.opened(self.data, size=self.size, held_out=self.held_out)

    def opened(self, source: sources.Source, path: str | Path | None) -> networks.Opened:
        return networks.opened(self.model, path, source, self.mean, self.std)

    def recorded(self) -> recording.Recorded | None:
        return None if self.record is None else recording.read(self.record)


@dataclass(frozen=True)
class Policy:
    """How requests are answered: a registered method with its hyper-parameters, its seed, and when it runs.

    access    the sets that may still be read: "retain, forget", "retain" or "forget"
    """

    method: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    batching: Batching = Batching()
    access: str = "retain, forget"

    def __post_init__(self):
        registry.configure(self.method, **self.parameters)  # refuses an unknown name or hyper-parameter
        missing = _sets(registry.find(self.method).reads) - _sets(self.access)
        if missing and not self.from_record:
            sets = " and ".join(sorted(missing))
            raise ValueError(f"{self.method} reads the {sets} set, and access is {self.access!r:.40}")

    @property
    def from_record(self) -> bool:
        """SSD needs no retained example where training has left its importances behind."""
        return self.method == "ssd" and _sets(self.access) == {"forget"}


def _sets(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")} - {"none"}


@dataclass(frozen=True)
class Order:
    """A job: the case, the policy, the weights to start from, and the positions to delete or deleted before."""

    case: Case
    policy: Policy
    before: str | None
    forget: Tensor
    gone: Tensor


@dataclass(frozen=True)
class Made:
    """What the job brings back: weights as the pipeline names them, and what a receipt says of them."""

    weights: Mapping[str, Tensor]
    cost: Cost
    certificate: Certificate | None
    parameters: Mapping[str, object]
    code: str


def parameters_of(case: Case, policy: Policy, source: sources.Source, opened: networks.Opened, split: Split) -> dict:
    """The policy's hyper-parameters, and those that the case knows: recipe, start and record."""
    chosen = dict(policy.parameters)
    if policy.method == "retrain":
        if case.recipe is None and "recipe" not in chosen:
            raise ValueError("retrain needs the recipe of the original: give recipe, as epochs=10 lr=0.01")
        chosen.setdefault("recipe", case.recipe)
        chosen["build"] = opened.build
        if case.start is not None:
            chosen["build"] = lambda seed: case.opened(source, case.start).model
    elif policy.method == "amnesiac":
        found = case.recorded()
        if found is None:
            raise ValueError("amnesiac needs the record of the training: give record, the folder of its Recorder")
        chosen["record"] = found.updates_for(source.ids, split)
    return chosen


def carried_out(order: Order, needed: Mapping[str, object] | None = None) -> Made:
    """Run the method of an order. It reads files and returns the new weights; it writes nothing."""
    case, policy = order.case, order.policy
    source = case.source()
    opened = case.opened(source, order.before)
    split = plan.split_of(source, order.forget, order.gone, policy.seed)
    chosen = parameters_of(case, policy, source, opened, split)
    if policy.from_record:
        done = _dampened(opened.model, split, case.recorded(), policy)
    else:
        done = registry.unlearn(policy.method, opened.model, split, seed=policy.seed, **chosen)
    home = registry.find(policy.method).function.__module__
    code = "" if not home.startswith("unlearnlib.") else content_digest(dict(addresses.code(home, __name__)))[:16]
    return Made(networks.tensors(done.model), done.cost, done.certificate, told(done.config), code)


def _dampened(model: nn.Module, split: Split, record: recording.Recorded | None, policy: Policy) -> registry.Unlearned:
    """SSD with the importances to the training set that the record holds: the retained examples are not read.

    They are those of the weights at the end of training. The first deletion is that of `ssd`; later ones start from
    other weights, which is a deviation.
    """
    if record is None:
        raise ValueError("ssd without the retained set needs the importances of training: give record, its folder")
    config, tally, started = registry.configure("ssd", **policy.parameters), Tally(), time.perf_counter()
    if config.group_size != 1:
        raise ValueError("the record holds importances of single examples: leave group_size out")
    made, importance = copied(model), record.importance()
    forget = fisher_diagonal(made, split.forget, "empirical", tally=tally)
    if len(importance) != len(forget):
        raise ValueError(f"the record is of a network with {len(importance)} weights, not {len(forget)}")
    alpha = chosen_alpha(config, len(split.forget_index), len(split.retain_index))
    dampen(made, forget, importance.to(forget), alpha, config.dampening)
    return registry.Unlearned(made, Cost.of(tally, time.perf_counter() - started), None, "ssd", config, policy.seed)


def told(config: object) -> dict[str, object]:
    """The hyper-parameters of a run as plain data; what has no content of its own is told by its kind."""
    found = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        try:
            found[f.name] = addresses.plain(value)
        except addresses.Unkeyable:
            found[f.name] = type(value).__name__
    return found


def parsed(kind: type, words: Sequence[str]) -> dict[str, object]:
    """Hyper-parameters from `name=value` texts, by the types of the defaults of a dataclass. ValueError in one line."""
    defaults = {f.name: f for f in dataclasses.fields(kind)}
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r:.60} is no setting: write name=value")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        default = defaults[name].default if name in defaults else None
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        found[name] = value
    return found


def write_weights(made: Made) -> bytes:
    """The file of the new weights: equal weights give equal bytes."""
    return safetensors.torch.save(dict(made.weights))
