"""What an executed page sees of this machine: pinned numerics, this interpreter and this library, nothing personal."""

import json
import os
import sys
import tempfile
from pathlib import Path

from unlearnlib.publishing import bookkeeping, notebooks
from unlearnlib.publishing.outputs import reason
from unlearnlib.store import digests, places

# A kernel starts in the folder of its notebook; the caller's relative paths are meant from his own.
FOLDERS = ("UNLEARN_DATA", "UNLEARN_CACHE", "UNLEARN_HOME", "XDG_CACHE_HOME", "TMPDIR")
# The second would keep figures off the page, the third would run somebody's own code in it.
DROPPED = (bookkeeping.FAST, "MPLBACKEND", "PYTHONSTARTUP")


def environment(scratch: Path, fast: bool) -> dict[str, str]:
    """The environment of a run whose files of its own are in `scratch`."""
    env = {name: value for name, value in os.environ.items() if name not in DROPPED}
    for name in FOLDERS:
        if env.get(name) and not (name == "UNLEARN_CACHE" and env[name].lower() == "off"):
            env[name] = os.path.abspath(os.path.expanduser(env[name]))
    env |= {
        "PYTHONPATH": _searched(str(digests.PACKAGE.parent), "PYTHONPATH"),
        "JUPYTER_PATH": _searched(_own_kernel(scratch), "JUPYTER_PATH"),
        "IPYTHONDIR": str(scratch / "ipython"),  # parallel kernels would wait for one history file
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning on stderr
        bookkeeping.NOTES: str(scratch / "notes"),
        bookkeeping.RECORDS: str(scratch / "records.csv"),
    }
    if cache_trouble():
        env["UNLEARN_CACHE"] = "off"
    return env | ({bookkeeping.FAST: "1"} if fast else {**bookkeeping.PINS, **bookkeeping.ONE_THREAD})


def _searched(first: str, name: str) -> str:
    inherited = [os.path.abspath(path) for path in os.environ.get(name, "").split(os.pathsep) if path]
    return os.pathsep.join([first, *inherited])


def _own_kernel(scratch: Path) -> str:
    """A folder for JUPYTER_PATH in which `python3` is the interpreter of the runner, whatever else is installed."""
    call = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": call, "display_name": "Python 3", "language": "python"}
    notebooks.write_text(scratch / "jupyter/kernels/python3/kernel.json", json.dumps(spec))
    return str(scratch / "jupyter")


def cache_trouble() -> str:
    """Why no cache of results can be made, in one line; "" if there is one, it can be made, or it is switched off."""
    folder = places.results()
    if folder is None or folder.is_dir():  # one that cannot be written can still be read
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return (
            f"results are not kept, {folder} cannot be written ({reason(error)}): set UNLEARN_CACHE to another folder"
        )
    return ""


def notes(scratch: Path) -> list[str]:
    """What the library had to warn of during a run, each line once."""
    file = scratch / "notes"
    return list(dict.fromkeys(file.read_text(encoding="utf-8").splitlines())) if file.exists() else []
