"""Where modules were before they had rooms: old names keep working for one version, and say the new one once."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings

from unlearnlib._faces import CallableModule

_TOP = __name__.partition(".")[0]
# room -> what stood in the top folder, or in audit/, before
_MOVED = {
    "store": "addresses cache",
    "data": "examples requests sources downloads faces cartoon",
    "training": "models recipes precision stacking cluster",
    "methods": "registry catalogue records",
    "exact": "retrain",
    "studies": "settings grids tuning",
    "publishing": "bookkeeping cards execution figures markup measured notebooks pages parameters provenance runner "
    "sweeps tables",
    "audit.statistics": "roc intervals epsilon state",
    "audit.attacks": "membership lira rmia interpolated one_run streisand memorisation",
    "audit.distances": "klom forgetting_quality probes composites collapse",
    "audit.evidence": "canaries relearn",
    "audit.known_answers": "phantom traps sandwich",
    "audit.verdicts": "tidy verdict scoreboard",
    "audit.batteries": "battery rungs ensembles",
}
RENAMED = {"study": "studies"} | {
    f"audit.{name}" if room.startswith("audit.") else name: f"{room}.{name}"
    for room, names in _MOVED.items()
    for name in names.split()
}
DOCUMENTED = {"models", "bookkeeping", "figures"}  # short names that stay


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path=None, target=None):
        known = fullname.startswith(f"{_TOP}.") and fullname.partition(".")[2] in RENAMED
        return importlib.machinery.ModuleSpec(fullname, self) if known else None

    def exec_module(self, module) -> None:
        old = module.__name__.partition(".")[2]
        found = importlib.import_module(_new(old))
        leaf = found.__name__.rpartition(".")[2]
        # `import unlearnlib.audit.klom as k` is the module, and audit.klom(...) goes on being the function.
        if old.startswith("audit.") and callable(getattr(found, leaf, None)):
            found.__class__ = CallableModule
        sys.modules[module.__name__] = found

    def get_code(self, fullname: str):  # python -m unlearnlib.runner
        said = f"python -m {fullname} is now the program `unlearn` (python -m {_TOP}); the old name goes with the next"
        warnings.warn(f"{said} version", FutureWarning, 2)
        name = f"{_TOP}.{RENAMED[fullname.partition('.')[2]]}"
        return importlib.util.find_spec(name).loader.get_code(name)


def _new(old: str) -> str:
    """The new name; said once, since a second import finds the module."""
    name = f"{_TOP}.{RENAMED[old]}"
    if old not in DOCUMENTED:
        warnings.warn(f"{_TOP}.{old} is now {name}; the old name goes with the next version", FutureWarning, 2)
    return name


def install() -> None:
    """Make the old names importable; where a module has that name itself, it is found first."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
