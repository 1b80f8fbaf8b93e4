"""The public surface: loading by name, label noise, duplicates, provenance."""

import dataclasses

import pytest
import torch

from unlearnlib import data
from unlearnlib.data.examples import Dataset, Examples, Split


def toy(n=200, classes=5) -> Dataset:
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 4, 4).contiguous()
    train = Examples(images, torch.arange(n) % classes)
    return Dataset("toy", train, train[:10], [f"class {c}" for c in range(classes)], "test")


def test_names_lists_what_load_knows():
    known = data.names()
    assert {"digits", "mnist5k", "mnist", "fashion_mnist", "cifar10", "cifar100"} < set(known)
    assert {"imagenette", "lfw", "olivetti", "cartoon_faces", "folder:<path>"} < set(known)
    assert all(line and "\n" not in line for line in known.values())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "did you mean 'cifar10'"),
        ("MNIST-5k", {}, "known are digits, mnist5k"),
        ("folder:", {}, "no data set"),
        ("digits", {"size": 3}, "its options are none"),
        ("olivetti", {"sise": 3}, "did you mean 'size'"),
        ("lfw", {"task_": "male"}, "did you mean 'task'"),
        ("folder:pets", {"path": "x"}, "no option 'path'"),
        (None, {}, "no data set None"),
    ],
)
def test_unknown_names_and_options_name_the_nearest(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(name, **options)
    assert "\n" not in str(error.value)


def test_load_is_the_same_every_time():
    assert data.load("digits").checksum() == data.load("digits").checksum()


def test_label_noise_changes_that_many_training_labels_to_others():
    ds = toy()
    noisy = data.add_label_noise(ds, 0.3, seed=1)
    wrong = noisy.train.labels != ds.train.labels
    assert int(wrong.sum()) == 60 and torch.equal(noisy.train.attributes["true_label"], ds.train.labels)
    assert noisy.test is ds.test and torch.equal(noisy.train.images, ds.train.images)
    assert "label noise 0.3 (seed 1)" in noisy.source and noisy.checksum() != ds.checksum()
    more = data.add_label_noise(ds, 0.5, seed=1)
    assert torch.equal(more.train.labels[wrong], noisy.train.labels[wrong]), "more noise contains less"
    other = data.add_label_noise(ds, 0.3, seed=2)
    assert not torch.equal(other.train.labels, noisy.train.labels)
    assert torch.equal(data.add_label_noise(noisy, 0.2).train.attributes["true_label"], ds.train.labels)
    assert torch.equal(data.add_label_noise(ds, 0.0).train.labels, ds.train.labels)
    assert (data.add_label_noise(ds, 1.0).train.labels != ds.train.labels).all()
    for fraction in (-0.1, 1.1, float("nan"), "0.1", True, None, 10**400):
        with pytest.raises(ValueError, match="fraction"):
            data.add_label_noise(ds, fraction)


def test_label_noise_is_uniform_over_the_other_classes():
    ds = toy(4, 4)
    ds = dataclasses.replace(
        ds, train=Examples(ds.train.images[[0]].expand(6000, -1, -1, -1), torch.zeros(6000).long())
    )
    counts = torch.bincount(data.add_label_noise(ds, 1.0).train.labels, minlength=4)
    assert counts[0] == 0 and float(((counts[1:] - 2000.0) ** 2 / 2000).sum()) < 13.8  # chi-square 2 df, p = 0.001


@pytest.mark.parametrize("call", [data.split, data.overlap, data.describe, lambda x: data.add_label_noise(x, 0.1)])
def test_what_is_no_data_set_is_refused_in_one_line(call):
    examples = toy().train
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(examples.pixels(), examples.labels))
    for wrong in (loader, examples, "digits", None, {"train": examples}):
        with pytest.raises(ValueError, match=f"must be (Dataset|Split), not {type(wrong).__name__}") as error:
            call(wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["retain", "forget", "validation", "test"])
def test_a_loader_as_a_part_of_a_split_is_refused_with_what_to_give(place):
    examples = toy().train
    parts = dict.fromkeys(("retain", "forget", "validation", "test"), examples)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(examples.pixels(), examples.labels))
    with pytest.raises(ValueError, match="not DataLoader: give its .dataset"):
        Split.of(**{**parts, place: loader})
    for wrong in ("digits", b"x", {0: 1}, toy(), Split.of(**parts), 3):
        with pytest.raises(ValueError, match=f"not {type(wrong).__name__}"):
            Split.of(**{**parts, place: wrong})


def test_overlap_counts_planted_duplicates():
    ds = toy()
    images, labels = ds.train.images, ds.train.labels

    def part(*rows):
        return Examples(images[list(rows)], labels[list(rows)])

    split = Split.of(retain=part(0, 1, 2, 2, 3), forget=part(4, 1, 1), validation=part(5), test=part(5, 5, 0, 7))
    table = data.overlap(split)
    assert list(table.index) == list(table.columns) == ["retain", "forget", "validation", "test"]
    assert table.loc["retain"].tolist() == [1, 1, 0, 1]
    assert table.loc["forget"].tolist() == [2, 1, 0, 0]
    assert table.loc["validation"].tolist() == [0, 0, 0, 1]
    assert table.loc["test"].tolist() == [1, 0, 2, 1]
    assert data.overlap(Split.of(retain=part(0), forget=part(1))).shape == (3, 3)


def test_overlap_tells_apart_images_that_end_in_zeros():
    images = torch.zeros(3, 1, 1, 20, dtype=torch.uint8)
    images[1, 0, 0, 0] = 1
    images[2, 0, 0, 19] = 1
    examples = Examples(images, torch.zeros(3, dtype=torch.int64))
    assert (data.overlap(Split.of(retain=examples[:2], forget=examples[2:])).to_numpy() == 0).all()


def test_describe_is_one_row():
    ds = data.load("cartoon_faces", people=4, per_person=3)
    row = data.describe(ds)
    assert len(row) == 1
    row = row.iloc[0]
    assert (row["train"], row["test"], row["shape"], row["classes"], row["people"]) == (12, 6, "3x32x32", 2, 4)
    assert row["checksum"] == ds.checksum()[:12] and row["source"] == ds.source
    assert data.describe(toy()).iloc[0]["people"] == 0
