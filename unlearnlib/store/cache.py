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
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from unlearnlib._extras import optional
from unlearnlib.store import addresses, places

_log = logging.getLogger(__name__)
# A run says, for its own duration, which store it uses.
_used: contextvars.ContextVar[Path | None] = contextvars.ContextVar("store")
_ORPHAN_AGE = 3600.0  # seconds after which a file without an entry is what a killed process left


class _Damaged(Exception):
    """An entry is not what was written."""

    def __init__(self, why: BaseException):
        super().__init__(" ".join(str(why).split()) or type(why).__name__)


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
            text = head.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise _Damaged(error) from error
        try:
            about = json.loads(text)
            payload = (head.parent / about["file"]).read_bytes() if about["file"] else b""
            checksum = about.pop("checksum")
            if checksum != _checksum(about, payload) or about["key"] != address:
                raise ValueError("its checksum does not match")
            value = _decoded(Path(about["file"]).suffix, payload)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, safetensors.SafetensorError) as error:
            raise _Damaged(error) from error
        with contextlib.suppress(OSError):
            os.utime(head)  # the least recently used go first
        return Entry(value, about["about"])

    def write(self, address: str, entry: Entry) -> None:
        """Store an entry: the content first, then the head that names it, each in one step."""
        suffix, payload = _encoded(entry.value)
        file = f"{address}-{hashlib.sha256(payload).hexdigest()[:8]}{suffix}" if suffix else ""
        about = {"file": file, "key": address, "about": addresses.plain(entry.about)}
        head = self._head(address)
        head.parent.mkdir(parents=True, exist_ok=True)
        if file:
            _replace(head.parent / file, payload)
        text = json.dumps({**about, "checksum": _checksum(about, payload)}, indent=1)
        _replace(head, text.encode())
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
        try:
            self.write(address, entry)
        except OSError as error:
            _log.warning("the cache %s cannot be written (%s): this result is not kept", self.root, error.strerror)
        return through_storage(entry)

    def packed(self, address: str) -> tuple[bytes, str, bytes] | None:
        """An entry as bytes that `adopt` takes on another machine: head, name of the content's file, content."""
        head = self._head(address)
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            text = head.read_bytes()
            file = json.loads(text)["file"]
            return text, file, (head.parent / file).read_bytes() if file else b""
        return None

    def adopt(self, address: str, packed: tuple[bytes, str, bytes]) -> None:
        """Store what `packed` gave, unless it is here already. Damage is found when it is read."""
        (text, file, payload), head = packed, self._head(address)
        if not head.exists():
            head.parent.mkdir(parents=True, exist_ok=True)
            if file:
                _replace(head.parent / Path(file).name, payload)
            _replace(head, text)

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
        """Remove the least recently used entries until `limit` bytes hold the rest, and what killed runs left."""
        entries = self.entries()
        total = sum(size for _, size in entries.values())
        for address, (_, size) in sorted(entries.items(), key=lambda item: item[1][0]):
            if total <= limit:
                break
            if address != keep:
                self.remove(address)
                total -= size
        for path in self.root.glob("??/*.partial"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ORPHAN_AGE:
                    path.unlink()

    @contextlib.contextmanager
    def locked(self, address: str) -> Iterator[None]:
        """Hold the lock of one address. Where the file system has no locks, go on without: twice made, never wrong."""
        path = self._head(address).with_suffix(".lock")
        try:
            handle = _acquired(path)
        except OSError:
            handle = None
        try:
            yield
        finally:
            if handle is not None:
                with contextlib.suppress(OSError):
                    path.unlink()  # before it is released: whoever waits sees that its file is gone and opens anew
                os.close(handle)

    def _head(self, address: str) -> Path:
        return self.root / address[:2] / f"{address}.json"


def _acquired(path: Path) -> int:
    """An open file on which this process has the lock, and which is still the one that `path` names."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> None:
    """Wait for the operating system's lock on an open file. It ends when the file is closed, or its process dies."""
    if os.name == "nt":
        import msvcrt

        while True:
            with contextlib.suppress(OSError):
                return msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)


def _replace(path: Path, content: bytes) -> None:
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name[:20], suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _checksum(about: Mapping, payload: bytes) -> str:
    return hashlib.sha256(addresses.canonical(about).encode() + hashlib.sha256(payload).digest()).hexdigest()


def through_storage(entry: Entry) -> Entry:
    """The entry as it is read back: a first run and a later one then see the same types."""
    return Entry(_decoded(*_encoded(entry.value)), json.loads(addresses.canonical(entry.about)))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, _encoded(table)[1])


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
    return None if root is None else _store(root, os.environ.get("UNLEARN_CACHE_GB", "5"))


@functools.lru_cache(maxsize=8)
def _store(root: Path, gigabytes: str) -> Store:
    try:
        limit = float(gigabytes)
    except ValueError:
        raise ValueError(f"UNLEARN_CACHE_GB must be a number of gigabytes, not {gigabytes!r}") from None
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
