"""Downloads, with the network replaced by a table of files that are made here."""

import dataclasses
import gzip
import hashlib
import io
import logging
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from unlearnlib import data
from unlearnlib.data import downloads, fetching


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


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def network(monkeypatch):
    """Address -> content; what is asked for is noted. Without an entry there is no route."""
    served, asked = {}, []

    def downloaded(address, most):
        asked.append(address)
        if address not in served:
            raise OSError("no route\nto host")
        if len(served[address]) > most:
            raise OSError("it is larger than allowed")
        return served[address]

    monkeypatch.setattr(fetching, "_downloaded", downloaded)
    served["asked"] = asked
    return served


def offer(network, monkeypatch, name: str, content: bytes) -> None:
    """Serve `content` as the file that `downloads` knows by this name, with its hash as the published one."""
    remote = dataclasses.replace(getattr(downloads, name), published=sha(content))
    monkeypatch.setattr(downloads, name, remote)
    network[remote.addresses[0]] = content


def packed(files: dict[str, bytes]) -> bytes:
    """A .tar.gz with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenette", "olivetti", "lfw"])
def test_a_failed_download_is_one_line_that_says_what_to_do(network, name):
    options = {"task": "identity"} if name == "lfw" else {}
    with pytest.raises(FileNotFoundError, match="not found in .UNLEARN_DATA and the download failed") as error:
        data.load(name, **options)
    text = str(error.value)
    assert "\n" not in text and "OSError no route to host" in text and "set UNLEARN_DATA" in text


def test_labels_that_cannot_be_downloaded():
    with pytest.raises(FileNotFoundError, match="no download has the labels of task 'male'"):
        data.load("lfw")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(monkeypatch, network, name):
    rng, hashes, host = np.random.default_rng(0), [], getattr(downloads, f"{name.partition('_')[0].upper()}_HOSTS")[-1]
    arrays = [rng.integers(0, 251, (4, 28, 28)), np.arange(4) % 2, rng.integers(0, 251, (2, 28, 28)), np.arange(2)]
    for stem, array in zip(downloads.IDX, arrays, strict=True):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        content = gzip.compress(header + array.astype(np.uint8).tobytes())
        network[f"{host}{stem}-ubyte.gz"] = content  # of the last host: the others have no route
        hashes.append(sha(content))
    monkeypatch.setattr(downloads, name.partition("_")[0].upper(), tuple(hashes))
    ds = data.load(name)
    assert np.array_equal(ds.train.images[:, 0].numpy(), arrays[0]) and ds.train.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(ds.test.images[:, 0].numpy(), arrays[2]) and ds.shape == (1, 28, 28)
    assert ds.class_names[:2] == (("0", "1") if name == "mnist" else ("T-shirt/top", "Trouser"))
    asked = len(network["asked"])
    assert data.load(name).checksum() == ds.checksum() and len(network["asked"]) == asked, "the second time from disk"


def records(n, label_bytes, seed, classes=10):
    """Records of the binary version: label bytes, then 1024 red, green and blue values each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (n, label_bytes), dtype=np.uint8)
    pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    return labels, pixels, np.concatenate([labels, pixels], axis=1)


CIFAR10 = {f"data_batch_{i}.bin": records(6, 1, i) for i in range(1, 6)} | {"test_batch.bin": records(8, 1, 9)}


def cifar10(**changed: bytes) -> bytes:
    files = {f"cifar-10-batches-bin/{name}": raw.tobytes() for name, (_, _, raw) in CIFAR10.items()}
    files["cifar-10-batches-bin/batches.meta.txt"] = "\n".join("abcdefghij").encode() + b"\n\n"
    return packed({**files, **{f"cifar-10-batches-bin/{name}.bin": content for name, content in changed.items()}})


def test_cifar10_is_parsed_without_pickles(monkeypatch, network):
    offer(network, monkeypatch, "CIFAR10", cifar10())
    ds = data.load("cifar10")
    assert [a.rpartition("/")[2] for a in network["asked"]] == ["cifar-10-binary.tar.gz"]
    pixels = np.concatenate([CIFAR10[f"data_batch_{i}.bin"][1] for i in range(1, 6)])
    assert np.array_equal(ds.train.images.flatten(1).numpy(), pixels) and ds.class_names == tuple("abcdefghij")
    labels, pixels, _ = CIFAR10["test_batch.bin"]
    order = np.argsort(labels[:, 0], kind="stable")
    assert np.array_equal(ds.test.images.flatten(1).numpy(), pixels[order]), "sorted by class, as in the archive"
    assert ds.test.labels.tolist() == labels[order, 0].tolist()
    assert data.load("cifar10").checksum() == ds.checksum() and len(network["asked"]) == 1, "then from disk"


@pytest.mark.parametrize("spoil", ["cut", "replaced", "empty"])
def test_a_file_that_is_not_the_published_one_is_never_read(monkeypatch, network, home, caplog, spoil):
    offer(network, monkeypatch, "CIFAR10", cifar10())
    ds, path = data.load("cifar10"), home / downloads.CIFAR10.place
    whole = path.read_bytes()
    other = cifar10(data_batch_3=CIFAR10["data_batch_3.bin"][2][:-1].tobytes(), test_batch=b"")
    path.write_bytes({"cut": whole[:-3073], "replaced": other, "empty": b""}[spoil])
    with caplog.at_level(logging.WARNING):
        assert data.load("cifar10").checksum() == ds.checksum()
    assert len(network["asked"]) == 2 and path.read_bytes() == whole
    assert "is not the published file: it is downloaded again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"an error page", b"x" * 172_000_000])
def test_a_download_that_is_another_file_is_refused_and_not_kept(network, home, content):
    network[downloads.CIFAR10.addresses[0]] = content
    with pytest.raises(FileNotFoundError, match="not the published file|larger than"):
        data.load("cifar10")
    assert not list(home.rglob("*.gz")) and not list(home.rglob("*.partial"))


def test_an_archive_writes_nothing(monkeypatch, network, home, tmp_path):
    """A member outside the folder, a link and a device are what a hostile archive holds; nothing is unpacked."""
    stream = io.BytesIO(cifar10())
    with tarfile.open(fileobj=stream) as tar:
        kept = [(m, tar.extractfile(m).read()) for m in tar]
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w:gz") as tar:
        for info, content in kept:
            tar.addfile(info, io.BytesIO(content))
        outside = tarfile.TarInfo("../../outside.bin")
        tar.addfile(outside)
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    offer(network, monkeypatch, "CIFAR10", hostile.getvalue())
    data.load("cifar10")
    assert [p.name for p in home.rglob("*") if p.is_file()] == ["cifar-10-binary.tar.gz"]
    assert not list(tmp_path.rglob("outside.bin"))


def test_a_download_that_never_ends_is_given_up(monkeypatch):
    class Dripping:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read1(self, _):
            import time

            time.sleep(0.01)
            return b"x"

    monkeypatch.setattr(fetching, "PATIENCE", 0.1)
    monkeypatch.setattr(fetching.urllib.request, "urlopen", lambda *_, **__: Dripping())
    with pytest.raises(TimeoutError, match="bytes a second"):
        fetching._downloaded("http://localhost/a", 10**6)


def test_cifar100_reads_both_labels(monkeypatch, network):
    files = {"train.bin": records(9, 2, 0), "test.bin": records(4, 2, 1)}
    inside = {f"cifar-100-binary/{name}": raw.tobytes() for name, (_, _, raw) in files.items()}
    inside["cifar-100-binary/fine_label_names.txt"] = "\n".join(f"fine_{i}" for i in range(10)).encode()
    offer(network, monkeypatch, "CIFAR100", packed(inside))
    ds = data.load("cifar100")
    labels, pixels, _ = files["train.bin"]
    assert ds.train.attributes["coarse_labels"].tolist() == labels[:, 0].tolist()
    assert ds.train.labels.tolist() == labels[:, 1].tolist() and ds.class_names[3] == "fine_3"
    assert np.array_equal(ds.train.images.flatten(1).numpy(), pixels)
    assert ds.shape == (3, 32, 32)


def picture(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_imagenette_takes_the_first_of_each_class(monkeypatch, network):
    inside = {}
    for part in ("train", "val"):
        for label, wnid in enumerate(downloads.WNIDS):
            for k in reversed(range(3)):
                content = picture(Image.new("L", (200, 160), 20 * k + label), "JPEG", quality=100)
                inside[f"imagenette2-160/{part}/{wnid}/{k}.JPEG"] = content
    inside["imagenette2-160/train/n01440764/._0.JPEG"] = b"no picture"
    offer(network, monkeypatch, "IMAGENETTE", packed(inside))
    ds = data.load("imagenette")
    assert ds.shape == (3, 64, 64) and ds.class_names[:2] == ("tench", "English springer")
    assert ds.train.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert ds.train.images[:6, 0, 32, 32].tolist() == [0, 20, 40, 1, 21, 41]


def test_olivetti_pictures_stand_upright(monkeypatch, network):
    faces, stream = np.random.default_rng(0).integers(0, 256, (400, 64, 64), dtype=np.uint8), io.BytesIO()
    savemat(stream, {"faces": faces.transpose(0, 2, 1).reshape(400, -1).T})  # each column holds columns of pixels
    offer(network, monkeypatch, "OLIVETTI", stream.getvalue())
    ds = data.load("olivetti")
    assert np.array_equal(ds.train.images[0, 0].numpy(), faces[0])
    assert np.array_equal(ds.test.images[:, 0].numpy(), faces.reshape(40, 10, 64, 64)[:, 8:].reshape(80, 64, 64))
    assert ds.train.groups.tolist() == [k for k in range(40) for _ in range(8)]


def test_lfw_keeps_people_with_five_pictures(monkeypatch, network):
    inside = {}
    for person, shots in {"Zoe": 6, "Ann": 5, "Bob": 4}.items():
        for shot in range(shots):
            face = Image.new("RGB", (250, 250))
            face.paste((10 * shot, 0, 100 if person == "Zoe" else 0), (61, 61, 189, 189))
            inside[f"lfw_funneled/{person}/{person}_{shot:04d}.jpg"] = picture(face, "JPEG", quality=95)
    offer(network, monkeypatch, "LFW", packed(inside))
    ds = data.load("lfw", task="identity")
    assert ds.class_names == ("person 0", "person 1") and ds.shape == (3, 64, 64)
    assert ds.train.labels.tolist() == [0] * 4 + [1] * 4 and ds.test.labels.tolist() == [0, 1, 1]
    assert ds.test.images[:, 0, 32, 32].tolist() == pytest.approx([40, 40, 50], abs=4)
    assert set(ds.train.attributes["male"].tolist()) == {-1}
