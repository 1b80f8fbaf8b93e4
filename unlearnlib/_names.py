"""Unknown names refused in one line, everywhere in the same words: what was given, and the nearest that is known."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping


def hint(given: object, known: Collection[str], otherwise: str = "known are") -> str:
    """`did you mean 'x'?`; where nothing known is near, what is known."""
    near = difflib.get_close_matches(str(given)[:100], known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known) or 'none'}"


def entry(name: str, table: Mapping, what: str, where: str = ""):
    """`table[name]`. Raises ValueError that names the nearest entry: "unknown WHAT 'name' WHERE: did you mean ..."."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {what} {name!r:.60}{where and ' '}{where}: {hint(name, table)}")
    return table[name]


def configured(name: str, config: type, given: Mapping):
    """The dataclass `config` of the method `name` with the given fields. ValueError names the nearest field."""
    known = [field.name for field in dataclasses.fields(config)]
    for field in given:
        if field not in known:
            raise ValueError(f"{name} has no hyper-parameter {field!r:.60}: {hint(field, known, 'it takes')}")
    return config(**given)
