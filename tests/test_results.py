"""Figures, tables, terms and the head of a chapter, as the book's extensions show them."""

import importlib.util
import sys
from pathlib import Path

import check_browser
import pandas as pd
import pytest
from docutils import nodes
from docutils.utils import new_document

from unlearnlib.publishing import tables

ROOT = Path(__file__).resolve().parents[1]


def _extension(name: str):
    sys.path.insert(0, str(ROOT / "book/_ext"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"book/_ext/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


results, terms, chapters, dials = map(_extension, ("book_results", "book_terms", "book_chapters", "book_dials"))
GLOSSARY = """# Glossary

:::{glossary}
forget set
  The examples that a *request* names, $F$ {cite:p}`a2020`. See {eq}`exact`.

original
oracle
  The model before.

LiRA
  An attack.
:::

after
"""


# --- results


def wide(**options):
    columns = {"a": [1, 2], "b": [3, 4], "c": [5, 6], "d": [7, 8], "e": [9, 10], "f": [11, 12], "cost": [0.1, 0.2]}
    return tables.render(pd.DataFrame({"method": ["x<y", "z"]} | columns), caption="All", **options)["text/html"]


def heads(page: str) -> list[str]:
    return [content for _, _, content in results.rows_of(page)[0]]


def test_a_wide_table_shows_five_columns_with_its_cost_and_unfolds_to_all():
    page = results.table_html(wide(), "Table 3.1", "../_data/t.csv")
    short, whole = page.split("<details")
    assert heads(short) == ["method", "a", "b", "c", "cost"] and len(heads(whole)) == 8
    assert "All 8 columns" in whole and "Table 3.1</span> All</caption>" in short and 'href="../_data/t.csv"' in page
    assert results.rows_of(short)[1][0] == ("th", ' scope="row"', "x&lt;y") or "x&lt;y" in short


def test_named_columns_lead():
    page = results.table_html(wide(lead=["method", "f"]), "Table 1", "t.csv")
    assert heads(page.split("<details")[0]) == ["method", "f"]


def test_a_narrow_table_stays_whole_with_its_number():
    page = tables.render(pd.DataFrame({"x": [1]}), caption="One")["text/html"]
    shown = results.table_html(page, "Table 3.2", "t.csv")
    assert "<details" not in shown and "Table 3.2</span> One" in shown and heads(shown) == ["x"]


def test_csv_gives_estimates_as_value_and_ends():
    frame = pd.DataFrame(
        {"m": ["a,b", "c", "d"], "x": [0.5, 0.98, None], "x_low": [0.4, 0.86, None], "x_high": [0.6, 1.0, None]}
    )
    lines = results.as_csv(tables.render(frame)["text/html"]).splitlines()
    assert lines == ["m,x,x_low,x_high", '"a,b",0.50,0.40,0.60', "c,0.98,0.86,1.00", "d,n/a,,"]


def cell(output: dict) -> dict:
    return {"cell_type": "code", "source": [], "metadata": {}, "outputs": [output]}


def test_a_page_offers_pictures_and_numbers_in_their_order():
    ours = {"narrow": "bm4=", "narrow_width": 3, "narrow_height": 4, "points": 9.0, "data": "x,y\n"}
    told = {"image/png": {"width": 5, "height": 6, "unlearnlib": ours}}
    nb = {
        "cells": [
            cell({"data": {"image/png": ["cG5n"]}, "metadata": told}),
            cell({"data": {"text/html": [wide()]}}),
            cell({"data": {"image/png": "b2xk"}, "metadata": {}}),
            cell({"data": {"text/html": "<p>no table</p>"}}),
        ]
    }
    found = results.attachments(nb, "03-x")
    assert list(found) == [
        "03-x-figure-1.png",
        "03-x-figure-1-narrow.png",
        "03-x-figure-1.csv",
        "03-x-table-1.csv",
        "03-x-figure-2.png",
    ]
    assert (found["03-x-figure-1.png"], found["03-x-figure-1-narrow.png"], found["03-x-figure-2.png"]) == (
        b"png",
        b"nn",
        b"old",
    )


def test_a_picture_has_its_drawn_size_and_a_second_one_for_phones():
    ours = {"narrow": "bm4=", "narrow_width": 3, "narrow_height": 4, "points": 9.0, "data": ""}
    page = results.picture_html("../_data/p", {"width": 5, "height": 6, "unlearnlib": ours}, 'a "plot"')
    assert 'srcset="../_data/p-narrow.png" width="3"' in page and 'width="5"' in page and "&quot;plot" in page
    page = results.picture_html("p", {"width": 5, "height": 6, "unlearnlib": ours | {"narrow": ""}}, "plot")
    assert "wide-picture" in page and "srcset" not in page
    assert "wide-picture" not in results.picture_html("p", {}, "plot")


@pytest.mark.parametrize(
    ("docname", "number"), [("notebooks/08-dose", 8), ("notebooks/17-x", 17), ("book/benchmarks/01-x", None)]
)
def test_the_number_of_a_chapter_is_that_of_its_file(docname, number):
    assert results.number(docname) == number


# --- terms


def test_definitions_are_read_from_the_glossary():
    assert terms.definitions(GLOSSARY) == {
        "forget set": "The examples that a request names, F.",
        "original": "The model before.",
        "oracle": "The model before.",
        "LiRA": "An attack.",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Forget sets, and the forget set.", ["Forget sets"]),
        ("the original paper", []),
        ("the original model", ["original"]),
        ("LiRA and lira", ["LiRA"]),
        ("unforget set", []),
        ("LiRA on the forget set", ["LiRA", "forget set"]),
    ],
)
def test_a_term_is_found_once_where_it_means_itself(text, found):
    pieces = terms.mark(text, tuple(terms.definitions(GLOSSARY)))
    assert [piece for piece, term in pieces if term] == found
    assert "".join(piece for piece, _ in pieces) == text


def test_abbreviations_of_one_entry_are_found_each():
    assert terms.mark("the TA of a model", ("UA, RA, TA",)) == [("the ", ""), ("TA", "UA, RA, TA"), (" of a model", "")]


def test_an_everyday_word_in_italics_is_the_term():
    assert terms.mark("work", ("work",), emphasised=True) == [("work", "work")]
    assert terms.mark("it does not work", ("work",)) == [("it does not work", "")]


def test_every_everyday_word_with_a_rule_is_in_the_glossary_or_needless():
    known = terms.definitions((ROOT / "book/glossary.md").read_text(encoding="utf-8"))
    assert len(known) > 30 and all(known.values())
    assert set(terms.EVERYDAY) - set(known) == set()


# --- heads of chapters


def test_facts_count_words_minutes_and_claims():
    claim = {"data": {}, "metadata": {"unlearnlib": {"claim": {"verdict": "holds"}}}}
    fails = {"data": {}, "metadata": {"unlearnlib": {"claim": {"verdict": "fails"}}}}
    nb = {"cells": [{"cell_type": "markdown", "source": ["word " * 700]}, *map(cell, (claim, claim, fails))]}
    assert chapters.facts(nb, 0.3) == (
        '<p class="chapter-facts">4 minutes to read · less than a minute to run on one core · '
        "3 claims: 2 hold, 1 fails</p>"
    )
    nb["cells"][0]["source"] = ["```{admonition} At a glance\n:class: note at-a-glance\nTime: ten minutes"]
    assert chapters.facts(nb, 0.3) == '<p class="chapter-facts">3 claims: 2 hold, 1 fails</p>'


# --- dials


HEAD = "panel,series,kind,x axis,x,y axis,y,value"


def outline(band):
    """The corners of a band (x, low, high), as they are drawn."""
    first = (band[0][0], band[0][2])
    below, above = [(x, low) for x, low, _ in band], [(x, high) for x, _, high in reversed(band)]
    return [first, *below, (band[-1][0], band[-1][2]), *above, first]


def drawn(axis="weight, beta", more=()):
    """One panel with a line, its band and a level; `more` are lines (name, [(x, y, low, high)]) with theirs."""
    lines = [HEAD]
    series = [("error", [(0, 1, 0.5, 1.25), (0.1, 2, 1.5, 2.25), (0.2, 4, 3.5, 4.25)]), *more]
    for name, points in series:
        lines += [f'one,{name},line,"{axis}",{x},gap,{y},' for x, y, _, _ in points]
    for _, points in series:
        lines += [f'one,,band,"{axis}",{x},gap,{y},' for x, y in outline([(x, a, b) for x, _, a, b in points])]
    return "\n".join([*lines, f'one,null,level,"{axis}",,gap,3,', f'one,null,level,"{axis}",,gap,3.5,']) + "\n"


def test_bands_that_overlap_stay_with_their_lines():
    other = [(0, 1.1, 0.4, 1.3), (0.1, 1.9, 1.6, 2.6), (0.2, 4.1, 3.0, 4.2)]
    first, second = dials.dial(drawn(more=[("other", other)]), "beta")["panels"][0]["series"]
    assert first["low"] == [0.5, 1.5, 3.5] and first["high"] == [1.25, 2.25, 4.25]
    assert second["low"] == [0.4, 1.6, 3.0] and second["high"] == [1.3, 2.6, 4.2]


def test_a_dial_shows_each_setting_with_its_band_and_the_level():
    found = dials.dial(drawn(), "beta")
    assert found["x"] == [0, 0.1, 0.2]
    (panel,) = found["panels"]
    assert panel["series"] == [{"name": "error", "mid": [1, 2, 4], "low": [0.5, 1.5, 3.5], "high": [1.25, 2.25, 4.25]}]
    assert (
        panel["level"] == [3, 3.5]
        and panel["across"] == "null"
        and panel["range"] == [0.5, 4.25]
        and panel["title"] == "one"
    )


def test_without_the_axis_or_with_two_settings_there_is_no_dial():
    assert dials.dial(drawn(), "damping") is None
    assert dials.dial(drawn(axis="beta too"), "beta") is None
    assert dials.dial("\n".join(line for line in drawn().splitlines() if ",0.2," not in line), "beta") is None
    assert dials.dial("", "beta") is None


@pytest.mark.parametrize("identifiers", [[], ["id7"], ["figure-1"]])
def test_a_dial_finds_its_figure_whatever_identifier_that_has(identifiers):
    document = new_document("page")
    figures = [nodes.figure(ids=identifiers if place == 2 else []) for place in (1, 2)]
    for place, figure in enumerate(figures, 1):
        figure += nodes.raw("", f'<img src="../_data/08-figure-{place}.png">', format="html")
        document += figure
    assert dials.shown(document, 2) is figures[1] and dials.shown(document, 3) is None


def test_the_browser_knows_which_chapters_have_a_slider():
    assert check_browser.SLIDERS == tuple(f"{chapter:02d}" for chapter in dials.DIALS)
