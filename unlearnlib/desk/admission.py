"""Which methods may answer a request: by the guarantee that is wanted, the budget, and the data at hand.

Facts are those of the registry (what a method reads, what it guarantees, what it costs). How well a method forgets is
no fact of the registry but a measurement; it is read from a table of a benchmark where one is given.
"""

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES

GUARANTEES = ("none", "exact")
# Hyper-parameters without which a method cannot run, and which only the training can have left behind.
LEFT_BY_TRAINING = ("record", "datamodel")


@dataclass(frozen=True)
class Sizes:
    """What a request is about: examples to forget and to retain, classes, trainable weights, held-out examples."""

    forget: int
    retain: int
    classes: int = 10
    weights: int = 0
    validation: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether a method may answer, and why not. `share` is its work in units of the work of retraining."""

    method: str
    admissible: bool
    reason: str
    guarantee: str
    reads: str
    work: float | None
    share: float | None
    quality: float | None = None


def admissible(
    *,
    guarantee: str = "none",
    budget: float = 1.0,
    access: str = "retain, forget",
    request: Sizes,
    retraining: float,
    given: Collection[str] = (),
    parameters: Mapping[str, Mapping[str, object]] | None = None,
    quality: Mapping[str, float] | None = None,
) -> list[Verdict]:
    """A verdict on every registered method: those that may answer first, by quality where it is known, then by cost.

    guarantee    "exact": only methods whose result has the law of training without the forget set; "none": any
    budget       the largest share of the work of retraining that may be spent
    access       the sets that can still be read: "retain", "forget", both, or "none"
    retraining   work of training on the retained examples (`registry.work("retrain", F, R, recipe=...)`)
    given        of LEFT_BY_TRAINING, what is there
    parameters   hyper-parameters of a method, where they are not the defaults
    quality      method -> a measured score, the smaller the better

    Costs are the formulas that methods declare, upper bounds included. Certificates between exact and none are held by
    learners that own their training (`private`, `exact.Sisa`): no method can give one to a model that is already
    trained, and none is listed here. Raises ValueError on an unknown guarantee or set, or a budget below 0.
    """
    if guarantee not in GUARANTEES:
        raise ValueError(f"guarantee must be one of {', '.join(GUARANTEES)}, not {guarantee!r:.60}")
    if not (budget >= 0 and retraining > 0):
        raise ValueError("budget must be at least 0, and the work of retraining above 0")
    at_hand = _sets(access)
    found = []
    for name in HOMES:
        method, chosen = registry.find(name), (parameters or {}).get(name, {})
        work = retraining if name == "retrain" and not chosen else _work(name, request, chosen)
        share = None if work is None else work / retraining
        missing = [f.name for f in fields(method.config) if f.name in LEFT_BY_TRAINING and f.name not in given]
        reason = ""
        if guarantee == "exact" and method.guarantee != "exact":
            reason = "it guarantees nothing"
        elif not _sets(method.reads) <= at_hand:
            reason = f"it reads {method.reads}"
        elif missing:
            reason = f"it needs a {missing[0]}, which training must have left behind"
        elif share is None:
            reason = "its cost is not known beforehand"
        elif share > budget:
            reason = f"it costs {share:.3g} of retraining"
        score = (quality or {}).get(name)
        found.append(Verdict(name, not reason, reason, method.guarantee, method.reads, work, share, score))
    worst = float("inf")
    order = {
        v.method: (not v.admissible, worst if v.quality is None else v.quality, worst if v.share is None else v.share)
        for v in found
    }
    return sorted(found, key=lambda verdict: order[verdict.method])


def _sets(text: str) -> set[str]:
    found = {part.strip() for part in text.split(",")} - {"", "none"}
    if not found <= {"retain", "forget"}:
        raise ValueError(f'access is "retain", "forget", "retain, forget" or "none", not {text!r:.60}')
    return found


def _work(name: str, request: Sizes, chosen: Mapping[str, object]) -> float | None:
    sizes = {"validation": request.validation, "classes": request.classes, "weights": request.weights}
    try:
        return registry.work(name, request.forget, request.retain, **sizes, **chosen)
    except ValueError:  # no formula, or one in a hyper-parameter that has no value yet
        return None


def read_quality(path: str | Path, column: str) -> dict[str, float]:
    """Method -> mean of a numeric column of a benchmark's csv, which has a column `method` too.

    Raises ValueError in one line where the file, the column or a number is not there.
    """
    try:
        rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
        found: dict[str, list[float]] = {}
        for row in rows:
            if row[column] != "":
                found.setdefault(row["method"], []).append(float(row[column]))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}") from None
    except (TypeError, ValueError):
        raise ValueError(f"{path}: column {column!r} holds something that is no number") from None
    return {name: sum(values) / len(values) for name, values in found.items()}
