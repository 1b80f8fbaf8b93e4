"""The methods by name: what each takes, which requests it can answer, and its refusals."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from unlearnlib import _names
from unlearnlib.federated.ascent import Ascent, ascent
from unlearnlib.federated.distil import Distil, distil
from unlearnlib.federated.eraser import Eraser, eraser
from unlearnlib.federated.recover import Recover, recover
from unlearnlib.federated.retraining import Finetune, Rapid, Retrain, finetune, rapid, retrain
from unlearnlib.federated.rounds import Case, Outcome

ANY = "clients, indices, label"


@dataclass(frozen=True)
class Method:
    """One entry: its configuration, what it is, the requests that it answers, what it reads, source, function."""

    config: type
    idea: str
    requests: str
    stored: str  # what the server must have kept
    paper: str
    function: Callable[[Case, object], Outcome]


METHODS = {
    "retrain": Method(
        Retrain, "the rounds again; with fewer of them, the control", ANY, "nothing", "mcmahan2017", retrain
    ),
    "finetune": Method(Finetune, "further rounds without it: the control", ANY, "nothing", "mcmahan2017", finetune),
    "rapid": Method(Rapid, "fewer rounds with preconditioned steps", ANY, "nothing", "liu2022", rapid),
    "eraser": Method(Eraser, "stored lengths in new directions", ANY, "every D-th round", "liu2021", eraser),
    "recover": Method(Recover, "updates estimated by curvature", ANY, "every round", "cao2023", recover),
    "ascent": Method(Ascent, "it climbs its loss in a ball", ANY, "the last round", "halimi2022", ascent),
    "distil": Method(Distil, "subtract, then distil the old model", "clients", "its updates", "wu2022", distil),
}


def configure(by: str, **options):
    """The hyper-parameters of a method. Raises ValueError naming the nearest method or hyper-parameter."""
    return _names.configured(by, _names.entry(by, METHODS, "unlearning method", "for federations").config, options)


def methods() -> pd.DataFrame:
    """All methods: name, idea, the requests that they answer, what the server must keep, paper, defaults."""
    rows = []
    for name, found in METHODS.items():
        shown = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(found.config))
        rows.append((name, found.idea, found.requests, found.stored, found.paper, shown))
    return pd.DataFrame(rows, columns=["name", "idea", "requests", "kept", "paper", "defaults"])
