"""What a page was made from, and whether that has changed since.

The fingerprint of a page is the SHA-256 of five parts: the library modules that it imported, its code cells, its
parameter values, the checksums of its data and the versions of torch and numpy. Code counts by its tokens: comments,
docstrings and blank lines may change without making a page stale. Data may be a committed file of results, named by its
path below the book.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unlearnlib.publishing import notebooks, papers, parameters
from unlearnlib.store.digests import content_digest, digest, module_digests, versions

_NOTE = "> **Older than its code.** Since this page was run, something that it depends on has changed"


def cells_digest(nb: Mapping) -> str:
    """Digest of the code cells, without the two that hold parameters."""
    cells = [c for c in notebooks.code_cells(nb) if not {"parameters", "injected-parameters"} & set(notebooks.tags(c))]
    return content_digest([digest(cell["source"]) for cell in cells])[:16]


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
    return content_digest({key: record[key] for key in ("modules", "cells", "parameters", "data", "versions", "mode")})


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
    return reasons + ([f"versions: {', '.join(moved)}"] if moved else []) + _file_changes(record)


def _same(name: str, values: Mapping, record: Mapping) -> bool:
    absent = object()
    return values.get(name, absent) == record["parameters"].get(name, absent)


def _is_file(name: str) -> bool:
    """Whether a page read a committed file of results under this name, and no data set."""
    return name.startswith("book/")


def data_changes(record: Mapping) -> list[str]:
    """Load each data set that the page names and compare its checksum. Sets made with options cannot be compared."""
    from unlearnlib.data.loading import load

    named = {name: checksum for name, checksum in record.get("data", {}).items() if not _is_file(name)}
    changed = [name for name, checksum in named.items() if load(name).checksum() != checksum]
    return [f"data: {', '.join(changed)}"] if changed else []


def _file_changes(record: Mapping) -> list[str]:
    """Compare the committed files of results that the page read, which it names by their paths."""
    named = {name: checksum for name, checksum in record.get("data", {}).items() if _is_file(name)}
    changed = [name for name, checksum in named.items() if papers.Recorded(name).checksum() != checksum]
    return [f"results: {', '.join(changed)}"] if changed else []


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
        again = notebooks.stamp(page).get("command", f".venv/bin/unlearn run {found.path} --in-place")
        note = f"{_NOTE} ({'; '.join(found.reasons)}). The numbers below are those of the recorded run. `{again}`"
        metadata = {"tags": [notebooks.STALE_NOTE]}
        cells.insert(1, {"cell_type": "markdown", "id": "stale", "metadata": metadata, "source": note})
    if cells != page["cells"]:
        notebooks.write_text(found.path, notebooks.dumps({**page, "cells": cells}))
