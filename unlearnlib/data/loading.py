"""Data sets by name: embedded, from an archive, downloaded, drawn, or pictures of your own."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from unlearnlib.data import faces, folders, sources
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.strata import stratified
from unlearnlib.data.tensors import check_kind
from unlearnlib.seeding import generator

_LOADERS: dict[str, tuple[Callable[..., Dataset], str]] = {
    "digits": (sources.digits, "1,797 handwritten digits, 8x8 grey; embedded"),
    "mnist5k": (sources.mnist5k, "5,000 digits of MNIST, 28x28 grey; embedded"),
    "cartoon_faces": (sources.cartoon_faces, "drawn faces whose identity, smile and glasses are known; generated"),
    "mnist": (sources.mnist, "MNIST, 70,000 digits, 28x28 grey"),
    "fashion_mnist": (sources.fashion_mnist, "Fashion-MNIST, 70,000 pieces of clothing, 28x28 grey; download only"),
    "cifar10": (sources.cifar10, "CIFAR-10, 60,000 pictures of 10 classes, 32x32 colour"),
    "cifar100": (sources.cifar100, "CIFAR-100, 60,000 pictures of 100 classes, 32x32 colour"),
    "imagenette": (sources.imagenette, "6,500 pictures of 10 ImageNet classes, 64x64 colour"),
    "lfw": (sources.lfw, "Labeled Faces in the Wild, 5,985 faces of 423 people, 64x64 colour"),
    "olivetti": (sources.olivetti, "ORL (Olivetti) faces, 400 pictures of 40 people, 64x64 grey"),
    "planted_olivetti": (faces.planted_olivetti, "the same with glasses drawn on some; the label is the glasses"),
}
# Of these the reader has a folder: `<name>:<path>`.
_FOLDERS: dict[str, tuple[Callable[..., Dataset], str]] = {
    "folder": (folders.folder, "pictures in one folder a class, or in train/ and test/ (val/) of such folders"),
    "mufac": (faces.mufac, "MUFAC, 13,068 Korean faces in eight classes of age, in its official layout"),
    "mucac": (faces.mucac, "MUCAC, CelebA-HQ with identities, in its official layout"),
    "raf_db": (faces.raf_db, "RAF-DB, 15,339 faces in seven emotions, in its official layout"),
}


def names() -> dict[str, str]:
    """What `load` knows: name -> one line. `folder:<path>` reads pictures of your own."""
    known = {name: line for name, (_, line) in _LOADERS.items()}
    return known | {f"{kind}:<path>": line for kind, (_, line) in _FOLDERS.items()}


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def load(name: str, *, n: int | None = None, n_test: int | None = None, **options) -> Dataset:
    """A data set by name; `names()` lists them.

    n, n_test   take so many of its training and test pictures: a random draw, stratified by label, always the same one

    Archives in $UNLEARN_DATA come first (their SHA-256 is checked), then a download to $UNLEARN_HOME or the cache
    folder. Options are those of the functions in `sources` and `faces` with the same names. An unknown name or option
    is a ValueError that names the nearest one; data that cannot be had are a FileNotFoundError that says what to do.
    """
    if not isinstance(name, str):
        raise ValueError(f"no data set {name!r:.60}: give a name, one of {', '.join(names())}")
    kind, _, path = name.partition(":")
    if kind in _FOLDERS and path:
        loader, given = _FOLDERS[kind][0], (path,)
    elif name in _LOADERS:
        loader, given = _LOADERS[name][0], ()
    else:
        known = list(names())
        raise ValueError(f"no data set {name!r:.200}: {_nearest(name, known)}known are {', '.join(known)}")
    accepted = list(inspect.signature(loader).parameters)[len(given) :]
    for option in options:
        if option not in accepted:
            listing = ", ".join(accepted) or "none"
            raise ValueError(f"{name} has no option {option!r}: {_nearest(option, accepted)}its options are {listing}")
    ds = loader(*given, **options)
    if n is None and n_test is None:
        return ds
    parts = {"train": _some(ds.train, n, "train"), "test": _some(ds.test, n_test, "test")}
    return replace(ds, **parts, source=f"{ds.source}, {len(parts['train'])} + {len(parts['test'])} pictures")


def _some(examples: Examples, n: int | None, part: str) -> Examples:
    if n is None or n == len(examples):
        return examples
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n < len(examples):
        raise ValueError(f"the {part} part has {len(examples)} pictures: ask for between 1 and that, not {n!r}")
    return examples[stratified(examples.labels, n / len(examples), generator(0, "subset", part))]


def describe(ds: Dataset) -> pd.DataFrame:
    """One row that says what a data set is: sizes, shape, classes, people, checksum (12 hex digits) and source."""
    check_kind("a data set", ds, Dataset, "see data.load")
    groups = ds.train.groups
    row = {
        "name": ds.name,
        "train": len(ds.train),
        "test": len(ds.test),
        "shape": "x".join(map(str, ds.shape)),
        "classes": ds.n_classes,
        "people": 0 if groups is None else len(groups[groups >= 0].unique()),
        "checksum": ds.checksum()[:12],
        "source": ds.source,
    }
    return pd.DataFrame([row])
