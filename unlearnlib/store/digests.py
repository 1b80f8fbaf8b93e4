"""Digests of code and versions: what a result was computed by.

Code counts by its tokens: comments, docstrings and blank lines may change without changing a digest.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def imported_modules() -> list[str]:
    """Library modules that this process has imported and that can change a result, or how it is shown."""
    return [name for name in all_modules() if name in sys.modules]


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
    return content_digest(content)[:16]


def content_digest(content: object) -> str:
    """SHA-256 of plain data, as JSON with sorted keys."""
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
    """Every module of the library that can change a result or how it is shown.

    Left out are the lists of names (packages, aliases, the catalogue) and what only describes or runs pages.
    """
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        describes = parts[0] == "publishing" and parts[1] not in ("figures", "tables") or parts == ("store", "digests")
        lists = parts[-1].startswith("__") or parts[0].startswith("_") or parts == ("methods", "catalogue")
        if not describes and not lists:
            names.append(".".join((PACKAGE.name, *parts)))
    return names
