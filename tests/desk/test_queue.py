"""A request is carried out once, whoever asks how often and whatever is killed."""

import sqlite3
import stat

import pytest

from unlearnlib.desk.queue import Batching, Queue, read_requests


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path / "queue.sqlite")


def test_asking_twice_asks_once_and_other_ids_under_a_known_key_are_refused(queue):
    assert queue.add("a", ["2", "1"]) and not queue.add("a", ["1", "2", "2"])
    with pytest.raises(ValueError, match="asked before for other ids"):
        queue.add("a", ["1"])
    assert [r.ids for r in queue.requests()] == [("1", "2")]
    for key, ids in (("", ["1"]), ("b", [])):
        with pytest.raises(ValueError, match="needs a key and at least one id"):
            queue.add(key, ids)


def test_a_batch_that_was_taken_is_taken_again_until_it_is_finished(queue):
    queue.add("a", ["1"])
    assert queue.take() == 1
    queue.add("b", ["2"])
    assert queue.take() == 1 and [r.key for r in queue.requests(batch=1)] == ["a"]  # as after a kill
    assert queue.gone() == set()
    queue.finish(1)
    assert queue.gone() == {"1"} and queue.gone(before=1) == set()
    assert queue.take() == 2 and [r.state for r in queue.requests()] == ["done", "running"]
    queue.release(2)
    assert [r.state for r in queue.requests()] == ["done", "waiting"]
    assert queue.take() == 2


def test_requests_are_due_by_number_or_by_age(queue):
    rule = Batching(size=3, days=10)
    queue.add("a", ["1", "2"], "2026-01-01")
    assert queue.take(rule, "2026-01-10") is None
    queue.add("b", ["2"], "2026-01-05")  # an id that is asked for twice is one example
    assert queue.take(rule, "2026-01-10") is None
    assert queue.take(rule, "2026-01-11") == 1
    queue.finish(1)
    queue.add("c", ["3", "4", "5"], "2026-02-01T12:00:00+02:00")
    assert queue.take(rule, "2026-02-01T10:00:01") == 2
    assert queue.requests("running")[0].asked == "2026-02-01T10:00:00+00:00"
    for size, days in ((0, 1), (1.5, 1), (True, 1), (1, -1)):
        with pytest.raises(ValueError, match="Batching needs"):
            Batching(size, days)


def test_thousands_of_requests_are_a_matter_of_seconds(queue):
    for k in range(2000):
        queue.add(f"r{k}", [str(k)])
    assert queue.take(Batching(size=2000)) == 1 and len(queue.requests("running")) == 2000


def test_the_file_is_private_and_keeps_its_salt(queue):
    assert stat.S_IMODE(queue.path.stat().st_mode) == 0o600
    assert Queue(queue.path).salt == queue.salt and len(queue.salt) == 64
    assert Queue(queue.path.with_name("other.sqlite")).salt != queue.salt


def test_two_processes_cannot_take_the_same_requests(queue):
    queue.add("a", ["1"])
    other = sqlite3.connect(queue.path, isolation_level=None, timeout=0)
    other.execute("begin immediate")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(queue.path, isolation_level=None, timeout=0).execute("begin immediate")
    other.execute("rollback")
    assert queue.take() == 1


def test_what_is_no_queue_is_one_line(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 50)
    for path in (tmp_path / "text", tmp_path / "nowhere" / "queue.sqlite", tmp_path):
        with pytest.raises(ValueError, match="not a queue|not a folder") as told:
            Queue(path)
        assert "\n" not in str(told.value)


def test_requests_come_as_csv_jsonl_and_text(tmp_path):
    files = {
        "a.csv": "key,id,asked\nx,7,2026-01-02\nx,8,2026-01-02\ny,9,\n",
        "b.jsonl": '{"key": "x", "ids": [7, "8"]}\n\n{"ids": ["9"]}\n',
        "c.txt": "7\n8\n\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = {name: read_requests(tmp_path / name) for name in files}
    assert [(r.key, r.ids) for r in found["a.csv"]] == [("x", ("7", "8")), ("y", ("9",))]
    assert found["a.csv"][0].asked == "2026-01-02T00:00:00+00:00"
    assert [r.ids for r in found["b.jsonl"]] == [("7", "8"), ("9",)] and found["b.jsonl"][0].key == "x"
    assert found["c.txt"] == [*read_requests(tmp_path / "c.txt")] or found["c.txt"][0].ids == ("7", "8")
    (tmp_path / "again.txt").write_text("8\n7\n")
    assert read_requests(tmp_path / "again.txt")[0].key == found["c.txt"][0].key  # the same ids, the same request


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "name\n7\n", "must name the columns"),
        ("a.csv", "id\n7\n\n,\n", "has no id|no request"),
        ("a.csv", "", "no request in it"),
        ("a.csv", "id,asked\n7,yesterday\n", "'yesterday' is no time"),
        ("a.jsonl", "{", "line 1 is no JSON"),
        ("a.jsonl", '{"ids": "7"}', "line 1 must be"),
        ("a.jsonl", '{"ids": [1.5]}', "line 1 must be"),
        ("a.txt", "\n", "no request in it"),
        ("a.xlsx", "", "requests are .csv, .jsonl, .txt files"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said) as told:
        read_requests(tmp_path / name)
    assert "\n" not in str(told.value)
