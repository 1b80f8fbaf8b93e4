"""Where runs write: tried before they start, and another place where that fails all the same.

Hours of work must not be lost to a full disk, a name that is too long or a folder that is a file.
"""

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unlearnlib._commands import one_line
from unlearnlib.publishing import notebooks

PARTIAL = ".partial.ipynb"
_ROOM = 1 << 20  # bytes that a page may need


def beside(where: str, suffix: str) -> str:
    """The file that belongs to a notebook: same place and stem, another suffix."""
    return re.sub(r"\.ipynb$", "", where) + suffix


def refuse_unwritable(targets: Sequence[str]) -> None:
    """Do for each target what the end of its run will do: make its folder, and write a file there.

    A store is only asked whether it is known. Raises ValueError that names the first target which cannot be written;
    nothing of the trial is left then, and otherwise the folders.
    """
    made: list[Path] = []
    for where in targets:
        try:
            if notebooks.is_remote(where):
                notebooks.fetch(where)
            else:
                _tried(Path(where), made)
        except (OSError, ValueError) as error:
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise ValueError(f"cannot write {one_line(where, 100)}: {reason(error)}") from None


def _tried(path: Path, made: list[Path]) -> None:
    for folder in reversed(path.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)
    for name in (str(path), beside(str(path), PARTIAL), beside(str(path), ".csv")):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(name).st_mode):
                raise OSError(errno.EINVAL, f"{os.path.basename(name)} is there and is no file")
    with tempfile.TemporaryFile(dir=path.parent, prefix=".unlearn-") as file:
        file.write(bytes(_ROOM))
        file.flush()


def reason(error: BaseException) -> str:
    """What is wrong, in one line without the number and the path that the system adds."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def keep(target: str, text: str, rows: str | None = None) -> str:
    """Write what a run made, which its target does not hold: beside the target, in `runs`, or in a temporary folder.

    rows      what the run recorded, written as .partial.csv

    Returns where the page is, "" if no place takes it.
    """
    name = beside(os.path.basename(target), PARTIAL)
    for folder in ([] if notebooks.is_remote(target) else [os.path.dirname(target)]) + ["runs", None]:
        try:
            folder = tempfile.mkdtemp(prefix="unlearned-") if folder is None else folder
            kept = os.path.join(folder, name[-100:])
            notebooks.write_text(kept, text)
            if rows is not None:
                notebooks.write_text(beside(kept, ".csv"), rows)
            return kept
        except OSError:
            continue
    return ""
