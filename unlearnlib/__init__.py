"""Machine unlearning: exact, approximate, certified and private methods behind one interface, and their audits.

data.load, data.split -> models.build, training.fit -> unlearn(name, model, split, seed=0) -> audit.battery
"""

import importlib

from unlearnlib import _faces, _renamed

__version__ = "0.2.0"
_renamed.install()
_lookup, __dir__, __all__ = _faces.face(
    __name__,
    {
        # one door to every method, and the table of them all (`methods` is the room, and `methods()` its table)
        "methods.registry": "Unlearned unlearn unlearn_many",
        "methods": "methods",
        # rooms, each importing only those above it
        "seeding": "seeding",
        "store": "store",
        "data": "data",
        "training": "training",
        "training.models": "models",
        "exact": "exact",
        "approximate": "approximate",
        "dlfd": "dlfd",
        "private": "private",
        "attribution": "attribution",
        "generative": "generative",
        "language": "language",
        "federated": "federated",
        "prevention": "prevention",
        "audit": "audit",
        "studies": "studies",
        "desk": "desk",
    },
)


def __getattr__(name: str):
    if name in _renamed.RENAMED:  # `import unlearnlib as ul; ul.registry`
        return importlib.import_module(f"{__name__}.{name}")
    return _lookup(name)
