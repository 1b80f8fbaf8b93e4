"""Divide a data set by a forget request, spoil its labels, count its duplicates.

    part = split(ds, forget="random:0.1", seed=0)   # Split: retain, forget, validation, test

The containers are in `examples.py`, the grammar of requests in `requests.py`.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unlearnlib.data import requests
from unlearnlib.data.examples import Dataset, Examples, Split
from unlearnlib.data.strata import stratified
from unlearnlib.data.tensors import check_fraction, check_kind
from unlearnlib.seeding import generator


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
    `memorised`. A request that is not in the grammar, or that matches nothing or everything, and a validation set that
    is asked for and would be empty, are ValueErrors.
    """
    check_kind("what is split", ds, Dataset, "see data.load, or Split.of for parts of your own")
    request = requests.parse(forget)
    held_out = stratified(ds.train.labels, validation, generator(seed, "validation"))
    if validation > 0 and not held_out.any():
        few = f"{len(ds.train)} pictures in {ds.n_classes} classes are too few to hold out {validation:g} of"
        raise ValueError(f"{few}: raise validation=, or give validation=0")
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
    check_kind("what gets label noise", ds, Dataset, "see data.load")
    check_fraction("fraction", fraction, one=True)
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
    check_kind("what overlaps", split, Split, "see data.split")
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
