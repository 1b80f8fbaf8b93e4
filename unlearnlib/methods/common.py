"""What every method understands beside its own hyper-parameters, and what a method that reads nothing is shown."""

import dataclasses
import functools
import math
import numbers
from dataclasses import dataclass

import torch

from unlearnlib.data.examples import Examples, Split
from unlearnlib.training.recipe import AUGMENTATIONS


@dataclass(frozen=True)
class Common:
    """Hyper-parameters of every method."""

    freeze_norms: bool = False  # batch norms use their running statistics and leave them, from start to end

    def __post_init__(self):
        if not isinstance(self.freeze_norms, bool):
            raise ValueError(f"freeze_norms is True or False, not {self.freeze_norms!r}")


@dataclass(frozen=True)
class Taught(Common):
    """Hyper-parameters of methods that teach by a recipe: those of the original's recipe that fairness asks for."""

    augment: str = "none"  # as in `Recipe`
    label_smoothing: float = 0.0  # as in `Recipe`

    def __post_init__(self):
        super().__post_init__()
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, not {self.augment!r}")
        known = isinstance(self.label_smoothing, numbers.Real) and not isinstance(self.label_smoothing, bool)
        if not (known and math.isfinite(self.label_smoothing) and 0 <= self.label_smoothing <= 1):
            raise ValueError(f"label_smoothing is a number from 0 to 1, not {self.label_smoothing!r}")


def with_common(config: type, taught: bool, configure) -> type:
    """The method's dataclass of hyper-parameters with those of `Common` (or `Taught`), which it need not repeat.

    configure   values -> the configuration: how it is made again where it is unpickled
    """
    shared = Taught if taught else Common
    own = {f.name for f in dataclasses.fields(config)}
    more = [(f.name, f.type, dataclasses.field(default=f.default)) for f in dataclasses.fields(shared)]

    def __post_init__(self):
        if hasattr(config, "__post_init__"):
            config.__post_init__(self)
        shared(**{f.name: getattr(self, f.name) for f in dataclasses.fields(shared)})

    def __reduce__(self):
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return functools.partial(configure, **values), ()

    namespace = {"__post_init__": __post_init__, "__reduce__": __reduce__, "__doc__": config.__doc__}
    fields = [field for field in more if field[0] not in own]
    made = dataclasses.make_dataclass(config.__name__, fields, bases=(config,), namespace=namespace, frozen=True)
    made.__module__, made.__qualname__ = config.__module__, config.__qualname__
    return made


class Unseen(Examples):
    """Examples whose pictures must not be read: labels and shape are there, `images` is NaN and `pixels` refuses."""

    def __post_init__(self):
        pass

    def pixels(self, index=None, device=None, dtype=torch.float32):
        raise ValueError('this method says reads="none": it must not read pictures of the training or validation set')

    def _map(self, change) -> "Unseen":
        return _unseen(self.shape, change(self.labels), self.limits)


def unseen(examples: Examples) -> Unseen:
    """`examples` without their pictures, groups and attributes; it takes no memory."""
    return _unseen(examples.shape, examples.labels, examples.limits)


def _unseen(shape, labels, limits) -> Unseen:
    images = torch.full((1, 1, 1, 1), torch.nan).expand(len(labels), *shape)
    return Unseen(images, labels, limits=limits)


def blinded(split: Split) -> Split:
    """The split without any picture: what a method gets that says it reads "none"."""
    return dataclasses.replace(split, train=unseen(split.train), validation=unseen(split.validation), test=None)
