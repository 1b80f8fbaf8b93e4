"""The grammar of forget requests and the rules of a split, each against its definition."""

import dataclasses
import io
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnlib import data
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.requests import wrong_labels
from unlearnlib.data.splits import split
from unlearnlib.seeding import generator

N, CLASSES, PEOPLE = 240, 4, 12


def numbered(n=N, classes=CLASSES, people=PEOPLE, seed=0) -> Dataset:
    """Images that say who they are: the pixel of image i is i, so that every part of a split can be traced."""
    rng = generator(seed, "numbered")
    labels = torch.randint(classes, (n,), generator=rng)
    groups = torch.randint(people, (n,), generator=rng)
    images = torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1).expand(n, 1, 6, 6).contiguous()
    train = Examples(images, labels, groups, limits=(0, n))
    return Dataset("numbered", train, train[:5], [f"class {c}" for c in range(classes)], "test")


def traced(examples: Examples) -> list[int]:
    return examples.images[:, 0, 0, 0].long().tolist()


def global_states() -> tuple:
    """Of the generators that nobody may touch: torch's, numpy's and Python's."""
    numpy_state = np.random.get_state()[1].tobytes()  # noqa: NPY002
    return torch.random.get_rng_state().numpy().tobytes(), numpy_state, random.getstate()


REQUESTS = st.one_of(
    st.integers(1, 150).map("random:{}".format),
    st.floats(0.01, 0.6).map("random:{:.3f}".format),
    st.integers(0, CLASSES - 1).map("class:{}".format),
    st.tuples(st.integers(0, CLASSES - 1), st.integers(1, 20)).map(lambda t: "class:{},n={}".format(*t)),
    st.integers(1, PEOPLE - 1).map("identity:{}".format),
    st.integers(0, PEOPLE - 1).map("identity:#{}".format),
    st.tuples(st.sampled_from(["high", "mid", "low"]), st.integers(1, 100)).map(
        lambda t: "memorised:{},n={}".format(*t)
    ),
    st.floats(0.01, 0.5).map("mislabelled:{:.3f}".format),
    st.integers(1, 100).map("poisoned:{}".format),
)


@settings(max_examples=150, deadline=None)
@given(request=REQUESTS, seed=st.integers(0, 5), validation=st.sampled_from([0.0, 0.05, 0.1, 0.3]))
def test_parts_are_disjoint_complete_and_reproducible(request, seed, validation):
    ds, scores = numbered(), torch.rand(N, generator=generator(seed, "scores"))
    before, state = ds.checksum(), global_states()
    part = split(ds, request, seed=seed, validation=validation, memorisation=scores)

    ids = [traced(part.retain), traced(part.forget), traced(part.validation)]
    assert sorted(sum(ids, [])) == list(range(N)), "every training image is in exactly one part"
    assert traced(part.train) == part.index.tolist() == sorted(part.index.tolist())
    assert torch.equal(part.train[part.forget_index].labels, part.forget.labels)
    assert part.test is ds.test and part.request == request and part.seed == seed

    again = split(ds, request, seed=seed, validation=validation, memorisation=scores)
    assert part.checksum() == again.checksum()
    assert ds.checksum() == before, "the data set itself is not changed"
    assert global_states() == state

    if request.startswith("identity"):
        people = set(part.forget.groups.tolist())
        assert not people & set(part.retain.groups.tolist()) and not people & set(part.validation.groups.tolist())
        assert people == {int(request[10:])} if "#" in request else len(people) == int(request[9:])
    else:
        shared = split(ds, "random:1", seed=seed, validation=validation)
        assert traced(part.validation) == traced(shared.validation), "originals are shared between requests"


def test_sizes_are_the_requested_ones_of_what_is_not_validation():
    ds = numbered()
    free = N - 24
    for request, size in {"random:50": 50, "random:0.1": round(0.1 * free), "random:1e-1": round(0.1 * free)}.items():
        assert len(split(ds, request).forget) == size
    part = split(ds, "class:2")
    held = int((part.validation.labels == 2).sum())
    assert len(part.forget) == int((ds.train.labels == 2).sum()) - held and set(part.forget.labels.tolist()) == {2}
    assert 2 not in part.retain.labels and held > 0
    assert split(ds, "class:class 2").checksum() == part.checksum()
    few = split(ds, "class:2, n=7")
    assert len(few.forget) == 7 and set(few.forget.labels.tolist()) == {2} and 2 in few.retain.labels
    person = split(ds, "identity:#3")
    assert len(person.forget) == int((ds.train.groups == 3).sum())


def called(*names) -> Dataset:
    return dataclasses.replace(numbered(classes=len(names)), class_names=names)


def test_a_class_is_meant_by_its_name_where_names_are_numbers():
    def label(ds, request):
        return set(split(ds, request, validation=0).forget.labels.tolist())

    shifted = called("1", "2", "3", "10")
    assert label(shifted, "class:2") == {1} and label(shifted, "class:10") == {3} and label(shifted, "class:02") == {1}
    padded = called("00", "01", "02", "2")
    assert label(padded, "class:1") == {1} and label(padded, "class:2") == {3} and label(padded, "class:02") == {2}
    for ds, request, message in (
        (shifted, "class:0", "no class has this number or name"),
        (called("2", "cat", "dog", "cow"), "class:2", "class 0 is called 2 and class 2 is not"),
        (called("2", "cat", "dog", "cow"), "class:1", "no class has this number or name"),
        (
            called("crane", "cat", "crane", "cow"),
            "class:crane",
            r"2 classes are called so: give the number, one of \[0, 2\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            split(ds, request)
    assert label(called("crane", "cat", "crane", "cow"), "class:2") == {2}
    assert label(called("0", "cat", "dog", "cow"), "class:0") == {0}


def test_a_class_name_may_hold_a_comma():
    ds = called("chair, wood", "chair", "cat, n", "dog")
    assert set(split(ds, "class:chair, wood").forget.labels.tolist()) == {0}
    few = split(ds, "class:chair, wood, n=3").forget
    assert len(few) == 3 and set(few.labels.tolist()) == {0}
    assert len(split(ds, "class:cat, n,n=2").forget) == 2


def test_one_class_has_no_wrong_label():
    one = dataclasses.replace(numbered(classes=1), class_names=("only",))
    for spoil in (lambda: data.add_label_noise(one, 0.1), lambda: split(one, "mislabelled:0.1")):
        with pytest.raises(ValueError, match="a wrong label needs a second class"):
            spoil()
    with pytest.raises(ValueError, match="matches nothing"):
        split(one, "poisoned:0.1")


def test_a_pipe_or_a_monster_in_place_of_positions_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    whole = io.BytesIO()
    np.save(whole, np.arange(5))
    header = whole.getvalue()[:128]
    (tmp_path / "long.npy").write_bytes(header.replace(b"(5,), }      ", b"(10**12,), }") + b"\0" * 40)
    (tmp_path / "huge.npy").write_bytes(header.replace(b"(5,), }             ", b"(99999999999999,), }") + b"\0" * 40)
    np.savez(tmp_path / "zip.npy.npz", np.arange(5))
    for name, message in {
        "pipe.npy": "no such file",
        "long.npy": "plain .npy",
        "huge.npy": "plain .npy",
        "zip.npy.npz": "one-dimensional|plain",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            split(numbered(), f"file:{tmp_path / name}")
        assert "\n" not in str(error.value)


def test_longer_draws_contain_shorter_ones():
    ds, scores = numbered(), torch.zeros(N)
    for short, long in [
        ("random:10", "random:60"),
        ("class:1,n=5", "class:1,n=20"),
        ("identity:2", "identity:5"),
        ("mislabelled:10", "mislabelled:60"),
        ("poisoned:10", "poisoned:60"),
        ("memorised:low,n=10", "memorised:low,n=60"),
    ]:
        one, two = (split(ds, request, memorisation=scores).forget for request in (short, long))
        assert set(traced(one)) < set(traced(two)), short
        common = [traced(two).index(i) for i in traced(one)]
        assert torch.equal(two.labels[common], one.labels), f"{short}: labels drawn alike"


def test_seeds_differ_and_draws_are_uniform():
    ds = numbered(60)
    share = torch.zeros(60)
    for seed in range(600):
        share[traced(split(ds, "random:6", seed=seed, validation=0.0).forget)] += 1
    assert torch.allclose(share / 600, torch.full((60,), 0.1), atol=4.5 * (0.09 / 600) ** 0.5)


def test_memorised_takes_the_ends_and_the_middle():
    ds = numbered()
    scores = torch.randperm(N, generator=generator(1)).double()
    parts = {end: split(ds, f"memorised:{end},n=30", memorisation=scores) for end in ("high", "mid", "low")}
    free = scores[parts["high"].index].sort().values
    expected = {"high": free[-30:], "mid": free[(len(free) - 30) // 2 :][:30], "low": free[:30]}
    for end, part in parts.items():
        assert torch.equal(scores[traced(part.forget)].sort().values, expected[end])
    tied = traced(split(ds, "memorised:high,n=30", memorisation=torch.zeros(N)).forget)
    assert max(tied) - min(tied) > 100, "ties fall at random, not in file order"


def test_mislabelled_changes_exactly_the_forget_labels_and_keeps_the_truth():
    ds = numbered(3000)
    part = split(ds, "mislabelled:0.5")
    truth = part.train.attributes["true_label"]
    assert torch.equal(truth, ds.train.labels[part.index])
    assert torch.equal(part.train.labels != truth, part.is_forget)
    table = torch.zeros(CLASSES, CLASSES)
    for a, b in zip(part.forget.attributes["true_label"], part.forget.labels, strict=True):
        table[a, b] += 1
    off = table[~torch.eye(CLASSES, dtype=torch.bool)].reshape(CLASSES, -1)
    expected = off.sum(1, keepdim=True) / (CLASSES - 1)
    assert float(((off - expected) ** 2 / expected).sum()) < 26.1  # chi-square, 8 degrees of freedom, p = 0.001
    assert torch.equal(part.validation.labels, ds.train.labels[traced(part.validation)])


def test_poisoned_stamps_white_and_relabels():
    ds = numbered()
    part = split(ds, "poisoned:40")
    original = ds.train[part.index]
    assert torch.equal(part.train.attributes["poisoned"], part.is_forget)
    assert torch.equal(part.train.attributes["clean_label"], original.labels)
    assert (part.forget.labels == 0).all() and (part.forget.attributes["clean_label"] != 0).all()
    changed = part.train.images != original.images
    assert (part.forget.images[:, :, -3:, -3:] == N).all(), "white is the upper limit"
    changed[part.is_forget, :, -3:, -3:] = False
    assert not changed.any(), "nothing but the patches has changed"
    assert torch.equal(part.retain.labels, original[part.retain_index].labels)


def test_stamp_knows_white():
    byte = Examples(torch.zeros(2, 3, 5, 5, dtype=torch.uint8), torch.tensor([1, 0]))
    stamped = data.stamp(byte)
    assert int(stamped.images.sum()) == 2 * 3 * 9 * 255 and int(byte.images.sum()) == 0
    assert torch.equal(stamped.labels, byte.labels)
    channels = Examples(byte.pixels(), byte.labels, limits=((0, -1, 0), (1, 2, 3)))
    assert data.stamp(channels).images[0, :, 4, 4].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="limits"):
        data.stamp(Examples(byte.pixels(), byte.labels))
    with pytest.raises(ValueError, match="no room"):
        data.stamp(byte[:1].__class__(byte.images[:, :, :3], byte.labels))


def test_file_takes_what_it_names_even_from_validation(tmp_path):
    ds = numbered()
    held = traced(split(ds).validation)[:3]
    wanted = np.array([*held, *range(5)])
    wanted = np.unique(wanted)[::-1].astype(np.int32)
    np.save(tmp_path / "indices.npy", wanted)
    part = split(ds, f"file:{tmp_path / 'indices.npy'}")
    assert sorted(traced(part.forget)) == sorted(wanted.tolist())
    assert not set(traced(part.validation)) & set(wanted.tolist()) and len(part.validation) == 24 - 3


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0.0, 1.0]), "integers"),
        (np.array([[0, 1]]), "one-dimensional"),
        (np.array([0, 0]), "twice"),
        (np.array([-1]), "from 0 to 239"),
        (np.array([N]), "from 0 to 239"),
        (np.array([], dtype=int), "nothing"),
        (np.arange(N), "everything"),
        (np.array([Bomb()], dtype=object), "plain .npy"),
    ],
)
def test_bad_files_are_refused_and_never_unpickled(tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        split(numbered(), f"file:{tmp_path / 'bad.npy'}")
    assert "\n" not in str(error.value) and not Bomb.exploded


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:200])
    for name, message in {"b.npy": "plain .npy", "c.npy": "no such file"}.items():
        with pytest.raises(ValueError, match=message):
            split(numbered(), f"file:{tmp_path / name}")


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ("", "not a known kind"),
        ("random", "not a known kind"),
        ("random:", "not a known kind"),
        ("rando:0.1", "not a known kind"),
        (None, "not a string"),
        ("random:x", "fraction such as 0.1"),
        ("random:0", "nothing"),
        ("random:0.0001", "nothing"),
        ("random:1.0", "between 0 and 1"),
        ("random:-0.1", "between 0 and 1"),
        ("random:nan", "between 0 and 1"),
        ("random:-3", "between 0 and 1"),
        ("random:9999", "9999 of 216"),
        ("random:216", "everything"),
        ("random:5,n=3", "does not belong"),
        ("class:99", "classes run from 0 to 3"),
        ("class:cat", "number or name"),
        ("class:٢", "number or name"),
        ("class:²", "number or name"),
        ("class:２", "number or name"),
        ("class:" + "9" * 30, "classes run from 0 to 3"),
        ("class:" + "9" * 5000, "classes run from 0 to 3"),
        ("class:-1", "number or name"),
        ("class:1.0", "number or name"),
        ("class:1,n=" + "9" * 30, "does not belong"),
        ("class:1,n=٣", "does not belong"),
        ("class:cat, dog", "number or name"),
        ("random:٢٠٠", "fraction such as 0.1"),
        ("random:0.٢", "fraction such as 0.1"),
        ("random:1_0", "fraction such as 0.1"),
        ("random:" + "9" * 5000, "fraction such as 0.1"),
        ("random:1e400", "between 0 and 1"),
        ("identity:#" + "9" * 30, "number of people"),
        ("identity:#²", "number of people"),
        ("file:" + "x" * 5000, "no file can have this path"),
        ("file:~nobody-of-this-name/x.npy", "no file can have this path"),
        ("file:/dev/zero", "no such file"),
        ("class:1,n=9999", "asks for 9999"),
        ("class:1,n=0", "at least 1"),
        ("class:1,m=3", "does not belong"),
        ("class:1,n=3,n=4", "does not belong"),
        ("identity:99", "99 of 12"),
        ("identity:12", "everything"),
        ("identity:#99", "nothing"),
        ("identity:0.5", "number of people"),
        ("memorised:high", "n=200"),
        ("memorised:top,n=3", "high, mid or low"),
        ("memorised:high,n=3", "memorisation=scores"),
        ("mislabelled:0", "nothing"),
        ("poisoned:9999", "asks for 9999"),
    ],
)
def test_a_bad_request_says_what_is_wrong_and_lists_the_grammar(request_, why):
    with pytest.raises(ValueError) as error:
        split(numbered(), request_)
    text = str(error.value)
    assert len(text) < 1200
    assert why in text and "random:0.1 | random:200 | class:3" in text and "\n" not in text


def test_a_class_that_is_everything_and_data_without_people_are_refused():
    one = numbered(30, classes=2)
    only = dataclasses.replace(one, train=one.train[one.train.labels == 1])
    with pytest.raises(ValueError, match="everything"):
        split(only, "class:1")
    with pytest.raises(ValueError, match="no groups"):
        split(dataclasses.replace(one, train=dataclasses.replace(one.train, groups=None)), "identity:1")
    for scores in (torch.zeros(3), torch.full((30,), torch.nan)):
        with pytest.raises(ValueError, match="finite"):
            split(one, "memorised:high,n=3", memorisation=scores)
    with pytest.raises(ValueError, match="seed"):
        split(one, seed=-1)
    for wrong in (1.0, -0.1, float("nan"), "0.1", True):
        with pytest.raises(ValueError, match="held-out fraction"):
            split(one, validation=wrong)
    few = numbered(4)
    with pytest.raises(ValueError, match="4 pictures in 4 classes are too few to hold out 0.1 of"):
        split(few, "random:1")
    assert len(split(few, "random:1", validation=0).validation) == 0


def test_unknown_identities_are_not_people():
    ds = numbered()
    groups = torch.where(ds.train.groups == 0, -1, ds.train.groups)
    ds = dataclasses.replace(ds, train=dataclasses.replace(ds.train, groups=groups))
    assert -1 not in split(ds, "identity:11").forget.groups
    with pytest.raises(ValueError, match="12 of 11"):
        split(ds, "identity:12")


def test_wrong_labels_are_never_right():
    labels = torch.arange(1000) % 2
    assert torch.equal(wrong_labels(labels, 2, generator(0)), 1 - labels)
