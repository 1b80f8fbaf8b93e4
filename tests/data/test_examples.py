"""Containers: what they accept, what they refuse, and that they lose nothing."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import FakeData

from unlearnlib.data.examples import Dataset, Examples, Split, pixel_limits, stratified
from unlearnlib.seeding import generator


def some(n=6, dtype=torch.uint8, **fields):
    images = torch.arange(n * 12).reshape(n, 3, 2, 2).remainder(256)
    images = images.to(torch.uint8) if dtype == torch.uint8 else images.to(dtype) / 255
    return Examples(images, torch.arange(n) % 3, **fields)


def test_bytes_are_read_as_0_to_1_and_floats_as_they_are():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    examples = Examples(images, torch.zeros(3, dtype=torch.int64))
    assert examples.pixels().flatten().tolist() == pytest.approx([0, 0.2, 1], abs=1e-7)
    assert examples.pixels([2, 0], dtype=torch.float64).flatten().tolist() == [1.0, 0.0]
    assert examples.limits == (0.0, 1.0) and examples.images.dtype == torch.uint8
    values = torch.tensor([-2.5, 3.0]).reshape(2, 1, 1, 1)
    floats = Examples(values, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(floats.pixels(), values) and floats.limits is None


@pytest.mark.parametrize(
    "index",
    [
        [4, 0],
        torch.tensor([4, 0]),
        np.array([4, 0]),
        np.array([4, 0], dtype=np.int32),
        slice(4, None, -4),
        [-2, 0],
    ],
)
def test_every_kind_of_index_selects_the_same(index):
    examples = some(groups=torch.arange(6), attributes={"age": torch.arange(6) * 10})
    picked = examples[index]
    assert picked.groups.tolist() == [4, 0] and picked.attributes["age"].tolist() == [40, 0]
    assert torch.equal(picked.images, examples.images[[4, 0]]) and torch.equal(picked.labels, examples.labels[[4, 0]])
    assert torch.equal(examples.pixels(index), picked.pixels())


def test_masks_and_empty_selections():
    examples = some()
    mask = examples.labels == 1
    assert examples[mask].labels.tolist() == [1, 1] == examples[mask.numpy()].labels.tolist()
    assert len(examples[[]]) == len(examples[:0]) == len(examples[~(mask | ~mask)]) == 0
    with pytest.raises(ValueError, match="mask must have 6"):
        examples[mask[:3]]
    with pytest.raises(ValueError, match=r"write \[2:3\]"):
        examples[2]
    with pytest.raises(ValueError, match="positions run from 0 to 5"):
        examples[[6]]
    with pytest.raises(ValueError, match="integers from 0 to 5"):
        examples[[0.5]]
    with pytest.raises(TypeError, match="one by one"):
        list(examples)


IMAGES, LABELS = torch.zeros(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": IMAGES[:, 0]}, r"\[N, C, H, W\]"),
        ({"images": IMAGES.long()}, "uint8"),
        ({"images": IMAGES.numpy()}, "must be a tensor"),
        ({"images": IMAGES[:, :0]}, "must have pixels"),
        ({"images": IMAGES + torch.inf}, "not finite"),
        ({"images": IMAGES * torch.nan}, "not finite"),
        ({"labels": LABELS[:3]}, r"shape \[4\]"),
        ({"labels": LABELS.int()}, "int64"),
        ({"labels": LABELS - 1}, "at least 0"),
        ({"groups": LABELS[:2]}, r"shape \[4\]"),
        ({"groups": LABELS - 2}, "at least -1"),
        ({"attributes": {"smile": LABELS[:2]}}, "smile"),
        ({"limits": (0, 0)}, "low < high"),
        ({"limits": (0, (1, 1))}, "limits must be"),
        ({"limits": 1.0}, "limits must be"),
        ({"images": IMAGES + 2, "limits": (0, 1)}, "outside limits"),
        ({"images": IMAGES.to(torch.uint8), "limits": (0, 255)}, "uint8 images have limits"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        Examples(**{"images": IMAGES, "labels": LABELS} | fields)
    assert "\n" not in str(error.value)


def test_limits_per_channel_survive_selection():
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    limits = (tuple((-mean / std).flatten().tolist()), tuple(((1 - mean) / std).flatten().tolist()))
    whole = (torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]) - mean) / std
    examples = Examples(whole, torch.zeros(2, dtype=torch.int64), limits=limits)
    assert examples[:1].limits == examples.limits == limits


def test_checksum_sees_every_field_and_no_device():
    base = some(groups=torch.arange(6), attributes={"age": torch.arange(6)})
    changed = base.images.clone()
    changed[5, 2, 1, 1] += 1
    others = [
        some(),
        base[[1, 0, 2, 3, 4, 5]],
        Examples(changed, base.labels, base.groups, base.attributes),
        Examples(base.images, base.labels, base.groups + 1, base.attributes),
        Examples(base.images, base.labels, base.groups, {"height": torch.arange(6)}),
        Examples(base.pixels(), base.labels, base.groups, base.attributes),
    ]
    sums = [base.checksum(), *(other.checksum() for other in others)]
    assert len(set(sums)) == len(sums)
    assert base.checksum() == base[:].checksum() == base.to("cpu").checksum() == copy.deepcopy(base).checksum()
    assert base.checksum() == pickle.loads(pickle.dumps(base)).checksum()
    strided = Examples(base.images.flip(0).flip(0).transpose(2, 3).contiguous().transpose(2, 3), *[base.labels])
    assert strided.checksum() == some().checksum()


def test_reads_tensor_datasets_fake_data_and_subsets():
    images, labels = torch.rand(7, 3, 4, 5), torch.arange(7)
    pairs = Examples.of(TensorDataset(images, labels))
    assert torch.equal(pairs.images, images) and torch.equal(pairs.labels, labels)
    part = Examples.of(Subset(TensorDataset(images, labels), [3, 1]), limits=(0, 1))
    assert torch.equal(part.images, images[[3, 1]]) and part.limits == (0.0, 1.0)

    fake = FakeData(size=5, image_size=(3, 8, 6), num_classes=4, random_offset=3)  # PIL images
    read = Examples.of(fake)
    assert read.images.dtype == torch.uint8 and read.shape == (3, 8, 6)
    for i in range(5):
        picture, label = fake[i]
        assert np.array_equal(read.images[i].permute(1, 2, 0).numpy(), np.asarray(picture)) and read.labels[i] == label
    assert Examples.of(read) is read


def test_reads_arrays_grey_pictures_and_array_labels():
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    read = Examples.of([(array, np.int32(2)), (array, torch.tensor(1))])
    assert read.shape == (3, 2, 4) and read.labels.tolist() == [2, 1]
    assert read.images[0, 1, 0, 3] == array[0, 3, 1]
    grey = Image.fromarray(array[..., 0])
    assert Examples.of([(grey, 0), (array[..., 0], 1)]).shape == (1, 2, 4)
    palette = Image.fromarray(array).convert("P")
    assert Examples.of([(palette, 0)]).shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "empty"),
        ([(torch.zeros(3, 2, 2), 0.5)], "integers"),
        ([(torch.zeros(3, 2, 2), True)], "integers"),
        ([(torch.zeros(3, 2, 2), 0), (torch.zeros(3, 2, 3), 0)], "differ in shape"),
        ([(torch.zeros(3, 2, 2), 0), (torch.zeros(3, 2, 2, dtype=torch.uint8), 0)], "differ in shape or type"),
        ([(np.zeros((3, 8, 8), np.uint8), 0)], r"\[H, W, C\]"),
        ([(torch.zeros(4), 0)], r"\[C, H, W\]"),
        ([("picture.png", 0)], "must be a tensor"),
        ([(torch.zeros(1, 2, 2),)], "pair"),
        (iter([]), "map-style"),
    ],
)
def test_refuses_what_it_cannot_read(items, message):
    with pytest.raises(ValueError, match=message):
        Examples.of(items)


def test_concatenate_keeps_what_all_parts_share():
    a = some(2, groups=torch.tensor([5, 6]), attributes={"age": torch.ones(2), "smile": torch.ones(2)})
    b = some(3, attributes={"age": torch.zeros(3)})
    both = Examples.concatenate([a, b])
    assert both.groups.tolist() == [5, 6, -1, -1, -1] and list(both.attributes) == ["age"]
    assert torch.equal(both[:2].images, a.images) and torch.equal(both[2:].labels, b.labels)
    with pytest.raises(ValueError, match="image type"):
        Examples.concatenate([some(), some(dtype=torch.float32)])
    with pytest.raises(ValueError, match="nothing"):
        Examples.concatenate([])


def test_dataset_refuses_labels_without_a_name_and_unlike_parts():
    ds = Dataset("toy", some(), some(3), ("a", "b", "c"), "test")
    assert ds.n_classes == 3 and ds.shape == (3, 2, 2)
    assert ds.checksum() == Dataset("other", some(), some(3), ["a", "b", "c"], "elsewhere").checksum()
    assert ds.checksum() != Dataset("toy", some(), some(4), ("a", "b", "c"), "test").checksum()
    with pytest.raises(ValueError, match="label 2 but only 2"):
        Dataset("toy", some(), some(2), ("a", "b"), "test")
    with pytest.raises(ValueError, match="differ in image type"):
        Dataset("toy", some(), some(dtype=torch.float32), ("a", "b", "c"), "test")
    with pytest.raises(ValueError, match="empty"):
        Dataset("toy", some()[:0], some(), ("a", "b", "c"), "test")


def test_a_split_of_ones_own_parts():
    ten = TensorDataset(torch.rand(10, 1, 2, 2), torch.arange(10))
    split = Split.of(retain=Subset(ten, range(6)), forget=Subset(ten, [7, 6]), validation=Subset(ten, [8]))
    assert split.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 7, 6]
    assert split.retain.labels.tolist() == list(range(6)) and split.forget.labels.tolist() == [7, 6]
    assert split.forget_index.tolist() == [6, 7] and split.retain_index.tolist() == list(range(6))
    assert split.validation.labels.tolist() == [8] and split.test is None and split.index is None
    assert len(Split.of(retain=some(), forget=some(1)).validation) == 0
    assert repr(split) == "Split('given', seed 0: retain 6, forget 2, validation 1, test 0)"
    with pytest.raises(ValueError, match="nothing to forget"):
        Split.of(retain=some(), forget=some()[:0])
    with pytest.raises(ValueError, match="nothing to retain"):
        Split.of(retain=some()[:0], forget=some())
    with pytest.raises(ValueError, match="differ in image shape"):
        Split.of(retain=some(), forget=some(), test=ten)
    with pytest.raises(ValueError, match="distinct"):
        Split(some(2), torch.tensor([True, False]), some(1), None, "x", 0, torch.tensor([1, 1]))


def test_split_checksum_is_that_of_the_content():
    split = Split.of(retain=some(4), forget=some(2), validation=some(1))
    assert split.checksum() == Split.of(retain=some(4), forget=some(2), validation=some(1), seed=3).checksum()
    others = [
        Split.of(retain=some(4), forget=some(2)),
        Split.of(retain=some(4), forget=some(2), validation=some(1), test=some(1)),
        Split(split.train, ~split.is_forget, split.validation, None, "given", 0),
    ]
    assert len({split.checksum(), *(other.checksum() for other in others)}) == 4


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda s: sum(s) > 0),
    fraction=st.floats(0, 0.95),
    seed=st.integers(0, 3),
)
def test_stratified_holds_out_the_right_share_of_every_class(sizes, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator(seed, "test"))]
    mask = stratified(labels, fraction, generator(seed))
    for label, size in enumerate(sizes):
        held = int(mask[labels == label].sum())
        assert abs(held - fraction * size) < 1 + 1e-6 and (held < size or size == 0)
    if all(size * (1 - fraction) >= 2 for size in sizes):
        assert int(mask.sum()) == round(fraction * len(labels))


def test_stratified_draws_every_member_alike():
    labels = torch.tensor([0] * 5 + [1] * 10)
    share = torch.stack([stratified(labels, 0.4, generator(seed)) for seed in range(2000)]).double().mean(0)
    assert torch.allclose(share, torch.full((15,), 0.4, dtype=torch.float64), atol=4 * (0.24 / 2000) ** 0.5)


def test_pixel_limits_are_those_declared_or_observed():
    bytes_ = Examples(torch.randint(0, 255, (4, 3, 2, 2), dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    low, high = pixel_limits(bytes_)
    assert low.shape == (3, 1, 1) and not low.any() and (high == 1).all()
    floating = Examples(bytes_.pixels() * 4 - 2, bytes_.labels)
    low, high = pixel_limits(floating)
    assert torch.equal(low.flatten(), floating.images.amin((0, 2, 3)))
    assert torch.equal(high.flatten(), floating.images.amax((0, 2, 3)))


def test_checksum_is_a_known_one():
    """The definition, written out: a change of it would make every stored checksum stale."""
    inner = hashlib.sha256()
    inner.update(b"torch.uint8[1, 1, 1, 2];" + bytes([7, 9]))
    inner.update(b"torch.int64[1];" + (3).to_bytes(8, "little"))
    inner.update(b"none;")
    expected = hashlib.sha256(f"{inner.hexdigest()}[](0.0, 1.0)".encode()).hexdigest()
    examples = Examples(torch.tensor([7, 9], dtype=torch.uint8).reshape(1, 1, 1, 2), torch.tensor([3]))
    assert examples.checksum() == expected
