"""What the book needs beyond jupyter-book: offline mathematics, pages of the library, and a policy
that keeps every page from asking another host.

The pages under `book/api` name modules in a comment, `% modules: unlearnlib.audit.*`; each module of the package is
described on the page with the longest pattern that fits it, so a new module needs no new page.
"""

import base64
import hashlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Collection
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

CODE = re.compile(r"(``.+?``|`.+?`)")
ITEM = re.compile(r"(- |\d+\. )")
COLUMN = re.compile(r"(\S+(?: \S+)?) {2,}(\S.*)")
CHARSET = re.compile(r"<meta charset=[^>]*>", re.IGNORECASE)
POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
)
MARK = re.compile(r"^% modules: (.+)$", re.MULTILINE)


def copy_mathjax(app) -> None:
    """Put MathJax, one script and its fonts, under `_static/mathjax` of the built book."""
    if app.builder.format != "html":
        return
    source = Path(str(resources.files("mathjax"))) / "static/mathjax/es5"
    target = Path(app.outdir) / "_static/mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / "tex-chtml-full.js", target)
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)


class _Scripts(HTMLParser):
    """The scripts that stand in a page, those of its buttons' handlers (onclick="...") among them."""

    def __init__(self, page: str):
        super().__init__()
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.handlers += [code for name, code in attrs if name.startswith("on") and code]
        if tag == "script" and not any(name == "src" for name, _ in attrs):
            self.scripts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:  # may come in pieces
            self.scripts[-1] += data


def with_names(page: str) -> str:
    """A page whose switches of the side bar say what they do to those who hear it."""
    return page.replace(
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="show or hide sections"><span class="toctree-toggle"',
    )


def with_policy(page: str, handlers: Collection[str] = ()) -> str:
    """A page with a content security policy: files of its own host, and the scripts that stand in it now, no others.

    handlers    of the other pages: a search reads those

    Styles may stand in the page, because the typesetting of mathematics writes them.
    """
    found = _Scripts(page)
    known = [*found.scripts, *found.handlers, *handlers]
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in known]
    allowed = ["unsafe-hashes"] if found.handlers or handlers else []
    allowed += [f"sha256-{digest}" for digest in digests]
    policy = POLICY.format(hashes="".join(f" '{source}'" for source in dict.fromkeys(allowed)))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}" />'
    return CHARSET.sub(lambda charset: f"{charset[0]}\n    {meta}", page, count=1)


def forbid_other_hosts(app, exception) -> None:
    """Give every page that was built its policy and its switches their names; earlier ones have theirs."""
    if exception is not None or app.builder.format != "html":
        return
    built = sorted(path for path in Path(app.outdir).rglob("*.html") if "_static" not in path.parts)
    pages = {path: path.read_text(encoding="utf-8") for path in built}
    handlers = sorted({code for page in pages.values() for code in _Scripts(page).handlers})
    for path, page in pages.items():
        if "Content-Security-Policy" not in page:
            path.write_text(with_policy(with_names(page), handlers), encoding="utf-8")


def public_modules(package: str = "unlearnlib") -> list[str]:
    """All modules of the package whose path has no leading underscore, without importing them."""

    def walk(folder: Path, prefix: str):
        for module in pkgutil.iter_modules([str(folder)]):
            if not module.name.startswith("_"):
                yield f"{prefix}.{module.name}"
                if module.ispkg:
                    yield from walk(folder / module.name, f"{prefix}.{module.name}")

    return sorted(walk(Path(str(resources.files(package))), package))


def assign(pages: dict[str, str], modules: list[str]) -> dict[str, list[str]]:
    """Page name -> the modules described there; `pages` maps names to texts with `% modules:` comments."""
    patterns = {page: " ".join(MARK.findall(text)).split() for page, text in pages.items()}
    assigned: dict[str, list[str]] = {page: [] for page in pages}
    for module in modules:
        fits = [(len(p), page) for page, ps in patterns.items() for p in ps if fnmatchcase(module, p)]
        if fits:
            assigned[max(fits)[1]].append(module)
    return assigned


def describe_modules(app, docname: str, source: list[str]) -> None:
    """Replace the first `% modules:` comment of a page by the descriptions of its modules."""
    if not docname.startswith("book/api/"):
        return
    folder = Path(app.srcdir) / "book/api"
    pages = {f"book/api/{path.stem}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    modules = assign(pages, public_modules())[docname]
    options = "   :members:\n   :ignore-module-all:"
    blocks = [f"## {m.partition('.')[2]}\n\n```{{eval-rst}}\n.. automodule:: {m}\n{options}\n```\n" for m in modules]
    source[0] = MARK.sub(lambda _: "\n".join(blocks), source[0], count=1)


def _escape(text: str) -> str:
    """Prose for reStructuredText: `code` becomes literal, and no other character is markup."""
    pieces = CODE.split(text)
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = f"``{piece.strip('`')}``"
        else:
            pieces[i] = re.sub(r"_(?=\W|$)", r"\\_", re.sub(r"([\\*|`])", r"\\\1", piece))
    return "".join(pieces)


def plain_text(lines: list[str], parameters: Collection[str] = ()) -> list[str]:
    """Turn a plain-text docstring into reStructuredText.

    Docstrings are written to be read in the source: paragraphs, lists, columns of parameters, and equations set off
    by indentation. Lists stay lists, a column of `parameters` becomes definitions, other indented lines and columns
    become literal blocks, and everything else is prose in which `|x|`, `p_*` or `w_` mean themselves.
    """
    out: list[str] = []
    state = "prose"  # of the last line that was not blank
    left, hang = 0, ""  # of the last item: where it began, and how its next line is indented
    for line in lines:
        text = line.strip()
        if not text:
            out.append("")
            continue
        indent = len(line) - len(line.lstrip())
        item, column = ITEM.match(text), COLUMN.match(text)
        if column and set(column[1].split(", ")) <= set(parameters):
            if state != "definition":
                out.append("")
            out += [f"``{column[1]}``", f"    {_escape(column[2])}"]
            state, left, hang = "definition", indent, "    "
        elif item and not (indent and state == "literal"):
            if state != item.group()[-2:]:  # bullets and numbers are two lists
                out.append("")
            out.append(item.group() + _escape(text[item.end() :]))
            state, left, hang = item.group()[-2:], indent, " " * item.end()
        elif indent > left and state in ("definition", "- ", ". "):
            out.append(hang + _escape(text))
        elif indent or column:
            if state != "literal":
                out.extend(["", ".. code-block:: text", ""])
            out.append("    " + line)
            state = "literal"
        else:
            if state != "prose":
                out.append("")
            out.append(_escape(text))
            state = "prose"
    return out


def process_docstring(app, what, name, obj, options, lines) -> None:
    try:
        parameters = list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        parameters = []
    lines[:] = [*plain_text(lines, parameters), ""]


def setup(app):
    app.connect("builder-inited", copy_mathjax)
    app.connect("source-read", describe_modules)
    app.connect("build-finished", forbid_other_hosts)
    app.connect("autodoc-process-docstring", process_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
