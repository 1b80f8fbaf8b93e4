"""Pages that the book makes from its committed notebooks and results: claims, status, method cards, boards, archive.

    unlearn pages          writes book/generated/{claims,status,methods}.md, fragments of other pages, and the archive

Plain MyST without directives of our own; nothing in it depends on the clock, so that a rebuild changes nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from unlearnlib.publishing import (
    archive,
    board_pages,
    boards,
    bookkeeping,
    cards,
    guarantees,
    guide,
    measured,
    notebooks,
    papers,
    provenance,
)
from unlearnlib.publishing.execution import TIMINGS, committed
from unlearnlib.publishing.markup import code, grid_table, plain

FOLDER = Path("book/generated")
OLD = "These numbers were made by older code than that of this book; they wait for a new run."


def _link(path: Path) -> str:
    return Path("../..", path).as_posix() if path.parts[0] != "book" else Path("..", *path.parts[1:]).as_posix()


def _title(path: Path, page: Mapping) -> str:
    title, values = notebooks.title(page) or path.stem, notebooks.stamp(page).get("parameters", {})
    if path.parts[0] != "book":
        return title
    return (
        f"{title} ({', '.join(str(values[name]) for name in ('dataset', 'forget') if name in values) or 'benchmark'})"
    )


def claims(pages: Mapping[Path, Mapping]) -> str:
    """All claims of the given pages (path -> notebook), with verdict, evidence and a link to the place."""
    sections, counts = [], {"holds": 0, "fails": 0, "open": 0}
    for path, page in pages.items():
        found = notebooks.noted(page, "claim")
        if not found:
            continue
        rows = []
        for claim in found:
            counts[claim["verdict"]] += 1
            place = f"{_link(path).removesuffix('.ipynb')}.html#{bookkeeping.claim_anchor(claim['text'])}"
            rows.append([f'<a href="{place}">{claim["verdict"]}</a>', plain(claim["text"]), plain(claim["evidence"])])
        heading = f"## {_title(path, page)}\n\nFrom [{plain(path.as_posix())}]({_link(path)})."
        sections.append(f"{heading}\n\n{grid_table(['Verdict', 'Claim', 'Evidence'], rows)}")
    total = sum(counts.values())
    intro = (
        "A claim is a sentence with a test that runs with its page. "
        f"Claims: {total}; holding: {counts['holds']}; failing: {counts['fails']}; open, because the parameters of "
        f"the page cannot decide them: {counts['open']}. A claim that fails stays here."
    )
    return "\n\n".join(["# Claims", intro, *sections]) + "\n"


def status(pages: Mapping[Path, Mapping], states: Mapping[Path, provenance.State], minutes: Mapping[str, float]) -> str:
    """Whether each page follows from code and data as they are, what it took, and what it was made from."""
    first, second = [], []
    for path, page in pages.items():
        record, link = notebooks.stamp(page), f"[{_title(path, page)}]({_link(path)})"
        reasons = states[path].reasons
        state = f"stale: {plain('; '.join(reasons))}" if reasons else "fresh"
        spent = minutes.get(path.as_posix())
        spent = "not measured" if spent is None else f"{spent:.1f}" if spent >= 0.1 else "under 0.1"
        first.append([link, state, spent, record.get("mode", "unknown")])
        values = record.get("parameters", {})
        seeds = [f"{name} = {value!r}" for name, value in values.items() if bookkeeping.is_seed(name)]
        other = [f"{name} = {value!r}" for name, value in values.items() if not bookkeeping.is_seed(name)]
        data = [f"{name} {checksum[:12]}" for name, checksum in record.get("data", {}).items()]
        versions = [f"{name} {version}" for name, version in record.get("versions", {}).items()]
        listed = [", ".join(group) or "none" for group in (data, versions)]
        second.append([link, *(", ".join(map(code, group)) or "none" for group in (other, seeds)), *map(plain, listed)])
    stale = sum(bool(state.reasons) for state in states.values())
    intro = (
        "A page is fresh if its code cells, its parameters, the library modules that it imports and the versions of "
        "numpy and torch are those of the run that made it. "
        f"Fresh pages: {len(pages) - stale}; stale pages: {stale}. "
        "Minutes are CPU time for pinned numerics (one thread, the same bits on any x86-64 CPU with AVX2) and wall "
        "time for fast ones. Data are named with the first digits of their SHA-256."
    )
    return "\n\n".join(
        [
            "# Status of the pages",
            intro,
            grid_table(["Page", "State", "Minutes", "Numerics"], first),
            "## What each page was made from",
            grid_table(["Page", "Parameters", "Seeds", "Data", "Versions"], second) + "\n",
        ]
    )


def generate(folder: Path = FOLDER) -> list[Path]:
    """Write the generated pages; a file whose text has not changed is not touched. Returns the paths."""
    paths = committed()
    pages = {path: notebooks.read(path) for path in paths}
    states = {path: provenance.state(path) for path in paths}
    minutes = json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}
    texts = {"claims.md": claims(pages), "status.md": status(pages, states, minutes)}
    texts |= {"methods.md": cards.page()} | measured.texts() | papers.texts()
    rows, lines, by_page = archive.results(), archive.examples(), _commands(pages)
    made_by = archive.commands() | by_page
    found = boards.boards(rows, lines, notes=_notes(states))
    texts |= board_pages.texts(found, rows, made_by, by_page)
    texts |= guarantees.texts(rows)
    texts |= guide.texts(pages, found) if guide.PAGE.exists() else {}
    for name, text in texts.items():
        if notebooks.fetch(folder / name) != text:
            notebooks.write_text(folder / name, text)
    return [
        *(folder / name for name in texts),
        *archive.write(folder, {"results": rows, "results-examples": lines}, made_by),
    ]


def _commands(pages: Mapping[Path, Mapping]) -> dict[str, str]:
    """The commands of benchmark pages, by the name that they share with their results."""
    stamps = {path.stem: notebooks.stamp(page) for path, page in pages.items() if path.parts[0] == "book"}
    return {stem: stamp["command"] for stem, stamp in stamps.items() if "command" in stamp}


def _notes(states: Mapping[Path, provenance.State]) -> dict[str, str]:
    """What is said beside results whose page is stale, by the name of their file."""
    return {f"{path.stem}.csv": OLD for path, state in states.items() if path.parts[0] == "book" and state.reasons}


if __name__ == "__main__":
    for written in generate():
        print(written)
