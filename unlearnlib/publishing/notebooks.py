"""Notebook files: read, make ready for a run, clean what a run leaves behind, and find what must not be committed.

A notebook is handled as the plain JSON document that it is, so that a look at all pages costs milliseconds.
"""

import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from unlearnlib._commands import one_line
from unlearnlib._extras import optional
from unlearnlib.publishing import parameters
from unlearnlib.store import digests

STALE_NOTE = "stale-note"  # tag of the cell that says that a page is older than its code
_KEEP_CELL = ("tags", "mystnb", "unlearnlib")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def loads(text: str) -> dict:
    """A notebook of format 4 with joined source lines. Raises ValueError on anything else."""
    try:
        nb = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a notebook: {error}") from None
    if not isinstance(nb, dict) or nb.get("nbformat") != 4:
        raise ValueError("not a notebook of format 4: convert it with `jupyter nbconvert --to notebook`")
    if not isinstance(nb.get("cells"), list) or not isinstance(nb.get("metadata"), dict):
        raise ValueError("not a notebook: it has no cells or no metadata")
    for cell in nb["cells"]:
        cell["source"] = _joined(cell["source"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _joined(output["text"])
            for mime, value in output.get("data", {}).items():
                output["data"][mime] = value if _is_json(mime) else _joined(value)
    return nb


def dumps(nb: Mapping) -> str:
    """The text of a notebook file: one line of source a line, keys sorted, as nbformat writes it."""
    nb = json.loads(json.dumps(nb))
    for cell in nb["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = output["text"].splitlines(keepends=True)
            for mime, value in output.get("data", {}).items():
                output["data"][mime] = value if _is_json(mime) else value.splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _joined(text: str | list[str]) -> str:
    return "".join(text) if isinstance(text, list) else text


def _is_json(mime: str) -> bool:
    return mime == "application/json" or (mime.startswith("application/") and mime.endswith("+json"))


def _is_text(mime: str) -> bool:
    return mime.startswith("text/") or mime == "image/svg+xml"


def read(where: str | Path) -> dict:
    """The notebook in a local file or a store. Raises ValueError that names it."""
    try:
        if is_remote(where):
            return loads(_store(str(where)).read(str(where), extensions=None))
        return loads(Path(where).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{where}: no such notebook") from None
    except Exception as error:  # every store has errors of its own
        raise ValueError(f"{where}: {one_line(error)}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def is_remote(where: str | Path) -> bool:
    return "://" in str(where)


def fetch(where: str | Path) -> str | None:
    """The text of a local file, or of one in a store that papermill knows (s3://, gs://, ...); None if there is none.

    Raises ValueError if no store is registered for the scheme.
    """
    if not is_remote(where):
        path = Path(where)
        return path.read_text(encoding="utf-8") if path.is_file() else None
    try:
        return _store(str(where)).read(str(where), extensions=None)
    except ValueError:
        raise
    except Exception:  # every store has its own error for a missing object
        return None


def put(where: str | Path, text: str) -> None:
    """Write a text to a local file, whole or not at all, or hand it to papermill's store for the scheme."""
    if is_remote(where):
        _store(str(where)).write(text, str(where), extensions=None)
    else:
        write_text(where, text)


def _store(where: str):
    stores = optional("papermill.iorw")
    if isinstance(stores.papermill_io.get_handler(where), stores.LocalHandler):
        raise ValueError(f"{where}: papermill knows no store for {where.partition('://')[0]}://")
    return stores.papermill_io


def tags(cell: Mapping) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def code_cells(nb: Mapping) -> list[dict]:
    """Code cells that hold something: the ones that get an execution count."""
    return [c for c in nb["cells"] if c["cell_type"] == "code" and c["source"].strip()]


def defaults(nb: Mapping) -> dict[str, object]:
    """Name -> default from the page's one `parameters` cell; ValueError if there is not exactly one."""
    cells = [c for c in nb["cells"] if "parameters" in tags(c)]
    if len(cells) != 1 or cells[0]["cell_type"] != "code":
        raise ValueError(f"the page needs one code cell with the tag `parameters`, it has {len(cells)}")
    return parameters.declared(cells[0]["source"])


def title(nb: Mapping) -> str:
    """The first heading of level one, or an empty string."""
    for cell in nb["cells"]:
        found = re.search(r"^# +(.+?) *$", cell["source"], re.MULTILINE) if cell["cell_type"] == "markdown" else None
        if found:
            return found[1]
    return ""


def stamp(nb: Mapping) -> dict:
    """What the runner recorded about the run that made the page, empty if it never ran it."""
    return nb["metadata"].get("unlearnlib", {})


def noted(nb: Mapping, kind: str) -> list[dict]:
    """Records of one kind ("claim", "provenance") that the page's outputs carry, in order."""
    outputs = (o for c in nb["cells"] for o in c.get("outputs", []))
    found = (o.get("metadata", {}).get("unlearnlib", {}).get(kind) for o in outputs)
    return [record for record in found if record is not None]


def ready(nb: Mapping) -> dict:
    """The notebook as its author wrote it: no outputs, no injected parameters, no note about staleness."""
    kept = [c for c in nb["cells"] if not {"injected-parameters", STALE_NOTE} & set(tags(c))]
    blank = {**nb, "cells": [_bare(c) for c in kept], "metadata": _page_metadata(nb), "nbformat_minor": 5}
    return _numbered(blank)


def clean(nb: Mapping, record: Mapping, machine: Iterable[tuple[str, str]]) -> dict:
    """An executed notebook without traces of the machine; `record` is stored as its stamp.

    Cells keep tags, MyST-NB options and execution counts; stream output is joined, because where a kernel
    splits it depends on the clock; paths of the machine and addresses are replaced.
    """
    cells = []
    for cell in nb["cells"]:
        bare = _bare(cell)
        if "injected-parameters" in tags(cell):
            bare["metadata"]["tags"] = ["hide-input", "injected-parameters"]
        if cell["cell_type"] == "code":
            bare["execution_count"] = cell["execution_count"]
            bare["outputs"] = [_scrubbed(o, machine) for o in _merged(cell["outputs"])]
        cells.append(bare)
    metadata = {**_page_metadata(nb), "unlearnlib": dict(record)}
    return _numbered({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _page_metadata(nb: Mapping) -> dict:
    kept = {key: nb["metadata"][key] for key in ("mystnb",) if key in nb["metadata"]}
    return {**kept, "kernelspec": dict(_KERNEL), "language_info": {"name": "python"}}


def _bare(cell: Mapping) -> dict:
    bare = {"cell_type": cell["cell_type"], "source": cell["source"], "metadata": {}}
    bare["metadata"] = {key: cell["metadata"][key] for key in _KEEP_CELL if cell["metadata"].get(key)}
    if cell.get("attachments"):
        bare["attachments"] = cell["attachments"]
    return {**bare, "execution_count": None, "outputs": []} if cell["cell_type"] == "code" else bare


def _numbered(nb: dict) -> dict:
    for number, cell in enumerate(nb["cells"], 1):
        cell["id"] = f"c{number:03d}"
    return nb


def _merged(outputs: Iterable[Mapping]) -> list[dict]:
    merged: list[dict] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output["output_type"] == "stream" == last.get("output_type") and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            merged.append(dict(output))
    return merged


def machine_paths() -> list[tuple[str, str]]:
    """Folders of this machine and what stands for them in an output, longest first."""
    paths, temporary = sysconfig.get_paths(), tempfile.gettempdir()
    known = [
        (paths["purelib"], "site-packages"),
        (paths["platlib"], "site-packages"),
        (paths["stdlib"], "python"),
        (str(digests.PACKAGE.parent), "."),
        (os.getcwd(), "."),
        (temporary, "TEMP"),
        (os.path.expanduser("~"), "~"),
    ]
    if len(Path(sys.prefix).parts) > 2:  # "/usr" is no secret, and replacing it would garble text
        known.append((sys.prefix, "python"))
    return sorted(((p, sign) for p, sign in known if len(Path(p).parts) > 1), key=lambda pair: -len(pair[0]))


def _scrub(text: str, machine: Iterable[tuple[str, str]]) -> str:
    text = re.sub(r"[^\s'\"]*/ipykernel_\d+/\d+\.py", "<cell>", text)
    for path, sign in machine:
        inside = "" if sign == "." else f"{sign}/"
        text = text.replace(f"{path}/", inside)
        text = re.sub(rf"{re.escape(path)}(?![\w.-])", sign, text)
    return re.sub(r"\bat 0x[0-9a-fA-F]{6,}", "at 0x...", text)


def _scrubbed(output: Mapping, machine: Iterable[tuple[str, str]]) -> dict:
    clean = dict(output)
    if "text" in clean:
        clean["text"] = _scrub(clean["text"], machine)
    if "traceback" in clean:
        clean["traceback"] = [_scrub(line, machine) for line in clean["traceback"]]
    if "data" in clean:
        clean["data"] = {m: _scrub(v, machine) if _is_text(m) else v for m, v in clean["data"].items()}
    return clean


def _texts(nb: Mapping) -> Iterator[str]:
    yield json.dumps(nb["metadata"])
    for cell in nb["cells"]:
        yield cell["source"]
        yield json.dumps(cell["metadata"])
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            data = output.get("data", {}).items()
            yield from (v if isinstance(v, str) else json.dumps(v) for m, v in data if not m.startswith("image/p"))


_ABSOLUTE = re.compile(r"(?<![\w.~:/<-])(?:/(?:home|root|Users|tmp|private|mnt|work|opt|var)/[\w.-]+|[A-Z]:\\Users\b)")


def problems(nb: Mapping, name: str) -> list[str]:
    """Why a page may not be committed; empty if it may. `name` is the file name without its suffix."""
    found: list[str] = []
    try:
        defaults(nb)
    except ValueError as error:
        found.append(str(error))
    for number, cell in enumerate(code_cells(nb), 1):
        if cell["execution_count"] != number:
            found.append(f"code cell {number} has execution count {cell['execution_count']}: run the page as a whole")
        for output in cell["outputs"]:
            if output["output_type"] == "error" and "raises-exception" not in tags(cell):
                found.append(f"code cell {number} raised {output['ename']}")
            if output.get("name") == "stderr":
                found.append(f"code cell {number} wrote to stderr: {output['text'].strip()[:120]!r}")
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                found.append(f"code cell {number} shows a widget, which needs a kernel")
    machine = [path for path, _ in machine_paths()]
    for text in _texts(nb):
        absolute = [*_ABSOLUTE.findall(text), *(p for p in machine if re.search(rf"{re.escape(p)}(?![\w.-])", text))]
        found += [f"an absolute path: {path}" for path in sorted(set(absolute))]
    record = stamp(nb)
    if not record:
        found.append("the runner never ran it")
    elif record["chapter"] != name and record["chapter"] is not None:
        found.append(f"begin({record['chapter']!r}) should say {name!r}")
    elif record["chapter"] is None:
        found.append("begin() or reproduce() is missing")
    if record and record["mode"] == "unpinned":
        found.append("the numerics are not pinned: the first cell must call bookkeeping.pin_numerics()")
    if not noted(nb, "claim"):
        found.append("it claims nothing")
    extra = set(nb["metadata"]) - {"kernelspec", "language_info", "unlearnlib", "mystnb"}
    if extra or any("papermill" in c["metadata"] for c in nb["cells"]):
        found.append(f"metadata of another executor: {', '.join(sorted(extra)) or 'papermill'}")
    return found
