"""Progress of long work on a terminal."""

import os
import sys

from tqdm import tqdm


def progress_bar(total: int, wanted: bool = True, unit: str = "step"):
    """A bar on a terminal; silent in notebooks, in logs and where TQDM_DISABLE is set: nothing to compare, no rates."""
    silent = not wanted or not sys.stderr.isatty() or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, disable=silent, unit=unit, leave=False)
