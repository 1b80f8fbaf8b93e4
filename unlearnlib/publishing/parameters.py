"""The parameters of a page: what its `parameters` cell declares, and what a caller may pass.

A page declares at most ten plain literals - bool, int, float, str, None, or a list of these. The type of a
default is the type of the parameter; an int stands for a float, nothing else is converted.
"""

import ast
import difflib
import math
from collections.abc import Mapping

from unlearnlib._commands import one_line
from unlearnlib._extras import optional

LIMIT = 10
INJECTED = "# Parameters"  # papermill opens the cell that it injects with this comment
_SCALARS = (bool, int, float, str, type(None))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(v) and not isinstance(v, list) for v in value)
    return type(value) in _SCALARS and not (isinstance(value, float) and not math.isfinite(value))


def declared(source: str) -> dict[str, object]:
    """Name -> default of a `parameters` cell.

    Raises ValueError if the cell holds anything but assignments of plain literals, or more than ten of them.
    """
    found: dict[str, object] = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not valid Python: {error.msg}, line {error.lineno}") from None
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not isinstance(targets[0], ast.Name):
            raise ValueError(f"the parameters cell may only assign names, line {statement.lineno} does something else")
        name = targets[0].id
        try:
            value = ast.literal_eval(statement.value)
        except (ValueError, TypeError):
            raise ValueError(f"parameter {name} must be a plain literal, not computed") from None
        if len(targets) > 1 or not _is_plain(value):
            raise ValueError(f"parameter {name} must be one bool, int, finite float, str, None or a list of these")
        found[name] = value
    if len(found) > LIMIT:
        raise ValueError(f"the parameters cell declares {len(found)} names, at most {LIMIT} are allowed")
    return found


def is_declaration(source: str) -> bool:
    """Whether a cell consists of assignments of plain literals, as a `parameters` cell does."""
    try:
        return bool(declared(source))
    except ValueError:
        return False


def names_in(source: str) -> list[str]:
    """Names that a cell assigns at its top level (papermill injects values that are not always literals)."""
    targets = [t for s in ast.parse(source).body if isinstance(s, ast.Assign) for t in s.targets]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def brief(value: object) -> str:
    """A value as an error quotes it: whole if it is short."""
    return one_line(repr(value), 100)


def check_name(name: str, known: Mapping[str, object]) -> None:
    """Raise ValueError with the nearest valid name if `name` is not known."""
    if name not in known:
        near = difflib.get_close_matches(name[:100], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        takes = ", ".join(known) if known else "no parameters"
        raise ValueError(f"unknown parameter {brief(name)}: {hint}the page takes {takes}")


def _fitted(value: object, default: object) -> object:
    """`value` as the type of `default`; raises TypeError if it does not fit."""
    if isinstance(default, list):
        if not isinstance(value, list):
            raise TypeError
        return [_fitted_any(v, default) for v in value]
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise TypeError
    return value


def _fitted_any(value: object, examples: list) -> object:
    for example in examples:
        try:
            return _fitted(value, example)
        except TypeError:
            continue
    if examples:
        raise TypeError
    return value


def check(defaults: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """All parameters, defaults overlaid by `given`. Raises ValueError on an unknown name or a value of another type."""
    for name, value in given.items():
        check_name(name, defaults)
        default = defaults[name]
        wanted = "a plain literal" if default is None else f"{type(default).__name__} like its default {brief(default)}"
        try:
            if not _is_plain(value):
                raise TypeError
            _fitted(value, default)
        except TypeError:
            quote = f"; for the text write {brief(value)} in quotes" if isinstance(default, str) else ""
            raise ValueError(f"parameter {name} must be {wanted}, not {brief(value)}{quote}") from None
    return {name: _fitted(given[name], default) if name in given else default for name, default in defaults.items()}


def parse(text: str, default: object) -> object:
    """The value that a command line spells, read with the default in mind.

    A Python or YAML literal: `3`, `1e-3`, `true`, `[mnist, cifar10]`, `random:0.1`, `'"5"'` for the text 5. What does
    not fit the default is left for `check` to refuse.
    """
    try:
        value = ast.literal_eval(text.strip())
        return text if isinstance(default, str) and not _is_plain(value) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if text.strip() in ("true", "false") and not isinstance(default, str):
        return text.strip() == "true"
    if isinstance(default, list):
        yaml = optional("yaml")
        try:
            items = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # 2026-13-01 is no date, [[[[ is no list
            return text
        # YAML 1.1 reads 1e-3 as text; such elements are therefore read again as Python literals.
        return [parse(v, None) if isinstance(v, str) else v for v in items] if isinstance(items, list) else text
    return text


def spell(value: object) -> str:
    """The text that `parse` reads back as `value`."""
    if isinstance(value, str) and parse(value, "") == value:
        return value
    return repr(value)


def papermill_arguments(parameters: Mapping[str, object]) -> list[str]:
    """The same parameters as arguments of plain papermill.

    `-r` keeps text as it is, where `-p` would turn "007" into 7; lists travel as YAML, in which a float needs a point.
    """
    arguments: list[str] = []
    for name, value in parameters.items():
        if isinstance(value, str):
            arguments += ["-r", name, value]
        elif isinstance(value, list):
            arguments += ["-y", f"{name}: [{', '.join(map(_as_yaml, value))}]"]
        else:
            arguments += ["-p", name, repr(value)]
    return arguments


def _as_yaml(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
