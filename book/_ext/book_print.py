"""The built book on paper, and as one file to take away.

    python book/_ext/book_print.py pdf _build/html _build/does-it-forget.pdf
    python book/_ext/book_print.py archive _build/html _build/does-it-forget.zip

The PDF is printed by headless Chromium from one long page that holds all pages in the order of the table of contents;
where there is no Chromium it says so. The archive holds the site as it is: unpacked, it works from the disk, offline.
"""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from book_launch import parts_of
from bs4 import BeautifulSoup

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ALL = "print.html"  # the long page, beside the others while it is printed
LEFT_OUT = ("book/api/",)  # reference that is read on a screen
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of every file in an archive, so that equal sites give equal bytes


def anchor(page: str, part: str = "") -> str:
    """The place of a page, or of a part of it, in the long page."""
    return "-".join(re.sub(r"[^\w]+", "-", text) for text in (page.removesuffix(".html"), part) if text)


def moved(address: str, page: str, pages: set[str]) -> str:
    """An address of `page` as seen from the long page: a place in that page where it leads to one of `pages`."""
    url = urlsplit(address)
    if url.scheme or url.netloc or not (url.path or url.fragment):
        return address
    target = os.path.normpath(os.path.join(os.path.dirname(page), url.path)) if url.path else page
    if target in pages:
        return f"#{anchor(target, url.fragment)}"
    return target + (f"#{url.fragment}" if url.fragment else "")


def article(text: str, page: str, pages: set[str]) -> str:
    """What a page says, with its addresses and places as the long page needs them, and everything unfolded."""
    soup = BeautifulSoup(text, "html.parser").find("article")
    for tag in soup.find_all(class_=["headerlink", "dial", "data-links", "copybtn"]):
        tag.decompose()
    for tag in soup.find_all(True):
        if tag.get("id"):
            tag["id"] = anchor(page, tag["id"])
        for name in ("href", "src"):
            if tag.get(name):
                tag[name] = moved(tag[name], page, pages)
        if tag.get("srcset"):  # the narrow picture of a phone
            tag.decompose()
        elif tag.name == "img":
            tag.attrs.pop("loading", None)
    for tag in soup.find_all("details"):
        if "whole-table" in tag.get("class", []):
            tag.decompose()
        elif tag.find(class_="cell_input"):
            tag.attrs.pop("open", None)  # plumbing stays folded on paper, too
        else:
            tag["open"] = ""
    return f'<section class="printed" id="{anchor(page)}">{soup.decode_contents()}</section>'


def long_page(site: Path, names: list[str]) -> str:
    """All pages as one, with the style and the scripts of the front page."""
    pages = {f"{name}.html" for name in names if (site / f"{name}.html").is_file()}
    order = [f"{name}.html" for name in names if f"{name}.html" in pages]
    front = BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser")
    for tag in front.head.find_all("meta", attrs={"http-equiv": True}):
        tag.decompose()  # its policy knows the scripts of one page
    said = "\n".join(article((site / page).read_text(encoding="utf-8"), page, pages) for page in order)
    body = f'<body><article class="bd-article printed-book">{said}</article></body>'
    return f'<!DOCTYPE html><html lang="en" data-theme="light">{front.head}{body}</html>'


def pdf(site: Path, target: Path, names: list[str]) -> str:
    """Print the book; what was done, in one line."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        return "no Chromium on this machine: no PDF was made"
    from playwright.sync_api import sync_playwright

    whole = site / ALL
    try:
        whole.write_text(long_page(site, names), encoding="utf-8")
        with sync_playwright() as play:
            chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = chromium.new_page()
            page.set_default_timeout(600_000)
            page.goto(whole.resolve().as_uri(), wait_until="load")
            page.evaluate("() => window.MathJax?.startup?.promise")
            page.emulate_media(media="print", color_scheme="light")
            foot = '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
            # A page of the screen at four fifths: the text has nine points, and a formula its line.
            options = {"format": "A4", "scale": 0.8, "print_background": True, "outline": True, "tagged": True}
            margin = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
            frame = {"display_header_footer": True, "header_template": "<span></span>", "footer_template": foot}
            page.pdf(path=str(target), margin=margin, **options, **frame)
            chromium.close()
    finally:
        whole.unlink(missing_ok=True)
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB"


def archive(site: Path, target: Path) -> str:
    """The site as a zip file; equal sites give equal bytes. What was done, in one line."""
    files = sorted(path for path in site.rglob("*") if path.is_file() and path.name != ".buildinfo")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for path in files:
            info = zipfile.ZipInfo(f"does-it-forget/{path.relative_to(site).as_posix()}", FIRST_DAY)
            info.external_attr = 0o644 << 16
            file.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return f"{target}: {len(files)} files, {target.stat().st_size / 1e6:.1f} MB; unpack it and open index.html"


def main() -> int:
    if len(sys.argv) != 4 or sys.argv[1] not in ("pdf", "archive"):
        print(f"usage: {Path(sys.argv[0]).name} pdf|archive SITE TARGET")
        return 2
    site, target = Path(sys.argv[2]), Path(sys.argv[3])
    if not (site / "index.html").is_file():
        print(f"{site} holds no book: run `make html`")
        return 1
    toc = yaml.safe_load(Path("_toc.yml").read_text(encoding="utf-8"))
    names = [name for part in parts_of(toc).values() for name in part if not name.startswith(LEFT_OUT)]
    print(pdf(site, target, names) if sys.argv[1] == "pdf" else archive(site, target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
