"""What a page was made from, and whether that has changed since.

The fingerprint of a page is the SHA-256 of five parts: the library modules that it imported, its code cells, its
parameter values, the checksums of its data and the versions of torch and numpy. Code counts by its tokens: comments,
docstrings and blank lines may change without making a page stale.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import sys
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unlearnlib import notebooks, parameters

PACKAGE = Path(__file__).resolve().parent
# They describe pages, or say where things are, and do not change results.
_BOOKKEEPERS = {
    "_execute",
    "bookkeeping",
    "cards",
    "catalogue",
    "execution",
    "markup",
    "measured",
    "notebooks",
    "pages",
    "parameters",
    "provenance",
    "runner",
    "sweeps",
}
_NOTE = "> **Older than its code.** Since this page was run, something that it depends on has changed"


def imported_modules() -> list[str]:
    """Library modules that this process has imported, without those that only describe pages."""
    name = PACKAGE.name
    found = (m for m in sys.modules if m == name or m.startswith(f"{name}."))
    return sorted(m for m in found if m.partition(".")[2].partition(".")[0] not in _BOOKKEEPERS)


def versions() -> dict[str, str]:
    """Installed versions of torch and numpy, without the local part that names a build (+cpu)."""
    found = {}
    for package in ("numpy", "torch"):
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _tokens(source: str) -> list[tuple[str, str]]:
    """Significant tokens as (kind, text), the same for every Python version that can read the source."""
    lines, found, opened, start = source.splitlines(keepends=True), [], 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind.endswith("STRING_START"):  # from Python 3.12 an f-string is many tokens: take its source instead
            start = token.start if opened == 0 else start
            opened += 1
        elif kind.endswith("STRING_END"):
            opened -= 1
            if opened == 0:
                found.append(("STRING", _between(lines, start, token.end)))
        elif opened == 0 and kind not in ("COMMENT", "NL", "ENCODING", "ENDMARKER"):
            found.append((kind, "" if kind in ("INDENT", "DEDENT", "NEWLINE") else token.string))
    return found


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    return "".join([lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1], lines[end[0] - 1][: end[1]]])


def _code(source: str) -> list[tuple[str, str]]:
    """The tokens without docstrings: statements that are nothing but a string."""
    tokens, kept = [*_tokens(source), ("NEWLINE", "")], []
    i = 0
    while i < len(tokens):
        opens_statement = not kept or kept[-1][0] in ("NEWLINE", "INDENT", "DEDENT")
        j = i
        while opens_statement and tokens[j][0] == "STRING":
            j += 1
        if j > i and tokens[j][0] == "NEWLINE":
            i = j + 1
            continue
        kept.append(tokens[i])
        i += 1
    return kept[:-1] if kept and kept[-1][0] == "NEWLINE" else kept


def digest(source: str) -> str:
    """16 hex digits of the SHA-256 of a source text's tokens; of the text itself where it is not plain Python."""
    try:
        content: object = _code(source)
    except (tokenize.TokenError, SyntaxError):  # a cell with a shell line or a magic
        content = source.strip()
    return _sha(content)[:16]


def _sha(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, modified: int, size: int) -> str:
    return digest(path.read_text(encoding="utf-8"))


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """Module name -> digest of its source; a module that no longer exists is left out."""
    found = {}
    for name in modules:
        base = PACKAGE.parent.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                state = path.stat()
                found[name] = _file_digest(path, state.st_mtime_ns, state.st_size)
                break
    return found


def all_modules() -> list[str]:
    """Every module of the library that can change a result."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts[0] not in _BOOKKEEPERS:
            names.append(".".join((PACKAGE.name, *parts)))
    return names


def cells_digest(nb: Mapping) -> str:
    """Digest of the code cells, without the two that hold parameters."""
    cells = [c for c in notebooks.code_cells(nb) if not {"parameters", "injected-parameters"} & set(notebooks.tags(c))]
    return _sha([digest(cell["source"]) for cell in cells])[:16]


def stamped(nb: Mapping, *, given: Mapping, modules: Mapping[str, str], source: str | None, command: str) -> dict:
    """The record of a run, to be stored in the executed notebook.

    nb       the executed notebook; its last cell (`bookkeeping.reproduce`) says what was imported and read
    given    parameters that were passed
    modules  digests of the library, taken before the run
    source   the notebook that was executed, None if the page is its own source
    """
    told = notebooks.noted(nb, "provenance")
    told = told[-1] if told else {"chapter": None, "modules": list(modules), "data": {}, "mode": "unpinned"}
    record = {
        "chapter": told["chapter"],
        "modules": {name: modules[name] for name in told["modules"] if name in modules},
        "cells": cells_digest(nb),
        "parameters": parameters.check(notebooks.defaults(nb), given),
        "data": told["data"],
        "versions": versions(),
        "mode": told["mode"],
        "given": dict(given),
        "source": source,
        "command": command,
    }
    return {**record, "fingerprint": fingerprint(record)}


def fingerprint(record: Mapping) -> str:
    """SHA-256 over the five parts of a record that decide a result, and the numerics mode."""
    return _sha({key: record[key] for key in ("modules", "cells", "parameters", "data", "versions", "mode")})


def changes(record: Mapping, page: Mapping, source: Mapping | None) -> list[str]:
    """Why an executed page no longer follows from its source notebook and the library; empty if it does.

    record   the page's stamp,  page   the executed notebook,  source   the notebook that it was made from
    """
    if not record:
        return ["never run by the runner"]
    if source is None:
        return [f"cells: its source {record['source']} is gone"]
    reasons = []
    now = module_digests(record["modules"])
    changed = [name for name, value in record["modules"].items() if now.get(name) != value]
    if changed:
        reasons.append(f"code: {', '.join(changed)}")
    if cells_digest(page) != record["cells"]:
        reasons.append("cells: edited after the run")
    elif cells_digest(source) != record["cells"]:
        reasons.append(f"cells: {record['source']} was edited")
    try:
        values = parameters.check(notebooks.defaults(source), record["given"])
        differing = [name for name in {**values, **record["parameters"]} if not _same(name, values, record)]
        reasons += [f"parameters: {', '.join(differing)}"] if differing else []
    except ValueError as error:
        reasons.append(f"parameters: {error}")
    was, installed = record["versions"], versions()
    moved = [f"{name} {was[name]} -> {installed[name]}" for name in sorted(was) if was[name] != installed.get(name)]
    return reasons + ([f"versions: {', '.join(moved)}"] if moved else [])


def _same(name: str, values: Mapping, record: Mapping) -> bool:
    absent = object()
    return values.get(name, absent) == record["parameters"].get(name, absent)


def data_changes(record: Mapping) -> list[str]:
    """Load each data set that the page names and compare its checksum. Sets made with options cannot be compared."""
    from unlearnlib import data

    changed = []
    for name, checksum in record.get("data", {}).items():
        if data.load(name).checksum() != checksum:
            changed.append(name)
    return [f"data: {', '.join(changed)}"] if changed else []


@dataclass(frozen=True)
class State:
    """A committed page: why it is stale (empty: it is fresh), and whether it says so to its reader."""

    path: Path
    reasons: tuple[str, ...]
    says_so: bool

    @property
    def honest(self) -> bool:
        """A stale page says that it is stale, a fresh one does not."""
        return bool(self.reasons) == self.says_so


def state(path: Path, *, with_data: bool = False) -> State:
    """The state of one executed page. Its source is the notebook named in its stamp, relative to this folder."""
    page = notebooks.read(path)
    record = notebooks.stamp(page)
    origin = Path(record.get("source") or path)
    source = notebooks.read(origin) if origin.exists() else None
    reasons = changes(record, page, source)
    if with_data and record:
        reasons += data_changes(record)
    return State(Path(path), tuple(reasons), any(notebooks.STALE_NOTE in notebooks.tags(c) for c in page["cells"]))


def mark(found: State) -> None:
    """Make the page say what it is: put a note below its title if it is stale, take it away if it is fresh."""
    page = notebooks.read(found.path)
    cells = [c for c in page["cells"] if notebooks.STALE_NOTE not in notebooks.tags(c)]
    if found.reasons:
        again = notebooks.stamp(page).get("command", f"python -m unlearnlib.runner run {found.path} --in-place")
        note = f"{_NOTE} ({'; '.join(found.reasons)}). The numbers below are those of the recorded run. `{again}`"
        metadata = {"tags": [notebooks.STALE_NOTE]}
        cells.insert(1, {"cell_type": "markdown", "id": "stale", "metadata": metadata, "source": note})
    if cells != page["cells"]:
        notebooks.write_text(found.path, notebooks.dumps({**page, "cells": cells}))
