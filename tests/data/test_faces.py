"""Face benchmarks in their official layouts: synthetic stand-ins with the same tables, folders and leaks."""

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnlib import data
from unlearnlib.data import faces
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.pictures import read_pictures


def picture(seed: int, side: int = 32) -> np.ndarray:
    """A smooth random picture: JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def save(path, seed: int, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path, **options)


def mufac_folder(root):
    """Six pictures to train on, of which one is repeated there and one is in the validation table too."""
    tables = {
        "train": [("F0001", "D", "d", 1), ("F0001", "D", "d", 2), ("F0001", "M", "e", 3)]
        + [("F0002", "D", "a", 2), ("F0002", "D", "h", 5), ("F0002", "M", "b", 6)],
        "val": [("F0801", "D", "c", 6), ("F0801", "S", "d", 8)],
        "test": [("F0851", "D", "g", 9)],
    }
    for part, rows in tables.items():
        lines = ["family_id,person_id,age_class,image_path"]
        for k, (family, person, age, seed) in enumerate(rows):
            save(root / f"{part}_images" / f"{part}{k}.jpg", seed, quality=95 if k % 2 else 90)
            lines.append(f"{family},{person},{age},{part}{k}.jpg")
        (root / f"custom_{part}_dataset.csv").write_text("\n".join(lines))
    return root


def test_mufac_is_read_by_its_tables(tmp_path):
    ds = faces.mufac(str(mufac_folder(tmp_path)), size=32, clean=False)
    assert ds.train.labels.tolist() == [3, 3, 4, 0, 7, 1] and ds.test.labels.tolist() == [2, 3, 6]
    assert ds.train.groups.tolist() == [0, 0, 1, 2, 2, 3] and ds.test.attributes["table"].tolist() == [0, 0, 1]
    assert not set(ds.train.groups.tolist()) & set(ds.test.groups.tolist())
    assert ds.train.attributes["official_forget"].all() and not ds.test.attributes["official_forget"].any()
    difference = ds.train.images[0].permute(1, 2, 0).int() - torch.tensor(picture(1)).int()
    assert difference.abs().float().mean() < 12
    loaded = data.load(f"mufac:{tmp_path}", size=32, clean=False)
    assert loaded.checksum() == ds.checksum() and "mufac:<path>" in data.names()
    with pytest.raises(ValueError, match="its options are size, clean"):
        data.load(f"mufac:{tmp_path}", sise=32)
    part = data.split(ds, "identity:1", validation=0.2)
    assert len(part.forget.groups.unique()) == 1


def test_mufac_leaks_are_removed(tmp_path):
    ds = faces.mufac(str(mufac_folder(tmp_path)), size=32)
    # the fourth picture repeats the second; the sixth is in the validation table
    assert ds.train.labels.tolist() == [3, 3, 4, 7] and len(ds.test) == 3


def test_copies_are_found_across_compression_and_nothing_else_is(tmp_path):
    for k, seed in enumerate((1, 2, 1, 3, 2)):
        save(tmp_path / f"{k}.jpg", seed, quality=(95, 95, 80, 95, 85)[k])
    pictures = read_pictures([tmp_path / f"{k}.jpg" for k in range(5)], 32)
    assert faces.copies(pictures).tolist() == [0, 1, 0, 3, 1]
    many = torch.stack([torch.tensor(picture(s)).permute(2, 0, 1) for s in range(200)])
    assert faces.copies(many).tolist() == faces.copies(many, block=7).tolist() == list(range(200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family_id,person_id,image_path\nF1,D,a.jpg", "no column age_class"),
        ("family_id,person_id,age_class,image_path\nF1,D,z,train0.jpg", "a to h, not z"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    mufac_folder(tmp_path)
    (tmp_path / "custom_train_dataset.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        faces.mufac(str(tmp_path), size=32)
    with pytest.raises(ValueError, match="give the folder that holds it"):
        faces.mufac(str(tmp_path / "nowhere"))


def test_mucac_is_read_by_its_tables(tmp_path):
    names = ["Bald", "Male", "Smiling", "Young"]
    people = {"0.jpg": 5, "1.jpg": 200, "2.jpg": 200, "3.jpg": 301, "4.jpg": 189, "5.jpg": 190}
    rows = {k: [-1, 1 if i % 2 else -1, 1 if i < 3 else -1, 1] for i, k in enumerate([*people, "6.jpg"])}
    (tmp_path / "CelebA-HQ-identity.txt").write_text("\n".join(f"{k} {v}" for k, v in people.items()))
    table = ["7", " ".join(names), *(f"{k}  {' '.join(map(str, v))}" for k, v in rows.items())]
    (tmp_path / "CelebA-HQ-attribute.txt").write_text("\n".join(table))
    for k in range(7):
        save(tmp_path / "CelebA-HQ-img" / f"{k}.jpg", k)
    ds = faces.mucac(str(tmp_path), task="smiling", size=16)
    assert ds.train.groups.tolist() == [200, 200, 301, 190] and ds.test.groups.tolist() == [5, 189]
    assert ds.train.labels.tolist() == [1, 1, 0, 0] and ds.train.attributes["gender"].tolist() == [1, 0, 1, 1]
    assert ds.class_names == ("not smiling", "smiling") and ds.shape == (3, 16, 16)
    with pytest.raises(ValueError, match="gender, smiling, young"):
        faces.mucac(str(tmp_path), task="hair")


def test_raf_db_is_read_by_its_table(tmp_path):
    rows = ["train_00001.jpg 5", "train_00002.jpg 1", "test_0001.jpg 7"]
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(rows))
    for k, row in enumerate(rows):
        save(tmp_path / "Image" / "aligned" / row.split()[0].replace(".jpg", "_aligned.jpg"), k)
    ds = faces.raf_db(str(tmp_path), size=16)
    assert ds.train.labels.tolist() == [4, 0] and ds.test.labels.tolist() == [6] and ds.train.groups is None
    assert ds.class_names[4] == "sadness"
    with pytest.raises(ValueError, match="folder `basic`"):
        faces.raf_db(str(tmp_path / "Image"))


def damaged_tables():
    """(loader, its table, what is in it, what is said)"""
    mufac, mucac, raf = "custom_val_dataset.csv", "CelebA-HQ-attribute.txt", "EmoLabel/list_patition_label.txt"
    people = "CelebA-HQ-identity.txt"
    header = "family_id,person_id,age_class,image_path\n"
    yield faces.mufac, mufac, header + "F1,D\n", "row 2: a value"
    yield faces.mufac, mufac, header + "F1,D,z,a.jpg\n", "age classes are a to h|readable"
    yield faces.mufac, mufac, b"\xff\xfe\0\0", "cannot be read as text"
    yield faces.mufac, mufac, header + "F1,D,a,nowhere.jpg\n", "nowhere.jpg is not a readable picture"
    yield faces.mucac, people, "a.jpg\n", "its rows are unlike"
    yield faces.mucac, people, "a.jpg one\n", "'one' is not a number"
    yield faces.mucac, people, "a.jpg 1\na.jpg 2\n", "names a picture twice"
    yield faces.mucac, people, "", "it has no rows"
    yield faces.mucac, mucac, "1\nMale Smiling Young\na.jpg 1 0 1\n", "1 or -1 for each of the 3 attributes"
    yield faces.mucac, mucac, "1\nMale Smiling Young\na.jpg 1 1\n", "1 or -1 for each of the 3 attributes"
    yield faces.raf_db, raf, "train_1.jpg 5 6\n", "its rows are unlike"
    yield faces.raf_db, raf, "train_1.jpg five\n", "'five' is not a number"
    yield faces.raf_db, raf, "train_1.jpg 5\nvalid_1.jpg 5\n", "neither a train_ nor a test_"
    yield faces.raf_db, raf, "train_1.jpg 9\ntest_1.jpg 1\n", "labels from 1 to 7"


@pytest.mark.parametrize(("load", "table", "content", "message"), list(damaged_tables()))
def test_a_damaged_table_is_named_in_one_line(tmp_path, load, table, content, message):
    if load is faces.mufac:
        mufac_folder(tmp_path)
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "CelebA-HQ-identity.txt").write_text("a.jpg 1\n")
    (tmp_path / "CelebA-HQ-attribute.txt").write_text("1\nMale Smiling Young\na.jpg 1 1 1\n")
    (tmp_path / table).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        load(str(tmp_path), size=16)
    assert "\n" not in str(error.value)


@pytest.fixture
def stand_in(monkeypatch):
    """Forty people with ten pictures each, so that no archive is needed."""

    def faces_of(size):
        person = torch.arange(40).repeat_interleave(10)
        shots = torch.arange(10).repeat(40)
        images = torch.randint(100, 200, (400, 1, size, size), generator=torch.Generator().manual_seed(0))
        every = Examples(images.to(torch.uint8), person, person.clone(), {"shot": shots + 1})
        return Dataset("olivetti", every[shots < 8], every[shots >= 8], tuple(map(str, range(40))), "drawn")

    monkeypatch.setattr(faces, "olivetti", faces_of)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_the_planted_attribute_is_tied_to_identity_as_the_dial_says(stand_in, correlation):
    ds = faces.planted_olivetti(32, correlation)
    worn, bit = ds.train.labels.double(), ds.train.attributes["glasses_bit"].double()
    assert torch.corrcoef(torch.stack([worn, bit]))[0, 1].item() == pytest.approx(correlation, abs=0.12)
    assert ds.train.attributes["glasses_bit"].view(40, 8)[:, 0].sum() == 20
    plain = faces.olivetti(32).train
    changed = (ds.train.images != plain.images).flatten(1).any(1)
    assert torch.equal(changed.long(), ds.train.labels)
    frame = (faces.glasses(torch.full((1, 1, 64, 64), 200, dtype=torch.uint8)) == 40).float().mean()
    assert 0.03 < frame < 0.2


def test_strangers_of_the_planted_faces_are_in_the_test_part_alone(stand_in):
    ds, all_known = faces.planted_olivetti(16, 0.5, strangers=6), faces.planted_olivetti(16, 0.5)
    seen = ds.test.attributes["seen"] == 1
    assert len(ds.test.groups[~seen].unique()) == 6 and int((~seen).sum()) == 6 * 10
    assert len(ds.train) == 34 * 8 and int(seen.sum()) == 34 * 2
    assert not torch.isin(ds.test.groups[~seen], ds.train.groups).any()
    # nobody's picture or label depends on who is a stranger
    kept = torch.isin(all_known.train.groups, ds.train.groups)
    assert torch.equal(all_known.train[kept].images, ds.train.images)
    assert torch.equal(all_known.train[kept].labels, ds.train.labels)
    with pytest.raises(ValueError, match="below 40"):
        faces.planted_olivetti(strangers=40)


def test_the_dial_is_checked(stand_in):
    with pytest.raises(ValueError, match="between 0 and 1"):
        faces.planted_olivetti(correlation=1.5)
