"""Where the book lives: one setting turns on every link that needs an address; without it the book points nowhere.

`BOOK_REPOSITORY=https://github.com/owner/name` gives each page links to its source, to a new issue, to Colab and
Binder, and the day its source last changed. `BOOK_URL` is the address of the pages; by default that of GitHub is taken.
An address gives the canonical link, the social picture and `sitemap.xml`. Always written, since they point to files of
the book alone: `llms.txt`, a list of all pages for programs that read, and `ro-crate-metadata.json`, which describes
the book as a research object (RO-Crate 1.1).
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import yaml
from sphinx.errors import ConfigError

REPOSITORY = re.compile(r"https://([\w.-]+)/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
BRANCH = "main"
PICTURE = "_static/social.png"
LICENCES = {"MIT": "https://spdx.org/licenses/MIT", "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/"}
FORMATS = {
    ".html": "text/html",
    ".csv": "text/csv",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".ipynb": "application/x-ipynb+json",
}
ARCHIVE = ("results*", "datapackage.json")  # what the leaderboard's page offers for download


def repository(text: str) -> str:
    """The address of a repository, without a suffix. Raises ConfigError on anything else."""
    found = REPOSITORY.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"BOOK_REPOSITORY is https://host/owner/name, not {text!r}")
    return "https://{}/{}/{}".format(*found.groups())


def pages_address(repo: str) -> str:
    """Where GitHub serves the pages of a repository; "" for another host."""
    host, owner, name = REPOSITORY.fullmatch(repo).groups()
    return f"https://{owner.lower()}.github.io/{name}/" if host == "github.com" else ""


def set_addresses(app, config) -> None:
    """Take repository and address from the environment; without them the pages work anywhere and point nowhere."""
    repo = os.environ.get("BOOK_REPOSITORY", "").strip()
    repo = repository(repo) if repo else ""
    address = os.environ.get("BOOK_URL", "").strip() or (pages_address(repo) if repo else "")
    if address:
        address = address.rstrip("/") + "/"
        config.html_baseurl = config.ogp_site_url = address
        config.ogp_image = address + PICTURE
    config.book_repository = repo  # the theme's own option has a default of its makers
    if repo:
        launch = {"notebook_interface": "classic"}
        if repo.startswith("https://github.com/"):
            launch |= {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
        config.html_theme_options |= {
            "repository_url": repo,
            "repository_branch": BRANCH,
            "path_to_docs": "",
            "use_source_button": True,
            "use_issues_button": True,
            "use_repository_button": True,
            "launch_buttons": launch,
        }
        config.html_last_updated_fmt = "%Y-%m-%d"


def changed(log: str) -> dict[str, str]:
    """File -> day of its last change, from `git log --format=@%cs --name-only`, newest first."""
    days: dict[str, str] = {}
    day = ""
    for line in log.splitlines():
        if line.startswith("@"):
            day = line[1:]
        elif line:
            days.setdefault(line, day)
    return days


def _log(folder: str) -> str:
    command = ["git", "-C", folder, "log", "--format=@%cs", "--name-only"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else ""


def tell_day(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The day of the page's last change, in place of that of the build; and how to install where a notebook opens."""
    repo = app.config.book_repository
    if not repo:
        return
    if not hasattr(app, "book_days"):
        app.book_days = changed(_log(app.srcdir))
    source = os.path.relpath(app.env.doc2path(pagename), app.srcdir) if doctree is not None else ""
    context["last_updated"] = app.book_days.get(source)
    if pagename.startswith("notebooks/") and "colab_url" in app.config.html_theme_options["launch_buttons"]:
        install = f'%pip install "does-it-forget[book] @ git+{repo}"'
        note = f'<p class="chapter-facts">On Colab, run this cell first: <code>{escape(install)}</code></p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{note}", 1)


# --- files for programs


def sitemap(address: str, pages: Sequence[str]) -> str:
    urls = "".join(f"  <url><loc>{escape(address + page)}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    )


def llms(title: str, summary: str, parts: Mapping[str, Sequence[tuple[str, str]]], address: str = "") -> str:
    """`llms.txt`: a heading, what the book is, and its pages by part as (title, page)."""
    lines = [f"# {title}", "", f"> {' '.join(summary.split())}"]
    for part, pages in parts.items():
        lines += ["", f"## {part}", "", *(f"- [{name}]({address}{page})" for name, page in pages)]
    return "\n".join(lines) + "\n"


def crate(cited: Mapping, files: Sequence[tuple[str, str]], day: str, address: str = "") -> dict:
    """RO-Crate 1.1 metadata of the built book.

    cited       what `CITATION.cff` says: title, abstract, version, licences, keywords, authors
    files       (path, name) of what the crate holds
    day         of publication, ISO 8601
    """
    licences = [{"@id": LICENCES[name]} for name in cited["license"]]
    authors = [{"@id": f"#author-{i}", "@type": "Organization", **a} for i, a in enumerate(cited["authors"], 1)]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": cited["title"],
        "description": " ".join(cited["abstract"].split()),
        "datePublished": day,
        "version": str(cited["version"]),
        "license": licences,
        "keywords": list(cited["keywords"]),
        "author": [{"@id": author["@id"]} for author in authors],
        "hasPart": [{"@id": path} for path, _ in files],
    }
    if address:
        root["url"] = address
    held = [{"@id": p, "@type": "File", "name": n, "encodingFormat": FORMATS[Path(p).suffix]} for p, n in files]
    named = [{"@id": LICENCES[name], "@type": "CreativeWork", "name": name} for name in cited["license"]]
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [descriptor, root, *authors, *named, *held]}


def write_files(app, exception) -> None:
    if exception is not None or app.builder.name != "html":
        return
    out, env = Path(app.outdir), app.env
    toc = yaml.safe_load(Path(app.srcdir, "_toc.yml").read_text(encoding="utf-8"))
    cited = yaml.safe_load(Path(app.srcdir, "CITATION.cff").read_text(encoding="utf-8"))
    address = app.config.html_baseurl or ""
    found = {part: [name for name in names if name in env.titles] for part, names in parts_of(toc).items()}
    listed = {
        part: [(env.titles[name].astext(), f"{name}.html") for name in names] for part, names in found.items() if names
    }
    text = llms(app.config.project, cited["abstract"], listed, address)
    (out / "llms.txt").write_text(text, encoding="utf-8")
    pages = [pair for pairs in listed.values() for pair in pairs]
    data = sorted(path.relative_to(out).as_posix() for path in (out / "_data").glob("*.csv"))
    archived = sorted(p.relative_to(out).as_posix() for pattern in ARCHIVE for p in out.glob(f"_downloads/*/{pattern}"))
    files = [
        *((page, name) for name, page in pages),
        *((path, f"Numbers of {Path(path).stem}") for path in data),
        *((path, f"Archive of all results: {Path(path).name}") for path in archived),
    ]
    day = max(changed(_log(app.srcdir)).values(), default="2026-01-01")
    crated = json.dumps(crate(cited, files, day, address), indent=1, ensure_ascii=False)
    (out / "ro-crate-metadata.json").write_text(crated + "\n", encoding="utf-8")
    if address:
        (out / "sitemap.xml").write_text(sitemap(address, [page for _, page in pages]), encoding="utf-8")


def parts_of(toc: Mapping) -> dict[str, list[str]]:
    """Part -> its files, sections after their page."""

    def files(entry: Mapping) -> list[str]:
        below = [file for key in ("chapters", "sections") for child in entry.get(key, []) for file in files(child)]
        return ([entry["file"]] if "file" in entry else []) + below

    parts = {"Start": [toc["root"]]}
    return parts | {part["caption"]: files(part) for part in toc.get("parts", [])}


def setup(app):
    app.add_config_value("book_repository", "", "html")
    app.connect("config-inited", set_addresses)
    app.connect("html-page-context", tell_day, priority=900)
    app.connect("build-finished", write_files, priority=450)  # after the data, before the policy
    return {"parallel_read_safe": True, "parallel_write_safe": True}
