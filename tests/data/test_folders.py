"""Folders of pictures: what is a class, in which order, and what is refused by name."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnlib import data
from unlearnlib.data import pictures
from unlearnlib.data.folders import natural


def write(path, colour, size=(20, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_folder_of_pictures(tmp_path):
    root = tmp_path / "pets"
    for k in range(10):
        write(root / "cat" / f"{k}.png", (k, 0, 0))
        write(root / "dog" / f"{k}.jpg", (0, 200, 0))
    write(root / "dog" / "nested" / "last.png", 77, mode="L")
    write(root / ".hidden" / "x.png", 0, mode="L")
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "cat" / ".thumb.png").write_text("not a picture either")
    ds = data.load(f"folder:{root}", size=16)
    assert ds.class_names == ("cat", "dog") and ds.shape == (3, 16, 16) and ds.name == "folder:pets"
    assert len(ds.train) == 17 and len(ds.test) == 4 and str(tmp_path) not in ds.source
    both = data.Examples.concatenate([ds.train, ds.test])
    reds = both.images[both.labels == 0][:, 0, 0, 0]
    assert sorted(reds.tolist()) == list(range(10))
    assert int((both.images[:, :, 3, 3] == 77).all(1).sum()) == 1, "grey becomes colour"
    assert ds.checksum() == data.load(f"folder:{root}", size=16).checksum()
    assert len(data.load(f"folder:{root}", size=16, test=0.5).test) == 10


def test_pictures_are_cropped_to_the_middle_square(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 250
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(wide).save(tmp_path / name / "wide.png")
        Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / name / "tall.png")
    ds = data.load(f"folder:{tmp_path}", size=10, test=0.5)
    assert (data.Examples.concatenate([ds.train, ds.test]).images == 250).all()


@pytest.mark.parametrize("held", ["test", "val"])
def test_train_and_test_folders_are_the_parts(tmp_path, held):
    for part, n in (("train", 3), (held, 2)):
        for k in range(n):
            write(tmp_path / part / "a" / f"{k}.png", (10 * k, 0, 0))
            write(tmp_path / part / "b" / f"{k}.png", (0, 10 * k, 0))
    ds = data.load(f"folder:{tmp_path}", size=8)
    assert ds.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and ds.test.labels.tolist() == [0, 0, 1, 1]
    assert ds.train.images[:, :, 0, 0].tolist() == [
        [0, 0, 0],
        [10, 0, 0],
        [20, 0, 0],
        [0, 0, 0],
        [0, 10, 0],
        [0, 20, 0],
    ]
    with pytest.raises(ValueError, match="leave out test"):
        data.load(f"folder:{tmp_path}", test=0.5)
    write(tmp_path / held / "c" / "0.png", (0, 0, 0))
    with pytest.raises(ValueError, match="train has not: c"):
        data.load(f"folder:{tmp_path}")


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        data.load(f"folder:{tmp_path / 'none'}")
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="at least two folders"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        data.load(f"folder:{tmp_path}")
    Image.new("L", (8, 8)).save(tmp_path / "b" / "whole.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match="broken.png is not a readable picture"):
        data.load(f"folder:{tmp_path}")


def two_classes(root, n=5):
    for k in range(n):
        write(root / "a" / f"{k}.png", (k, 0, 0))
        write(root / "b" / f"{k}.png", (0, k, 0))
    return root


def test_what_systems_and_editors_keep_beside_pictures_is_not_read(tmp_path):
    """Copies of forgotten pictures in a checkpoint folder would stay in the retain set."""
    plain = data.load(f"folder:{two_classes(tmp_path / 'x')}", size=8)
    for kept in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "$RECYCLE.BIN"):
        for place in (tmp_path / "x", tmp_path / "x" / "a", tmp_path / "x" / "b"):
            write(place / kept / "0-checkpoint.png", (9, 9, 9))
    for name in ("._0.png", ".0.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "x" / "a" / name).write_bytes(b"\0\5\x16\7")
    again = data.load(f"folder:{tmp_path / 'x'}", size=8)
    assert again.class_names == ("a", "b") and again.checksum() == plain.checksum()
    split = data.split(again, "random:2")
    assert data.overlap(split).loc["forget", ["retain", "validation", "test"]].sum() == 0


def test_a_class_without_pictures_is_refused(tmp_path):
    (two_classes(tmp_path) / "c" / ".ipynb_checkpoints").mkdir(parents=True)
    write(tmp_path / "c" / ".ipynb_checkpoints" / "0.png", 0, mode="L")
    (tmp_path / "c" / "notes.txt").touch()
    with pytest.raises(ValueError, match="no pictures in c: add some") as error:
        data.load(f"folder:{tmp_path}", size=8)
    assert "\n" not in str(error.value)


def test_classes_called_numbers_are_in_their_order_and_meant_by_name(tmp_path):
    names = ["0", "1", "2", "9", "10", "11"]
    for k, name in enumerate(names):
        for shot in range(5):
            write(tmp_path / name / f"{shot}.png", (10 * k, shot, 0))
    ds = data.load(f"folder:{tmp_path}", size=8)
    assert ds.class_names == tuple(names)
    for k, name in enumerate(names):
        forgotten = data.split(ds, f"class:{name}", validation=0).forget
        assert (forgotten.images[:, 0] == 10 * k).all() and (forgotten.labels == k).all()
    with pytest.raises(ValueError, match="no class has this number or name"):
        data.split(ds, "class:3")  # the fourth class is called 9
    assert sorted(["b10", "b2", "a", "b02", "B1"], key=natural) == ["B1", "a", "b02", "b2", "b10"]


def test_parts_under_other_names_are_not_classes(tmp_path):
    for parts in (("train", "validation"), ("Train", "Test"), ("training", "testing"), ("train",)):
        root = tmp_path / "-".join(parts)
        for part in parts:
            two_classes(root / part)
        with pytest.raises(ValueError, match="call the parts train and test"):
            data.load(f"folder:{root}", size=8)
    for name in ("train", "ship"):  # a class may be called so
        for k in range(5):
            write(tmp_path / "vehicles" / name / f"{k}.png", (k, 0, 0))
    assert data.load(f"folder:{tmp_path / 'vehicles'}", size=8).class_names == ("ship", "train")


def test_a_test_part_that_would_be_empty_is_refused(tmp_path):
    two_classes(tmp_path, n=1)
    with pytest.raises(ValueError, match="2 pictures in 2 classes are too few to hold out 0.2 of"):
        data.load(f"folder:{tmp_path}", size=8)
    assert len(data.load(f"folder:{tmp_path}", size=8, test=0).test) == 0
    for wrong in (1.0, -0.1, float("nan"), "0.2", True):
        with pytest.raises(ValueError, match="test must be at least 0 and below 1"):
            data.load(f"folder:{tmp_path}", size=8, test=wrong)


GREY = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)


def saved(tmp_path, picture, form, **options):
    path = tmp_path / f"picture.{form}"
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("form", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, form):
    read = pictures.read_pictures([saved(tmp_path, Image.fromarray(GREY), form)], 64)[0]
    expected = torch.from_numpy(np.round(GREY / 257).astype(np.uint8))
    assert (read == expected).all() and 126 < read.double().mean() < 129
    deep = Image.fromarray(GREY)
    assert data.Examples.of([(deep, 0)]).images[0, 0].equal(expected)


def test_other_depths_are_scaled_too(tmp_path):
    """12 bits in TIFF, 10 bits in PGM, 1, 2 and 4 bits in PNG: half is half in all of them."""
    ten = tmp_path / "ten.pgm"
    ten.write_bytes(b"P5 16 16 1023\n" + struct.pack(">H", 512) * 256)
    bit = saved(tmp_path, Image.fromarray(np.tile([0, 255], (16, 8)).astype(np.uint8)).convert("1"), "png")
    palette = Image.new("P", (16, 16), 2)
    palette.putpalette([0, 0, 0, 9, 9, 9, 128, 128, 128, 255, 255, 255])
    four = saved(tmp_path, palette, "gif")
    read = pictures.read_pictures([ten, bit, four], 16).double()
    assert read.flatten(1).mean(1).tolist() == pytest.approx([128, 127.5, 128], abs=1)
    small = tmp_path / "small.pgm"
    small.write_bytes(b"P5 16 16 15\n" + bytes([15]) * 256)
    assert (pictures.read_pictures([small], 16) == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "HSV", "P", "L", "LA", "1"])
def test_every_mode_shows_what_it_shows(mode):
    colour = Image.new("RGB", (16, 16), (255, 255, 255))
    picture = colour.convert("L").convert(mode) if mode == "LA" else colour.convert(mode)
    assert (pictures.image_tensor(picture) >= 254).all()


def test_what_is_transparent_lies_on_white(tmp_path):
    """Behind full transparency any colour may be hidden."""
    clear = Image.new("RGBA", (16, 16), (10, 200, 30, 0))
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    keyed = Image.new("L", (16, 16), 7)
    opaque = Image.new("RGBA", (16, 16), (10, 200, 30, 255))
    files = [saved(tmp_path, p, f"{k}.png") for k, p in enumerate((clear, half, opaque))]
    files.append(saved(tmp_path, keyed, "3.png", transparency=7))
    read = pictures.read_pictures(files, 8)[:, :, 0, 0].tolist()
    assert read == [[255] * 3, [127] * 3, [10, 200, 30], [255] * 3]


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_range_that_nobody_knows_is_refused_with_the_file(tmp_path, mode):
    path = saved(tmp_path, Image.new(mode, (16, 16)), "tiff")
    with pytest.raises(ValueError, match=r"picture.tiff is not a readable picture .*8 bits a channel"):
        pictures.read_pictures([path], 8)
    with pytest.raises(ValueError, match="no known range"):
        data.Examples.of([(Image.new(mode, (16, 16)), 0)])


def test_grey_that_counts_from_white_is_not_read_as_its_negative(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY), "tiff", tiffinfo={262: 0})
    with pytest.raises(ValueError, match="picture.tiff is not a readable picture"):
        pictures.read_pictures([path], 8)


def damaged_pngs():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
    raw = file.getvalue()
    yield from (raw[:40], raw[:-200], b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 60, raw[:12] + b"JUNK" + raw[16:])
    yield raw[:16] + b"\0\0\0\0" + raw[20:]  # no width
    yield from (raw[:k] + bytes([raw[k] ^ 1]) + raw[k + 1 :] for k in range(9, len(raw), 211))
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # a program: no format that runs is read
    yield b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def test_whatever_is_damaged_is_refused_with_the_file_in_one_line(tmp_path):
    for content in damaged_pngs():
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"x.png is not a readable picture .*: mend or remove it") as error:
            pictures.read_pictures([tmp_path / "x.png"], 8)
        assert "\n" not in str(error.value)


def test_an_enormous_picture_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    (two_classes(tmp_path) / "a" / "huge.png").write_bytes(png)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"huge.png .*13000x13000 pixels, more than 80 million"):
            data.load(f"folder:{tmp_path}", size=8)
    with pytest.raises(ValueError, match="GiB: take fewer or smaller"):
        data.load(f"folder:{tmp_path}", size=100_000)
    with pytest.raises(ValueError, match="GiB: take fewer or smaller"):
        data.load("cartoon_faces", people=10**7)


def test_pipes_links_and_strange_paths_end_in_one_line(tmp_path):
    two_classes(tmp_path / "x")
    cases = {
        "a pipe": (lambda place: os.mkfifo(place / "p.png"), "p.png is not a readable picture .it is not a plain file"),
        "a broken link": (lambda place: (place / "l.png").symlink_to("nowhere"), "l.png is not a readable picture"),
        "a linked folder": (lambda place: (place / "more").symlink_to(tmp_path), "more is a link to a folder"),
        "a device": (lambda place: (place / "d.png").symlink_to("/dev/zero"), "d.png is not a readable picture"),
    }
    for name, (make, message) in cases.items():
        root = two_classes(tmp_path / name)
        make(root / "a")
        with pytest.raises(ValueError, match=message):
            data.load(f"folder:{root}", size=8)
    for path in ("x" * 5000, "a/" * 3000, "~nobody-of-this-name/x", "with\0null"):
        with pytest.raises(ValueError, match="^folder:") as error:
            data.load(f"folder:{path}")
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)
    (two_classes(tmp_path / "y") / "a" / "photo.heic").write_bytes(b"not left out without a word")
    with pytest.raises(ValueError, match="photo.heic is not a readable picture"):
        data.load(f"folder:{tmp_path / 'y'}", size=8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path):
    write(two_classes(tmp_path) / "a" / "closed" / "0.png", 0, mode="L")
    (tmp_path / "a" / "closed").chmod(0)
    with pytest.raises(ValueError, match="closed cannot be read"):
        data.load(f"folder:{tmp_path}", size=8)
