"""The checks of the built book see planted defects, and docstrings in plain text become valid pages."""

import ast
import base64
import copy
import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import check_reproduction
import check_site
import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).resolve().parents[1]
TOC = {"root": "index", "parts": [{"chapters": [{"file": "notebooks/01-one", "sections": [{"file": "book/two"}]}]}]}
POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'">"""
WORDS = "<p>" + "word " * 70 + "</p>"


def _extension():
    spec = importlib.util.spec_from_file_location("book_site", ROOT / "book/_ext/book_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


book_site = _extension()


# --- check_site


@pytest.fixture
def site(tmp_path):
    """A sound little book of three pages."""
    for folder in ("notebooks", "book", "_images", "_static"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_images/plot.png").write_bytes(b"png")
    (tmp_path / "_static/style.css").write_text("body { background: url(plot.png) } /* url(https://a.example/x) */")
    (tmp_path / "index.html").write_text(
        f'{POLICY}<link rel="stylesheet" href="_static/style.css"><link rel="canonical" href="https://a.example/">{WORDS}'
        '<a href="notebooks/01-one.html#here">one</a> <a href="https://a.example/">elsewhere</a>'
    )
    (tmp_path / "notebooks/01-one.html").write_text(
        f'{POLICY}<h1 id="here">One</h1>{WORDS}<img src="../_images/plot.png" alt="A plot">'
    )
    (tmp_path / "book/two.html").write_text(POLICY + WORDS)
    return tmp_path


def failures(site: Path) -> str:
    return "\n".join(check_site.check(site, TOC)[1])


def test_sound_book_passes_every_check(site):
    done, wrong = check_site.check(site, TOC)
    assert wrong == [] and done > 10


@pytest.mark.parametrize(
    ("page", "planted", "message"),
    [
        ("index.html", '<script src="https://cdn.example/x.js"></script>', "asks another host"),
        ("index.html", '<link rel="stylesheet" href="//cdn.example/x.css">', "asks another host"),
        ("index.html", '<img alt="x" src="_images/plot.png" srcset="https://a.example/2.png 2x">', "asks another host"),
        ("index.html", "<style>@import 'https://a.example/f.css';</style>", "asks another host"),
        ("index.html", '<p style="background: url(https://a.example/i.png)">x</p>', "asks another host"),
        ("index.html", '<script src="_static/gone.js"></script>', "files that are not there"),
        ("index.html", '<a href="book/none.html">x</a>', "links to nothing"),
        ("index.html", '<a href="notebooks/01-one.html#nowhere">x</a>', "links to nothing"),
        ("book/two.html", '<img src="../_images/plot.png" alt=" ">', "without alternative text"),
    ],
)
def test_planted_defect_is_seen(site, page, planted, message):
    with open(site / page, "a", encoding="utf-8") as file:
        file.write(planted)
    assert message in failures(site)


def test_missing_empty_and_figureless_pages_are_seen(site):
    (site / "book/two.html").write_text("<p>short</p>")
    (site / "notebooks/01-one.html").write_text('<h1 id="here">One</h1>' + WORDS)
    assert "two.html says almost nothing" in failures(site) and "01-one.html shows no figure" in failures(site)
    (site / "book/two.html").write_text(WORDS)
    assert "two.html has no policy" in failures(site)
    (site / "book/two.html").unlink()
    assert "two.html is missing" in failures(site)


def test_empty_figure_and_foreign_style_sheet_are_seen(site):
    (site / "_images/plot.png").write_bytes(b"")
    (site / "_static/style.css").write_text("@font-face { src: url('https://fonts.example/f.woff2') }")
    assert "files that are not there" in failures(site) and "style.css asks another host" in failures(site)


def test_text_of_scripts_and_styles_does_not_count_as_text(site):
    (site / "book/two.html").write_text("<script>" + "word " * 70 + "</script>")
    assert "two.html says almost nothing" in failures(site)


# --- check_reproduction


def _notebook(verdict="holds", accuracy="0.91", untested="a"):
    claim = {"claim": {"text": "It forgets.", "verdict": verdict, "evidence": accuracy}}
    shown = {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {"unlearnlib": claim}}
    table = {"output_type": "stream", "name": "stdout", "text": [f"accuracy {accuracy}\n"]}
    loose = {"output_type": "stream", "name": "stdout", "text": untested}
    tags = {"tags": ["nbval-check-output"]}
    cells = [
        {"cell_type": "code", "metadata": tags, "outputs": [shown, table]},
        {"cell_type": "code", "metadata": {}, "outputs": [loose]},
        {"cell_type": "markdown", "metadata": {}},
    ]
    return {"cells": cells}


def test_only_what_the_book_says_counts_as_a_difference():
    assert check_reproduction.said(_notebook()) == ["[holds] It forgets.", "accuracy 0.91"]
    assert check_reproduction.differences(_notebook(), _notebook(untested="b")) == []
    assert check_reproduction.differences(_notebook(), _notebook("fails")) == [
        "- [holds] It forgets.",
        "+ [fails] It forgets.",
    ]
    assert check_reproduction.differences(_notebook(), _notebook(accuracy="0.92")) == [
        "- accuracy 0.91",
        "+ accuracy 0.92",
    ]


def test_a_claim_that_vanished_is_a_difference():
    after = copy.deepcopy(_notebook())
    after["cells"][0]["outputs"] = after["cells"][0]["outputs"][1:]
    assert check_reproduction.differences(_notebook(), after) == ["- [holds] It forgets."]


# --- the library's pages


def test_every_public_module_is_described_on_one_page():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book/api").glob("*.md")}
    modules = book_site.public_modules()
    assigned = book_site.assign(pages, modules)
    assert sorted(m for ms in assigned.values() for m in ms) == modules
    floors = {
        "core": ["seeding", "store", "data", "training"],
        "methods": ["methods", "exact", "approximate", "dlfd", "private"],
        "audits": ["audit"],
        "studies": ["studies"],
        "publishing": ["publishing"],
    }
    for page, rooms in floors.items():
        assert {f"unlearnlib.{room}" for room in rooms} <= set(assigned[page])
    assert not any("._" in m for m in modules)


def test_the_longest_pattern_that_fits_wins():
    pages = {"all": "% modules: lib.*", "some": "text\n\n% modules: lib.a.* lib.b\n", "none": "no comment"}
    assert book_site.assign(pages, ["lib.a.x", "lib.b", "lib.c"]) == {
        "all": ["lib.c"],
        "some": ["lib.a.x", "lib.b"],
        "none": [],
    }


def _tree(docstring: str, parameters=()):
    lines = book_site.plain_text(docstring.splitlines(), parameters)
    return publish_doctree("\n".join(lines), settings_overrides={"report_level": 2, "halt_level": 2})


def test_plain_text_docstring_is_valid_and_says_the_same():
    docstring = """Move |x| away from p_* and w_ by 2*3 steps of `step` (see *this*).

    max_theta  E_F KL(p_theta0 || p_theta)

Prose again:
    indented at once
- first item, which
  goes on
- second_ item
1. numbered

name    what it is
other   another
A last line with a back\\slash."""
    tree = _tree(docstring)
    paragraph = tree[0].astext()
    assert paragraph == "Move |x| away from p_* and w_ by 2*3 steps of step (see *this*)."
    kinds = [node.tagname for node in tree.children]
    expected = "paragraph literal_block paragraph literal_block bullet_list enumerated_list literal_block paragraph"
    assert kinds == expected.split()
    assert "max_theta  E_F KL(p_theta0 || p_theta)" in tree[1].astext()
    assert [item.astext() for item in tree[4]] == ["first item, which\ngoes on", "second_ item"]
    assert tree[-1].astext() == "A last line with a back\\slash."


def test_columns_of_parameters_become_definitions_and_other_columns_stay():
    docstring = """Do it.

    model     the one to change,
              which is copied
    low, high   its range

    max_theta  E_F
"""
    tree = _tree(docstring, ["model", "low", "high", "seed"])
    assert [node.tagname for node in tree.children] == ["paragraph", "definition_list", "literal_block"]
    said = [[part.astext() for part in item] for item in tree[1]]
    assert said == [["model", "the one to change,\nwhich is copied"], ["low, high", "its range"]]
    assert tree[2].astext().strip() == "max_theta  E_F"


def test_docstrings_of_the_library_are_valid_pages():
    """None makes the page builder complain."""
    for path in sorted((ROOT / "unlearnlib").rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        documented = [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = [ast.get_docstring(node) or "" for node in documented]
        # A comment ends whatever construct is open, so that one document a file does for all.
        text = "\n\n.. next\n\n".join("\n".join(book_site.plain_text(d.splitlines())) for d in docstrings)
        publish_doctree(text, source_path=str(path), settings_overrides={"report_level": 2, "halt_level": 2})


# --- the rest of the extension


def test_a_page_gets_a_policy_that_knows_its_scripts():
    """The digest of `1` as `printf 1 | sha256sum` gives it, in base 64."""
    head = '<html><head><meta charset="utf-8"/><script>1</script><script src="a.js"></script>'
    page = book_site.with_policy(f'{head}<script type="x">1</script></head>')
    found = check_site.Page(page)
    assert "script-src 'self' 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='; " in found.policy
    assert found.policy.count("sha256") == 1 and "://" not in found.policy
    assert page.index("Content-Security-Policy") < page.index("<script>") and "unsafe" not in found.policy.split(";")[1]


def test_handlers_of_buttons_are_known_scripts_too():
    """`a && b` stands escaped in the page; what is allowed is what the browser runs."""
    page = book_site.with_policy('<meta charset="utf-8"><button onclick="a &amp;&amp; b">x</button>')
    code = base64.b64encode(hashlib.sha256(b"a && b").digest()).decode()
    assert f"script-src 'self' 'unsafe-hashes' 'sha256-{code}'; " in check_site.Page(page).policy


def test_a_script_that_writes_tags_is_one_script():
    script = "let a = '<b>x</b>' + '</i>'; // &amp;"
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = book_site.with_policy(f'<meta charset="utf-8"><script>{script}</script><p>x')
    assert f"script-src 'self' 'sha256-{code}'; " in check_site.Page(page).policy


def test_every_built_page_gets_a_policy_once(tmp_path):
    (tmp_path / "_static").mkdir()
    for name in ("page.html", "_static/template.html"):
        (tmp_path / name).write_text('<meta charset="utf-8"><p>text')
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    book_site.forbid_other_hosts(app, None)
    once = (tmp_path / "page.html").read_text()
    book_site.forbid_other_hosts(app, None)
    assert (tmp_path / "page.html").read_text() == once and once.count("Content-Security-Policy") == 1
    assert "Security" not in (tmp_path / "_static/template.html").read_text()


def test_mathematics_comes_from_an_installed_package(tmp_path):
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    book_site.copy_mathjax(app)
    assert (tmp_path / "_static/mathjax/tex-chtml-full.js").stat().st_size > 1_000_000
    assert len(list((tmp_path / "_static/mathjax/output/chtml/fonts/woff-v2").glob("*.woff"))) > 10
