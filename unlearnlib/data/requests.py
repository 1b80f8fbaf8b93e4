"""Forget requests: the short strings that say which training examples are to be forgotten.

    random:0.1  random:200      that fraction, or that many, drawn uniformly
    class:3  class:3,n=100      every image of class 3 (number or name), or 100 of them
    identity:5  identity:#12    all images of five people drawn uniformly, or of person 12
    memorised:high,n=200        the 200 with the highest memorisation scores (low: lowest; mid: about the median)
    mislabelled:0.1             that fraction (or number) gets a wrong label, drawn uniformly from the other classes
    poisoned:100                that number (or fraction) of images that are not of class 0 gets a white 3x3 patch in
                                the lower right corner and the label 0 (as BadNets do, goel2024)
    file:indices.npy            the positions in this file (integers; never unpickled)

All but `identity` and `file` draw from the images that are not in the validation set, and fractions are of these.
A draw depends on the seed and the kind of request, not on the amount: `random:100` is part of `random:200`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.seeding import generator

GRAMMAR = (
    "random:0.1 | random:200 | class:3 | class:3,n=100 | identity:5 | identity:#12 | memorised:high,n=200 "
    "| memorised:mid,n=200 | memorised:low,n=200 | mislabelled:0.1 | poisoned:100 | file:indices.npy"
)
PATCH = 3  # side of the white square of `poisoned`, in pixels


@dataclass(frozen=True)
class Request:
    """A parsed request: kind, the text after the colon, and the number after `n=` if any."""

    text: str
    kind: str
    value: str
    n: int | None = None

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"forget request {self.text!r}: {why}; the grammar is {GRAMMAR}")


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
    value, *options = (part.strip() for part in rest.split(","))
    n = None
    if options:
        match = re.fullmatch(r"n\s*=\s*(\d+)", options[0])
        if len(options) > 1 or match is None or kind not in ("class", "memorised"):
            raise request.wrong(f"{','.join(options)!r} does not belong there")
        n = int(match[1])
        if n == 0:
            raise request.wrong("n must be at least 1")
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
    if re.fullmatch(r"\d+", request.value):
        count = int(request.value)
    else:
        try:
            fraction = float(request.value)
        except ValueError:
            raise request.wrong("need a fraction such as 0.1 or a number such as 200") from None
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


def _class(request: Request, given: Situation) -> Selection:
    if request.value.isdigit():
        label = int(request.value)
    elif request.value in given.class_names:
        label = given.class_names.index(request.value)
    else:
        raise request.wrong(f"no class has this number or name ({', '.join(given.class_names[:10])}, ...)")
    members = given.free[given.train.labels.cpu()[given.free] == label]
    if len(members) == 0:
        raise request.wrong(f"it matches nothing: classes run from 0 to {len(given.class_names) - 1}")
    if request.n is None:
        return Selection(members)
    return Selection(given.shuffled(members, "class", label)[: _enough(request, request.n, len(members))])


def _identity(request: Request, given: Situation) -> Selection:
    if given.train.groups is None:
        raise request.wrong("these data do not say who is shown (no groups)")
    groups = given.train.groups.cpu()
    people = groups[groups >= 0].unique()
    match = re.fullmatch(r"(#?)(\d+)", request.value)
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
    path, n = Path(request.value).expanduser(), len(given.train)
    try:
        index = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else "not a plain .npy array of integers"
        raise request.wrong(why) from error
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
