"""Data sets, forget requests and splits.

    ds = load("mnist5k")                          # Dataset: train, test, class_names
    part = split(ds, forget="random:0.1", seed=0) # Split: retain, forget, validation, test

The containers are in `examples.py`, the grammar of requests in `requests.py`, the places that data come from in
`sources.py` and the generated faces in `cartoon.py`; all that a caller needs can be imported from here.
"""

import difflib
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unlearnlib import faces, requests, sources
from unlearnlib.examples import Dataset, Examples, Split, stratified
from unlearnlib.requests import GRAMMAR, stamp
from unlearnlib.seeding import generator

__all__ = [
    "GRAMMAR",
    "Dataset",
    "Examples",
    "Split",
    "add_label_noise",
    "describe",
    "load",
    "names",
    "overlap",
    "split",
    "stamp",
]

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
    "folder": (sources.folder, "pictures in one folder a class, or in train/ and test/ (val/) of such folders"),
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
    kind, _, path = str(name).partition(":")
    if kind in _FOLDERS and path:
        loader, given = _FOLDERS[kind][0], (path,)
    elif name in _LOADERS:
        loader, given = _LOADERS[name][0], ()
    else:
        known = list(names())
        raise ValueError(f"no data set {name!r}: {_nearest(str(name), known)}known are {', '.join(known)}")
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


def split(
    ds: Dataset,
    forget: str = "random:0.1",
    seed: int = 0,
    validation: float = 0.1,
    memorisation: Tensor | None = None,
) -> Split:
    """Divide a data set by a forget request (the grammar is in `requests.py`).

    The validation set, a fraction of `ds.train` stratified by label, is drawn first and from the seed alone, so
    that requests with one seed share it, and with it the original model. `identity` and `file` take whatever they
    name, also out of the validation set: nobody who is forgotten keeps a picture in the retain or validation set.
    Pictures in `ds.test` are never touched. `memorisation`, one score for each of `ds.train`, is needed by
    `memorised`. A request that is not in the grammar, or that matches nothing or everything, is a ValueError.
    """
    request = requests.parse(forget)
    held_out = stratified(ds.train.labels, validation, generator(seed, "validation"))
    free = (~held_out).nonzero().flatten()
    chosen = requests.select(request, requests.Situation(ds.train, free, ds.class_names, seed, memorisation))
    is_forget = torch.zeros(len(ds.train), dtype=torch.bool)
    is_forget[chosen.positions] = True
    held_out &= ~is_forget
    index = (~held_out).nonzero().flatten()
    if bool(is_forget[index].all()):
        raise request.wrong("it matches everything, the retain set would be empty")
    train = requests.apply(chosen, ds.train)[index]
    return Split(train, is_forget[index], ds.train[held_out], ds.test, forget.strip(), seed, index)


def add_label_noise(ds: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Give round(fraction N) of the N training images a wrong label, uniform over the other classes.

    `train.attributes["true_label"]` keeps the labels as they were (of a data set that has it already: the first
    ones). The test part is not changed. More noise with the same seed contains less noise.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction!r}")
    labels = ds.train.labels.clone()
    noisy = torch.randperm(len(labels), generator=generator(seed, "label noise"))[: round(fraction * len(labels))]
    labels[noisy] = requests.wrong_labels(labels, ds.n_classes, generator(seed, "label noise", "labels"))[noisy]
    truth = ds.train.attributes.get("true_label", ds.train.labels)
    train = replace(ds.train, labels=labels, attributes={**ds.train.attributes, "true_label": truth})
    return replace(ds, train=train, source=f"{ds.source}, label noise {fraction:g} (seed {seed})")


def _image_hashes(examples: Examples) -> np.ndarray:
    rows = examples.images.detach().cpu().contiguous().flatten(1).numpy()
    return np.array([hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows], dtype="S16")


def overlap(split: Split) -> pd.DataFrame:
    """Exact duplicates between the parts of a split: real data have some, although no position is used twice.

    Entry (a, b) counts the images of part a that occur, pixel for pixel, in part b; entry (a, a) counts those that
    repeat an earlier image of the same part. Labels are not compared.
    """
    parts = {"retain": split.retain, "forget": split.forget, "validation": split.validation}
    if split.test is not None:
        parts["test"] = split.test
    hashes = {name: _image_hashes(part) for name, part in parts.items()}
    counts = {
        b: {
            a: len(hashes[a]) - len(set(hashes[a])) if a == b else int(np.isin(hashes[a], hashes[b]).sum())
            for a in parts
        }
        for b in parts
    }
    return pd.DataFrame(counts, index=list(parts))


def describe(ds: Dataset) -> pd.DataFrame:
    """One row that says what a data set is: sizes, shape, classes, people, checksum (12 hex digits) and source."""
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
