"""Pictures of one's own: every depth of pixel is scaled rightly or refused by name, and only pictures are read."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnlib import data

GREY = 127


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def classes(root, images, suffix="png", per_class=5, names=("a", "b")):
    for name in names:
        for k in range(per_class):
            save(root / name / f"{k}.{suffix}", images[k % len(images)])


def mean(root) -> float:
    ds = data.load(f"folder:{root}", size=8)
    return float(torch.cat([ds.train.images, ds.test.images]).double().mean())


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(np.full((8, 8), GREY, np.uint8)), "png"),
        (Image.fromarray(np.full((8, 8), GREY * 257, np.uint16)), "png"),
        (Image.fromarray(np.full((8, 8), GREY * 257, np.uint16)), "tif"),
        (Image.new("RGB", (8, 8), (GREY,) * 3), "png"),
        (Image.new("RGBA", (8, 8), (GREY, GREY, GREY, 255)), "png"),
        (Image.new("LA", (8, 8), (GREY, 255)), "png"),
        (Image.new("RGB", (8, 8), (GREY,) * 3).convert("P"), "png"),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255 - GREY)), "tif"),
    ],
    ids=["8 bits", "16 bits", "16 bits, tif", "RGB", "RGBA", "LA", "palette", "CMYK"],
)
def test_mid_grey_is_mid_grey_in_every_depth(tmp_path, image, suffix):
    classes(tmp_path, [image], suffix)
    assert mean(tmp_path) == pytest.approx(GREY, abs=2)


def test_one_bit_is_black_and_white(tmp_path):
    classes(tmp_path, [Image.fromarray(np.indices((8, 8)).sum(0) % 2 == 1)])
    assert mean(tmp_path) == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_depths_without_a_known_range_are_refused_by_name(tmp_path, kind):
    classes(tmp_path, [Image.fromarray(np.full((8, 8), 0.5 if kind is np.float32 else 10**6, kind))], "tif")
    with pytest.raises(ValueError, match=r"0\.tif") as error:
        data.load(f"folder:{tmp_path}", size=8)
    assert "\n" not in str(error.value)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    classes(tmp_path, [Image.new("L", (8, 8))])
    save(tmp_path / "a" / "huge.png", Image.new("1", (13_000, 13_000)))
    with pytest.raises(ValueError, match=r"huge\.png"):
        data.load(f"folder:{tmp_path}", size=8)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"])
def test_what_is_hidden_is_never_read(tmp_path, hidden):
    pictures = [Image.fromarray(np.full((8, 8), 20 * k, np.uint8)) for k in range(5)]
    classes(tmp_path, pictures)
    clean = data.load(f"folder:{tmp_path}", size=8).checksum()
    for name in ("a", "b"):
        save(tmp_path / name / hidden / "0-checkpoint.png", pictures[0])
        (tmp_path / name / "Thumbs.db").write_bytes(b"x")
        save(tmp_path / name / "._0.png", pictures[1])
    save(tmp_path / hidden / "0.png", pictures[0])
    ds = data.load(f"folder:{tmp_path}", size=8)
    assert ds.checksum() == clean and ds.class_names == ("a", "b") and len(ds.train) + len(ds.test) == 10


def test_a_class_is_the_one_of_that_name(tmp_path):
    names = [str(k) for k in range(12)]
    for k, name in enumerate(names):
        for i in range(5):
            save(tmp_path / name / f"{i}.png", Image.new("L", (8, 8), 20 * k + i))
    ds = data.load(f"folder:{tmp_path}", size=8)
    assert ds.class_names == tuple(names), "numbers are numbers: 2 before 10"
    for wanted in (2, 10):
        part = data.split(ds, f"class:{wanted}", validation=0.0)
        assert set(part.forget.labels.tolist()) == {wanted}
        assert {int(v) // 20 for v in part.forget.images.flatten(1)[:, 0]} == {wanted}


def test_a_number_that_is_another_class_by_name_is_refused(tmp_path):
    for k, name in enumerate(["1", "2", "3"]):
        for i in range(5):
            save(tmp_path / name / f"{i}.png", Image.new("L", (8, 8), 60 * k + i))
    ds = data.load(f"folder:{tmp_path}", size=8)
    part = None
    try:
        part = data.split(ds, "class:2", validation=0.0)
    except ValueError as error:
        assert "\n" not in str(error)
    assert part is None or [ds.class_names[k] for k in part.forget.labels.unique()] == ["2"]


def test_a_pipe_among_the_pictures_does_not_hang(tmp_path):
    classes(tmp_path, [Image.new("L", (8, 8))])
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png"):
        data.load(f"folder:{tmp_path}", size=8)


@pytest.mark.parametrize(
    "request_", ["class:" + "9" * 30, "class:\u0662", "class:2,", "class:", "class:-1", "class:1e0"]
)
def test_odd_class_requests_are_one_line(tmp_path, request_):
    with pytest.raises(ValueError) as error:
        data.split(data.load("digits"), request_)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
