"""Open the built book in a browser: `python tests/check_browser.py _build/html`.

Every page in headless Chromium, as a reader meets it: at 1280 and 390 pixels, in the light and in the dark scheme. No
page may be wider than the screen, write an error to the console, or ask another host; the rules of axe-core on
contrast, names, alternative text and the order of headings hold; a reader without a mouse gets past the navigation,
moves every slider, and filters the claims. In a chapter each figure has a number, a caption and an alternative text
that is no file name, its text has nine points or more as displayed, no table shows more than five columns, and terms
lead to the glossary with their definition. Prints each failure, how hard the openings of chapters are to read (told,
not judged), and, last, how many checks passed. Where there is no Chromium it says so and looks at nothing.
"""

import functools
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SIZES = {1280: 900, 390: 844}  # width of the window -> its height
# The rules that are tried in each scheme: all of them, then those that depend on it.
SCHEMES = {"light": {"preload": False}, "dark": {"preload": False, "runOnly": ["color-contrast"]}}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Without these a browser looks for hosts of its maker.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
# What the theme and the bibliography's extension write, and no page of ours can change.
NOT_OURS = {
    "region",
    "landmark-unique",
    "landmark-one-main",
    "page-has-heading-one",
    "landmark-complementary-is-top-level",
}
NOT_OURS |= {"aria-allowed-role", "aria-deprecated-role", "aria-required-children"}
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What makes a page wide: the innermost elements that end outside and do not scroll inside something.
CULPRITS = """() => {
  const edge = document.documentElement.clientWidth + 1;
  const outside = e => e.getBoundingClientRect().right > edge;
  const held = style => ['auto', 'scroll', 'hidden'].includes(style.overflowX) || style.position === 'fixed';
  const inside = e => e && e !== document.body && (held(getComputedStyle(e)) || inside(e.parentElement));
  const lowest = e => outside(e) && !inside(e) && ![...e.children].some(outside);
  return [...document.querySelectorAll('main *')].filter(lowest).slice(0, 2).map(e => e.outerHTML.slice(0, 80)); }"""

# What is wrong with the results of a chapter, as displayed at the width of the window.
RESULTS = """() => {
  const wrong = [], phone = innerWidth <= 600;
  for (const image of document.querySelectorAll('article .cell_output img')) {
    const alt = (image.alt || '').trim(), caption = image.closest('figure')?.querySelector('figcaption');
    const name = image.src.split('/').pop();
    const mute = alt.split(/\\s+/).length < 3 || /\\.(png|svg|jpe?g)$|^[0-9a-f]{16,}/.test(alt);
    const numbered = caption?.querySelector('.caption-number')?.textContent.trim();
    if (mute || !numbered) wrong.push(`${name} has no ${mute ? 'alternative text' : 'numbered caption'}`);
    const drawn = +image.dataset[phone ? 'narrow' : 'wide'], points = +image.dataset.points;
    const shown = points * image.getBoundingClientRect().width / drawn;
    if (shown < 8.95) wrong.push(`${name} has text of ${shown.toFixed(1)} points`);
  }
  const tables = [...document.querySelectorAll('article .result table')].filter(table => !table.closest('details'));
  if (tables.some(table => table.rows[0].cells.length > 5)) wrong.push('a table of more than five columns');
  const terms = [...document.querySelectorAll('article .glossed')];
  if (!terms.length) wrong.push('no term leads to the glossary');
  if (terms.some(term => !term.closest('a')?.title)) wrong.push('a term has no definition');
  return wrong.slice(0, 3).join('; '); }"""
OPENING = """() => [...document.querySelectorAll('article p')].filter(
  p => !p.closest('.chapter-facts, .admonition, .cell, figure')).map(p => p.textContent).join(' ')"""
OPENING_WORDS = 200


def grade(text: str) -> float:
    """School years that a text asks for (Flesch, Kincaid): .39 words a sentence + 11.8 syllables a word - 15.59."""
    words = re.findall(r"[A-Za-z]+", text)
    sentences = max(1, len(re.findall(r"[.?!:](?=\s|$)", text)))
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", word.lower())))) for word in words)
    return 0.39 * len(words) / sentences + 11.8 * syllables / max(1, len(words)) - 15.59


def browser() -> str | None:
    """The program, from `CHROMIUM` or the path; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def pages_of(site: Path) -> list[str]:
    """Addresses of all pages that readers read; of the listings of code, which are of one kind, every tenth."""
    found = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    pages = [name for name in found if not name.startswith(("_static/", "_sources/", "_modules/"))]
    return pages + [name for name in found if name.startswith("_modules/")][::10]


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The site on a free port of this machine."""
    handler = functools.partial(Silent, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wide(page, width: int) -> str:
    """What makes the page wider than a window of `width` pixels; "" where it fits."""
    page.set_viewport_size({"width": width, "height": SIZES[width]})
    pixels = page.evaluate(WIDER)
    return f"{pixels} pixels too wide: {page.evaluate(CULPRITS)}" if pixels > 0 else ""


SLIDERS = ("01", "02", "06", "08", "09")  # chapters that have one
OPENINGS: dict[str, float] = {}  # chapter -> school years that its opening asks for


def turned(page, name: str) -> str:
    """Move every slider with an arrow key; what is wrong if its reading does not follow, or none is there."""
    if name.removeprefix("notebooks/")[:2] in SLIDERS and not page.query_selector(".dial"):
        return "the chapter has lost its slider"
    for slider in page.query_selector_all(".dial input[type=range]"):
        before = slider.evaluate("s => s.closest('.dial').textContent")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        if slider.evaluate("s => s.closest('.dial').textContent") == before:
            return "a slider does not move with the keyboard"
    empty = page.evaluate("() => [...document.querySelectorAll('.dial')].filter(d => d.hidden).length")
    return f"{empty} sliders do not show" if empty else ""


SHOWN = """() => [...document.querySelectorAll('article tbody tr')].filter(row => row.checkVisibility())
  .map(row => [row.cells[0].textContent.trim(), [...row.cells].map(cell => cell.textContent).join(' ').toLowerCase(),
               row.closest('section').querySelector('h2').firstChild.textContent.trim()])"""


def filtered(page) -> str:
    """Use the filter of the claims with the keyboard alone; what is wrong if it does not show what was asked for."""
    if not page.query_selector(".claims-filter"):
        return ""
    rows = page.evaluate(SHOWN)
    if not rows or page.evaluate("() => document.querySelector('.claims-filter').hidden"):
        return f"{len(rows)} claims, and the filter does not show"
    word, last = max(rows[-1][1].split()[1:], key=len), rows[-1][2]  # behind the verdict
    titles = list(dict.fromkeys(title for *_, title in rows))
    verdict, chapter, words = ".claims-filter select >> nth=0", ".claims-filter select >> nth=1", ".claims-filter input"
    tried = [  # (where, keys, which rows should show)
        (verdict, ["ArrowDown"], lambda v, text, title: v == "fails"),
        (verdict, ["Home"], lambda v, text, title: True),
        (chapter, ["ArrowDown"] * len(titles), lambda v, text, title: title == last),
        (words, list(word), lambda v, text, title: title == last and word in text),
        (chapter, ["Home"], lambda v, text, title: word in text),
    ]
    for where, keys, fits in tried:
        page.focus(where)
        for key in keys:
            page.keyboard.press(key)
        wanted = [row for row in rows if fits(*row)]
        if page.evaluate(SHOWN) != wanted:
            return f"the filter does not show {len(wanted)} claims after {keys[-1]}"
        said = page.text_content(".claims-filter output")
        if said != f"{len(wanted)} of {len(rows)} claims":
            return f"it says {said!r} of {len(wanted)}"
    return ""


def look(page, home: str, name: str, axe) -> tuple[int, list[str]]:
    """Number of checks of one page, and what is wrong; without `axe` only its width, its console and its requests."""
    errors, asked = [], []
    page.on(
        "console",
        lambda message: (
            errors.append(f"{message.text} {message.location.get('url', '')}") if message.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size({"width": 1280, "height": SIZES[1280]})
    page.goto(f"{home}/{name}", wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    found = {f"at {width} pixels": wide(page, width) for width in SIZES} | {"filter of claims": filtered(page)}
    if name.startswith("notebooks/"):
        for width in SIZES:
            page.set_viewport_size({"width": width, "height": SIZES[width]})
            found[f"results at {width} pixels"] = page.evaluate(RESULTS)
        found["dial"] = turned(page, name)
        words = page.evaluate(OPENING).split()[:OPENING_WORDS]
        OPENINGS[name] = grade(" ".join(words))
    done, page_size = 0, {"width": 1280, "height": SIZES[1280]}
    page.set_viewport_size(page_size)
    for scheme, options in SCHEMES.items() if axe else ():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        report = axe.run(page, options=options).response
        done += len(report["passes"])
        for rule in report["violations"]:
            if rule["id"] not in NOT_OURS:
                found[f"{scheme}, {rule['id']}"] = f"{rule['help']}: {rule['nodes'][0]['html'][:90]}"
    found["console"] = " ".join(errors[:2])
    found["other hosts"] = " ".join([a for a in asked if not a.startswith((home, "data:", "blob:"))][:2])
    return done + len(found), [f"{name}, {what}: {fault}" for what, fault in found.items() if fault]


def keyboard(page, home: str, name: str) -> tuple[int, list[str]]:
    """The first key of a reader without a mouse leads past the navigation, and the next one into the page."""
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{home}/{name}", wait_until="load")
    page.keyboard.press("Tab")
    first = page.evaluate("() => document.activeElement.textContent.trim()")
    return 1, [] if "main content" in first else [
        f"{name}: the first tab stop is {first[:40]!r}, not a way past the menu"
    ]


def check(site: Path, program: str, *, names: list[str] | None = None) -> tuple[int, list[str]]:
    """Number of checks, and what is wrong with the pages of `site`."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    done, wrong = 0, []
    with served(site) as home, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=[*QUIET, "--no-sandbox"])
        for name in names or pages_of(site):
            page = chromium.new_page()
            count, faults = look(page, home, name, None if name.startswith("_modules/") else Axe())
            done, wrong = done + count, wrong + faults
            page.close()
        count, faults = keyboard(chromium.new_page(), home, "index.html")
        chromium.close()
    return done + count, wrong + faults


def main() -> int:
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html").resolve()
    program = browser()
    if program is None:
        print("no Chromium on this machine: the pages were not looked at in a browser")
        return 0
    done, wrong = check(site, program, names=sys.argv[2:] or None)
    print("\n".join(wrong))
    hardest = sorted(OPENINGS.items(), key=lambda pair: -pair[1])
    print("school years that openings ask for:", ", ".join(f"{name[10:12]} {years:.0f}" for name, years in hardest))
    print(f"{done - len(wrong)} checks passed, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
