"""On paper every link between pages stays inside the one long page; the archive is the site, byte by byte."""

import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/_ext"))
import book_converter  # noqa: E402
import book_print  # noqa: E402

sys.path.pop(0)
PAGES = {"index.html", "notebooks/one.html"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("../index.html", "#index"),
        ("#here", "#notebooks-one-here"),
        ("one.html#there", "#notebooks-one-there"),
        ("../_data/a.png", "_data/a.png"),
        ("https://a.example/x", "https://a.example/x"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
    ],
)
def test_addresses_are_seen_from_the_long_page(address, expected):
    assert book_print.moved(address, "notebooks/one.html", PAGES) == expected


def test_the_long_page_holds_each_page_once_without_what_needs_a_screen(tmp_path):
    (tmp_path / "notebooks").mkdir()
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    (tmp_path / "index.html").write_text(
        f"<html><head>{policy}</head><body><article><h1 id='a'>Front</h1></article></body></html>"
    )
    (tmp_path / "notebooks/one.html").write_text(
        "<html><body><article><h1 id='a'>One</h1><a href='../index.html#a'>up</a><div class='dial'>dial</div>"
        "<details><p>answer</p></details><details class='whole-table'>wide</details>"
        "<picture><source srcset='../_data/n.png'><img src='../_data/w.png' loading='lazy'></picture>"
        "</article></body></html>"
    )
    page = book_print.long_page(tmp_path, ["index", "notebooks/one", "notebooks/none"])
    assert page.count('class="printed"') == 2 and 'id="index-a"' in page and 'id="notebooks-one-a"' in page
    assert 'href="#index-a"' in page and 'src="_data/w.png"' in page and '<details open="">' in page
    for gone in ("dial</div>", "wide</details>", "Content-Security-Policy", "n.png", "lazy"):
        assert gone not in page


def test_equal_sites_give_equal_archives_that_hold_every_file(tmp_path):
    site = tmp_path / "html"
    (site / "a").mkdir(parents=True)
    (site / "index.html").write_text("front")
    (site / "a/b.csv").write_text("x\n")
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    assert "2 files" in book_print.archive(site, first)
    book_print.archive(site, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as file:
        assert file.read("does-it-forget/a/b.csv") == b"x\n" and len(file.namelist()) == 2


def test_without_a_browser_no_pdf_is_made_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(book_print.shutil, "which", lambda name: None)
    assert "no Chromium" in book_print.pdf(tmp_path, tmp_path / "x.pdf", [])


def test_the_converter_counts_kinds_of_complaints():
    said = "\x1b[33m⚠️  a/b.md:3 no such role 'x'\x1b[0m\n⚠️  c/d.md:7 no such role 'y'\n⛔️ e/f.md broken\nfine\n"
    found = book_converter.complaints(said)
    assert found.total() == 3 and sorted(found.values()) == [1, 2]


def test_without_the_second_version_nothing_is_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(book_converter.sys, "argv", ["book_converter.py", str(tmp_path / "none")])
    assert book_converter.main() == 0 and "nothing was converted" in capsys.readouterr().out
