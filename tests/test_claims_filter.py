"""The filter of the page of all claims, in a real browser: verdict, page and words, with the keyboard and without."""

import shutil
from pathlib import Path

import check_browser
import pytest

from unlearnlib.publishing import pages

STATIC = Path(__file__).resolve().parents[1] / "book/_static"
CLAIMS = {
    "01. One": [("holds", "It forgets"), ("fails", "It keeps")],
    "02. Two": [("open", "It is so"), ("fails", "Ridge")],
}


@pytest.fixture
def site(tmp_path):
    """The page as Sphinx builds it: a section a page of the book, its heading with a link to itself, its table."""
    filter_ = pages.CLAIMS_FILTER.splitlines()[1]
    sections = []
    for title, claims in CLAIMS.items():
        rows = "".join(f"<tr><td><a href=a>{verdict}</a></td><td>{text}</td></tr>" for verdict, text in claims)
        head = f'<h2>{title}<a class="headerlink" href="#x">#</a></h2>'
        table = f"<table><thead><tr><th>Verdict</th><th>Claim</th></tr></thead><tbody>{rows}</tbody></table>"
        sections.append(f"<section>{head}{table}</section>")
    shutil.copytree(STATIC, tmp_path / "_static")
    (tmp_path / "claims.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        '<title>Claims</title><script src="_static/claims.js"></script></head><body><main>'
        f"<article><section><h1>Claims</h1>{filter_}{''.join(sections)}</section></article></main></body></html>"
    )
    return tmp_path


def faults(site) -> list[str]:
    from playwright.sync_api import sync_playwright

    with check_browser.served(site) as home, sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=check_browser.browser(), args=[*check_browser.QUIET, "--no-sandbox"]
        )
        return check_browser.look(chromium.new_page(), home, "claims.html", None)[1]


needs_browser = pytest.mark.skipif(check_browser.browser() is None, reason="no Chromium on this machine")


@needs_browser
def test_the_filter_shows_what_was_asked_for(site):
    assert faults(site) == []


@needs_browser
@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        ("its === verdict.value", "its !== verdict.value"),
        ("Number(page.value) !== number", "Number(page.value) !== number + 1"),
        ("text.includes(word)", "text.startsWith(word)"),
    ],
)
def test_a_broken_filter_is_seen(site, sound, broken):
    script = site / "_static/claims.js"
    assert sound in script.read_text()
    script.write_text(script.read_text().replace(sound, broken))
    assert any("filter of claims" in fault for fault in faults(site))


@needs_browser
def test_without_scripts_every_claim_shows(site):
    (site / "_static/claims.js").unlink()
    from playwright.sync_api import sync_playwright

    with check_browser.served(site) as home, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=check_browser.browser(), args=["--no-sandbox"])
        page = chromium.new_context(java_script_enabled=False).new_page()
        page.goto(f"{home}/claims.html")
        assert page.locator("tbody tr:visible").count() == 4 and not page.locator(".claims-filter").is_visible()
