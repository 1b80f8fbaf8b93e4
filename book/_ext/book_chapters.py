"""What every chapter has at its head without saying it: its number, and the facts about it; and its plumbing folded.

Number and file name agree. The facts come from the notebook (words, claims) and from `book/timings.json` (minutes).
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

from book_results import number
from docutils import nodes
from sphinx.transforms import SphinxTransform

WORDS_A_MINUTE = 200
BOX = "at-a-glance"  # class of the box at the head of a chapter
PLUMBING = re.compile(r"^\s*bookkeeping\.(?:pin_numerics|begin|table|claim|reproduce)\(", re.MULTILINE)
_NUMBERED = re.compile(r"^\d\d\. ")


def minutes(value: float) -> str:
    """`2 minutes`, `less than a minute`."""
    rounded = round(value)
    return "less than a minute" if value < 0.75 else f"{max(rounded, 1)} minute{'' if rounded == 1 else 's'}"


def facts(nb: Mapping, spent: float | None) -> str:
    """One line of HTML: minutes to read and to run unless a box says them, and how the claims of the page came out."""
    prose = " ".join("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "markdown")
    boxed = BOX in prose  # where the author says how long it takes, two answers are one too many
    told = [] if boxed else [f"{minutes(len(prose.split()) / WORDS_A_MINUTE)} to read"]
    if spent is not None and not boxed:
        told.append(f"{minutes(spent)} to run on one core")
    outputs = [output for cell in nb["cells"] for output in cell.get("outputs", [])]
    noted = [output.get("metadata", {}).get("unlearnlib", {}).get("claim") for output in outputs]
    verdicts = [claim["verdict"] for claim in noted if claim]
    if verdicts:
        counted = [(verdicts.count(v), v) for v in ("holds", "fails", "open") if v in verdicts]
        said = ", ".join(f"{n} {v if n == 1 or v == 'open' else v.rstrip('s')}" for n, v in counted)
        told.append(f"{len(verdicts)} claims: {said}" if len(verdicts) > 1 else f"1 claim: {said}")
    return f'<p class="chapter-facts">{html.escape(" · ".join(told))}</p>' if told else ""


class Chapter(SphinxTransform):
    """Number in the title (and so in the side bar), facts below it, cells of plumbing folded."""

    default_priority = 670

    def apply(self, **_) -> None:
        docname = self.env.docname
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code" and not cell.get("hide_mode"):
                if PLUMBING.search(next(iter(cell.findall(nodes.literal_block)), nodes.Text("")).astext()):
                    cell["hide_mode"] = "input"
                    cell.setdefault("prompt_show", "Show code cell {type}")
                    cell.setdefault("prompt_hide", "Hide code cell {type}")
        if number(docname) is None:
            return
        title = next(iter(self.document.findall(nodes.title)), None)
        path = Path(self.env.doc2path(docname))
        if title is None or path.suffix != ".ipynb":
            return
        if not _NUMBERED.match(title.astext()):
            title.insert(0, nodes.Text(f"{number(docname):02d}. "))
        timings = Path(self.env.srcdir) / "book/timings.json"
        self.env.note_dependency(str(timings))
        spent = json.loads(timings.read_text(encoding="utf-8")).get(f"{docname}.ipynb") if timings.is_file() else None
        nb = json.loads(path.read_text(encoding="utf-8"))
        title.parent.insert(1, nodes.raw("", facts(nb, spent), format="html"))


def setup(app):
    app.add_transform(Chapter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
