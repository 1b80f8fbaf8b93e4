"""The containers that everything else reads: labelled images, a data set, and a data set split by a forget request."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnlib.data import doors
from unlearnlib.data.pictures import image_tensor
from unlearnlib.data.tensors import check, check_kind, check_vector, digest

Limit = float | tuple[float, ...]


def _positions(index: Any, n: int) -> Tensor | slice:
    """An index in any accepted form as an int64 tensor or a slice with a positive step."""
    if isinstance(index, slice):
        start, stop, step = index.indices(n)
        return slice(start, stop, step) if step > 0 else torch.arange(start, stop, step)
    if isinstance(index, (int, np.integer)):
        raise ValueError(f"one integer selects no Examples: write [{index}:{index + 1}], or .images[{index}]")
    return doors.positions(index, n, distinct=False, empty=True, from_end=True)


def _check_limits(images: Tensor, limits: tuple[Limit, Limit]) -> tuple[Limit, Limit]:
    """The valid pixel range as floats or per-channel tuples, after checking that the pixels keep to it."""
    channels = images.shape[1]
    shape = f"limits must be (low, high), each a number or {channels} numbers, with low < high; not {limits!r}"
    try:
        ends = [np.asarray(end, dtype=np.float64) for end in limits]
    except (TypeError, ValueError) as error:
        raise ValueError(shape) from error
    check(len(ends) == 2 and all(end.shape in ((), (channels,)) for end in ends), shape)
    low, high = (torch.from_numpy(np.broadcast_to(end, channels).copy()) for end in ends)
    check(bool((low < high).all()), shape)
    if len(images):
        slack = 1e-4 * (high - low)  # rounding of a normalisation in single precision
        pixels = images.detach().transpose(0, 1).flatten(1)
        least, most = pixels.amin(1).double().cpu(), pixels.amax(1).double().cpu()
        inside = bool(((least >= low - slack) & (most <= high + slack)).all())
        check(inside, f"pixels run from {least.min():g} to {most.max():g}, outside limits {limits!r}: correct one")
    return tuple(float(end) if end.ndim == 0 else tuple(end.tolist()) for end in ends)


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images.

    images      [N, C, H, W], uint8 (0..255, read as 0..1) or floating point (used as they are)
    labels      [N] int64, at least 0
    groups      [N] int64, the identity of the person shown, -1 if unknown; None if the data have no identities
    attributes  further tensors [N] by name
    limits      valid pixel range (low, high) in the units of `pixels`: numbers, or tuples with one number a channel.
                uint8 images always have (0.0, 1.0); None means unknown.

    Wrong shapes, types or lengths, labels below 0, values that are not finite and pixels outside `limits` are
    ValueErrors. `examples[index]` takes an int64 tensor, a bool mask, a slice, a list or an ndarray.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    limits: tuple[Limit, Limit] | None = None

    def __post_init__(self):
        images = self.images
        check(isinstance(images, Tensor), f"images must be a tensor, not {type(images).__name__}: see Examples.of")
        check(images.ndim == 4, f"images must have shape [N, C, H, W], not {list(images.shape)}")
        check(min(images.shape[1:]) > 0, f"images must have pixels, not shape {list(images.shape)}")
        doors.check_pixels(images)
        n = len(images)
        check_vector("labels", self.labels, n, torch.int64)
        check(n == 0 or int(self.labels.min()) >= 0, "labels must be at least 0: drop the images without a label")
        if self.groups is not None:
            check_vector("groups", self.groups, n, torch.int64)
            check(n == 0 or int(self.groups.min()) >= -1, "groups must be at least -1 (-1 means unknown)")
        check(isinstance(self.attributes, Mapping), f"attributes must be {{name: tensor}}, not {self.attributes!r:.60}")
        for name, value in self.attributes.items():
            check_vector(f"attribute {name!r}", value, n)
        if images.is_floating_point():
            limits = self.limits if self.limits is None else _check_limits(images, self.limits)
        else:
            given = self.limits in (None, (0, 1))
            check(given, f"uint8 images have limits (0.0, 1.0), not {self.limits!r}: convert them to float for others")
            limits = (0.0, 1.0)
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self):  # a mapping proxy does not pickle
        return Examples, (self.images, self.labels, self.groups, dict(self.attributes), self.limits)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        c, h, w = self.shape
        return f"Examples({len(self)} images {c}x{h}x{w} {self.images.dtype})"

    def __iter__(self):
        raise TypeError("Examples are not iterated one by one: read .images and .labels, or .pixels(index)")

    def __getitem__(self, index) -> "Examples":
        index = _positions(index, len(self))
        return self._map(lambda tensor: tensor[index if isinstance(index, slice) else index.to(tensor.device)])

    def _map(self, change) -> "Examples":
        groups = None if self.groups is None else change(self.groups)
        attributes = {name: change(value) for name, value in self.attributes.items()}
        return Examples(change(self.images), change(self.labels), groups, attributes, self.limits)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    def pixels(self, index=None, device=None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images as a floating tensor [n, C, H, W]: uint8 divided by 255, floating images as they are."""
        images = self.images
        if index is not None:
            index = _positions(index, len(self))
            # index_select gathers a batch of small pictures fifteen times as fast as brackets
            chosen = isinstance(index, slice)
            images = images[index] if chosen else images.index_select(0, index.to(images.device))
        return doors.floating(images, device, dtype)

    def checksum(self) -> str:
        """SHA-256 (hex) of everything held, the same on every device."""
        names = sorted(self.attributes)
        parts = digest(self.images, self.labels, self.groups, *(self.attributes[name] for name in names))
        return hashlib.sha256(f"{parts}{names}{self.limits}".encode()).hexdigest()

    def to(self, device: str | torch.device) -> "Examples":
        """The same examples on another device."""
        return self._map(lambda tensor: tensor.to(device))

    @staticmethod
    def of(dataset, limits: tuple[Limit, Limit] | None = None) -> "Examples":
        """Read any map-style data set of (image, label) pairs, one item after the other.

        PIL images become uint8; tensors are [C, H, W] or [H, W] and arrays [H, W, C] or [H, W], as in torchvision.
        uint8 and floating values are kept as they are, so transforms that draw at random are frozen at one draw.
        Examples are returned unchanged. Items of different shapes or types, and labels that are not integers,
        are ValueErrors.
        """
        if isinstance(dataset, Examples):
            return dataset
        map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not map_style or isinstance(dataset, (str, bytes, Mapping, Dataset, Split)):
            hint = ": give its .dataset" if hasattr(dataset, "dataset") else ""
            raise ValueError(f"need a map-style data set with len() and [i], not {type(dataset).__name__}{hint}")
        check(len(dataset) > 0, "the data set is empty")
        items = [dataset[i] for i in range(len(dataset))]
        for item in items:
            pair = isinstance(item, (tuple, list)) and len(item) >= 2
            check(pair, f"each item must be a pair (image, label), not {type(item).__name__}")
        images = [image_tensor(item[0]) for item in items]
        kinds = {(tuple(image.shape), image.dtype) for image in images}
        if len(kinds) > 1:
            some = " and ".join(sorted(map(str, kinds))[:2])
            raise ValueError(f"images differ in shape or type, {some}: bring them to one first")
        labels = torch.tensor([_label(item[1]) for item in items], dtype=torch.int64)
        return Examples(torch.stack(images), labels, limits=limits)

    @staticmethod
    def concatenate(parts: Iterable["Examples"]) -> "Examples":
        """The parts one after the other. They must agree in shape, type and limits.

        Groups are -1 for parts without them; an attribute is kept if every part has it.
        """
        parts = list(parts)
        check(len(parts) > 0, "nothing to concatenate")
        for part in parts[1:]:
            _check_alike(parts[0], part, "parts")
        groups = None
        if any(part.groups is not None for part in parts):
            groups = torch.cat([torch.full_like(p.labels, -1) if p.groups is None else p.groups for p in parts])
        shared = [name for name in parts[0].attributes if all(name in part.attributes for part in parts)]
        attributes = {name: torch.cat([part.attributes[name] for part in parts]) for name in shared}
        images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
        return Examples(images, labels, groups, attributes, parts[0].limits)


def _label(label: Any) -> int:
    value = label.item() if isinstance(label, (Tensor, np.ndarray)) and np.prod(label.shape) == 1 else label
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"labels must be integers, not {label!r:.60}")
    check(value < 1 << 31, f"label {value!r:.60} is too large: number the classes from 0")
    return int(value)


def _check_alike(a: Examples, b: Examples, what: str) -> None:
    check(a.shape == b.shape, f"{what} differ in image shape: {a.shape} and {b.shape}")
    check(a.images.dtype == b.images.dtype, f"{what} differ in image type: {a.images.dtype} and {b.images.dtype}")
    check(a.limits == b.limits, f"{what} differ in limits: {a.limits} and {b.limits}")


def pixel_limits(examples: Examples) -> tuple[Tensor, Tensor]:
    """The valid pixel range, low and high [C, 1, 1]: as declared, or as observed in the examples."""
    channels = examples.shape[0]
    if examples.limits is not None:
        low, high = (torch.as_tensor(v, dtype=torch.float32).flatten().expand(channels) for v in examples.limits)
    else:
        pixels = examples.images.transpose(0, 1).flatten(1)
        low, high = pixels.amin(1).float(), pixels.amax(1).float()
    return low[:, None, None], high[:, None, None]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples with the names of the classes and where they came from.

    Labels run from 0 to n_classes - 1; train and test agree in shape, type and limits; else a ValueError.
    """

    name: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self):
        listed = isinstance(self.class_names, Iterable) and not isinstance(self.class_names, str)
        check(listed, f"class_names must be a list of names, not {self.class_names!r:.60}")
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        for name, part in (("train", self.train), ("test", self.test)):
            check_kind(name, part, Examples, "see Examples.of")
        check(len(self.train) > 0, f"{self.name}: the training part is empty")
        _check_alike(self.train, self.test, f"{self.name}: train and test")
        for part in (self.train, self.test):
            top = int(part.labels.max()) if len(part) else 0
            check(top < self.n_classes, f"{self.name}: label {top} but only {self.n_classes} class names")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def checksum(self) -> str:
        """SHA-256 (hex) of the examples and class names, whatever the data set is called."""
        text = f"{self.train.checksum()}{self.test.checksum()}{self.class_names}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """A training set with the part that is to be forgotten marked, and the parts that were never trained on.

    train       retain and forget set in their original order: what the original model is trained on
    is_forget   [len(train)] bool
    validation  held out from training; hyper-parameters are chosen on it (may be empty)
    test        held out for audits only, None if there is none
    request     the forget request, seed its seed
    index       [len(train)] int64, positions of `train` in `Dataset.train`; None if it did not come from one

    The retain set and the forget set must not be empty.
    """

    train: Examples
    is_forget: Tensor
    validation: Examples
    test: Examples | None
    request: str
    seed: int
    index: Tensor | None = None

    def __post_init__(self):
        for name, part in (("train", self.train), ("validation", self.validation)):
            check_kind(name, part, Examples, "see Split.of")
        if self.test is not None:
            check_kind("test", self.test, Examples, "see Split.of")
        n = len(self.train)
        check_vector("is_forget", self.is_forget, n, torch.bool)
        check(bool(self.is_forget.any()), f"request {self.request!r} leaves nothing to forget")
        check(not bool(self.is_forget.all()), f"request {self.request!r} leaves nothing to retain")
        for part in (self.validation, self.test):
            if part is not None:
                _check_alike(self.train, part, "the parts of a split")
        if self.index is not None:
            check_vector("index", self.index, n, torch.int64)
            distinct = len(self.index.unique()) == n and int(self.index.min()) >= 0
            check(distinct, "index must hold distinct positions, at least 0")

    @cached_property
    def forget_index(self) -> Tensor:
        """Positions of the forget set in `train`, ascending."""
        return self.is_forget.nonzero().flatten()

    @cached_property
    def retain_index(self) -> Tensor:
        """Positions of the retain set in `train`, ascending."""
        return (~self.is_forget).nonzero().flatten()

    @cached_property
    def forget(self) -> Examples:
        return self.train[self.forget_index]

    @cached_property
    def retain(self) -> Examples:
        return self.train[self.retain_index]

    def __repr__(self) -> str:
        held_out = f"validation {len(self.validation)}, test {0 if self.test is None else len(self.test)}"
        sizes = f"retain {len(self.retain_index)}, forget {len(self.forget_index)}, {held_out}"
        return f"Split({self.request!r}, seed {self.seed}: {sizes})"

    def checksum(self) -> str:
        """SHA-256 (hex) of all parts and of the mask; the request's wording and the seed do not enter."""
        held_out = [None if part is None else part.checksum() for part in (self.validation, self.test)]
        text = f"{self.train.checksum()}{digest(self.is_forget)}{held_out}"
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def of(*, retain, forget, validation=None, test=None, request: str = "given", seed: int = 0) -> "Split":
        """A split made of a caller's own parts: Examples, or map-style data sets read with `Examples.of`.

        `train` is the retain set followed by the forget set. Without `validation` that part is empty.
        """
        retain, forget = Examples.of(retain), Examples.of(forget)
        train = Examples.concatenate([retain, forget])
        is_forget = torch.arange(len(train)) >= len(retain)
        held_out = train[:0] if validation is None else Examples.of(validation)
        return Split(train, is_forget, held_out, None if test is None else Examples.of(test), request, seed)
