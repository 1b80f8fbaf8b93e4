"""Downloads, with the network and torchvision's classes replaced by stand-ins that leave the same files."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from unlearnlib import data
from unlearnlib.data import downloads


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("UNLEARN_DATA", raising=False)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_folder_for_downloads(monkeypatch, tmp_path):
    assert downloads.home() == tmp_path / "home"
    monkeypatch.delenv("UNLEARN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert downloads.home() == tmp_path / "unlearnlib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, folder in {"linux": ".cache", "darwin": "Library/Caches"}.items():
        monkeypatch.setattr("sys.platform", platform)
        assert downloads.home().as_posix().endswith(f"{folder}/unlearnlib")


@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        ("mnist", "torchvision.datasets.MNIST"),
        ("fashion_mnist", "torchvision.datasets.FashionMNIST"),
        ("cifar10", "torchvision.datasets.utils.download_and_extract_archive"),
        ("cifar100", "torchvision.datasets.utils.download_and_extract_archive"),
        ("imagenette", "torchvision.datasets.Imagenette"),
        ("olivetti", "torch.hub.download_url_to_file"),
        ("lfw", "torch.hub.download_url_to_file"),
    ],
)
def test_a_failed_download_is_one_line_that_says_what_to_do(monkeypatch, name, replaced):
    def offline(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(replaced, offline)
    options = {"task": "identity"} if name == "lfw" else {}
    with pytest.raises(FileNotFoundError, match="not found in .UNLEARN_DATA and the download failed") as error:
        data.load(name, **options)
    text = str(error.value)
    assert "\n" not in text and "OSError no route to host" in text and "set UNLEARN_DATA" in text


def test_labels_that_cannot_be_downloaded():
    with pytest.raises(FileNotFoundError, match="no download has the labels of task 'male'"):
        data.load("lfw")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_from_torchvision(monkeypatch, home, name):
    class FakeMnist:
        classes = ("0 - zero", "1 - one") if name == "mnist" else ("T-shirt/top", "Trouser")

        def __init__(self, root, train, download):
            assert root == str(home) and download
            n = 4 if train else 2
            self.data = torch.arange(n * 784).reshape(n, 28, 28).remainder(251).to(torch.uint8)
            self.targets = torch.arange(n) % 2

    monkeypatch.setattr(torchvision.datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name], FakeMnist)
    ds = data.load(name)
    assert ds.shape == (1, 28, 28) and ds.train.images.dtype == torch.uint8 and len(ds.test) == 2
    assert torch.equal(ds.train.images[:, 0], FakeMnist(str(home), True, True).data)
    assert ds.class_names == (("0", "1") if name == "mnist" else ("T-shirt/top", "Trouser"))


def records(n, label_bytes, seed, classes=10):
    """Records of the binary version: label bytes, then 1024 red, green and blue values each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (n, label_bytes), dtype=np.uint8)
    pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    return labels, pixels, np.concatenate([labels, pixels], axis=1)


def test_cifar10_is_parsed_without_pickles(monkeypatch, home):
    batches = {f"data_batch_{i}.bin": records(6, 1, i) for i in range(1, 6)} | {"test_batch.bin": records(8, 1, 9)}
    calls = []

    def fetch(url, root, md5):
        calls.append((url, md5))
        folder = home / "cifar-10-batches-bin"
        folder.mkdir(parents=True)
        for file, (_, _, raw) in batches.items():
            raw.tofile(folder / file)
        (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    ds = data.load("cifar10")
    assert calls == [downloads.CIFAR10[:2]] and calls[0][0].endswith("cifar-10-binary.tar.gz")
    pixels = np.concatenate([batches[f"data_batch_{i}.bin"][1] for i in range(1, 6)])
    assert np.array_equal(ds.train.images.flatten(1).numpy(), pixels) and ds.class_names == tuple("abcdefghij")
    labels, pixels, _ = batches["test_batch.bin"]
    order = np.argsort(labels[:, 0], kind="stable")
    assert np.array_equal(ds.test.images.flatten(1).numpy(), pixels[order]), "sorted by class, as in the archive"
    assert ds.test.labels.tolist() == labels[order, 0].tolist()
    assert data.load("cifar10").checksum() == ds.checksum() and len(calls) == 1, "the second time from disk"


def test_cifar100_reads_both_labels(monkeypatch, home):
    files = {"train.bin": records(9, 2, 0), "test.bin": records(4, 2, 1)}

    def fetch(url, root, md5):
        folder = home / "cifar-100-binary"
        folder.mkdir(parents=True)
        for file, (_, _, raw) in files.items():
            raw.tofile(folder / file)
        (folder / "fine_label_names.txt").write_text("\n".join(f"fine_{i}" for i in range(10)))

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    ds = data.load("cifar100")
    labels, pixels, _ = files["train.bin"]
    assert ds.train.attributes["coarse_labels"].tolist() == labels[:, 0].tolist()
    assert ds.train.labels.tolist() == labels[:, 1].tolist() and ds.class_names[3] == "fine_3"
    assert np.array_equal(ds.train.images.flatten(1).numpy(), pixels)
    assert ds.shape == (3, 32, 32)


def test_imagenette_takes_the_first_of_each_class(monkeypatch, home):
    class FakeImagenette:
        classes = [("tench", "Tinca tinca"), ("English springer",)]

        def __init__(self, root, split, size, download, loader):
            assert root == str(home) and size == "160px" and download
            self.rows, self.loader = [], loader
            for label in (0, 1):
                for k in reversed(range(3)):
                    path = home / split / str(label) / f"{k}.JPEG"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("L", (200, 160), 40 * k + label).save(path)
                    self.rows.append((str(path), label))

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return self.loader(self.rows[i][0]), self.rows[i][1]

    monkeypatch.setattr(torchvision.datasets, "Imagenette", FakeImagenette)
    ds = data.load("imagenette")
    assert ds.shape == (3, 64, 64) and ds.class_names == ("tench", "English springer")
    assert ds.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert ds.train.images[:, 0, 32, 32].tolist() == [0, 40, 80, 1, 41, 81]


def test_olivetti_pictures_stand_upright(monkeypatch):
    faces = np.random.default_rng(0).integers(0, 256, (400, 64, 64), dtype=np.uint8)

    def fetch(url, file, hash_prefix, progress):
        assert (url, hash_prefix) == downloads.OLIVETTI
        savemat(file, {"faces": faces.transpose(0, 2, 1).reshape(400, -1).T})  # each column holds columns of pixels

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    ds = data.load("olivetti")
    assert np.array_equal(ds.train.images[0, 0].numpy(), faces[0])
    assert np.array_equal(ds.test.images[:, 0].numpy(), faces.reshape(40, 10, 64, 64)[:, 8:].reshape(80, 64, 64))
    assert ds.train.groups.tolist() == [k for k in range(40) for _ in range(8)]


def test_lfw_keeps_people_with_five_pictures(monkeypatch, home):
    fetched = []

    def fetch(url, file, hash_prefix, progress):
        fetched.append(hash_prefix)
        home.joinpath("lfw-funneled.tgz").write_bytes(b"")

    def unpack(file, root):
        for person, shots in {"Zoe": 6, "Ann": 5, "Bob": 4}.items():
            for shot in range(shots):
                path = home / "lfw_funneled" / person / f"{person}_{shot:04d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.new("RGB", (250, 250))
                picture.paste((10 * shot, 0, 100 if person == "Zoe" else 0), (61, 61, 189, 189))
                picture.save(path, quality=95)

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", unpack)
    ds = data.load("lfw", task="identity")
    assert ds.class_names == ("person 0", "person 1") and ds.shape == (3, 64, 64)
    assert ds.train.labels.tolist() == [0] * 4 + [1] * 4 and ds.test.labels.tolist() == [0, 1, 1]
    assert ds.test.images[:, 0, 32, 32].tolist() == pytest.approx([40, 40, 50], abs=4)
    assert fetched == [downloads.LFW[1]]
    assert set(ds.train.attributes["male"].tolist()) == {-1}
