"""Markdown for the generated pages of the book: text that stays text, code spans, tables, docstrings."""

import inspect
import re
from collections.abc import Sequence

UNMEASURED = "Nothing has been measured yet.\n"  # in place of a fragment whose results file is not there


def plain(text: str) -> str:
    """Text as MyST shows it unchanged: no markup, maths or links are read into it. Spans in backticks stay code."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") and len(part) > 2 else _bare(part) for part in parts
    )


def _bare(text: str) -> str:
    text = re.sub(r"([\\`*_{}\[\]<>$|&~^@])", r"\\\1", text)
    text = re.sub(r"^(\s*)([-+#%=(])", r"\1\\\2", text, flags=re.MULTILINE)
    text = re.sub(r"^(\s*\d+)([.)])(?=\s)", r"\1\\\2", text, flags=re.MULTILINE)
    # A name like scrub.py looks like an address in Paraguay to the link finder.
    return re.sub(r"(?<=\w)([.:])(?=[A-Za-z/])", r"\\\1", text)


def code(text: str) -> str:
    """Text as a code span, in which quotes stay straight; it may stand in a table. Empty text stays empty."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|") if text else ""


def grid_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)


def described(doc: str) -> str:
    """A docstring as MyST: paragraphs as text, blocks with indented lines (equations, tables) as they stand."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    shown = []
    for block in filter(str.strip, blocks):
        indented = any(line.startswith("  ") for line in block.splitlines())
        emphasised = re.sub(r"\\\*(\w[\w -]*\w)\\\*", r"*\1*", plain(block))  # docstrings use *word* sparingly
        shown.append(f"```text\n{inspect.cleandoc(chr(10) + block)}\n```" if indented else emphasised)
    return "\n\n".join(shown)
