"""Figures and tables of executed notebooks as a page shows them: numbered, captioned, with their numbers to take away.

A figure gets a number, its caption (the cell's `mystnb.figure.caption`, else its alternative text), the second picture
for phones and a link to its data; the runner has stored all of that in the output (`publishing.figures.shown`), and a
picture of an older run is shown as it is. A table gets a number and a link to its csv; one of more than five columns
shows five, and the whole of it unfolds. Nothing is computed here.
"""

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from docutils import nodes
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx.transforms import SphinxTransform

NOTEBOOKS = re.compile(r"(?:notebooks|book/benchmarks)/(\d\d)-[\w-]+$")
CHAPTER = re.compile(r"notebooks/(\d\d)-")
DATA = "_data"  # folder of the built book
COLUMNS = 5  # of a table, as first shown
PHONE = "(max-width: 600px)"
FITS = 358  # CSS pixels that a phone of 390 leaves for a figure
_ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
_CELL = re.compile(r"<(th|td)([^>]*)>(.*?)</\1>", re.DOTALL)
_ESTIMATE = re.compile(r"(-?[\d.]+|n/a) (?:± ([\d.]+|inf|n/a)|([+-](?:[\d.]+|inf)) ([+-](?:[\d.]+|inf)))")


def number(docname: str) -> int | None:
    """The number of a chapter, from the name of its file; None for other pages."""
    found = CHAPTER.match(docname)
    return int(found[1]) if found else None


def outputs(nb: Mapping) -> Iterator[tuple[Mapping, Mapping]]:
    """(cell, output) of a notebook's pictures and tables, in order."""
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data or "table-wrap" in _text(data.get("text/html", "")):
                yield cell, output


def _text(lines) -> str:
    return "".join(lines)


def picture(output: Mapping) -> bytes:
    return base64.b64decode(_text(output["data"]["image/png"]))


def told(output: Mapping) -> Mapping:
    """What the runner stored beside a picture; empty for one of an older run."""
    return output.get("metadata", {}).get("image/png", {})


def key(content: bytes | str) -> str:
    return hashlib.sha256(content.strip().encode() if isinstance(content, str) else content).hexdigest()


def attachments(nb: Mapping, stem: str) -> dict[str, bytes]:
    """File name -> content of what a page offers beside itself: narrow pictures, and the data of figures and tables."""
    found: dict[str, bytes] = {}
    figures = tables = 0
    for _, output in outputs(nb):
        if "image/png" in output["data"]:
            figures += 1
            found[f"{stem}-figure-{figures}.png"] = picture(output)
            extra = told(output).get("unlearnlib", {})
            if extra.get("narrow"):
                found[f"{stem}-figure-{figures}-narrow.png"] = base64.b64decode(extra["narrow"])
            if extra.get("data"):
                found[f"{stem}-figure-{figures}.csv"] = extra["data"].encode()
        else:
            tables += 1
            found[f"{stem}-table-{tables}.csv"] = as_csv(_text(output["data"]["text/html"])).encode()
    return found


# --- tables


def rows_of(page: str) -> list[list[tuple[str, str, str]]]:
    """Rows of a table of `bookkeeping.table`, the head first: (tag, attributes, content) a cell."""
    return [_CELL.findall(row) for row in _ROW.findall(page)]


def as_csv(page: str) -> str:
    """The table as csv; a column of estimates becomes three, the value and the ends of its interval."""
    head, *body = [[html.unescape(content) for _, _, content in row] for row in rows_of(page)]
    columns: list[tuple[str, list[str]]] = []
    for name, column in zip(head, zip(*body, strict=True), strict=True):
        if any(map(_ESTIMATE.fullmatch, column)):
            ends = [_ends(cell) for cell in column]
            columns += [(f"{name}{part}", [e[i] for e in ends]) for i, part in enumerate(("", "_low", "_high"))]
        else:
            columns.append((name, list(column)))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [[n for n, _ in columns], *zip(*(c for _, c in columns), strict=True)]
    )
    return out.getvalue()


def _ends(cell: str) -> tuple[str, str, str]:
    found = _ESTIMATE.fullmatch(cell)
    if not found or "n/a" in cell:
        return cell.partition(" ")[0], "", ""
    value, half, up, down = found.groups()
    places = len(value.partition(".")[2])
    sides = (float(half), -float(half)) if half else (float(up), float(down))
    return value, *(f"{float(value) + side:.{places}f}" for side in reversed(sides))


def leading(head: list[str], lead: str) -> list[int]:
    """Places of the columns that are shown first: the named ones, else the first four and the cost, else the first."""
    if lead:
        return [head.index(name) for name in html.unescape(lead).split("|") if name in head]
    first = list(range(min(len(head), COLUMNS)))
    costs = [i for i, name in enumerate(head) if name == "cost" and i >= COLUMNS]
    return [*first[:-1], costs[0]] if costs else first


def table_html(page: str, label: str, where: str) -> str:
    """The table of a page with its number, at most five columns wide, and a link to its csv."""
    rows = rows_of(page)
    head = [html.unescape(content) for _, _, content in rows[0]]
    found = re.search(r'data-lead="([^"]*)"', page)
    chosen = leading(head, found[1] if found else "")
    caption = re.search(r"<caption>(.*?)</caption>", page, re.DOTALL)
    title = f'<caption><span class="caption-number">{label}</span> {caption[1] if caption else ""}</caption>'
    whole = re.sub(r"(<table[^>]*>)(?:<caption>.*?</caption>)?", "\\1\n", page, count=1, flags=re.DOTALL)
    link = f'<a class="data-link" href="{where}" download>csv</a>'
    if len(head) <= COLUMNS:
        shown = whole.replace("\n", title, 1) if caption or label else page
        return f'<div class="result">{_named(shown, label)}<p class="data-links">{link}</p></div>'
    body = ["".join("<{0}{1}>{2}</{0}>".format(*row[i]) for i in chosen) for row in rows]
    short = (
        f'<div class="table-wrap" role="region" tabindex="0" aria-label="{label}">'
        f'<table class="dataframe">{title}<thead><tr>{body[0]}</tr></thead>'
        f"<tbody>{chr(10).join(f'<tr>{row}</tr>' for row in body[1:])}</tbody></table></div>"
    )
    whole = f"<summary>All {len(head)} columns</summary>{_named(whole, f'{label}, whole')}"
    fold = f'<details class="whole-table">{whole}</details>'
    return f'<div class="result">{short}<div class="data-links">{fold}{link}</div></div>'


def _named(page: str, name: str) -> str:
    return re.sub(r'aria-label="[^"]*"', f'aria-label="{name}"', page, count=1)


# --- figures


def picture_html(where: str, extra: Mapping, alt: str) -> str:
    """The picture at its drawn size, and the narrow one for phones; what is wider than they are scrolls there."""
    ours, alt = extra.get("unlearnlib"), html.escape(alt, quote=True)
    if not ours:
        return f'<picture><img class="drawn" src="{where}.png" alt="{alt}" loading="lazy" /></picture>'
    told = f'data-points="{ours["points"]}" data-wide="{extra["width"]}" data-narrow="{ours["narrow_width"]}"'
    size = f'width="{extra["width"]}" height="{extra["height"]}"'
    image = f'<img class="drawn" src="{where}.png" alt="{alt}" {size} {told} loading="lazy" />'
    size = f'width="{ours["narrow_width"]}" height="{ours["narrow_height"]}"'
    source = f'<source media="{PHONE}" srcset="{where}-narrow.png" {size} />' if ours["narrow"] else ""
    if source and ours["narrow_width"] <= FITS:
        return f"<picture>{source}{image}</picture>"
    label = 'role="region" tabindex="0" aria-label="figure, scrolls sideways"'
    return f'<div class="wide-picture" {label}><picture>{source}{image}</picture></div>'


class ShowResults(SphinxTransform):
    """Figures and tables of a notebook's outputs, numbered in their order on the page."""

    default_priority = 680

    def apply(self, **_) -> None:
        docname = self.env.docname
        if not NOTEBOOKS.match(docname):
            return
        nb = json.loads(Path(self.env.doc2path(docname)).read_text(encoding="utf-8"))
        found, figures, tables = {}, 0, 0
        for cell, output in outputs(nb):
            if "image/png" in output["data"]:
                figures += 1
                found[key(picture(output))] = (figures, cell, output)
            else:
                tables += 1
                found[key(_text(output["data"]["text/html"]))] = (tables, cell, output)
        place = "../" * docname.count("/") + f"{DATA}/{docname.rpartition('/')[2]}"
        chapter = number(docname)
        for image in list(self.document.findall(nodes.image)):
            known = found.get(Path(image["uri"]).stem)
            if known and _in_output(image):
                self._figure(image, known, f"{place}-figure-{known[0]}")
        for raw in list(self.document.findall(nodes.raw)):
            known = found.get(key(raw.astext())) if "table-wrap" in raw.astext() else None
            if known:
                label = f"Table&nbsp;{f'{chapter}.' if chapter else ''}{known[0]}"
                shown = table_html(raw.astext(), label, f"{place}-table-{known[0]}.csv")
                raw.replace_self(nodes.raw("", shown, format="html", classes=raw["classes"]))

    def _figure(self, image: nodes.image, known, where: str) -> None:
        count, cell, output = known
        extra = told(output)
        alt = image.get("alt") or ""
        shown = nodes.raw("", picture_html(where, extra, alt), format="html")
        around = image.parent
        while around is not None and not isinstance(around, nodes.figure):
            around = around.parent
        figure = around or nodes.figure()
        if not figure["ids"]:
            figure["ids"].append(f"figure-{count}")
        if around is None:
            image.replace_self(figure)
            figure += shown
            if alt:
                figure += nodes.caption(alt, alt.rstrip(".") + ".")
        else:
            image.replace_self(shown)
        if extra.get("unlearnlib", {}).get("data"):
            link = f' <a class="data-link" href="{where}.csv" download>Data (csv).</a>'
            captions = [child for child in figure.children if isinstance(child, nodes.caption)]
            for caption in captions[:1]:
                caption += nodes.raw("", link, format="html")


def _in_output(node: nodes.Node) -> bool:
    while node is not None and node.get("nb_element") != "mime_bundle":
        node = node.parent
    return node is not None


# --- the build


def number_figures(app, env) -> list[str]:
    """Number figures within chapters by the name of the file: Figure 8.2 is the second of 08."""
    numbered = env.toc_secnumbers
    env.toc_secnumbers = {name: {"": (n,)} for name in env.all_docs if (n := number(name))}
    changed = TocTreeCollector().assign_figure_numbers(env)
    env.toc_secnumbers = numbered
    return changed


def write_attachments(app, exception) -> None:
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / DATA
    folder.mkdir(exist_ok=True)
    for docname in sorted(filter(NOTEBOOKS.match, app.env.all_docs)):
        nb = json.loads(Path(app.env.doc2path(docname)).read_text(encoding="utf-8"))
        for name, content in attachments(nb, docname.rpartition("/")[2]).items():
            (folder / name).write_bytes(content)


def setup(app):
    app.add_transform(ShowResults)
    app.connect("env-get-updated", number_figures, priority=900)
    app.connect("build-finished", write_attachments, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
