"""Generated pages: what they say, and that MyST reads it as it was meant."""

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from unlearnlib.publishing import bookkeeping, markup, notebooks, pages, provenance

CLAIMS = [
    ("SISA retrains only the shards that are hit", "holds", "3 of 9 | 0.33"),
    ("Costs $x_1$ < *y* and `a|b`, see scrub.py", "fails", ""),
    ("# of <b>layers</b> & more", "open", "1. one"),
]


def rendered(text):
    """HTML of what the book's parser makes of it, with links found as the book finds them."""
    parser = MarkdownIt("gfm-like").use(dollarmath_plugin).use(myst_block_plugin).use(myst_role_plugin)
    return parser.render(text)


def shown(text):
    """What a reader sees of a text: HTML without tags, entities resolved."""
    bare = re.sub(r"<[^>]+>", "", rendered(text))
    return bare.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&").strip()


def page(claims=(), title="A page", record=None):
    outputs = [
        {
            "output_type": "display_data",
            "data": {"text/plain": ""},
            "metadata": {"unlearnlib": {"claim": {"text": t, "verdict": v, "evidence": e}}},
        }
        for t, v, e in claims
    ]
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"Before\n\n# {title}\n\nText"},
        {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": 1, "outputs": outputs},
    ]
    return {"cells": cells, "metadata": {"unlearnlib": record or {}}, "nbformat": 4, "nbformat_minor": 5}


@pytest.mark.parametrize(
    "text",
    [
        "a * b_c * d_e ~ [x](y) {ref}`z` $1 and $2",
        "<script>alert(1)</script> &lt; &",
        "scrub.py, https://example.org/a, me@example.org, example.com",
        "- one",
        "1. two",
        "# three",
        "% four",
        "(label)=",
        "back\\slash | pipe ^ caret",
    ],
)
def test_plain_text_is_shown_as_it_is(text):
    html = rendered(markup.plain(text))
    assert "<a" not in html and "<li" not in html and "<h1" not in html and "<script" not in html and "math" not in html
    assert shown(markup.plain(text)) == text.replace("`", "")


def test_all_claims_are_listed_with_verdict_evidence_and_place():
    found = {Path("notebooks/sisa.ipynb"): page(CLAIMS), Path("book/benchmarks/sisa.ipynb"): page(CLAIMS[:1])}
    text = pages.claims({**found, Path("notebooks/silent.ipynb"): page()})
    assert "Claims: 4; holding: 2; failing: 1; open" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["A page", "A page (benchmark)"]
    assert re.findall(r"\]\(([^)]+)\)", text) == ["../../notebooks/sisa.ipynb", "../benchmarks/sisa.ipynb"]
    html = rendered(text)
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", html)
    assert len(rows) == 4
    anchor = bookkeeping.claim_anchor(CLAIMS[0][0])
    assert rows[0][0] == f'<a href="../../notebooks/sisa.html#{anchor}">holds</a>'
    assert rows[3][0] == f'<a href="../benchmarks/sisa.html#{anchor}">holds</a>'
    assert rows[0][1:] == ("SISA retrains only the shards that are hit", "3 of 9 | 0.33")
    assert rows[1][1] == "Costs $x_1$ &lt; *y* and <code>a|b</code>, see scrub.py"
    assert rows[2][1:] == ("# of &lt;b&gt;layers&lt;/b&gt; &amp; more", "1. one")


def test_the_anchor_is_the_one_on_the_page(monkeypatch):
    outputs = []
    monkeypatch.setattr(bookkeeping, "_show", lambda data, noted: outputs.append(data["text/html"]))
    bookkeeping.claim("It forgets", True)
    assert f'id="{bookkeeping.claim_anchor("It forgets")}"' in outputs[0]


def test_status_says_what_is_stale_and_what_made_each_page():
    record = {
        "parameters": {"name": "a|b", "seeds": 3, "lr": 0.1},
        "data": {"mnist5k": "0123456789abcdef"},
        "versions": {"torch": "2.14.1"},
        "mode": "pinned",
    }
    fresh, stale = Path("notebooks/a.ipynb"), Path("book/benchmarks/b.ipynb")
    states = {
        fresh: provenance.State(fresh, (), False),
        stale: provenance.State(stale, ("code: unlearnlib.training",), True),
    }
    text = pages.status({fresh: page(record=record), stale: page(title="B")}, states, {"notebooks/a.ipynb": 1.25})
    assert "Fresh pages: 1; stale pages: 1." in text
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", rendered(text), re.DOTALL)]
    first, second, made, _ = [row for row in cells if row]
    assert first[1:] == ["fresh", "1.2", "pinned"]
    assert second[1:] == ["stale: code: unlearnlib.training", "not measured", "unknown"]
    assert made[1:] == [
        "<code>name = 'a|b'</code>, <code>lr = 0.1</code>",
        "<code>seeds = 3</code>",
        "mnist5k 0123456789ab",
        "torch 2.14.1",
    ]


def test_pages_are_generated_from_what_is_committed_and_rewritten_only_if_they_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("notebooks", "book"):
        Path(folder).mkdir()
    notebooks.write_text("notebooks/a.ipynb", notebooks.dumps(page(CLAIMS, title="A")))
    notebooks.write_text("notebooks/b.partial.ipynb", "half a page")
    Path("book/timings.json").write_text(json.dumps({"notebooks/a.ipynb": 2}))
    written = pages.generate()
    tables = ["performance-table.md", "operations-table.md", "growth-table.md"]
    names = [p.name for p in written]
    assert names[:3] == ["claims.md", "status.md", "methods.md"] and set(tables) < set(names)
    assert {"board.html", "board-ranks.md", "results.csv", "results.parquet", "datapackage.json"} < set(names)
    assert all(p.exists() for p in written) and not any(name.startswith("guide-ret") for name in names)
    assert "never run by the runner" in Path("book/generated/status.md").read_text()
    before = [p.stat().st_mtime_ns for p in written]
    pages.generate()
    assert [p.stat().st_mtime_ns for p in written] == before


def test_a_copy_on_other_data_is_told_from_its_chapter():
    made = page(title="A", record={"parameters": {"dataset": "cifar10", "forget": "class:3", "seed": 1}})
    assert pages._title(Path("notebooks/01-a.ipynb"), made) == "A"
    assert pages._title(Path("book/benchmarks/01-cifar10.ipynb"), made) == "A (cifar10, class:3)"
    assert pages._title(Path("book/benchmarks/01-b.ipynb"), page(title="A")) == "A (benchmark)"
