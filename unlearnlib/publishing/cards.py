"""Method cards: what the registry and the sources say of every method, as a page of the book.

A card is made of facts that stand next to the method: the arguments of `@method`, the fields of its dataclass with the
comments behind them, and the docstring of its module. Nothing is written here about any one method.
"""

import dataclasses
import inspect
import io
import math
import re
import sys
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearnlib.methods.common import Taught
from unlearnlib.publishing import notebooks
from unlearnlib.publishing.markup import code, described, grid_table, plain

BIBLIOGRAPHY = Path("book/references.bib")


@dataclass(frozen=True)
class Knob:
    """A hyper-parameter: its name, its default, and the comment behind the field."""

    name: str
    default: str
    about: str


@dataclass(frozen=True)
class Card:
    """What the cards show of one method; `about` is the docstring of the module that defines it."""

    name: str
    family: str
    reads: str
    guarantee: str
    paper: str
    module: str
    about: str
    knobs: tuple[Knob, ...] = ()
    cost: str = ""  # work, a formula in hyper-parameters and the sizes of the sets
    at_defaults: str = ""  # the same as passes over the two sets
    published: str = ""
    origin: str = ""  # where the published values, or else the defaults, come from
    searched: str = ""  # ranges in which the book tunes
    fails: str = ""


def comments(config: type) -> dict[str, str]:
    """The comment behind each field of a dataclass, its own or that of the class which declared the field first.

    A comment line that stands alone right below a field goes on with its comment.
    """
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls) or "__annotations__" not in vars(cls):
            continue
        source, last = inspect.cleandoc("\n" + inspect.getsource(cls)), ""
        rows = {
            t.start[0]: t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
        }
        for number, line in enumerate(source.splitlines(), 1):
            field = re.match(r"    (\w+)\s*:(?!:)", line)
            last = field[1] if field and field[1] in vars(cls)["__annotations__"] else last if number in rows else ""
            if number in rows and last:
                text = rows[number].string.lstrip("# ").strip()
                found[last] = text if field else f"{found.get(last, '')} {text}".strip()
    return found


def knobs(config: type) -> tuple[Knob, ...]:
    """The hyper-parameters of a method in the order of its dataclass, without those that all methods share."""
    about = comments(config)
    shared = {f.name for f in dataclasses.fields(Taught)}
    own = [f for f in dataclasses.fields(config) if f.name not in shared]
    return tuple(Knob(f.name, _default(f), about.get(f.name, "")) for f in own)


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return _spelt(field.default)
    made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
    return "required" if made is None else _spelt(made)


def _spelt(value: object) -> str:
    """A value as a caller would write it; a dataclass by what differs from its defaults."""
    if dataclasses.is_dataclass(value):
        changed = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        base = {f.name: f.default for f in dataclasses.fields(value)}
        shown = ", ".join(f"{name}={_spelt(v)}" for name, v in changed.items() if v != base[name])
        return f"{type(value).__name__}({shown})"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def passes(name: str) -> str:
    """The cost of a method at its defaults: work as multiples of large |F| and |R|, and what is constant.

    Algebra between gradients depends on the network and not on passes over sets: it is named without a number.
    """
    from unlearnlib.methods import registry

    if not registry.find(name).cost:
        return ""
    many = 2**10 * 3**3 * 5**2  # a multiple of every batch size that is in use

    def work(forget: int, retain: int) -> float:
        return registry.work(name, forget, retain, multiplications=math.inf)

    constant, whole = work(0, 0), work(many, many)
    shares = {"|F|": (whole - work(0, many)) / many, "|R|": (whole - work(many, 0)) / many}
    terms = [f"{share:.3g} {size}" for size, share in shares.items() if share]
    terms += [f"{constant:g}"] if constant else []
    terms += ["algebra"] if "algebra" in registry.find(name).cost else []
    return " + ".join(terms) or "0"


def arxiv(bibliography: str) -> dict[str, str]:
    """Key -> arXiv identifier, of the entries of a BibTeX file that have one."""
    entries = re.split(r"^@\w+\{", bibliography, flags=re.MULTILINE)[1:]
    found = {
        e.partition(",")[0].strip(): re.search(r"^\s*eprint\s*=\s*\{(\d{4}\.\d{4,5})\}", e, re.MULTILINE)
        for e in entries
    }
    return {key: match[1] for key, match in found.items() if match}


def registered() -> list[Card]:
    """The cards of all methods in the registry, whatever they declare."""
    from unlearnlib.methods import registry
    from unlearnlib.methods.catalogue import HOMES

    return [_card(registry.find(name)) for name in HOMES]


def _card(found) -> Card:
    module = found.function.__module__
    return Card(
        found.name,
        found.family,
        found.reads,
        found.guarantee,
        found.paper,
        module,
        sys.modules[module].__doc__ or "",
        knobs(found.config),
        found.cost,
        passes(found.name),
        ", ".join(f"{name}={_spelt(value)}" for name, value in found.published.items()),
        found.origin,
        "; ".join(_range(name, *ends) for name, ends in found.search.items()),
        found.fails,
    )


def _range(name: str, low: float, high: float, scale: str = "") -> str:
    return f"{name} {low:g} to {high:g}{' (log)' if scale else ''}"


def missing(card: Card) -> list[str]:
    """What a card lacks to be full. Tuning ranges and published values may be absent, what stands for them not."""
    wanted = ("reads", "guarantee", "paper", "about", "cost", "origin", "fails")
    lacks = [name for name in wanted if not getattr(card, name)]
    return lacks + [f"comment of {knob.name}" for knob in card.knobs if not knob.about]


def method_cards(cards: Sequence[Card], identifiers: Mapping[str, str] | None = None) -> str:
    """One section a family, one card a module: facts, hyper-parameters, and what the docstring says.

    identifiers     key of a paper -> arXiv identifier

    Every method can be linked as {ref}`method-NAME`.
    """
    intro = (
        "What each method reads, guarantees, costs and takes, where its values come from, when it fails, and the "
        "equation that it follows. The unit of cost is a forward pass of one example; a pass forward and backward "
        "(`gradient`) is three. R, F and V are the sizes of the retain, forget and validation set, `seen(n, b)` is "
        "what one pass over n shows in whole batches of b, other names are hyper-parameters. Every method also takes "
        "`freeze_norms`, and those that teach by a recipe take `augment` and `label_smoothing`."
    )
    parts = ["# Methods", intro]
    for family in dict.fromkeys(card.family for card in cards):
        parts.append(f"## {plain(family[:1].upper() + family[1:])}")
        members = [card for card in cards if card.family == family]
        for module in dict.fromkeys(card.module for card in members):
            parts += _section([card for card in members if card.module == module], identifiers or {})
    return "\n\n".join(parts) + "\n"


def _section(same: Sequence[Card], identifiers: Mapping[str, str]) -> list[str]:
    """The methods of one module: a column each, a row for each fact that any of them has."""
    anchors = "\n".join(f"(method-{card.name.replace('_', '-')})=" for card in same)
    facts = {
        "Reads": [plain(c.reads) for c in same],
        "Guarantee": [plain(c.guarantee) for c in same],
        "Cost": [code(c.cost) for c in same],
        "Cost at the defaults": [plain(c.at_defaults) for c in same],
        "Published values": [code(c.published) or "none known" for c in same],
        "Values from": [_with_citations(plain(c.origin)) for c in same],
        "Searched in tuning": [plain(c.searched) for c in same],
        "When it fails": [plain(c.fails) for c in same],
        "Paper": [_cited(c.paper, identifiers) for c in same],
        "Source": [f"{{py:mod}}`{c.module}`" for c in same],
    }
    rows = [[name, *values] for name, values in facts.items() if any(values)]
    made = [
        f"{anchors}\n### {', '.join(f'`{c.name}`' for c in same)}",
        grid_table(["Fact", *(f"`{c.name}`" for c in same)], rows),
    ]
    for knobs_of in dict.fromkeys(card.knobs for card in same if card.knobs):
        whose = [card.name for card in same if card.knobs == knobs_of]
        lines = [[code(k.name), code(k.default), plain(k.about)] for k in knobs_of]
        title = "Hyper-parameters" if len(whose) == len(same) else f"Hyper-parameters of {', '.join(map(code, whose))}"
        made += [f"{title}:", grid_table(["Name", "Default", "Meaning"], lines)]
    return [*made, described(same[0].about)]


def _cited(key: str, identifiers: Mapping[str, str]) -> str:
    found = identifiers.get(key)
    return f"{{cite:t}}`{key}`" + (f", [arXiv {found}](https://arxiv.org/abs/{found})" if found else "")


def _with_citations(text: str) -> str:
    """Text in which keys of the bibliography, such as kurmanji2023, are citations."""
    return re.sub(r"\b[a-z]{2,}(?:19|20)\d\d[a-z]*\b", lambda match: f"{{cite:t}}`{match[0]}`", text)


def page() -> str:
    """The page of all registered methods."""
    return method_cards(registered(), arxiv(notebooks.fetch(BIBLIOGRAPHY) or ""))
