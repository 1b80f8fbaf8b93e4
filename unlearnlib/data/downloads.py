"""Downloads, to $UNLEARN_HOME or the user's cache folder, of data sets whose archive is not in $UNLEARN_DATA.

They come from the places that torchvision and scikit-learn know, and every file is checked against a published
hash. Where those libraries would read pickles (CIFAR's Python version, scikit-learn's caches) the plain files are
read here instead. Shapes and types agree with the archives; contents differ so:

    mnist       the same bits
    cifar10     the same bits (the test set is sorted by class, as in the archive)
    cifar100    official order and original pixels; the archive is sorted by class and compressed with loss
    imagenette  the first 500 and 150 pictures of each class, cropped to a square; the archive has other pictures,
                squeezed to a square
    lfw         funneled, not deep-funneled; only identities are known, so only task="identity"
    olivetti    64x64 pictures; the archive holds the original 112x92
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unlearnlib.data.examples import Dataset, Examples, integers, tensor
from unlearnlib.store.places import home

# Address, MD5 as published by the author, folder, last file to be unpacked.
CIFAR10 = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-batches-bin",
)
CIFAR100 = (
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
    "cifar-100-binary",
)
# Address and SHA-256 of the copies that scikit-learn reads.
LFW = (
    "https://ndownloader.figshare.com/files/5976015",
    "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
)
OLIVETTI = (
    "https://ndownloader.figshare.com/files/5976027",
    "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",
)


@contextlib.contextmanager
def downloading(name: str, files: str) -> Iterator[Path]:
    """Yields the folder for downloads; any failure inside becomes one line that says what to do."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        yield home()
    except Exception as error:  # whatever went wrong, the user must hear of both ways to get the data
        why = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise FileNotFoundError(
            f"{name}: {files} not found in $UNLEARN_DATA and the download failed ({why}): "
            "set UNLEARN_DATA to the folder that holds it, or call again with a network connection"
        ) from error


def idx(name: str, torchvision_class: str, files: str) -> Dataset:
    """MNIST and Fashion-MNIST by torchvision, which checks their MD5 and reads the plain idx files."""
    with downloading(name, files) as root:
        from torchvision import datasets

        kind = getattr(datasets, torchvision_class)
        parts = [kind(str(root), train=train, download=True) for train in (True, False)]
        train, test = (Examples(part.data[:, None].contiguous(), part.targets.long()) for part in parts)
        names = tuple(label.split(" - ")[0] for label in parts[0].classes)  # MNIST says "3 - three"
        return Dataset(name, train, test, names, f"torchvision {torchvision_class}")


def _cifar(root: Path, spec: tuple[str, str, str], files: list[str], label_bytes: int) -> tuple[torch.Tensor, ...]:
    """Label bytes [N, label_bytes] int64 and images [N, 3, 32, 32] of the binary version's fixed-length records."""
    from torchvision.datasets.utils import download_and_extract_archive

    url, md5, folder = spec
    record = label_bytes + 3072
    paths = [root / folder / file for file in files]
    if not all(path.exists() and path.stat().st_size % record == 0 for path in paths):
        download_and_extract_archive(url, str(root), md5=md5)
    raw = np.concatenate([np.fromfile(path, np.uint8) for path in paths]).reshape(-1, record)
    images = np.ascontiguousarray(raw[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return integers(raw[:, :label_bytes]), torch.from_numpy(images)


def _class_names(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text().split())


def cifar10() -> Dataset:
    with downloading("cifar10", "cifar10_train.npz and cifar10_test.npz") as root:
        labels, images = _cifar(root, CIFAR10, [f"data_batch_{i}.bin" for i in range(1, 6)], 1)
        train = Examples(images, labels[:, 0].clone())
        labels, images = _cifar(root, CIFAR10, ["test_batch.bin"], 1)
        test = Examples(images, labels[:, 0].clone())[labels[:, 0].sort(stable=True).indices]
        return Dataset(
            "cifar10", train, test, _class_names(root / CIFAR10[2] / "batches.meta.txt"), "CIFAR-10 binary version"
        )


def cifar100() -> Dataset:
    with downloading("cifar100", "cifar100_train.npz and cifar100_test.npz") as root:
        parts = []
        for file in ("train.bin", "test.bin"):
            labels, images = _cifar(root, CIFAR100, [file], 2)  # coarse, fine
            parts.append(Examples(images, labels[:, 1].clone(), attributes={"coarse_labels": labels[:, 0].clone()}))
        names = _class_names(root / CIFAR100[2] / "fine_label_names.txt")
        return Dataset("cifar100", *parts, names, "CIFAR-100 binary version")


def imagenette() -> tuple[list[list[tuple[str, int]]], tuple[str, ...]]:
    """Paths and labels of the first 500 (train) and 150 (validation) pictures of each class, and the class names."""
    with downloading("imagenette", "imagenette64_train.npz and imagenette64_test.npz") as root:
        from torchvision.datasets import Imagenette

        parts = []
        for part, per_class in (("train", 500), ("val", 150)):
            listing = Imagenette(str(root), split=part, size="160px", download=True, loader=str)  # paths, no pixels
            rows = [listing[i] for i in range(len(listing))]
            classes = range(len(listing.classes))
            parts.append([row for c in classes for row in sorted(r for r in rows if r[1] == c)[:per_class]])
        return parts, tuple(synonyms[0] for synonyms in listing.classes)


def lfw(task: str) -> Dataset:
    """The people with five or more pictures, numbered in the order of their names, as in the archive."""
    if task != "identity":
        raise FileNotFoundError(
            f"lfw: lfw64.npz not found in $UNLEARN_DATA, and no download has the labels of task {task!r}: "
            "set UNLEARN_DATA to the folder that holds it, or take task='identity'"
        )
    with downloading("lfw", "lfw64.npz") as root:
        from torchvision.datasets.utils import extract_archive

        file, folder = root / "lfw-funneled.tgz", root / "lfw_funneled"
        if not file.exists():
            torch.hub.download_url_to_file(LFW[0], str(file), hash_prefix=LFW[1], progress=False)
        if len(list(folder.glob("*/*.jpg"))) < 13233:  # not unpacked, or only in part
            extract_archive(str(file), str(root))
        people = [sorted(person.glob("*.jpg")) for person in sorted(folder.iterdir()) if person.is_dir()]
        people = [shots for shots in people if len(shots) >= 5]
        identity = integers([i for i, shots in enumerate(people) for _ in shots])
        test = torch.tensor([i >= len(shots) - -(-len(shots) // 5) for shots in people for i in range(len(shots))])
        faces = tensor(np.stack([_face(path) for shots in people for path in shots]))
        unknown = torch.full_like(identity, -1)
        examples = Examples(faces, identity, identity.clone(), {"male": unknown, "smiling": unknown.clone()})
        names = tuple(f"person {i}" for i in range(len(people)))
        return Dataset("lfw", examples[~test], examples[test], names, "LFW funneled (scikit-learn's copy)")


def _face(path: Path) -> np.ndarray:
    """The central 128x128 of a 250x250 picture, averaged down to 64x64."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").crop((61, 61, 189, 189)).reduce(2))


def olivetti() -> np.ndarray:
    """The 400 pictures [400, 64, 64] uint8, ten for each of 40 people in a row."""
    with downloading("olivetti", "olivetti.npz") as root:
        from scipy.io import loadmat

        file = root / "olivettifaces.mat"
        if not file.exists():
            torch.hub.download_url_to_file(OLIVETTI[0], str(file), hash_prefix=OLIVETTI[1], progress=False)
        columns = loadmat(str(file))["faces"]  # [4096, 400], pixels column by column
        return columns.T.reshape(400, 64, 64).transpose(0, 2, 1).astype(np.uint8)
