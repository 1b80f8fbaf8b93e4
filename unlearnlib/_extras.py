"""What the library can do without: each optional package by the extra that brings it."""

import importlib
from types import ModuleType

DISTRIBUTION = "does-it-forget"  # the name on package indices; the import name is unlearnlib
# extra -> the modules that the library imports from it
EXTRAS = {
    "private": ("dp_accounting", "opacus"),
    "forest": ("numba",),
    "tuning": ("optuna",),
    "cluster": ("distributed",),
    "flower": ("flwr",),
    "data": ("mlxtend", "pyarrow"),
    "desk": ("datasets", "lightning", "timm", "transformers"),
    "book": ("IPython", "matplotlib", "papermill", "seaborn", "yaml"),
}


def optional(module: str) -> ModuleType:
    """An optional module. Raises ModuleNotFoundError that names the extra where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:  # the package is there, and something else is missing
            raise
        extra = next(name for name, modules in EXTRAS.items() if package in modules)
        raise ModuleNotFoundError(f"{package} is not installed: pip install '{DISTRIBUTION}[{extra}]'") from None
