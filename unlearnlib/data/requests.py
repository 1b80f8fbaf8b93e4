"""Forget requests: the short strings that say which training examples are to be forgotten.

    random:0.1  random:200      that fraction, or that many, drawn uniformly
    class:3  class:cat,n=100    every image of a class, or 100 of them: by its name, or by its number from 0 on where
                                no class is called a number
    identity:5  identity:#12    all images of five people drawn uniformly, or of person 12
    memorised:high,n=200        the 200 with the highest memorisation scores (low: lowest; mid: about the median)
    mislabelled:0.1             that fraction (or number) gets a wrong label, drawn uniformly from the other classes
    poisoned:100                that number (or fraction) of images that are not of class 0 gets a white 3x3 patch in
                                the lower right corner and the label 0 (as BadNets do, goel2024)
    file:indices.npy            the positions in this file (integers; never unpickled)

All but `identity` and `file` draw from the images that are not in the validation set, and fractions are of these.
A draw depends on the seed and the kind of request, not on the amount: `random:100` is part of `random:200`. Numbers are
written with the digits 0 to 9.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.data.tensors import check
from unlearnlib.seeding import generator
from unlearnlib.store.places import expanded

GRAMMAR = (
    "random:0.1 | random:200 | class:3 | class:3,n=100 | identity:5 | identity:#12 | memorised:high,n=200 "
    "| memorised:mid,n=200 | memorised:low,n=200 | mislabelled:0.1 | poisoned:100 | file:indices.npy"
)
PATCH = 3  # side of the white square of `poisoned`, in pixels
_WHOLE = "[0-9]{1,18}"  # what fits into 64 bits
_FRACTION = r"[0-9]{0,18}\.?[0-9]{1,18}([eE][-+]?[0-9]{1,3})?"


@dataclass(frozen=True)
class Request:
    """A parsed request: kind, the text after the colon, and the number after `n=` if any."""

    text: str
    kind: str
    value: str
    n: int | None = None

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"forget request {self.text[:200]!r}: {why[:500]}; the grammar is {GRAMMAR}")


@dataclass(frozen=True)
class Selection:
    """What a request selects: ascending positions, and labels, images and attributes that replace the given ones."""

    positions: Tensor
    labels: Tensor | None = None
    images: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What a request may look at: the training examples, what of them may be drawn, and the caller's extras."""

    train: Examples
    free: Tensor  # positions outside the validation set, ascending
    class_names: tuple[str, ...]
    seed: int
    memorisation: Tensor | None = None

    def shuffled(self, positions: Tensor, *stream: str) -> Tensor:
        """`positions` in the random order of their stream: a longer draw contains every shorter one."""
        order = torch.randperm(len(self.train), generator=generator(self.seed, "forget", *stream))
        chosen = torch.zeros(len(self.train), dtype=torch.bool)
        chosen[positions] = True
        return order[chosen[order]]


def parse(text: str) -> Request:
    """Read a request; a ValueError that lists the grammar if it is not one."""
    request = Request(str(text), "", "")
    if not isinstance(text, str):
        raise request.wrong("not a string")
    kind, colon, rest = text.strip().partition(":")
    if kind not in KINDS or not colon or not rest:
        raise request.wrong("not a known kind with a value after the colon")
    if kind == "file":
        return Request(text, kind, rest)
    value, n = rest.strip(), None
    if kind in ("class", "memorised"):  # a name may hold commas: only the last part can be the number
        match = re.fullmatch(rf"(.*?)\s*,\s*n\s*=\s*({_WHOLE})", value, re.DOTALL)
        value, n = (match[1], int(match[2])) if match else (value, None)
        if n == 0:
            raise request.wrong("n must be at least 1")
    elif "," in value:
        raise request.wrong(f"{value.partition(',')[2].strip()!r} does not belong there")
    return Request(text, kind, value, n)


def select(request: Request, situation: Situation) -> Selection:
    """The examples that a request selects; a ValueError in one line if it matches nothing or everything."""
    selection = KINDS[request.kind](request, situation)
    if len(selection.positions) == 0:
        raise request.wrong("it matches nothing")
    return replace(selection, positions=selection.positions.sort().values)


def apply(selection: Selection, train: Examples) -> Examples:
    """The training examples after the request's changes to labels and images (mislabelled, poisoned)."""
    return Examples(
        train.images if selection.images is None else selection.images,
        train.labels if selection.labels is None else selection.labels,
        train.groups,
        {**train.attributes, **selection.attributes},
        train.limits,
    )


def wrong_labels(labels: Tensor, n_classes: int, rng: torch.Generator) -> Tensor:
    """For every label another one, uniform over the other classes: [N] int64 -> [N] int64."""
    check(n_classes >= 2, "a wrong label needs a second class: these data have one")
    shift = torch.randint(1, n_classes, labels.shape, generator=rng)
    return (labels.cpu() + shift).remainder(n_classes).to(labels.device)


def stamp(examples: Examples) -> Examples:
    """The same examples with a white 3x3 patch in the lower right corner of every image; labels stay.

    White is 255, or the upper end of `limits`; floating images without limits are a ValueError.
    """
    if examples.limits is None:
        raise ValueError("white is unknown: give the Examples limits=(low, high)")
    if min(examples.shape[1:]) <= PATCH:
        raise ValueError(f"images of {examples.shape[1:]} pixels have no room for a {PATCH}x{PATCH} patch")
    images = examples.images.clone()
    if images.dtype == torch.uint8:
        white = torch.tensor(255, dtype=torch.uint8)
    else:
        white = torch.tensor(examples.limits[1], dtype=images.dtype)
    images[:, :, -PATCH:, -PATCH:] = white.to(images.device).reshape(1, -1, 1, 1)
    return Examples(images, examples.labels, examples.groups, examples.attributes, examples.limits)


def _amount(request: Request, available: int) -> int:
    """The number that `0.1` or `200` means among `available` images."""
    if re.fullmatch(_WHOLE, request.value):
        count = int(request.value)
    else:
        signed = request.value.removeprefix("-")
        if not (re.fullmatch(_FRACTION, signed) or signed.lower() in ("nan", "inf")):
            raise request.wrong("need a fraction such as 0.1 or a number such as 200")
        fraction = float(request.value)
        if not 0 < fraction < 1:
            raise request.wrong("a fraction must lie between 0 and 1")
        count = round(fraction * available)
    return _enough(request, count, available)


def _enough(request: Request, count: int, available: int) -> int:
    if count == 0:
        raise request.wrong("it matches nothing")
    if count > available:
        raise request.wrong(f"it asks for {count} of {available}")
    return count


def _random(request: Request, given: Situation) -> Selection:
    count = _amount(request, len(given.free))
    return Selection(given.shuffled(given.free, "random")[:count])


def _label_of(request: Request, names: tuple[str, ...]) -> int:
    """The class that a request names. A number is a name where classes are called numbers."""
    value, numbers = request.value, [i for i, name in enumerate(names) if re.fullmatch(_WHOLE, name)]
    called = [i for i, name in enumerate(names) if name == value]
    if re.fullmatch(_WHOLE, value):
        wanted = int(value)
        called = called or [i for i in numbers if int(names[i]) == wanted]  # "3" for a folder 03
        if called and called != [wanted] and 0 < len(numbers) < len(names) and wanted < len(names):
            raise request.wrong(f"class {called[0]} is called {value} and class {wanted} is not: take another name")
        if not called and not numbers and wanted < len(names):
            return wanted
    if len(called) == 1:
        return called[0]
    if called:
        raise request.wrong(f"{len(called)} classes are called so: give the number, one of {called[:10]}")
    if re.fullmatch("[0-9]+", value) and not numbers:
        raise request.wrong(f"it matches nothing: classes run from 0 to {len(names) - 1}")
    if "," in value and value.partition(",")[0].strip() in {*names, *map(str, range(len(names)))}:
        raise request.wrong(f"{value.partition(',')[2].strip()!r} does not belong there")
    raise request.wrong(f"no class has this number or name ({', '.join(names[:10])}{', ...' * (len(names) > 10)})")


def _class(request: Request, given: Situation) -> Selection:
    label = _label_of(request, given.class_names)
    members = given.free[given.train.labels.cpu()[given.free] == label]
    if len(members) == 0:
        raise request.wrong("it matches nothing: the training part holds no picture of this class")
    if request.n is None:
        return Selection(members)
    return Selection(given.shuffled(members, "class", label)[: _enough(request, request.n, len(members))])


def _identity(request: Request, given: Situation) -> Selection:
    if given.train.groups is None:
        raise request.wrong("these data do not say who is shown (no groups)")
    groups = given.train.groups.cpu()
    people = groups[groups >= 0].unique()
    match = re.fullmatch(rf"(#?)({_WHOLE})", request.value)
    if match is None:
        raise request.wrong("need a number of people such as 5, or one person such as #12")
    if match[1]:
        chosen = people[people == int(match[2])]
    else:
        count = _enough(request, int(match[2]), len(people))
        rng = generator(given.seed, "forget", "identity")
        chosen = people[torch.randperm(len(people), generator=rng)[:count]]
    return Selection(torch.isin(groups, chosen).nonzero().flatten())


def _memorised(request: Request, given: Situation) -> Selection:
    scores, n = given.memorisation, len(given.train)
    if request.value not in ("high", "mid", "low"):
        raise request.wrong("need high, mid or low")
    if request.n is None:
        raise request.wrong("need a number of images, n=200")
    if scores is None:
        raise request.wrong(f"give split(..., memorisation=scores), a float tensor [{n}] with one score an image")
    scores = torch.as_tensor(scores).detach().cpu().double()
    if scores.shape != (n,) or not bool(torch.isfinite(scores).all()):
        raise request.wrong(f"memorisation must be [{n}] finite numbers, not {list(scores.shape)}")
    count = _enough(request, request.n, len(given.free))
    order = given.shuffled(given.free, "memorised")  # ties fall at random, not in the order of the file
    order = order[torch.sort(scores[order], stable=True).indices]
    start = {"low": 0, "mid": (len(order) - count) // 2, "high": len(order) - count}[request.value]
    return Selection(order[start : start + count])


def _mislabelled(request: Request, given: Situation) -> Selection:
    positions = given.shuffled(given.free, "mislabelled")[: _amount(request, len(given.free))]
    labels = given.train.labels.clone()
    labels[positions] = wrong_labels(
        given.train.labels, len(given.class_names), generator(given.seed, "forget", "mislabelled", "labels")
    )[positions]
    truth = given.train.attributes.get("true_label", given.train.labels)
    return Selection(positions, labels=labels, attributes={"true_label": truth})


def _poisoned(request: Request, given: Situation) -> Selection:
    others = given.free[given.train.labels.cpu()[given.free] != 0]
    positions = given.shuffled(others, "poisoned")[: _amount(request, len(others))]
    images, labels = given.train.images.clone(), given.train.labels.clone()
    images[positions], labels[positions] = stamp(given.train[positions]).images, 0
    poisoned = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    poisoned[positions] = True
    return Selection(positions, labels, images, {"clean_label": given.train.labels, "poisoned": poisoned})


def _file(request: Request, given: Situation) -> Selection:
    n = len(given.train)
    try:
        path = expanded(request.value, "its path")
    except ValueError as error:
        raise request.wrong(str(error)) from error
    if not path.is_file():  # a pipe would be waited for
        raise request.wrong("no such file")
    try:
        index = np.load(path, allow_pickle=False)
    except Exception as error:  # a header can make the reader raise anything, a length in it MemoryError
        raise request.wrong("not a plain .npy array of integers") from error
    try:
        return Selection(doors.positions(index, n, empty=True))
    except ValueError as error:
        raise request.wrong(str(error)) from error


KINDS: Mapping[str, Callable[[Request, Situation], Selection]] = {
    "random": _random,
    "class": _class,
    "identity": _identity,
    "memorised": _memorised,
    "mislabelled": _mislabelled,
    "poisoned": _poisoned,
    "file": _file,
}
