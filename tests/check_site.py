"""Look at the built book: `python tests/check_site.py _build/html`.

Every page of the table of contents must exist with text, chapters with figures, pictures with alternative text,
links with targets, and nothing may be asked of another host. Prints each failure and, last, how many checks passed.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[1]
# Attributes that make a browser ask for something, by tag. A link that a reader must click is none.
FETCHED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "use": ("href", "xlink:href"),
}
# Relations of <link> that name an address without asking for it.
NAMED_ONLY = {"canonical", "alternate", "author", "license"}


class Page(HTMLParser):
    """What a page asks for, where it links, which anchors it has, and how much it says."""

    def __init__(self, html: str):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.inside: list[str] = []
        self.policy: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(values["id"])
        if tag == "meta" and (values.get("http-equiv") or "").lower() == "content-security-policy":
            self.policy = values.get("content")
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img" and not (values.get("src") or "").startswith("data:"):
            self.images.append(values)
        if not (tag == "link" and NAMED_ONLY & set((values.get("rel") or "").split())):
            for name in FETCHED.get(tag, ()):
                if values.get(name):
                    self.fetched += [part.split()[0] for part in values[name].split(",") if part.strip()]
        if values.get("style"):
            self.styles.append(values["style"])
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)
        elif self.inside[-1] == "style":
            self.styles.append(data)


def foreign(address: str) -> bool:
    """Whether a browser would ask another host for this address."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ws", "wss", "ftp")


def foreign_in_css(text: str) -> list[str]:
    """Addresses on other hosts that a style sheet asks for."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    asked = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return [address for address in asked if foreign(address)]


def pages_of(toc: dict) -> list[str]:
    """The files named in a table of contents, in order."""
    found = [toc["root"]] if "root" in toc else []
    found += [toc["file"]] if "file" in toc else []
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, []):
            found += pages_of(entry)
    return found


def check(site: Path, toc: dict) -> tuple[int, list[str]]:
    """Number of checks, and what is wrong."""
    site = site.resolve()
    done, wrong = 0, []

    def expect(good: bool, message: str) -> None:
        nonlocal done
        done += 1
        if not good:
            wrong.append(message)

    files = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # templates of the theme
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in files}
    expect(bool(pages), f"{site} holds no page: run `make html`")
    for name in pages_of(toc):
        page = pages.get(site / f"{name}.html")
        expect(page is not None, f"{name}.html is missing")
        if page is None:
            continue
        expect(len("".join(page.text).split()) > 60, f"{name}.html says almost nothing")
        if re.match(r"(notebooks|book/benchmarks)/\d\d-", name):  # the short pages on own data have none
            own = [i for i in page.images if re.search("_(images|data)/", i.get("src") or "")]
            expect(bool(own), f"{name}.html shows no figure")
        if name == "book/generated/claims":
            expect(any("#claim-" in link for link in page.links), "the page of claims lists no claim")

    for path, page in pages.items():
        where = path.relative_to(site)
        asked = [a for a in page.fetched if foreign(a)] + [a for s in page.styles for a in foreign_in_css(s)]
        expect(not asked, f"{where} asks another host for {', '.join(asked[:3])}")
        expect("default-src 'none'" in (page.policy or "") and "://" not in page.policy, f"{where} has no policy")
        lost = [a for a in page.fetched if not foreign(a) and not present(path, a)]
        expect(not lost, f"{where} asks for files that are not there: {', '.join(lost[:3])}")
        mute = [i.get("src") for i in page.images if not (i.get("alt") or "").strip()]
        expect(not mute, f"{where} has pictures without alternative text: {mute[:3]}")
        if where.parts[0] not in ("_modules", "_sources"):
            dead = [a for a in page.links if not alive(path, a, pages)]
            expect(not dead, f"{where} links to nothing: {', '.join(dead[:3])}")
    for path in sorted(site.rglob("*.css")):
        asked = foreign_in_css(path.read_text(encoding="utf-8", errors="replace"))
        expect(not asked, f"{path.relative_to(site)} asks another host for {', '.join(asked[:3])}")
    return done, wrong


def target(page: Path, address: str) -> Path:
    """The file that an address on `page` means."""
    return (page.parent / unquote(urlsplit(address).path)).resolve()


def present(page: Path, address: str) -> bool:
    """Whether a file that a page asks for is there and not empty."""
    if urlsplit(address).scheme == "data" or address == "#":
        return True
    file = target(page, address)
    return file.is_file() and file.stat().st_size > 0


def alive(page: Path, address: str, pages: dict[Path, Page]) -> bool:
    """Whether a link inside the book leads to a file and, where it names one, to an anchor."""
    parts = urlsplit(address)
    if parts.scheme or address.startswith("//"):
        return True
    file = target(page, address) if parts.path else page
    if not file.is_file():
        return False
    anchor = unquote(parts.fragment)
    known = pages.get(file) if anchor else None
    return known is None or anchor in known.ids


def main(arguments: list[str]) -> int:
    site = Path(arguments[0]) if arguments else ROOT / "_build/html"
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    done, wrong = check(site, toc)
    for message in wrong:
        print(f"FAILED {message}")
    print(f"{done - len(wrong)} passed, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
