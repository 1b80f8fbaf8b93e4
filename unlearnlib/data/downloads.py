"""Downloads, to $UNLEARN_HOME or the user's cache folder, of data sets whose archive is not in $UNLEARN_DATA.

They come from the places that torchvision and scikit-learn know, and every file is checked against its published hash
whenever it is read (`fetching.py`). Where those libraries would read pickles (CIFAR's Python version, scikit-learn's
caches) the plain files are read here instead. Shapes and types agree with the archives; contents differ so:

    mnist       the same bits
    cifar10     the same bits (the test set is sorted by class, as in the archive)
    cifar100    official order and original pixels; the archive is sorted by class and compressed with loss
    imagenette  the first 500 and 150 pictures of each class, cropped to a square; the archive has other pictures,
                squeezed to a square
    lfw         funneled, not deep-funneled; only identities are known, so only task="identity"
    olivetti    64x64 pictures; the archive holds the original 112x92
"""

import contextlib
import gzip
import io
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.fetching import Remote, fetched, members
from unlearnlib.data.pictures import read_pictures
from unlearnlib.data.tensors import integers, tensor
from unlearnlib.store.places import home

MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
MNIST = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
FASHION = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = Remote(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    171,
)
CIFAR100 = Remote(
    "cifar-100-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    171,
)
IMAGENETTE = Remote(
    "imagenette2-160.tgz",
    ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",),
    "e793b78cc4c9e9a4ccc0c1155377a412",
    110,
)
LFW = Remote(
    "lfw-funneled.tgz",
    ("https://ndownloader.figshare.com/files/5976015",),
    "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    260,
)
OLIVETTI = Remote(
    "olivettifaces.mat",
    ("https://ndownloader.figshare.com/files/5976027",),
    "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",
    10,
)
WNIDS = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@contextlib.contextmanager
def downloading(name: str, files: str) -> Iterator[Callable[[Remote], bytes]]:
    """Yields the function that fetches; any failure inside becomes one line that says what to do."""
    try:
        yield lambda remote: fetched(remote, home())
    except Exception as error:  # whatever went wrong, the user must hear of both ways to get the data
        why = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise FileNotFoundError(
            f"{name}: {files} not found in $UNLEARN_DATA and the download failed ({why}): "
            "set UNLEARN_DATA to the folder that holds it, or call again with a network connection"
        ) from error


def _idx(content: bytes) -> np.ndarray:
    """The array of bytes in a compressed idx file: a header (0, 0, 8, number of axes), their lengths, the bytes."""
    raw = gzip.decompress(content)
    start = 4 + 4 * raw[3]
    return np.frombuffer(raw, np.uint8, offset=start).reshape(struct.unpack(f">{raw[3]}I", raw[4:start])).copy()


def _idx_files(name: str, folder: str, hosts: tuple[str, ...], hashes: tuple[str, ...], files: str) -> list[Examples]:
    with downloading(name, files) as fetch:
        arrays = []
        for stem, digest in zip(IDX, hashes, strict=True):
            file = f"{stem}-ubyte.gz"
            addresses = tuple(host + file for host in hosts)
            arrays.append(_idx(fetch(Remote(f"{folder}/raw/{file}", addresses, digest, 30))))
        return [Examples(tensor(arrays[i]), integers(arrays[i + 1])) for i in (0, 2)]


def mnist() -> Dataset:
    parts = _idx_files("mnist", "MNIST", MNIST_HOSTS, MNIST, "mnist.npz")
    return Dataset("mnist", *parts, tuple("0123456789"), "MNIST, official files")


def fashion_mnist() -> Dataset:
    parts = _idx_files("fashion_mnist", "FashionMNIST", FASHION_HOSTS, FASHION, "an archive")
    return Dataset("fashion_mnist", *parts, CLOTHES, "Fashion-MNIST, official files")


def _records(files: list[bytes], label_bytes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Label bytes [N, label_bytes] int64 and images [N, 3, 32, 32] of the binary version's fixed-length records."""
    raw = np.concatenate([np.frombuffer(file, np.uint8) for file in files]).reshape(-1, label_bytes + 3072)
    images = np.ascontiguousarray(raw[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return integers(raw[:, :label_bytes]), torch.from_numpy(images)


def cifar10() -> Dataset:
    with downloading("cifar10", "cifar10_train.npz and cifar10_test.npz") as fetch:
        inside = members(fetch(CIFAR10), lambda name: name.endswith((".bin", "batches.meta.txt")))
        files = {name.rpartition("/")[2]: content for name, content in inside.items()}
        labels, images = _records([files[f"data_batch_{i}.bin"] for i in range(1, 6)], 1)
        train = Examples(images, labels[:, 0].clone())
        labels, images = _records([files["test_batch.bin"]], 1)
        test = Examples(images, labels[:, 0].clone())[labels[:, 0].sort(stable=True).indices]
        names = tuple(files["batches.meta.txt"].decode().split())
        return Dataset("cifar10", train, test, names, "CIFAR-10 binary version")


def cifar100() -> Dataset:
    with downloading("cifar100", "cifar100_train.npz and cifar100_test.npz") as fetch:
        inside = members(fetch(CIFAR100), lambda name: name.endswith((".bin", "fine_label_names.txt")))
        files = {name.rpartition("/")[2]: content for name, content in inside.items()}
        parts = []
        for file in ("train.bin", "test.bin"):
            labels, images = _records([files[file]], 2)  # coarse, fine
            parts.append(Examples(images, labels[:, 1].clone(), attributes={"coarse_labels": labels[:, 0].clone()}))
        names = tuple(files["fine_label_names.txt"].decode().split())
        return Dataset("cifar100", *parts, names, "CIFAR-100 binary version")


def imagenette() -> Dataset:
    """The first 500 (train) and 150 (validation) pictures of each class in the order of their names."""
    with downloading("imagenette", "imagenette64_train.npz and imagenette64_test.npz") as fetch:
        inside = members(fetch(IMAGENETTE), lambda name: name.endswith(".JPEG") and "/." not in name)
        parts = []
        for part, per_class in (("train", 500), ("val", 150)):
            rows: list[tuple[str, int]] = []
            for label, wnid in enumerate(WNIDS):
                names = sorted(name for name in inside if name.split("/")[1:3] == [part, wnid])
                rows += [(name, label) for name in names[:per_class]]
            pictures = read_pictures([(name, inside[name]) for name, _ in rows], 64)
            parts.append(Examples(pictures, integers([label for _, label in rows])))
        return Dataset("imagenette", *parts, tuple(WNIDS.values()), "Imagenette 160px")


def lfw(task: str) -> Dataset:
    """The people with five or more pictures, numbered in the order of their names, as in the archive."""
    if task != "identity":
        raise FileNotFoundError(
            f"lfw: lfw64.npz not found in $UNLEARN_DATA, and no download has the labels of task {task!r}: "
            "set UNLEARN_DATA to the folder that holds it, or take task='identity'"
        )
    with downloading("lfw", "lfw64.npz") as fetch:
        inside = members(fetch(LFW), lambda name: name.endswith(".jpg"))
        shots: dict[str, list[str]] = defaultdict(list)
        for name in sorted(inside, key=lambda name: name.split("/")):
            shots[name.split("/")[-2]].append(name)
        people = [names for names in shots.values() if len(names) >= 5]
        identity = integers([i for i, names in enumerate(people) for _ in names])
        test = torch.tensor([i >= len(names) - -(-len(names) // 5) for names in people for i in range(len(names))])
        faces = tensor(np.stack([_face(inside[name]) for names in people for name in names]))
        unknown = torch.full_like(identity, -1)
        examples = Examples(faces, identity, identity.clone(), {"male": unknown, "smiling": unknown.clone()})
        names = tuple(f"person {i}" for i in range(len(people)))
        return Dataset("lfw", examples[~test], examples[test], names, "LFW funneled (scikit-learn's copy)")


def _face(content: bytes) -> np.ndarray:
    """The central 128x128 of a 250x250 picture, averaged down to 64x64."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
        return np.asarray(picture.convert("RGB").crop((61, 61, 189, 189)).reduce(2))


def olivetti() -> np.ndarray:
    """The 400 pictures [400, 64, 64] uint8, ten for each of 40 people in a row."""
    with downloading("olivetti", "olivetti.npz") as fetch:
        from scipy.io import loadmat

        columns = loadmat(io.BytesIO(fetch(OLIVETTI)))["faces"]  # [4096, 400], pixels column by column
        return columns.T.reshape(400, 64, 64).transpose(0, 2, 1).astype(np.uint8)
