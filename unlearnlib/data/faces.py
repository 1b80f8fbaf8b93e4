"""Benchmarks of forgetting a person, from folders in their official layouts; and a known attribute planted in ORL.

    ds = mufac("custom_korean_family_dataset_resolution_128")    # age in 8 classes; families and people are known
    ds = mucac("CelebAMask-HQ", task="smiling")                  # gender, smiling or young; identities are known
    ds = raf_db("RAF-DB/basic")                                  # emotion in 7 classes; nobody knows who is who
    ds = planted_olivetti(correlation=0.5)                       # 40 people and a drawn pair of glasses

None of the first three is downloaded: their owners give access on request. Pictures of people are for research, and
nobody is called by name: groups are numbers. `split(ds, "identity:20")` asks to forget twenty people.
"""

import csv
import io
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.pictures import read_pictures
from unlearnlib.data.sources import olivetti
from unlearnlib.data.tensors import check_fraction, check_whole, integers
from unlearnlib.seeding import numpy_generator
from unlearnlib.store.places import expanded

AGES = ("0-6", "7-12", "13-19", "20-30", "31-45", "46-55", "56-66", "67-80")
EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
CELEBA_TASKS = {"gender": "Male", "smiling": "Smiling", "young": "Young"}
MUFAC_FORGET = 1500  # the released experiments forget the first rows of the training table
MUCAC_TEST = 190  # identities below this are the test part of the published splits


def copies(pictures: Tensor, near: float = 4.0, block: int = 512) -> Tensor:
    """For each picture [N, C, H, W] uint8 the first picture that it is a copy of, itself if it is none: [N] int64.

    Two pictures are copies if their 16x16 grey thumbnails differ by at most `near` grey levels (root mean square):
    the same picture compressed or scaled again. Copies that were cut, turned or mirrored are not found.
    """
    grey = pictures.float().mean(1, keepdim=True)
    thumbs = torch.nn.functional.interpolate(grey, size=(16, 16), mode="area").flatten(1).double()
    squares, width = (thumbs**2).sum(1), thumbs.shape[1]
    first = torch.empty(len(thumbs), dtype=torch.int64)
    for start in range(0, len(thumbs), block):
        rows = slice(start, start + block)
        apart = squares[rows, None] + squares[None] - 2 * thumbs[rows] @ thumbs.T
        first[rows] = (apart <= width * near**2).long().argmax(1)  # the first of them; a picture is near itself
    return first


def without_copies(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """The two parts without repeated pictures; a picture that is in both stays in the test part alone."""
    first = copies(torch.cat([test.images, train.images]))
    kept = first == torch.arange(len(first))
    return train[kept[len(test) :]], test[kept[: len(test)]]


def _text(path: Path, folder: str = "the folder that holds it") -> str:
    if not path.is_file():
        raise ValueError(f"{path} is not there: give {folder}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as text: is it the official table?") from error


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table with a header; every row has every column."""
    rows = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    missing = [c for c in columns if not rows or c not in rows[0]]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: is it the official table?")
    short = next((i for i, row in enumerate(rows, 2) if any(not row[c] for c in columns)), None)
    if short is not None:
        raise ValueError(f"{path}, row {short}: a value of {', '.join(columns)} is missing")
    return rows


def _fields(
    path: Path, after: int, width: int | None = None, folder: str = "the folder that holds it"
) -> list[list[str]]:
    """The lines of a table without a header, split at blanks; those from `after` on have `width` fields."""
    rows = [line.split() for line in _text(path, folder).splitlines() if line.strip()]
    uneven = next((row for row in rows[after:] if len(row) != (width or len(rows[after]))), None)
    if len(rows) <= after or uneven is not None:
        why = "it has no rows" if uneven is None else f"its rows are unlike, as {' '.join(uneven)[:60]!r}"
        raise ValueError(f"{path}: {why}: is it the official table?")
    names = [row[0] for row in rows[after:]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names a picture twice: is it the official table?")
    return rows


def _whole(path: Path, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f"{path}: {text[:60]!r} is not a number: is it the official table?")
    return int(text)


def _numbered(names: list) -> Tensor:
    return integers(np.unique(np.array(names), return_inverse=True)[1])


def mufac(folder: str, size: int = 128, *, clean: bool = True) -> Dataset:
    """MUFAC: 13,068 faces of Korean families, age in eight classes. Choi and Na, arXiv 2311.02240.

    Reads custom_{train,val,test}_dataset.csv (family_id, person_id, age_class "a" to "h", image_path) beside the
    folders {train,val,test}_images. Groups are people. The train table is the training part; val and test tables are
    the test part, attribute `table` 0 and 1 (the released code tests on the former and attacks with the latter);
    attribute `official_forget` is 1 for the first 1,500 rows of the train table.

    clean     remove repeated pictures, and from the training part those that are in the test part too. The data
              have many: spartalis2025 count 54 between train and test, 16 between val and test, 26 between the
              official forget and retain sets and 4,079 within the latter. Their rule is not ours, nor are the counts.
    """
    root, images, rows, table = expanded(folder, f"mufac:{folder:.200}"), [], [], []
    for number, part in enumerate(("train", "val", "test")):
        found = _table(root / f"custom_{part}_dataset.csv", ("family_id", "person_id", "age_class", "image_path"))
        images.append(read_pictures([root / f"{part}_images" / row["image_path"] for row in found], size))
        rows += found
        table += [number - 1] * len(found)
    ages = [row["age_class"].strip().lower() for row in rows]
    unknown = sorted(set(ages) - set("abcdefgh"))
    if unknown:
        raise ValueError(f"{folder}: age classes are a to h, not {', '.join(unknown)}")
    groups = _numbered([f"{row['family_id']} {row['person_id']}" for row in rows])
    where, order = integers(table), torch.arange(len(rows))
    attributes = {"table": where, "official_forget": ((where < 0) & (order < MUFAC_FORGET)).long()}
    everything = Examples(torch.cat(images), integers(["abcdefgh".index(a) for a in ages]), groups, attributes)
    train, test = everything[where < 0], everything[where >= 0]
    if clean:
        train, test = without_copies(train, test)
    return Dataset("mufac", train, test, AGES, f"MUFAC, {'cleaned' if clean else 'as published'}")


def mucac(folder: str, task: str = "gender", size: int = 64) -> Dataset:
    """MUCAC: CelebA-HQ with identities; one of gender, smiling, young as the label, the others as attributes.

    Reads CelebA-HQ-identity.txt ("file identity"), CelebA-HQ-attribute.txt (a line with the number of files, one
    with the attributes' names, then "file -1 1 ...") and the folder CelebA-HQ-img. Identities below 190 are the test
    part: nobody is in both. Pictures without an identity are left out. Choi and Na, arXiv 2311.02240.
    """
    if task not in CELEBA_TASKS:
        raise ValueError(f"task must be one of {', '.join(CELEBA_TASKS)}, not {task!r}")
    root = expanded(folder, f"mucac:{folder:.200}")
    people, facts = root / "CelebA-HQ-identity.txt", root / "CelebA-HQ-attribute.txt"
    identity = {file: _whole(people, number) for file, number in _fields(people, 0, 2)}
    names, *listed = _fields(facts, 2)[1:]
    rows = {row[0]: row[1:] for row in listed}
    files = sorted(set(identity) & set(rows))
    if not files or any(attribute not in names for attribute in CELEBA_TASKS.values()):
        raise ValueError(
            f"{folder}: the attribute table does not name {', '.join(CELEBA_TASKS.values())} and the files"
        )
    if any(len(row) != len(names) or not {"1", "-1"}.issuperset(row) for row in rows.values()):
        raise ValueError(f"{facts}: every row must have 1 or -1 for each of the {len(names)} attributes")
    columns = {
        ours: integers([rows[file][names.index(theirs)] == "1" for file in files])
        for ours, theirs in CELEBA_TASKS.items()
    }
    groups = integers([identity[file] for file in files])
    pictures = read_pictures([root / "CelebA-HQ-img" / file for file in files], size)
    everything = Examples(pictures, columns[task].clone(), groups, columns)
    test = groups < MUCAC_TEST
    classes = {"gender": ("female", "male")}.get(task, (f"not {task}", task))
    return Dataset("mucac", everything[~test], everything[test], classes, f"MUCAC, {task}")


def raf_db(folder: str, size: int = 64) -> Dataset:
    """RAF-DB, basic emotions: 12,271 training and 3,068 test faces, seven classes. Li, Deng and Du, CVPR 2017.

    Reads EmoLabel/list_patition_label.txt ("train_00001.jpg 5", labels from 1) and Image/aligned/*_aligned.jpg. The
    data do not say who is on a picture, so there are no groups: only random and class requests make sense.
    """
    root = expanded(folder, f"raf_db:{folder:.200}")
    table = root / "EmoLabel" / "list_patition_label.txt"  # spelt so by its authors
    rows = [(name, _whole(table, label)) for name, label in _fields(table, 0, 2, "the folder `basic` of RAF-DB")]
    strange = next((name for name, _ in rows if not name.startswith(("train_", "test_"))), None)
    if strange is not None:
        raise ValueError(f"{table}: {strange[:60]!r} is neither a train_ nor a test_ picture")
    parts = []
    for part in ("train", "test"):
        chosen = [(name, label - 1) for name, label in rows if name.startswith(part)]
        if not chosen or not all(0 <= label < len(EMOTIONS) for _, label in chosen):
            raise ValueError(f"{table} must list {part}_ pictures with labels from 1 to {len(EMOTIONS)}")
        paths = [root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg" for name, _ in chosen]
        parts.append(Examples(read_pictures(paths, size), integers([label for _, label in chosen])))
    return Dataset("raf_db", *parts, EMOTIONS, "RAF-DB, basic emotions, aligned")


def planted_olivetti(size: int = 64, correlation: float = 0.0, strangers: int = 0, seed: int = 0) -> Dataset:
    """The 40 people of the ORL faces with glasses drawn on some pictures; the label is whether they are there.

    Every person has a hidden bit (half of them 1), and P(glasses = bit) = (1 + correlation) / 2, so that the task is
    known exactly and its tie to identity is a dial. Groups are people; the last two shots of each are the test part.
    All pictures of `strangers` people, drawn with `seed`, are in the test part as well and none in the training part:
    attribute `seen` is 0 for these and 1 for all other pictures.
    """
    check_fraction("correlation", correlation, one=True)
    check_whole("strangers", strangers, 0, below=40)
    ds = olivetti(size)
    unknown = torch.from_numpy(numpy_generator(seed, "planted", "strangers").permutation(40)[:strangers])
    bit = numpy_generator(seed, "planted", "bits").permutation(40) % 2

    def part(name: str, faces: Examples) -> Examples:
        people = faces.groups.numpy()
        agrees = numpy_generator(seed, "planted", name).random(len(faces)) < (1 + correlation) / 2
        worn = np.where(agrees, bit[people], 1 - bit[people])
        images = faces.images.clone()
        images[torch.from_numpy(worn == 1)] = glasses(images[torch.from_numpy(worn == 1)])
        seen = (~torch.isin(faces.groups, unknown)).long()
        attributes = {
            **faces.attributes,
            "glasses": integers(worn),
            "glasses_bit": integers(bit[people]),
            "seen": seen,
        }
        return Examples(images, integers(worn), faces.groups, attributes)

    train, test = part("train", ds.train), part("test", ds.test)
    known = train.attributes["seen"] == 1
    settings = f"planted glasses, correlation={correlation:g} strangers={strangers} seed={seed}"
    held_out = Examples.concatenate([test, train[~known]])
    return Dataset("planted_olivetti", train[known], held_out, ("none", "glasses"), settings)


def glasses(pictures: Tensor) -> Tensor:
    """The pictures [N, C, H, W] uint8 with two dark rings and a bridge where the eyes of a centred face are."""
    side = pictures.shape[-1]
    grid = (torch.arange(side) + 0.5) / side
    x, y = (grid[None, :] - 0.5).abs(), grid[:, None] - 0.42
    ring = (((x - 0.17) / 0.13) ** 2 + (y / 0.10) ** 2).sqrt()
    frame = ((ring - 1).abs() < 0.14) | ((x < 0.045) & (y.abs() < 0.02))
    return torch.where(frame, pictures // 5, pictures)
