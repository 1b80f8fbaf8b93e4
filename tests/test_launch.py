"""One setting turns on every link that needs an address; what programs read about the book is complete."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from sphinx.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/_ext"))
import book_launch  # noqa: E402

sys.path.pop(0)


@pytest.fixture
def config(monkeypatch):
    for name in ("BOOK_REPOSITORY", "BOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(
        html_baseurl="", ogp_site_url="", ogp_image="", html_theme_options={}, html_last_updated_fmt=None
    )


def test_without_the_setting_nothing_points_anywhere(config):
    before = vars(config).copy()
    book_launch.set_addresses(None, config)
    assert vars(config) == before | {"book_repository": ""}
    # jupyter-book fills in its own repository: a page must not take that for ours
    config.html_theme_options["repository_url"] = "https://github.com/executablebooks/jupyter-book"
    context = {"body": "<h1>One</h1>"}
    book_launch.tell_day(SimpleNamespace(config=config), "notebooks/01-x", "page.html", context, None)
    assert context == {"body": "<h1>One</h1>"}


def test_the_repository_turns_on_all_links(config, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/Owner/name.git")
    book_launch.set_addresses(None, config)
    options = config.html_theme_options
    assert options["repository_url"] == "https://github.com/Owner/name"
    assert options["use_source_button"] and options["use_issues_button"]
    assert {"colab_url", "binderhub_url"} <= set(options["launch_buttons"])
    assert config.html_baseurl == config.ogp_site_url == "https://owner.github.io/name/"
    assert config.ogp_image == "https://owner.github.io/name/_static/social.png"


def test_an_address_alone_gives_the_canonical_link_alone(config, monkeypatch):
    monkeypatch.setenv("BOOK_URL", "https://book.example/x")
    book_launch.set_addresses(None, config)
    assert config.html_baseurl == config.ogp_site_url == "https://book.example/x/" and not config.html_theme_options


def test_a_chapter_says_how_to_install_where_it_opens(config, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/o/n")
    book_launch.set_addresses(None, config)
    app = SimpleNamespace(config=config, book_days={"notebooks/01-x.ipynb": "2026-02-03"}, srcdir="/s")
    app.env = SimpleNamespace(doc2path=lambda name: f"/s/{name}.ipynb")
    context = {"body": "<h1>One</h1>"}
    book_launch.tell_day(app, "notebooks/01-x", "page.html", context, object())
    assert "git+https://github.com/o/n" in context["body"] and context["last_updated"] == "2026-02-03"


def test_another_host_has_no_launch_buttons_and_no_guessed_address(config, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://git.example/o/n/")
    book_launch.set_addresses(None, config)
    assert "colab_url" not in config.html_theme_options["launch_buttons"] and config.html_baseurl == ""


@pytest.mark.parametrize("text", ["owner/name", "http://github.com/o/n", "https://github.com/o", "https://a/b/c/d"])
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="https://host/owner/name") as refused:
        book_launch.repository(text)
    assert "\n" not in str(refused.value)


def test_the_newest_change_of_a_file_counts():
    log = "@2026-02-03\n\na.md\n@2026-01-02\n\na.md\nb.md\n"
    assert book_launch.changed(log) == {"a.md": "2026-02-03", "b.md": "2026-01-02"}


def test_the_crate_has_what_the_specification_requires():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    made = book_launch.crate(
        cited, [("index.html", "Front"), ("_data/a.csv", "Numbers")], "2026-01-02", "https://a.example/"
    )
    assert made["@context"] == "https://w3id.org/ro/crate/1.1/context"
    graph = {entity["@id"]: entity for entity in made["@graph"]}
    assert len(graph) == len(made["@graph"])  # every identifier once
    descriptor = graph["ro-crate-metadata.json"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"]["@id"].startswith("https://w3id.org/ro/crate/")
    root = graph["./"]
    assert root["@type"] == "Dataset" and root["datePublished"] == "2026-01-02"
    assert all(root[name] for name in ("name", "description", "license", "author", "hasPart"))
    told = [part["@id"] for name in ("license", "author", "hasPart") for part in root[name]]
    assert set(told) <= set(graph)  # what is named is described
    assert all(graph[p]["@type"] == "File" and graph[p]["encodingFormat"] for p in ("index.html", "_data/a.csv"))


def test_pages_are_listed_by_part_for_programs():
    toc = {"root": "index", "parts": [{"caption": "P", "chapters": [{"file": "a", "sections": [{"file": "b"}]}]}]}
    assert book_launch.parts_of(toc) == {"Start": ["index"], "P": ["a", "b"]}
    text = book_launch.llms("Book", "What\nit is.", {"P": [("A", "a.html")]}, "https://x.example/")
    assert text == "# Book\n\n> What it is.\n\n## P\n\n- [A](https://x.example/a.html)\n"
    assert "<loc>https://x.example/a.html</loc>" in book_launch.sitemap("https://x.example/", ["a.html"])


def test_the_social_picture_is_there():
    assert (ROOT / "book/_static/social.png").read_bytes().startswith(b"\x89PNG")
