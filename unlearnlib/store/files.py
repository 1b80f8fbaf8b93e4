"""Files that appear all at once or not at all, whatever is killed or full, and locks that end with their process."""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_numbers = itertools.count()
_GRACE = 1.0  # seconds in which a new file may not have its lock yet
_ORPHAN_AGE = 3600.0  # where there are no locks: seconds after which nobody goes on with a file


def write(path: Path, content: bytes) -> None:
    """Write a file in one step, with the permissions that the user's mask leaves. Raises OSError."""
    partial = path.with_name(f"{path.name[:20]}.{os.getpid()}-{next(_numbers)}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):
                _lock(handle, wait=False)  # says that somebody is at it
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def sweep(paths: Iterable[Path]) -> None:
    """Remove those of the files that a killed process left: partial ones and locks that nobody holds."""
    for path in paths:
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > _GRACE and (age > _ORPHAN_AGE or os.name != "nt"):
                handle = os.open(path, os.O_RDWR)
                try:
                    _lock(handle, wait=False)
                    path.unlink()
                finally:
                    os.close(handle)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that `path` names. Where the file system has no locks, go on without."""
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


def _lock(handle: int, wait: bool = True) -> None:
    """Take the operating system's lock on an open file. It ends when the file is closed, or its process dies.

    Raises OSError where it is not to wait and another process has it.
    """
    if os.name == "nt":
        import msvcrt

        while True:
            try:
                return msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    raise
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
