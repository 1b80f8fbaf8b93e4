"""Where downloads and results are kept on this machine."""

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder for downloads: $UNLEARN_HOME, else the platform's cache folder."""
    if os.environ.get("UNLEARN_HOME"):
        return expanded(os.environ["UNLEARN_HOME"], "UNLEARN_HOME")
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "unlearnlib"
    caches = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    return Path(caches.get(sys.platform, "~/.cache")).expanduser() / "unlearnlib"


def results() -> Path | None:
    """The folder for results: $UNLEARN_CACHE, else one below `home`; None where it says "off"."""
    named = os.environ.get("UNLEARN_CACHE", "")
    if named.lower() == "off":
        return None
    return expanded(named, "UNLEARN_CACHE") if named else home() / "results"


def expanded(path: str, what: str) -> Path:
    """A path with `~` read, there or not; a ValueError that begins with `what` for one that no file can have."""
    try:
        found = Path(path).expanduser()
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a null byte
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{what}: no file can have this path ({why})") from error
    return found
