"""A cache of models, scores and tables whose address is what they were made from (see `addresses`).

Every entry carries a SHA-256 of its content: what a full disk, a crash or a bit flip has spoilt is noticed when it is
read, reported in one line, and made again. Nothing that is read is ever unpickled: weights are safetensors, arrays npz,
tables Parquet, the rest JSON.

Entries appear all at once or not at all, and two processes that want the same thing make it once: the lock is the
operating system's, so it ends with its process, kill -9 included.

    UNLEARN_CACHE      another folder, or "off"; the default is below the user's cache folder
    UNLEARN_CACHE_GB   the size at which the least recently used entries go; default 5
"""

import contextlib
import contextvars
import functools
import hashlib
import io
import json
import logging
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from unlearnlib._extras import optional
from unlearnlib.store import addresses, files, places

_log = logging.getLogger(__name__)
# A run says, for its own duration, which store it uses.
_used: contextvars.ContextVar[Path | None] = contextvars.ContextVar("store")
# What has been said about disks that cannot be written: once a run, else once a store.
_told: contextvars.ContextVar[set[tuple[int, int | None]]] = contextvars.ContextVar("told")
_HEAD = 1 << 26  # bytes; no head is larger, so nothing larger is read


def described(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Damaged(Exception):
    """An entry is not what was written."""

    def __init__(self, why: BaseException):
        super().__init__(described(why))


@dataclass(frozen=True)
class Entry:
    """One cached result: tensors by name, arrays by name, a table or nothing; and plain facts about it (JSON)."""

    value: Mapping[str, Tensor] | Mapping[str, np.ndarray] | pd.DataFrame | None
    about: Mapping[str, object] = field(default_factory=dict)


class Store:
    """Entries below one folder. `limit` is its size in bytes, None for no limit."""

    def __init__(self, root: str | Path, limit: int | None = None):
        self.root, self.limit = Path(root), limit
        self._written = float("inf")  # since the last look at the size
        self._swept = False
        self._told: set[tuple[int, int | None]] = set()

    def read(self, address: str) -> Entry | None:
        """The entry, or None where there is none. A damaged one is reported in one line, removed, and is none."""
        for looked_before in (False, True):  # twice: between two looks another process may have replaced or evicted it
            try:
                return self._read(address)
            except _Damaged as damage:
                if looked_before:
                    _log.warning("cache entry %s is damaged (%s): it is made again", address[:12], damage)
                    self.remove(address)
        return None

    def _read(self, address: str) -> Entry | None:
        head = self._head(address)
        try:
            state = head.stat()
            if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
                return None
        except OSError:  # not there, or in a place where nothing can be
            return None
        try:
            if state.st_size > _HEAD:
                raise ValueError("its head is too large")
            about = json.loads(head.read_text(encoding="utf-8"))
            content = self._content(address, about["file"])
            payload = content.read_bytes() if content else b""
            checksum = about.pop("checksum")
            if checksum != _checksum(about, payload) or about["key"] != address:
                raise ValueError("its checksum does not match")
            value = _decoded(content.suffix if content else "", payload)
        except PermissionError:  # of another user, who does not share it
            return None
        except Exception as error:  # whatever the readers make of it
            raise _Damaged(error) from error
        with contextlib.suppress(OSError):
            os.utime(head)  # the least recently used go first
        return Entry(value, about["about"])

    def _content(self, address: str, file: str) -> Path | None:
        """The file that a head names, None where it names none; no head can name a file of anything else."""
        if not file:
            return None
        path = self._head(address).parent / file
        if not re.fullmatch(rf"{address}-[0-9a-f]{{8}}\.[a-z]+", file) or not path.is_file():
            raise ValueError("its content is missing")
        return path

    def write(self, address: str, entry: Entry) -> None:
        """Store an entry: the content first, then the head that names it, each in one step."""
        suffix, payload = _encoded(entry.value)
        file = f"{address}-{hashlib.sha256(payload).hexdigest()[:8]}{suffix}" if suffix else ""
        about = {"file": file, "key": address, "about": addresses.plain(entry.about)}
        head = self._head(address)
        head.parent.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if file:
            files.write(head.parent / file, payload)
        text = json.dumps({**about, "checksum": _checksum(about, payload)}, indent=1)
        files.write(head, text.encode())
        for earlier in head.parent.glob(f"{address}-*"):  # of a run that was killed before it wrote the head
            if earlier.name != file:
                earlier.unlink(missing_ok=True)
        self._written += len(payload) + len(text)
        if self.limit is not None and self._written > self.limit / 20:
            self._written = 0
            self.shrink(self.limit, keep=address)

    def remember(self, address: str, make: Callable[[], Entry]) -> Entry:
        """The entry, made and stored first where it is missing. Of several processes that ask, one makes it.

        What is returned has been through storage in either case, so the first run and a later one agree.
        """
        found = self.read(address)
        if found is not None:
            return found
        with self.locked(address):
            found = self.read(address)
            if found is not None:
                return found
            return self.keep(address, make())

    def keep(self, address: str, entry: Entry) -> Entry:
        """Store an entry and return it as it is read back. A full disk costs one warning, not the entry."""
        with self.may_fail():
            self.write(address, entry)
        return through_storage(entry)

    @contextlib.contextmanager
    def may_fail(self) -> Iterator[None]:
        """Go on where the block cannot write to the disk of this store: results are not kept, which is said once."""
        try:
            yield
        except OSError as error:
            told, reason = _told.get(self._told), (_disk(self.root), error.errno)
            if reason not in told:
                told.add(reason)
                why = error.strerror or described(error)
                _log.warning("%s cannot be written (%s): results are not kept there", self.root, why)

    def packed(self, address: str) -> tuple[bytes, str, bytes] | None:
        """An entry as bytes that `adopt` takes on another machine: head, name of the content's file, content."""
        head = self._head(address)
        with contextlib.suppress(Exception):  # damage is reported where the entry is read
            text = head.read_bytes()
            content = self._content(address, json.loads(text)["file"])
            return text, content.name if content else "", content.read_bytes() if content else b""
        return None

    def adopt(self, address: str, packed: tuple[bytes, str, bytes]) -> None:
        """Store what `packed` gave, unless it is here already. Damage is found when it is read."""
        (text, file, payload), head = packed, self._head(address)
        with self.may_fail():
            if not head.exists():
                head.parent.mkdir(parents=True, exist_ok=True)
                if file:
                    files.write(head.parent / Path(file).name, payload)
                files.write(head, text)

    def remove(self, address: str) -> None:
        for path in [self._head(address), *self._head(address).parent.glob(f"{address}-*")]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def entries(self) -> dict[str, tuple[float, int]]:
        """Address -> (time of last use, bytes)."""
        found: dict[str, tuple[float, int]] = {}
        for path in self.root.glob("??/*"):
            if match := re.fullmatch(r"([0-9a-f]{64})(\.json|-[0-9a-f]{8}\.\w+)", path.name):
                with contextlib.suppress(FileNotFoundError):
                    state, (used, size) = path.stat(), found.get(match[1], (0.0, 0))
                    found[match[1]] = (max(used, state.st_mtime), size + state.st_size)
        return found

    def shrink(self, limit: int, keep: str = "") -> None:
        """Remove the least recently used entries until `limit` bytes hold the rest."""
        entries = self.entries()
        total = sum(size for _, size in entries.values())
        for address, (_, size) in sorted(entries.items(), key=lambda item: item[1][0]):
            if total <= limit:
                break
            if address != keep:
                self.remove(address)
                total -= size

    def _sweep(self) -> None:
        """Remove what killed runs left, before the first entry is written."""
        if not self._swept:
            self._swept = True
            for left in ("*.partial", "??/*.partial", "??/*.lock"):
                files.sweep(self.root.glob(left))

    def locked(self, address: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of one address. Where the file system has no locks, go on without: twice made, never wrong."""
        return files.locked(self._head(address).with_suffix(".lock"))

    def _head(self, address: str) -> Path:
        return self.root / address[:2] / f"{address}.json"


def _disk(path: Path) -> int:
    """The device that holds a path, or would hold it."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return place.stat().st_dev
    return -1


def _checksum(about: Mapping, payload: bytes) -> str:
    return hashlib.sha256(addresses.canonical(about).encode() + hashlib.sha256(payload).digest()).hexdigest()


def through_storage(entry: Entry) -> Entry:
    """The entry as it is read back: a first run and a later one then see the same types."""
    return Entry(_decoded(*_encoded(entry.value)), json.loads(addresses.canonical(entry.about)))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, _encoded(table)[1])


def _encoded(value) -> tuple[str, bytes]:
    """Suffix and bytes of a value; the same bytes for equal values."""
    if value is None:
        return "", b""
    file = io.BytesIO()
    if isinstance(value, pd.DataFrame):
        optional("pyarrow")
        value.to_parquet(file, engine="pyarrow", index=False)
        return ".parquet", file.getvalue()
    if value and all(isinstance(v, Tensor) for v in value.values()):
        # A plain copy of each: the format refuses tied weights and other memory layouts.
        plain = {n: v.detach().cpu().clone(memory_format=torch.contiguous_format) for n, v in value.items()}
        return ".safetensors", safetensors.torch.save(plain)
    arrays = {name: np.asarray(v) for name, v in value.items()}
    if any(a.dtype.hasobject for a in arrays.values()):
        raise ValueError("arrays of objects cannot be cached without pickling: convert them to numbers or text")
    np.savez(file, **arrays)
    return ".npz", file.getvalue()


def _decoded(suffix: str, payload: bytes):
    if suffix == ".safetensors":
        return safetensors.torch.load(payload)
    if suffix == ".parquet":
        optional("pyarrow")
        return pd.read_parquet(io.BytesIO(payload), engine="pyarrow")
    if suffix == ".npz":
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            return {array: arrays[array] for array in arrays.files}
    return None


def folder() -> Path | None:
    """Where the cache is, None where it is switched off."""
    used = _used.get(None)
    return places.results() if used is None else used


def store() -> Store | None:
    """The cache that the environment names, None where it is switched off."""
    root = folder()
    return None if root is None else _store(root, os.environ.get("UNLEARN_CACHE_GB") or "5")


@functools.lru_cache(maxsize=8)
def _store(root: Path, gigabytes: str) -> Store:
    try:
        limit = float(gigabytes)
    except ValueError:
        limit = math.nan
    if not 0 < limit <= 1e9:  # not infinite and not a number included
        raise ValueError(f"UNLEARN_CACHE_GB must be a number of gigabytes above 0, not {gigabytes[:60]!r}")
    return Store(root, int(limit * 1e9))


def remember(address: str, make: Callable[[], Entry]) -> Entry:
    """`Store.remember` in the user's cache; `make()` where that is switched off."""
    kept = store()
    return make() if kept is None else kept.remember(address, make)


@contextlib.contextmanager
def using(root: Path | None) -> Iterator[None]:
    """Take another folder for the cache inside the block (None: the one that the environment names)."""
    token = _used.set(root)
    try:
        yield
    finally:
        _used.reset(token)


@contextlib.contextmanager
def warning_once() -> Iterator[None]:
    """Inside the block a disk that cannot be written is warned of once, whichever stores are on it."""
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)
