"""Use the leaderboard of the built book in a browser: `python tests/check_board.py _build/html`.

As a reader does, with the keyboard alone: filters, the explorer and a duel are tried on every board, at 1280 and at 390
pixels, and what the script shows is compared with the same computed here from the data in the page. Without scripts the
static figures must show. Prints each failure and, last, how many checks passed. Where there is no Chromium it says so.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from check_browser import QUIET, SIZES, browser, served, wide

PAGE = "book/leaderboard.html"
DATA = "() => document.getElementById('boards-data').textContent"
ROWS = """name => [...document.querySelectorAll(`[data-board="${name}"] table.board`)[0].tBodies[0].rows]
  .map(row => [...row.cells].map(cell => cell.textContent.trim()))"""


def ranks(board: Mapping, shown: list[int]) -> dict[str, str]:
    """Rank interval of each of the shown lines, as the page writes it."""
    order, found = board["order"], {}
    ranked = [i for i in shown if i < len(order)]
    for i in ranked:
        low = 1 + sum(order[i][j] > 0 for j in ranked)
        high = len(ranked) - sum(order[i][j] < 0 for j in ranked)
        found[board["lines"][i]["method"]] = str(low) if low == high else f"{low} to {high}"
    return found


def verdict(board: Mapping, a: Mapping, b: Mapping) -> str:
    """How the sentence of a duel begins."""
    if a is b:
        return "Choose two different methods."
    pairs = [(x, y) for x, y in zip(a["scores"], b["scores"], strict=False) if x is not None and y is not None]
    if not board["ranked"] or len(pairs) < 2:
        return "These files have no ranking audit for both"
    d = [x - y for x, y in pairs]
    mean = sum(d) / len(d)
    half = board["quantile"] * math.sqrt(sum((v - mean) ** 2 for v in d) / (len(d) - 1) / len(d))
    if mean + half < 0 or mean - half > 0:
        return f"{(a if mean < 0 else b)['method']} is nearer to retraining"
    return f"{a['method']} and {b['method']} are not told apart"


def choose(page, place: str, name: str, label: str) -> None:
    """Choose an option of a select with the keyboard alone: its first letters, as they are written."""
    select = page.locator(f'[data-board="{place}"] select[name="{name}"]')
    select.focus()
    options = select.locator("option").all_text_contents()
    page.keyboard.press("Home")
    for _ in range(options.index(label)):
        page.keyboard.press("ArrowDown")


def used(page, boards: list[dict]) -> dict[str, str]:
    """Name of each check that was made -> what is wrong, "" where nothing is."""
    found = {}
    hidden = page.evaluate("() => [...document.querySelectorAll('.board-static')].every(e => e.hidden)")
    found["static figures give way"] = "" if hidden else "they stand beside the script's"
    for number, board in enumerate(boards):
        where = f"board {number}"
        choose(page, "explorer", "data", board["data"])
        choose(page, "explorer", "request", board["request"])
        names = [line["method"] for line in board["lines"]]
        for label, most in (("5 %", 0.051), ("any", math.inf)):
            choose(page, "leaderboard", "budget", label)
            shown = [i for i, m in enumerate(board["lines"]) if (math.inf if m["cost"] is None else m["cost"]) <= most]
            rows = page.evaluate(ROWS, "leaderboard") if shown else []
            wanted = [(names[i], ranks(board, shown).get(names[i], "")) for i in shown]
            same = [row[0] for row in rows] == [name for name, _ in wanted]
            same &= all(place in ("", row[1]) for row, (_, place) in zip(rows, wanted, strict=False))
            found[f"{where}, ranks within {label}"] = "" if same else f"{rows[:3]} and not {wanted[:3]}"
        for first, second in ((names[0], names[-1]), (names[-1], names[len(names) // 2]), (names[0], names[0])):
            choose(page, "explorer", "first", first)
            choose(page, "explorer", "second", second)
            said = page.locator("[data-duel]").text_content()
            a, b = (board["lines"][names.index(name)] for name in (first, second))
            right = said.startswith(verdict(board, a, b))
            found[f"{where}, {first} against {second}"] = "" if right else said
        for place, estimate in enumerate(board["estimates"][:6]):
            choose(page, "explorer", "measure", estimate["title"])
            title = page.locator('[data-board="explorer"] .board-chart p').first.text_content()
            marks = page.locator('[data-board="explorer"] .board-chart').first.locator("svg[role=img] g").count()
            costed = [p for p, m in zip(estimate["points"], board["lines"], strict=True) if p and m["cost"] is not None]
            right = title == estimate["title"] and marks == len(costed)
            found[f"{where}, measure {place}"] = "" if right else f"{title}: {marks} points of {len(costed)}"
        focused = page.evaluate("() => document.activeElement.getAttribute('name')")
        found[f"{where}, focus"] = "" if focused == "measure" else f"the keyboard is at {focused}"
    return found


def check(site: Path, program: str, name: str = PAGE) -> tuple[int, list[str]]:
    """Number of checks, and what is wrong."""
    from playwright.sync_api import sync_playwright

    found: dict[str, str] = {}
    with served(site) as home, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=[*QUIET, "--no-sandbox"])
        plain = chromium.new_context(java_script_enabled=False).new_page()
        plain.goto(f"{home}/{name}", wait_until="load")
        static = plain.locator(".board-static")
        there = static.count() == 0 or static.first.is_visible()
        for width, height in SIZES.items():
            page, errors = chromium.new_page(viewport={"width": width, "height": height}), []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.on("console", lambda m, errors=errors: errors.append(m.text) if m.type == "error" else None)
            page.goto(f"{home}/{name}", wait_until="load")
            boards = json.loads(page.evaluate(DATA))["boards"]
            if boards:
                found |= {f"at {width}, {what}": fault for what, fault in used(page, boards).items()}
            found[f"at {width}, width"] = wide(page, width)
            found[f"at {width}, console"] = " ".join(e for e in errors if "favicon" not in e)[:200]
            page.close()
        found["without scripts"] = "" if there else "no static figure shows"
        chromium.close()
    return len(found), [f"{name}, {what}: {fault}" for what, fault in found.items() if fault]


def main() -> int:
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html").resolve()
    program = browser()
    if program is None:
        print("no Chromium on this machine: the leaderboard was not used in a browser")
        return 0
    done, wrong = check(site, program)
    print("\n".join(wrong))
    print(f"{done - len(wrong)} checks passed, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
