"""Dry run of the Jupyter Book 2 converter: `python book/_ext/book_converter.py [PROGRAM]`.

Copies the sources to a temporary folder, lets Jupyter Book 2 (`PROGRAM`, by default a `jupyter-book` of a version above
1) turn them into its own configuration and build them there, and counts its warnings. The book
itself is not touched. Where there is no such program it says so. Never a reason to stop.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SOURCES = ("_config.yml", "_toc.yml", "index.md", "book", "notebooks")
SECONDS = 300  # for each of its two steps
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_COMPLAINT = re.compile(r"(⚠️?|⛔️?|\bwarning\b|\berror\b)", re.IGNORECASE)


def version(program: str) -> int:
    """Major version of a jupyter-book; 0 where there is none."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"(\d+)\.\d+", done.stdout + done.stderr)
    return int(found[1]) if found else 0


def complaints(text: str) -> Counter:
    """How often each kind of complaint stands in the converter's output, without names of files and numbers."""
    lines = [_COLOURS.sub("", line).strip() for line in text.splitlines()]
    kinds = [
        re.sub(r"\S*[/\\]\S*|\"[^\"]*\"|'[^']*'|`[^`]*`|\d+", "…", line) for line in lines if _COMPLAINT.search(line)
    ]
    return Counter(kinds)


def convert(program: str, folder: Path) -> str:
    """What the program said while it made its configuration and read the pages."""
    said = ""
    for arguments in (["init", "--write-toc"], ["build", "--site"]):
        with (folder / "said.log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                [program, *arguments], cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
            try:
                process.communicate(b"y\n" * 5, timeout=SECONDS)
            except subprocess.TimeoutExpired:  # some versions fetch a theme, or wait for a reader
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.seek(0)
            said += log.read()
    return said


def main() -> int:
    program = sys.argv[1] if len(sys.argv) > 1 else "jupyter-book"
    if version(program) < 2:
        print("no Jupyter Book 2 here: nothing was converted")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source = Path(name)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder) / name)
        found = complaints(convert(program, Path(folder)))
    for kind, count in found.most_common(12):
        print(f"{count:5d}  {kind[:110]}")
    print(f"{found.total()} warnings of {len(found)} kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
