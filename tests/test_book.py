"""The shell of the book holds together: configuration, contents, citations, pins, commands, licences."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import check_site
import pytest
import yaml
from pybtex.database import parse_file

from unlearnlib.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"book/generated/claims", "book/generated/methods", "book/generated/status"}
# Names under which a distribution is imported, where they differ.
IMPORTED_AS = {
    "pot": "ot",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "markdown-it-py": "markdown_it",
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def config() -> dict:
    return yaml.safe_load(text("_config.yml"))


def toc_pages() -> list[str]:
    return check_site.pages_of(yaml.safe_load(text("_toc.yml")))


def prose() -> dict[str, str]:
    """Markdown of the book, and of the Markdown cells of its notebooks, by path."""
    files = [ROOT / "index.md", *sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "book/api").glob("*.md"))]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        said = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found[f"notebooks/{path.name}"] = "\n\n".join(said)
    return found


def requirements() -> dict[str, str]:
    lines = [line.strip() for line in text("requirements.txt").splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


# --- configuration and contents


def test_config_is_valid_and_every_key_is_known():
    from jupyter_book.config import PATH_JSON_SCHEMA, PATH_YAML_DEFAULT, validate_yaml

    validate_yaml(config(), raise_on_errors=True)
    known = yaml.safe_load(PATH_YAML_DEFAULT.read_text(encoding="utf-8"))
    schema = json.loads(PATH_JSON_SCHEMA.read_text(encoding="utf-8"))
    unknown = set(config()) - set(known) - set(schema["properties"])  # a misspelt section is accepted in silence
    assert not unknown
    for section in ("execute", "parse", "html", "launch_buttons"):
        extra = set(config()[section]) - set(known[section])
        assert not extra, f"{section}: {extra}"
    assert set(config()["sphinx"]) <= {"recursive_update", "local_extensions", "config", "extra_extensions"}


def test_config_never_executes_and_asks_no_other_host():
    assert config()["execute"]["execute_notebooks"] == "off"
    assert "sphinx_thebe" not in config()["sphinx"]["config"]["extensions"]
    assert not check_site.foreign(config()["sphinx"]["config"]["mathjax_path"])
    assert "http" not in text("_config.yml")


def test_contents_lists_each_page_once_and_every_page_exists():
    pages = toc_pages()
    assert len(pages) == len(set(pages))
    there = {page for page in pages for suffix in (".md", ".ipynb") if (ROOT / f"{page}{suffix}").exists()}
    assert set(pages) - GENERATED <= there
    assert set(pages) >= GENERATED


def test_no_page_is_left_out_of_the_contents():
    written = {str(Path(name).with_suffix("")) for name in prose()}
    assert written <= set(toc_pages())


def test_page_names_are_lower_case_with_hyphens():
    names = [Path(page).name for page in toc_pages()]
    assert [n for n in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", n)] == []


# --- prose


@pytest.mark.parametrize("name", sorted(prose()))
def test_pictures_have_alternative_text_and_come_from_here(name):
    page = prose()[name]
    assert not re.findall(r"!\[\s*\]\(", page), "a picture without alternative text"
    for directive in re.findall(r"[`:]{3,}\{(?:figure|image)\}.*?(?=\n[`:]{3,})", page, re.DOTALL):
        assert re.search(r"^:alt: \S", directive, re.MULTILINE), directive
    sources = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page)
    sources += re.findall(r"<(?:img|script|iframe|source)[^>]*?src=[\"']([^\"']+)", page)
    assert [s for s in sources if check_site.foreign(s)] == []
    for tag in re.findall(r"<img[^>]*>", page):
        assert re.search(r"alt=[\"'][^\"']+", tag), tag


@pytest.mark.parametrize("path", sorted((ROOT / "book/_static").glob("*.svg")), ids=lambda p: p.name)
def test_drawings_say_what_they_show_and_ask_for_nothing(path):
    drawing = path.read_text(encoding="utf-8")
    assert 'role="img"' in drawing and ("aria-label=" in drawing or "<title" in drawing)
    assert re.findall(r"https?://[^\"' ]+", drawing) == ["http://www.w3.org/2000/svg"]
    assert check_site.foreign_in_css(drawing) == []


# Words that place a panel on the page: on a phone panels stand below each other, and no panel is at the left.
SIDES = re.compile(
    r"[Oo]n the (left|right)\b|\((left|middle|right|top|bottom)\)|\b(Left|Middle|Right|Top|Bottom)( and \w+)?[:,]"
    r"|the (left|middle|right|upper|lower)( and the \w+)? (panel|picture|tree|drawing)s?\b"
)


def captions() -> list[tuple[str, str]]:
    """(place, text) of what is said about figures: captions, alternative texts, and the prose of chapters."""
    found = [(name, said) for name, said in prose().items() if name.startswith("notebooks/")]
    for path in [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "book/benchmarks").glob("*.ipynb"))]:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            told = cell["metadata"].get("mystnb", {})
            said = [told.get("figure", {}).get("caption", ""), told.get("image", {}).get("alt", "")]
            found += [(f"{path.name}, {cell['id']}", " ".join(said))]
    return found


@pytest.mark.parametrize(
    ("said", "places"),
    [
        ("Left: accuracy. Middle and right: cost.", True),
        ("Accuracy (left) and cost.", True),
        ("On the right all lines lie on top of one another.", True),
        ("The line in the right panel below.", True),
        ("First panel: accuracy. Second: cost, to the left of the band; a long left tail, the right answer.", False),
        ("Left of zero a model is nearer; what is left out.", False),
    ],
)
def test_words_that_place_a_panel_are_known(said, places):
    assert bool(SIDES.search(said)) == places


def test_no_caption_finds_a_panel_by_its_side():
    assert not [f"{place}: {found[0]}" for place, said in captions() if (found := SIDES.search(said))]


def chapters() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_plumbing_is_folded_in_every_chapter(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        said, tags = "".join(cell["source"]), set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "code" and re.match(r"bookkeeping\.begin\(|.*\n+bookkeeping\.pin_numerics\(\)$", said):
            assert "remove-input" in tags, said
        elif cell["cell_type"] == "code" and ("parameters" in tags or len(said.splitlines()) > 6):
            assert tags & {"hide-input", "remove-input"}, said[:80]


def test_every_citation_has_an_entry():
    known = set(parse_file(str(ROOT / "book/references.bib")).entries)
    cited = {name: re.findall(r"\{cite[a-z:]*\}`([^`]+)`", page) for name, page in prose().items()}
    for path in sorted((ROOT / "unlearnlib").rglob("*.py")):
        cited[str(path.relative_to(ROOT))] = re.findall(r"\bpaper=\"([^\"]+)\"", path.read_text(encoding="utf-8"))
    lost = {
        name: keys
        for name, groups in cited.items()
        if (keys := [k.strip() for group in groups for k in group.split(",") if k.strip() not in known])
    }
    assert not lost


def test_bibliography_is_complete_and_has_no_doublet():
    keys = re.findall(r"^@\w+\{([^,]+),", text("book/references.bib"), re.MULTILINE)
    assert len(keys) == len(set(keys))
    entries = parse_file(str(ROOT / "book/references.bib")).entries  # raises on a second entry of the same key
    assert set(entries) == set(keys)
    titles = [re.sub(r"\W+", "", e.fields["title"]).lower() for e in entries.values()]
    assert len(titles) == len(set(titles))
    assert [key for key, e in entries.items() if not e.persons.get("author") or not e.fields.get("year")] == []


# --- versions and commands


def test_every_requirement_is_pinned_exactly_and_listed_once():
    lines = [line for line in text("requirements.txt").splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))


def test_whatever_is_imported_is_required():
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in requirements()}
    allowed = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    allowed |= {"unlearnlib", "IPython", *sys.stdlib_module_names}  # it comes with ipykernel
    own = {path.stem for folder in ("tests", "book/_ext", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    lost = {}
    for path in [*(ROOT / "unlearnlib").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in {m.split(".")[0] for m in modules} - allowed - own:
                lost.setdefault(module, str(path.relative_to(ROOT)))
    assert not lost


def test_versions_agree():
    import unlearnlib

    declared = re.search(r"^version = \"([^\"]+)\"", text("pyproject.toml"), re.MULTILINE)[1]
    assert unlearnlib.__version__ == declared == str(yaml.safe_load(text("CITATION.cff"))["version"])
    assert f"## {declared}" in text("CHANGELOG.md") and f"Version {declared}" in text("book/how-to-cite.md")


def test_numerics_are_pinned_alike_everywhere():
    from unlearnlib.publishing.bookkeeping import PINS

    pins = {**PINS, "OMP_NUM_THREADS": "1"}
    line = re.search(r"^NUMERICS := (.+)$", text("Makefile"), re.MULTILINE)[1]
    assert dict(word.split("=") for word in shlex.split(line)) == pins
    conftest = text("tests/conftest.py")
    assert all(f'{name}="{value}"' in conftest for name, value in pins.items())


def test_commands_that_the_texts_name_exist():
    targets = set(re.findall(r"^([a-z]+):.*?## \S", text("Makefile"), re.MULTILINE))
    pages = [text(name) for name in ("README.md", "CONTRIBUTING.md", ".ci/run")] + list(prose().values())
    named = {t for page in pages for t in re.findall(r"(?:^|`)make ([a-z]+)", page, re.MULTILINE)}
    assert {"test", "book"} <= named <= targets
    commands = {t for page in pages for t in re.findall(r"(?:bin/|`)unlearn ([a-z]+)", page)}
    assert commands and commands <= {name for group in COMMANDS.values() for name in group}
    assert not [page for page in pages if re.search(r"python -m unlearnlib\.\w", page) and "CHANGELOG" not in page]
    phony = set(re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)[1].split())
    assert targets == phony, "each target has a help line and is phony"


def test_make_alone_lists_the_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make book" in shown and "make test" in shown and len(shown.splitlines()) >= 6


def test_workflows_use_only_the_platforms_own_actions():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
        assert used and all(name.startswith("actions/") for name in used), path.name
        # A tag can be moved to other code, a commit cannot; the tag stands in a comment.
        pinned = re.findall(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(pinned) == len(used), path.name


def test_only_the_job_that_deploys_may_write():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, job in workflow["jobs"].items():
            given = job.get("permissions", workflow["permissions"])
            runs = [step for step in job["steps"] if "run" in step or "checkout" in step.get("uses", "")]
            assert set(given.values()) <= {"read"} or (name == "deploy" and not runs), f"{path.name}: {name}"
            keeps = [s for s in job["steps"] if "checkout@" in s.get("uses", "")]
            assert all(step["with"]["persist-credentials"] is False for step in keeps)


def test_the_library_is_tried_on_the_pythons_it_declares():
    workflow = yaml.safe_load(text(".github/workflows/test.yml"))
    tried = {row["python"] for row in workflow["jobs"]["library"]["strategy"]["matrix"]["include"]}
    assert tried == set(re.findall(r"Python :: (3\.\d+)", text("pyproject.toml")))


def test_ci_script_is_valid_and_runs_the_two_commands():
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert re.findall(r"^make (\w+)", text(".ci/run"), re.MULTILINE) == ["test", "book"]


def test_code_and_text_have_their_licences():
    assert "MIT License" in text("LICENSE") and "Creative Commons Attribution 4.0" in text("LICENSE")
    cff = yaml.safe_load(text("CITATION.cff"))
    assert cff["authors"] == [{"name": "The unlearnlib authors"}] and cff["cff-version"]


def test_the_drawn_result_has_the_numbers_of_its_chapter():
    """`result.svg` is drawn by hand from a table of chapter 02: row, one threshold, a test for each example."""
    cells = json.loads(text("notebooks/02-measuring-forgetting.ipynb"))["cells"]
    tables = ["".join(o["data"]["text/html"]) for c in cells for o in c.get("outputs", []) if "text/html" in o["data"]]
    table = next(page for page in tables if "<caption>AUC of three attacks" in page)
    said = re.search(r"<desc[^>]*>(.*?)</desc>", text("book/_static/result.svg"))[1]
    population, single = said.split("One test for each example: ")
    for row, name in (("original", "original"), ("finetune", "fine-tuned"), ("retrain, other seed", "retrained again")):
        there = re.search(rf'<th scope="row">{row}</th>(.*?)</tr>', table)[1]
        values = re.findall(r"<td[^>]*>(\d\.\d{3})", there)
        for part, value in zip((population, single), values, strict=False):
            assert f"{name} {value}" in part
