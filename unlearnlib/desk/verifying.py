"""Check a receipt: by itself, with the weights beside it, and with the desk that wrote it.

    alone           its digest: a changed byte is found
    beside files    the weights after, the page, and the receipt before
    with the desk   the seal, the pseudonyms, the weights before, the data, and the audits, computed again

What cannot be checked is said to be unchecked, never passed over.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unlearnlib.desk import audits, plan, receipt
from unlearnlib.desk.cases import Case
from unlearnlib.desk.execution import Desk, positions
from unlearnlib.desk.ids import pseudonyms
from unlearnlib.training.recipe import Recipe

STATES = ("holds", "FAILS", "unchecked")
CLOSE = 1e-5  # by how much an audit that is computed on another processor may differ


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what, how it came out (of STATES), and why."""

    what: str
    state: str
    detail: str = ""


def verify(path: str | Path, desk: str | Path | None = None) -> list[Check]:
    """All checks of the receipt at `path`. ValueError in one line where it is no receipt at all.

    desk    the folder of the desk; by default the one that the receipt lies in, where it is one
    """
    path = Path(path)
    told = receipt.read(path)
    found = list(_alone(path, told))
    home = Path(desk) if desk is not None else path.parent.parent
    if (home / "case.json").is_file() and (home / "queue.sqlite").is_file():
        return found + list(_with(home, told))
    if desk is not None:
        raise ValueError(f"{desk} is no folder of a desk: it lacks case.json or queue.sqlite")
    return [*found, Check("seal, pseudonyms, data, audits", "unchecked", "give the folder of the desk")]


def _verdict(what: str, good: bool, wrong: str) -> Check:
    return Check(what, "holds" if good else "FAILS", "" if good else wrong)


def _alone(path: Path, told: dict) -> Iterator[Check]:
    yield _verdict("digest", receipt.intact(told), "the receipt was changed after it was written")
    weights = path.parent / "model.safetensors"
    if weights.is_file():
        same = receipt.file_digest(weights) == told["model"]["after"]
        yield _verdict("weights after", same, f"{weights.name} is not the file that the receipt is about")
    else:
        yield Check("weights after", "unchecked", "model.safetensors is not beside the receipt")
    page = path.with_suffix(".html")
    if page.is_file():
        same = page.read_bytes() == receipt.page(told).encode()
        yield _verdict("page", same, f"{page.name} says something else than the receipt")
    if told["previous"]:
        before = path.parent.parent / f"{told['number'] - 1:04d}" / "receipt.json"
        if before.is_file():
            same = receipt.read(before)["digest"] == told["previous"]
            yield _verdict("receipt before", same, "it is not the one that this receipt follows")
        else:
            yield Check("receipt before", "unchecked", "it is not there")


def _with(home: Path, told: dict) -> Iterator[Check]:
    case = _case(home)
    desk = Desk(home, case)
    salt, number = desk.queue.salt, told["number"]
    yield _verdict("seal", receipt.sealed_by(told, salt), "it was not sealed by this desk, or changed since")
    gone = desk.queue.gone(number)
    asked = {name for request in desk.queue.requests(batch=number) for name in request.ids} - gone
    same = pseudonyms(salt, asked) == told["examples"]["pseudonyms"]
    yield _verdict("deleted examples", same, "the queue names others")
    old = desk.weights_before(number) or Path(case.model.partition(":")[2]) / "model.safetensors"
    if Path(old).is_file():
        same = receipt.file_digest(old) == told["model"]["before"]
        yield _verdict("weights before", same, "the file of the old weights is another one now")
    else:
        yield Check("weights before", "unchecked", "the file is gone")
    try:
        source = case.source()
        forget, earlier = positions(desk, number, source)
        split = plan.split_of(source, forget, earlier, told["method"]["seed"])
    except ValueError as error:
        yield Check("data, audits", "unchecked", str(error))
        return
    checksums = {"before": split.train.checksum(), "after": split.retain.checksum()}
    yield _verdict("data", checksums == told["data"], "they are not those of the receipt")
    after = desk.place(number) / "model.safetensors"
    if not (Path(old).is_file() and after.is_file()):
        yield Check("audits", "unchecked", "weights are missing")
        return
    try:
        models = [case.opened(source, file).model for file in (desk.weights_before(number), after)]
        again = audits.audited(*models, split)
    except ValueError as error:
        yield Check("audits", "FAILS", str(error))
        return
    yield _verdict("audits", _close(again, told["audits"]), "computed again they say something else")


def _case(home: Path) -> Case:
    try:
        told = json.loads((home / "case.json").read_text(encoding="utf-8"))
        recipe = told["recipe"]
        if recipe is not None:
            told["recipe"] = Recipe(**{name: value for name, value in recipe.items() if name})
        return Case(**{**told, "mean": tuple(told["mean"]), "std": tuple(told["std"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{home / 'case.json'} is no case: it was changed by hand") from None


def _close(first: object, second: object) -> bool:
    """Equal but for rounding of numbers; words may differ in a digit that rounding moved."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_close(first[k], second[k]) for k in first if k != "verdict")
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_close, first, second))
    if isinstance(first, float) and isinstance(second, (int, float)):
        return math.isclose(first, second, abs_tol=CLOSE)
    return first == second
