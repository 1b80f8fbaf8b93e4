"""A queue of deletion requests in one SQLite file: asked for, batched, carried out, each of them once.

    waiting -> running (in batch number k) -> done

A request has a key. Asking again under the same key changes nothing, so a client that is not sure whether it was heard
may simply ask again; asking for other ids under a known key is refused. The file is private: it holds the ids, and the
salt of the receipts.
"""

import csv
import datetime
import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from unlearnlib.desk.ids import new_salt

STATES = ("waiting", "running", "done")
_TABLES = """
create table if not exists requests (
    key text primary key, ids text not null, asked text not null,
    state text not null check (state in ('waiting', 'running', 'done')), batch integer);
create table if not exists facts (name text primary key, value text not null);
"""


@dataclass(frozen=True)
class Request:
    """`ids` that somebody asked to have deleted at the time `asked` (ISO 8601, UTC)."""

    key: str
    ids: tuple[str, ...]
    asked: str
    state: str = "waiting"
    batch: int | None = None


@dataclass(frozen=True)
class Batching:
    """When waiting requests are carried out, all of them together.

    Due as soon as `size` examples wait, or the oldest request is `days` old. The default waits for nothing.
    """

    size: int = 1
    days: float = math.inf

    def __post_init__(self):
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1 or not self.days >= 0:
            raise ValueError("Batching needs size, a whole number of at least 1, and days of at least 0")

    def due(self, examples: int, oldest: float) -> bool:
        """Whether `examples` that wait, the first of them since `oldest` days, are to be deleted now."""
        return examples > 0 and (examples >= self.size or oldest >= self.days)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Queue:
    """The requests of one model. `path` is made where it is not there; a file that is no queue is a ValueError."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise ValueError(f"{self.path.parent} is not a folder: make it first")
        new = not self.path.exists()
        with self._open() as base:
            base.executescript(_TABLES)
            base.execute("insert or ignore into facts values ('salt', ?)", (new_salt(),))
        if new:
            os.chmod(self.path, 0o600)

    @property
    def salt(self) -> str:
        with self._open() as base:
            return base.execute("select value from facts where name = 'salt'").fetchone()[0]

    def add(self, key: str, ids: Iterable[str], asked: str | None = None) -> bool:
        """Ask for `ids`. False where this has been asked for before; ValueError where `key` named other ids."""
        ids, key = tuple(sorted({str(name) for name in ids})), str(key)
        if not ids or not key:
            raise ValueError("a request needs a key and at least one id")
        asked = _time(asked)
        with self._open() as base:
            known = base.execute("select ids from requests where key = ?", (key,)).fetchone()
            if known is None:
                row = (key, json.dumps(ids), asked, "waiting")
                base.execute("insert into requests values (?, ?, ?, ?, null)", row)
                return True
        if tuple(json.loads(known[0])) != ids:
            raise ValueError(f"request {key!r:.60} was asked before for other ids: give the new one a key of its own")
        return False

    def requests(self, state: str | None = None, batch: int | None = None) -> list[Request]:
        """Requests in the order in which they came."""
        query = "select key, ids, asked, state, batch from requests where ? in ('', state) and (? is null or batch = ?)"
        with self._open() as base:
            rows = base.execute(f"{query} order by rowid", (state or "", batch, batch)).fetchall()
        return [Request(key, tuple(json.loads(ids)), *rest) for key, ids, *rest in rows]

    def gone(self, before: int | None = None) -> set[str]:
        """The ids that have been deleted, by the batches below `before` where it is given."""
        done = self.requests("done")
        return {name for r in done if before is None or r.batch < before for name in r.ids}

    def take(self, batching: Batching = Batching(), at: str | None = None) -> int | None:
        """The number of the batch to carry out: one that was begun and not ended, else what is due; else None."""
        at = _time(at)
        with self._open() as base:
            base.execute("begin immediate")  # or two processes would take the same requests
            running = base.execute("select min(batch) from requests where state = 'running'").fetchone()[0]
            if running is not None:
                return running
            rows = base.execute("select ids, asked from requests where state = 'waiting'").fetchall()
            waiting = {name for ids, _ in rows for name in json.loads(ids)}
            if not rows or not batching.due(len(waiting), max(_days(asked, at) for _, asked in rows)):
                return None
            number = 1 + (base.execute("select max(batch) from requests").fetchone()[0] or 0)
            base.execute("update requests set state = 'running', batch = ? where state = 'waiting'", (number,))
            return number

    def release(self, number: int) -> None:
        """Let the requests of a batch that cannot be carried out wait again."""
        with self._open() as base:
            change = "update requests set state = 'waiting', batch = null where state = 'running' and batch = ?"
            base.execute(change, (number,))

    def finish(self, number: int) -> None:
        with self._open() as base:
            base.execute("update requests set state = 'done' where batch = ?", (number,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as base, base:
                yield base
        except sqlite3.Error as error:
            raise ValueError(f"{self.path} is not a queue of requests that can be used: {error}") from None


def _time(text: str | None) -> str:
    """The time in UTC, ISO 8601; now where none is given. A time without a zone is taken as UTC."""
    if text is None or not str(text).strip():
        return now()
    try:
        found = datetime.datetime.fromisoformat(str(text).strip())
    except ValueError:
        raise ValueError(f"{text!r:.60} is no time: write it as 2026-01-31 or 2026-01-31T12:00:00+00:00") from None
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).astimezone(datetime.UTC).isoformat(timespec="seconds")


def _days(asked: str, at: str) -> float:
    since = datetime.datetime.fromisoformat(at) - datetime.datetime.fromisoformat(asked)
    return since.total_seconds() / 86400


def read_requests(path: str | Path) -> list[Request]:
    """The requests of a file.

    .csv      a header with `id`, and perhaps `key` and `asked`: a row an example, rows with one key are one request
    .jsonl    an object a line: {"key": ..., "ids": [...], "asked": ...}
    .txt      an id a line, all one request

    Without a key it is the digest of the ids, so that the same file asks once however often it is read. Raises
    ValueError in one line that names the file and the row.
    """
    path = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".txt": _text_rows}
    if path.suffix not in readers:
        raise ValueError(f"{path}: requests are {', '.join(readers)} files")
    try:
        rows = readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    found: dict[str | None, tuple[list[str], str]] = {}
    for key, ids, asked in rows:
        found.setdefault(key, ([], asked))[0].extend(ids)
    if not found:
        raise ValueError(f"{path}: there is no request in it")
    return [Request(key or _content(ids), tuple(ids), _time(asked)) for key, (ids, asked) in found.items()]


def _content(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()[:16]


def _csv_rows(text: str) -> list[tuple]:
    rows = list(csv.DictReader(text.splitlines()))
    if rows and "id" not in rows[0]:
        raise ValueError("the first line must name the columns: id, and perhaps key and asked")
    for number, row in enumerate(rows, 2):
        if not (row["id"] or "").strip():
            raise ValueError(f"line {number} has no id")
    return [(row.get("key") or None, [row["id"].strip()], row.get("asked") or "") for row in rows]


def _json_rows(text: str) -> list[tuple]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                told = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON ({error.msg})") from None
            ids = told.get("ids") if isinstance(told, dict) else None
            if not isinstance(ids, list) or not ids or not all(isinstance(i, (str, int)) for i in ids):
                raise ValueError(f'line {number} must be {{"key": ..., "ids": [...]}}')
            ids = list(map(str, ids))
            rows.append((str(told["key"]) if told.get("key") else _content(ids), ids, told.get("asked") or ""))
    return rows


def _text_rows(text: str) -> list[tuple]:
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    return [(None, ids, "")] if ids else []
