"""A small project in place of the book: one page, and a library of its own (the real one imports every method)."""

import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("publishing", "store")  # copied; neither imports more than it uses

PAGE = [
    "# A page\n\nWith one thought.",
    "from unlearnlib import toy\nfrom unlearnlib.publishing import bookkeeping",
    ('factor = 2  # of the doubling\nrate = 0.5\nname = "digits"\nfail = False\nkeep = False', "parameters"),
    'bookkeeping.begin("page")',
    "value = toy.scaled(factor) * rate\nprint(value, toy)\nprint(object())",
    "if fail:\n    raise ArithmeticError('first line\\nthe page was told to fail')",
    ("bookkeeping.claim('The value is small', value < 10, f'value {value}')", "nbval-check-output"),
    "if keep:\n    import pandas as pd\n\n    bookkeeping.record(pd.DataFrame({'value': [value]}))",
    "bookkeeping.reproduce()",
]
TOY = '"""Toy."""\n\n\ndef scaled(x):\n    """Scaled by two."""\n    return 2 * x  # doubled\n'


def notebook(cells):
    """A notebook as an author leaves it: sources, tags, no outputs. The first line of a cell with "# " is a title."""
    made = []
    for cell in cells:
        source, *tags = (cell,) if isinstance(cell, str) else cell
        if source.startswith("# "):
            made.append(nbformat.v4.new_markdown_cell(source))
        else:
            made.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {}))
    kernel = {"name": "python3", "display_name": "x", "language": "python"}
    return nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def make(folder: Path) -> Path:
    """Lay the project out in `folder`; returns its package."""
    package = folder / "unlearnlib"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "1.0"\n')
    (package / "toy.py").write_text(TOY)
    for shared in (ROOT / "unlearnlib").glob("_[a-z]*.py"):
        shutil.copy(shared, package)
    for room in ROOMS:
        shutil.copytree(ROOT / "unlearnlib" / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "book"):
        (folder / name).mkdir()
    nbformat.write(notebook(PAGE), folder / "notebooks" / "page.ipynb")
    return package
