"""The face of a package: its public names by the module that defines them, imported on first use.

A bare import stays light, and a page depends only on the code that it uses. Inside the library modules import each
other by their full names, so that the list of what a result was made from is complete.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType


def face(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of `package`; `names` maps modules (below it, or by their full
    name) to their public names.

    A name that its module does not define, and with which its path ends, is that module itself.
    """
    homes = {name: module for module, listed in names.items() for name in listed.split()}

    def getattribute(name: str):
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = importlib.import_module(home if home.startswith("unlearnlib.") else f"{package}.{home}")
        itself = home.rpartition(".")[2] == name and not hasattr(module, name)
        return module if itself else getattr(module, name)

    return getattribute, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)


class CallableModule(ModuleType):
    """A module that is also the function of its own name, for a room and a function that are documented by one name."""

    def __call__(self, *arguments, **options):
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)
