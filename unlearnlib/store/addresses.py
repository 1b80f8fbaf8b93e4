"""Addresses of results: what they were made from.

    key = SHA-256(configuration, checksums of the data, digests of the code, versions, numerics)

so a result is found again only where the same code would compute the same thing.
"""

import ast
import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from unlearnlib.store import digests, products

# They move results about and do not change them.
_CARRIERS = {
    f"unlearnlib.{name}"
    for name in (
        *("store.addresses", "store.cache", "store.digests", "store.files", "store.places", "store.products"),
        *("data.downloads", "data.fetching", "data.folders", "data.pictures", "data.sources"),
        *("methods.catalogue", "training.cluster", "training.jobs", "training.remote"),
    )
}
# A run says, for its own duration, with which numerics its workers compute.
_assumed: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("numerics")


class Unkeyable(ValueError):
    """Something that is to be part of an address has no content that could be compared."""


def key(**parts: object) -> str:
    """The address (64 hex digits) of what is made from `parts`: plain data, dataclasses and nestings of these.

    Raises Unkeyable (a ValueError) on anything else, such as a function: it has no content that could be compared.
    """
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def canonical(value: object) -> str:
    """Plain data and dataclasses as JSON that is the same for equal values."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def plain(value: object) -> object:
    """The same with dataclasses as mappings and tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise Unkeyable(f"{type(value).__name__} cannot be part of a cache key: use plain values and dataclasses")


def numerics(device: torch.device | str = "cpu") -> dict[str, object]:
    """What decides the last bits of a result in this process: a pinned page never reads what a fast run made."""
    assumed = _assumed.get(None)
    if assumed is not None:
        return dict(assumed)
    device = torch.device(device)
    cpu = device.type == torch.device("cpu").type
    found = {
        "device": device.type if cpu else str(torch.get_device_module(device).get_device_name(device)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "limits": {name: os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR")},
        "products": "numpy" if products.used() else "torch",
        "wider": products.wider(),
        "one_thread": torch.get_num_threads() == 1,
    }
    return found | ({"fast": True} if os.environ.get("UNLEARN_FAST") == "1" else {})


@functools.cache  # as it was when it was first asked for: a file edited later is not what this process runs
def code(*modules: str) -> Mapping[str, str]:
    """Digest of each library module that the given ones import, themselves included: module -> 16 hex digits.

    Comments and docstrings do not count. Modules that are found at run time only must be named. Raises Unkeyable for
    a module outside the library.
    """
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in found and name not in _CARRIERS:
            found.add(name)
            pending += _imports(name)
    found_digests = digests.module_digests(sorted(found))
    missing = [name for name in modules if name not in found_digests]
    if missing:
        raise Unkeyable(f"no source of {', '.join(missing)}: only modules of {digests.PACKAGE.name} have digests")
    return MappingProxyType(found_digests)


def homes(value: object) -> set[str]:
    """The modules of the dataclasses in `value`, nested ones included: what they do is part of a result too."""
    found: set[str] = set()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found.add(type(value).__module__)
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        found.update(*map(homes, value))
    return found


def _source(module: str) -> Path | None:
    base = digests.PACKAGE.parent.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _imports(module: str) -> tuple[str, ...]:
    path = _source(module)
    return () if path is None else _imports_of(path)


@functools.cache
def _imports_of(path: Path) -> tuple[str, ...]:
    """Library modules that a source imports anywhere in it (`from unlearnlib.a import b` names a.b, or else a)."""
    top, names = digests.PACKAGE.name, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == top:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(name if _source(name) else node.module for name in inner)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if alias.name.partition(".")[0] == top)
    return tuple(sorted(names - {top}))


@contextlib.contextmanager
def assuming(given: Mapping[str, object] | None) -> Iterator[None]:
    """Make addresses inside the block for processes with these `numerics` (None: for this process)."""
    token = _assumed.set(given)
    try:
        yield
    finally:
        _assumed.reset(token)


@functools.cache
def versions() -> Mapping[str, str]:
    """What else an address holds: the versions of torch and numpy."""
    return MappingProxyType(digests.versions())
