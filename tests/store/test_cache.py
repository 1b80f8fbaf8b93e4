"""The cache: damage that is noticed, kill -9 that costs nothing, one maker of many."""

import errno
import os
import pickle
import random
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnlib.store import addresses, cache, files
from unlearnlib.store.cache import Entry, Store

ADDRESS = addresses.key(test=1)


def forked(work) -> int:
    """Run `work` in a forked copy of this process; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_after(seconds: float, work) -> None:
    child = forked(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


TABLE = pd.DataFrame({"n": [1, 2], "x": [0.1, float("nan")], "text": ["a", None], "flag": [True, False]})
VALUES = {
    "tensors": {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(6).reshape(2, 3).T,
    },
    "arrays": {"x": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "bc"]), "n": np.int64(3)},
    "table": TABLE,
    "nothing": None,
}


@pytest.mark.parametrize("kind", VALUES)
def test_what_comes_back_is_what_went_in(tmp_path, kind):
    store, value, about = Store(tmp_path), VALUES[kind], {"cost": 0.1 + 0.2, "big": 2**60, "text": "ä"}
    store.write(ADDRESS, Entry(value, about))
    found = Store(tmp_path).read(ADDRESS)
    assert found.about == about
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(found.value, value)
    elif value is not None:
        assert found.value.keys() == value.keys()
        for name in value:
            assert found.value[name].dtype == value[name].dtype
            assert np.array_equal(np.asarray(found.value[name].tolist()), np.asarray(value[name].tolist()))
    else:
        assert found.value is None


def test_tied_weights_are_kept_for_each_name(tmp_path):
    shared = torch.randn(2, 2)
    Store(tmp_path).write(ADDRESS, Entry({"a": shared, "b": shared}))
    found = Store(tmp_path).read(ADDRESS).value
    assert torch.equal(found["a"], shared) and torch.equal(found["b"], shared)


def test_the_first_call_and_a_later_one_agree_on_types(tmp_path):
    store = Store(tmp_path)
    first = store.remember(ADDRESS, lambda: Entry(None, {"pair": (1, 2), 3: "number"}))
    later = store.remember(ADDRESS, lambda: pytest.fail("made twice"))
    assert first == later and first.about == {"pair": [1, 2], "3": "number"}


def damages(tmp_path):
    head = next(tmp_path.glob("??/*.json"))
    content = next(tmp_path.glob("??/*.safetensors"))
    for path in (head, content):
        whole = path.read_bytes()
        yield path, b"", "empty"
        yield path, whole[: len(whole) // 2], "cut"
        for place in range(0, len(whole), max(1, len(whole) // 20)):
            yield path, whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], f"bit at {place}"


def test_every_damage_is_noticed_reported_in_one_line_and_repaired(tmp_path, caplog):
    store, entry = Store(tmp_path), Entry({"w": torch.arange(300.0)}, {"cost": 1.5})
    store.write(ADDRESS, entry)
    for path, content, what in list(damages(tmp_path)):
        caplog.clear()
        path.write_bytes(content)
        found = store.remember(ADDRESS, lambda: entry)
        assert torch.equal(found.value["w"], entry.value["w"]) and found.about == {"cost": 1.5}, what
        assert len(caplog.messages) == 1 and "is damaged" in caplog.text and "\n" not in caplog.messages[0], what
    next(tmp_path.glob("??/*.safetensors")).unlink()
    assert store.read(ADDRESS) is None
    assert not store.entries()


def test_an_entry_under_a_wrong_address_is_damage(tmp_path):
    store, other = Store(tmp_path), addresses.key(test=2)
    store.write(ADDRESS, Entry(None, {"a": 1}))
    wrong = tmp_path / other[:2] / f"{other}.json"
    wrong.parent.mkdir(exist_ok=True)
    wrong.write_bytes(next(tmp_path.glob(f"??/{ADDRESS}.json")).read_bytes())
    assert store.read(other) is None


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled(tmp_path):
    with pytest.raises(ValueError, match="without pickling"):
        Store(tmp_path).write(ADDRESS, Entry({"x": np.array([{}], dtype=object)}))
    # A content that is a pickle, under a head whose checksum is right.
    store, fired = Store(tmp_path), tmp_path / "fired"
    store.write(ADDRESS, Entry({"x": np.zeros(1)}))
    array = np.empty(1, dtype=object)
    array[0] = Bomb(fired)
    for content in (pickle.dumps(Bomb(fired)), _npz(array)):
        file = f"{ADDRESS}-{'0' * 8}.npz"
        about = {"file": file, "key": ADDRESS, "about": {}}
        files.write(tmp_path / ADDRESS[:2] / file, content)
        head = cache.json.dumps({**about, "checksum": cache._checksum(about, content)}).encode()
        files.write(tmp_path / ADDRESS[:2] / f"{ADDRESS}.json", head)
        assert store.read(ADDRESS) is None and not fired.exists()


def _npz(array) -> bytes:
    file = cache.io.BytesIO()
    np.savez(file, x=array)
    return file.getvalue()


def test_a_writer_that_is_killed_leaves_whole_entries_or_none(tmp_path, caplog):
    entry, rng = Entry({"w": torch.zeros(1_000_000)}), random.Random(0)

    def write_for_ever():
        store, number = Store(tmp_path), 0
        while True:
            store.write(addresses.key(number=number % 5), entry)
            number += 1

    for _ in range(8):
        killed_after(rng.uniform(0.02, 0.2), write_for_ever)
    store = Store(tmp_path)
    found = [store.read(addresses.key(number=number)) for number in range(5)]
    assert any(found) and not caplog.messages
    assert all(torch.equal(e.value["w"], entry.value["w"]) for e in found if e is not None)
    for path in tmp_path.glob("??/*.partial"):  # what the kills left behind goes before the first new entry
        os.utime(path, (1, 1))
    store.write(ADDRESS, Entry(None))
    assert not [*tmp_path.glob("??/*.partial"), *tmp_path.glob("??/*.lock")]


def test_of_many_processes_one_makes_it(tmp_path):
    log = tmp_path / "made"

    def make():
        with open(log, "a") as file:
            file.write("x")
        time.sleep(0.2)
        return Entry({"w": torch.ones(2)})

    children = [forked(lambda: Store(tmp_path / "c").remember(ADDRESS, make)) for _ in range(5)]
    for child in children:
        os.waitpid(child, 0)
    assert log.read_text() == "x"
    assert not list(tmp_path.glob("c/??/*.lock"))


def test_a_maker_that_is_killed_does_not_keep_the_lock(tmp_path):
    store, began = Store(tmp_path), tmp_path / "began"

    def hang():
        began.touch()
        time.sleep(60)

    child = forked(lambda: store.remember(ADDRESS, hang))
    while not began.exists():
        time.sleep(0.01)
    started = time.monotonic()
    os.kill(child, signal.SIGKILL)
    assert store.remember(ADDRESS, lambda: Entry(None, {"by": "second"})).about == {"by": "second"}
    assert time.monotonic() - started < 10
    os.waitpid(child, 0)


def test_an_exception_of_the_maker_frees_the_lock_and_stores_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.remember(ADDRESS, lambda: 1 / 0)
    assert store.read(ADDRESS) is None
    assert store.remember(ADDRESS, lambda: Entry(None, {"a": 1})).about == {"a": 1}


def test_the_least_recently_used_go_first(tmp_path):
    store = Store(tmp_path, limit=40_000)
    places = [addresses.key(number=n) for n in range(12)]
    for age, address in enumerate(places[:9]):
        Store(tmp_path).write(address, Entry({"w": torch.zeros(1000)}))  # about 4 kB each
        os.utime(tmp_path / address[:2] / f"{address}.json", (age, age))
        os.utime(next((tmp_path / address[:2]).glob(f"{address}-*")), (age, age))
    assert store.read(places[0]) is not None  # the oldest is used again
    store.write(places[9], Entry({"w": torch.zeros(1000)}))
    kept = [n for n, address in enumerate(places) if store.read(address) is not None]
    assert kept == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert sum(size for _, size in store.entries().values()) <= 40_000
    store.write(places[10], Entry({"w": torch.zeros(100_000)}))  # larger than the limit: the rest goes, it stays
    assert list(store.entries()) == [places[10]]


def test_a_folder_that_cannot_be_written_costs_one_warning_and_no_result(tmp_path, caplog):
    (tmp_path / "file").touch()
    found = Store(tmp_path / "file").remember(ADDRESS, lambda: Entry(None, {"a": 1}))
    assert found.about == {"a": 1} and len(caplog.messages) == 1


def test_entries_travel_as_bytes(tmp_path):
    here, there = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert here.packed(ADDRESS) is None
    here.write(ADDRESS, Entry({"w": torch.arange(3)}, {"a": 1}))
    there.adopt(ADDRESS, here.packed(ADDRESS))
    assert torch.equal(there.read(ADDRESS).value["w"], torch.arange(3)) and there.read(ADDRESS).about == {"a": 1}


def test_the_environment_moves_it_and_switches_it_off(tmp_path, monkeypatch):
    monkeypatch.delenv("UNLEARN_CACHE", raising=False)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / "results"
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "here"))
    cache.remember(ADDRESS, lambda: Entry(None, {"a": 1}))
    assert cache.remember(ADDRESS, lambda: pytest.fail("made twice")).about == {"a": 1}
    assert list((tmp_path / "here").glob("??/*.json"))
    with cache.using(tmp_path / "run"):
        assert cache.folder() == tmp_path / "run"
    monkeypatch.setenv("UNLEARN_CACHE", "off")
    assert cache.store() is None
    assert cache.remember(ADDRESS, lambda: Entry(None, {"a": 2})).about == {"a": 2}
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    for wrong in ("many", "inf", "-inf", "nan", "-1", "0", "1e300", "9" * 9999):
        monkeypatch.setenv("UNLEARN_CACHE_GB", wrong)
        with pytest.raises(ValueError, match="UNLEARN_CACHE_GB must be a number of gigabytes above 0") as error:
            cache.store()
        assert len(str(error.value)) < 200
    for right, limit in (("0.5", 5e8), ("", 5e9), ("1e3", 1e12)):
        monkeypatch.setenv("UNLEARN_CACHE_GB", right)
        assert cache.store().limit == limit
    for wrong in ("x" * 5000, "~nobody-of-this-name/x", "a/" * 3000):
        monkeypatch.setenv("UNLEARN_CACHE", wrong)
        with pytest.raises(ValueError, match="UNLEARN_CACHE: no file can have this path"):
            cache.store()


def test_what_is_stored_has_the_permissions_that_the_mask_leaves(tmp_path):
    for mask in (0o022, 0o027, 0o077):
        before = os.umask(mask)
        try:
            Store(tmp_path / f"{mask}").write(ADDRESS, Entry({"w": torch.ones(2)}))
            cache.write_table(tmp_path / f"{mask}" / "results.parquet", TABLE)
        finally:
            os.umask(before)
        files_of = [path for path in (tmp_path / f"{mask}").rglob("*") if path.is_file()]
        assert len(files_of) == 3 and {path.stat().st_mode & 0o777 for path in files_of} == {0o666 & ~mask}


def heads():
    """Heads that another user of a shared folder could have written."""
    yield "[" * 200_000 + "]" * 200_000, "nested for ever"
    yield "{" + '"a":{' * 100_000, "nested and cut"
    yield "null", "no mapping"
    for file in ("../../secret.npz", "/dev/zero", f"{'0' * 64}-00000000.npz", f"{ADDRESS}-00000000.npz/../x", 7):
        about = {"file": file, "key": ADDRESS, "about": {}}
        yield cache.json.dumps({**about, "checksum": cache._checksum(about, b"")}), str(file)


def test_a_head_of_somebody_else_is_damage_and_reads_nothing_else(tmp_path, caplog):
    (tmp_path / "secret.npz").write_bytes(_npz(np.zeros(1)))
    for text, what in heads():
        caplog.clear()
        store = Store(tmp_path / "cache")
        head = tmp_path / "cache" / ADDRESS[:2] / f"{ADDRESS}.json"
        head.parent.mkdir(parents=True, exist_ok=True)
        head.write_text(text)
        assert store.packed(ADDRESS) is None, what
        assert store.read(ADDRESS) is None and len(caplog.messages) == 1 and "damaged" in caplog.text, what
        assert len(caplog.messages[0]) < 400 and "\n" not in caplog.messages[0]


def test_a_pipe_in_place_of_an_entry_is_not_waited_for(tmp_path):
    store = Store(tmp_path)
    (tmp_path / ADDRESS[:2]).mkdir()
    os.mkfifo(tmp_path / ADDRESS[:2] / f"{ADDRESS}.json")
    assert store.read(ADDRESS) is None
    assert store.remember(ADDRESS, lambda: Entry(None, {"a": 1})).about == {"a": 1} == store.read(ADDRESS).about


def test_a_full_disk_is_said_once_a_store_and_once_a_run(tmp_path, caplog, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    for store in (first, first, second):
        for number in range(3):
            assert store.remember(addresses.key(n=number), lambda: Entry(None, {"a": 1})).about == {"a": 1}
    assert len(caplog.messages) == 2
    caplog.clear()
    with cache.warning_once():
        for store in (first, second):
            store.keep(ADDRESS, Entry(None))
            store.adopt(ADDRESS, (b"{}", "", b""))
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.text


def test_what_another_process_is_writing_is_not_swept(tmp_path):
    ready = tmp_path / "ready"

    def hold():
        handle = os.open(tmp_path / "x.partial", os.O_CREAT | os.O_RDWR)
        files._lock(handle)
        ready.touch()
        time.sleep(60)

    child = forked(hold)
    while not ready.exists():
        time.sleep(0.01)
    os.utime(tmp_path / "x.partial", (1, 1))
    files.sweep(tmp_path.glob("*.partial"))
    assert (tmp_path / "x.partial").exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    files.sweep(tmp_path.glob("*.partial"))
    assert not (tmp_path / "x.partial").exists()
