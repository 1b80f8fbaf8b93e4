"""Terms of the glossary, linked where a page first uses them, with the definition as a tip.

Nothing has to be marked: a term is found in running text, in the singular or with an `s`, and not in headings, code,
formulas, links or tables of results. Some terms are everyday words, too; `EVERYDAY` says when those mean the term. Set
in italics, every term means itself.
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

GLOSSARY = "book/glossary"
NOT_LINKED = ("book/glossary", "book/bibliography", "book/api/", "book/generated/", "genindex", "search")
NEVER = "(?!)"
_MODEL = r"(?= (?:models?|networks?|ones?)\b|[,.;:)]| and | nor | or )"
EVERYDAY = {
    "work": NEVER,
    "claim": NEVER,
    "control": NEVER,
    "receipt": NEVER,
    "trap": NEVER,
    "original": rf"(?<=the )original{_MODEL}",
    "retrained": rf"retrained{_MODEL}",
    "unlearned": rf"unlearned{_MODEL}",
}
_CLOSED = (
    *(nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw),
    *(nodes.caption, nodes.term, nodes.footnote, nodes.citation, nodes.rubric, addnodes.pending_xref),
)
_ROLE = re.compile(r" ?\{cite:\w\}`[^`]*`| ?See \{eq\}`[^`]*`\.?")


@lru_cache(maxsize=8)
def definitions(text: str) -> dict[str, str]:
    """Term -> its definition as plain text, from the source of the glossary."""
    block = re.search(r"^:::\{glossary\}\n(.*?)^:::", text, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    waiting: list[str] = []
    for line in (block[1] if block else "").splitlines():
        if line and not line.startswith(" "):
            waiting = [*(waiting if waiting and not found.get(waiting[-1]) else []), line.strip()]
            found[line.strip()] = ""
        elif line.strip():
            for term in waiting:
                found[term] = f"{found[term]} {line.strip()}".strip()
    return {term: re.sub(r"[$*`\\]", "", _ROLE.sub("", said)) for term, said in found.items()}


@lru_cache(maxsize=8)
def _patterns(terms: tuple[str, ...]) -> list[tuple[str, re.Pattern]]:
    """Every term with what to look for, longer terms first: *retrain, other seed* is not *retrain*."""
    found = []
    for term in sorted(terms, key=len, reverse=True):
        # Capitals inside belong to the name; a small first letter may stand at the beginning of a sentence.
        first = f"[{term[0]}{term[0].upper()}]" if term[0].islower() else re.escape(term[0])
        rest = re.escape(term[1:]).replace(r"\ ", r"\s+")
        if re.fullmatch(r"[A-Z]{2,4}(, [A-Z]{2,4})+", term):  # several abbreviations in one entry
            rest, first = "", f"(?:{term.replace(', ', '|')})"
        found.append((term, re.compile(EVERYDAY.get(term) or rf"(?<![\w-]){first}{rest}s?(?![\w-])")))
    return found


def mark(text: str, terms: tuple[str, ...], *, emphasised: bool = False) -> list[tuple[str, str]]:
    """The text in pieces (piece, term), the term "" where it is none; each term is found once, at its first place."""
    if emphasised:
        plain = " ".join(text.split()).lower().rstrip(".,")
        return [(text, next((t for t in terms if plain in (t.lower(), f"{t.lower()}s")), ""))]
    taken: list[tuple[int, int, str]] = []
    for term, pattern in _patterns(terms):
        for match in pattern.finditer(text):
            if not any(match.start() < end and start < match.end() for start, end, _ in taken):
                taken.append((*match.span(), term))
                break
    pieces, place = [], 0
    for start, end, term in sorted(taken):
        pieces += [(text[place:start], ""), (text[start:end], term)]
        place = end
    return [(piece, term) for piece, term in [*pieces, (text[place:], "")] if piece]


class LinkTerms(SphinxTransform):
    """Put a reference to the glossary where a page first uses a term."""

    default_priority = 700  # before quotes become curly, after the parser is done

    def apply(self, **_) -> None:
        if self.env.docname.startswith(NOT_LINKED):
            return
        path = Path(self.env.doc2path(GLOSSARY))
        if not path.is_file():
            return
        self.env.note_dependency(str(path))
        left = list(definitions(path.read_text(encoding="utf-8")))
        for text in list(self.document.findall(nodes.Text)):
            if not left or not _is_prose(text):
                continue
            pieces = mark(text.astext(), tuple(left), emphasised=isinstance(text.parent, nodes.emphasis))
            if any(term for _, term in pieces):
                text.parent.replace(text, [self._node(piece, term) for piece, term in pieces])
                left = [term for term in left if term not in {found for _, found in pieces}]

    def _node(self, piece: str, term: str) -> nodes.Node:
        if not term:
            return nodes.Text(piece)
        shown = nodes.inline(piece, piece, classes=["xref", "std", "std-term", "glossed"])
        options = {"refdomain": "std", "reftype": "term", "reftarget": term, "refexplicit": True, "refwarn": True}
        return addnodes.pending_xref(piece, shown, refdoc=self.env.docname, **options)


def _is_prose(text: nodes.Text) -> bool:
    paragraph, node = False, text.parent
    while node is not None:
        if isinstance(node, _CLOSED) or (isinstance(node, nodes.container) and "cell" in node.get("classes", ())):
            return False
        paragraph = paragraph or isinstance(node, nodes.paragraph)
        node = node.parent
    return paragraph


def _unaccented(text: str) -> str:
    """Letters without their accents, as in addresses."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def tell(app, doctree, docname: str) -> None:
    """Give each link its definition as a tip."""
    path = Path(app.env.doc2path(GLOSSARY))
    known = definitions(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lower = {term.lower(): said for term, said in known.items()}
    for reference in doctree.findall(nodes.reference):
        shown = reference.children[0] if reference.children else None
        if isinstance(shown, nodes.inline) and "std-term" in shown.get("classes", ()):
            target = reference.get("refid") or reference.get("refuri", "").partition("#")[2]
            term = target.removeprefix("term-").replace("-", " ").lower()
            said = next((s for t, s in lower.items() if re.sub(r"[^a-z0-9]+", " ", _unaccented(t)).strip() == term), "")
            if said:
                reference["reftitle"] = said


def setup(app):
    app.add_transform(LinkTerms)
    app.connect("doctree-resolved", tell)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
