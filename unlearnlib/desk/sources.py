"""Training data of somebody else's pipeline, with the ids by which its examples are called.

    folder:PATH     pictures, one folder a class (or train/ and test/ of such folders); id: the path below PATH
    npz:PATH        arrays images [N, H, W] or [N, H, W, C], labels [N], and perhaps ids [N]
    parquet:PATH    columns path (from the folder of the file), label, and perhaps id
    datasets:PATH   a data set of Hugging Face `datasets` saved to disk: columns image, label, and perhaps id
    NAME            any name of `data.load`

Where there are no ids an example is called by its number, from 0. Nothing is unpickled.
"""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unlearnlib._extras import optional
from unlearnlib.data import folders, loading
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.pictures import eight_bit, read_pictures, square, white
from unlearnlib.data.tensors import integers
from unlearnlib.store.places import expanded


@dataclass(frozen=True, eq=False)
class Source:
    """The examples that a model was trained on, what they are called, and others that it never saw (or None)."""

    kind: str
    ids: tuple[str, ...]
    examples: Examples
    held_out: Examples | None
    class_names: tuple[str, ...]

    def __post_init__(self):
        if len(self.ids) != len(self.examples):
            raise ValueError(f"the data have {len(self.examples)} examples and {len(self.ids)} ids: give one for each")
        if len(self._places) != len(self.ids):
            twice = next(name for i, name in enumerate(self.ids) if self._places[name] != i)
            raise ValueError(f"the id {twice!r:.60} is given twice: ids must tell examples apart")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids)}

    def positions(self, ids: Iterable[str]) -> Tensor:
        """Ascending positions [k] of the examples with these ids. ValueError where one is unknown."""
        ids = dict.fromkeys(ids)
        unknown = [name for name in ids if name not in self._places]
        if unknown:
            raise ValueError(f"{len(unknown)} of {len(ids)} ids are not in the data, such as {unknown[0]!r:.60}")
        return torch.tensor(sorted(self._places[name] for name in ids), dtype=torch.int64)

    def dataset(self) -> Dataset:
        """The same as a data set; without held-out examples its test part is empty."""
        test = self.examples[:0] if self.held_out is None else self.held_out
        return Dataset(self.kind, self.examples, test, self.class_names, self.kind)


def opened(spec: str, *, size: int | None = None, held_out: str | None = None) -> Source:
    """Read `spec` (see above). ValueError in one line for what cannot be read.

    size       pictures are cut and resized to squares of this side; by default 64 for files, else as they are
    held_out   another spec: examples of the same classes that were not trained on, instead of the test part
    """
    kind, _, path = spec.partition(":")
    if kind in _READERS and path:
        try:
            found = _READERS[kind](expanded(path, spec), size)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
            raise ValueError(f"{spec}: {why}") from None
    elif size is not None:
        raise ValueError(f"size= is for {', '.join(_READERS)}: {spec} has a size of its own")
    else:
        ds = loading.load(spec)
        found = Source(ds.name, _numbers(len(ds.train)), ds.train, ds.test, ds.class_names)
    if held_out is None:
        return found
    other = opened(held_out, size=size)
    if other.class_names != found.class_names:
        raise ValueError(f"{held_out} has the classes {', '.join(other.class_names)[:200]}, {spec} has others")
    return Source(found.kind, found.ids, found.examples, other.examples, found.class_names)


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def _folder(root: Path, size: int | None) -> Source:
    if not root.is_dir():
        raise ValueError(f"folder:{root}: no such folder")
    parts = [name for name in ("train", "test", "val") if (root / name).is_dir()]
    divided = len(parts) > 1 and parts[0] == "train"
    top = root / "train" if divided else root
    classes = folders._classes(top, f"folder:{root}")

    def read(place: Path) -> tuple[list[Path], Examples]:
        files = {name: folders._pictures_below(place / name) for name in classes if (place / name).is_dir()}
        found = [file for each in files.values() for file in each]
        labels = [classes.index(name) for name, each in files.items() for _ in each]
        return found, Examples(read_pictures(found, size or 64), integers(labels))

    files, examples = read(top)
    held_out = read(root / parts[1])[1] if divided else None
    return Source("folder", tuple(file.relative_to(root).as_posix() for file in files), examples, held_out, classes)


def _npz(path: Path, size: int | None) -> Source:
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        ids = tuple(map(str, arrays["ids"])) if "ids" in arrays else _numbers(len(images))
    if images.ndim not in (3, 4) or len(images) != len(labels):
        raise ValueError(f"npz:{path}: images are [N, H, W] or [N, H, W, C] with a label each, not {images.shape}")
    return _of_pairs("npz", ids, images, labels, size)


def _parquet(path: Path, size: int | None) -> Source:
    optional("pyarrow")
    if not path.is_file():
        raise ValueError(f"parquet:{path}: no such file")
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"parquet:{path} is no table: {str(error).splitlines()[0]}") from None
    pictures = read_pictures([path.parent / name for name in rows["path"]], size or 64)
    ids = tuple(map(str, rows["id"])) if "id" in rows else tuple(map(str, rows["path"]))
    labels, names = _classes(rows["label"].tolist())
    return Source("parquet", ids, Examples(pictures, labels), None, names)


def _datasets(path: Path, size: int | None) -> Source:
    if not path.is_dir():
        raise ValueError(f"datasets:{path}: no such folder")
    found = optional("datasets").load_from_disk(str(path))
    parts = found if hasattr(found, "keys") else {"train": found}
    train = parts["train"]
    test = next((parts[name] for name in ("test", "validation") if name in parts), None)
    feature = train.features["label"]
    names = tuple(getattr(feature, "names", None) or ())

    def read(part) -> Source:
        ids = tuple(map(str, part["id"])) if "id" in part.column_names else _numbers(len(part))
        return _of_pairs("datasets", ids, part["image"], list(part["label"]), size, names)

    own = read(train)
    return Source(own.kind, own.ids, own.examples, None if test is None else read(test).examples, own.class_names)


def _of_pairs(kind: str, ids, images: Iterable, labels: Sequence, size: int | None, names=()) -> Source:
    numbers, found = _classes(labels if isinstance(labels, list) else labels.tolist())
    examples = Examples.of(list(zip((_sized(image, size) for image in images), numbers.tolist(), strict=True)))
    return Source(kind, ids, examples, None, names or found)


def _sized(image, size: int | None):
    if hasattr(image, "getbands"):  # PIL
        image = eight_bit(image, white(image))
        return image if size is None else square(image, size)
    if size is not None:
        raise ValueError("size= resizes pictures, and these are arrays: leave it out")
    return np.array(image)


def _classes(labels: Sequence) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers [N] from 0 and the names of the classes; labels that are numbers keep theirs."""
    if all(isinstance(label, (int, np.integer)) and not isinstance(label, bool) for label in labels):
        found = integers(labels)
        return found, _numbers(int(found.max()) + 1 if len(found) else 0)
    names = tuple(sorted(dict.fromkeys(map(str, labels)), key=folders.natural))
    places = {name: i for i, name in enumerate(names)}
    return integers([places[str(label)] for label in labels]), names


_READERS = {"folder": _folder, "npz": _npz, "parquet": _parquet, "datasets": _datasets}
