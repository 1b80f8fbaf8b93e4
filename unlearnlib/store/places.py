"""Where downloads and results are kept on this machine."""

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder for downloads: $UNLEARN_HOME, else the platform's cache folder."""
    if os.environ.get("UNLEARN_HOME"):
        return Path(os.environ["UNLEARN_HOME"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "unlearnlib"
    caches = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    return Path(caches.get(sys.platform, "~/.cache")).expanduser() / "unlearnlib"


def results() -> Path | None:
    """The folder for results: $UNLEARN_CACHE, else one below `home`; None where it says "off"."""
    named = os.environ.get("UNLEARN_CACHE", "")
    if named.lower() == "off":
        return None
    return Path(named).expanduser() if named else home() / "results"
