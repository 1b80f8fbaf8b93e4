"""The list of changed pages names what a reader would see, and nothing else."""

import copy
import subprocess

import pytest

from unlearnlib.publishing import notebooks, review


def page(verdict="holds", table="<div class='table-wrap'>1</div>", figure="cG5n", text="Text.", code="x = 1"):
    claim = {"unlearnlib": {"claim": {"text": "It forgets", "verdict": verdict, "evidence": ""}}}
    outputs = [
        {"output_type": "display_data", "data": {"text/html": table}, "metadata": {}},
        {"output_type": "display_data", "data": {"image/png": figure}, "metadata": {}},
        {"output_type": "display_data", "data": {"text/plain": "claim"}, "metadata": claim},
    ]
    cells = [
        {"cell_type": "markdown", "source": text, "metadata": {}},
        {"cell_type": "code", "source": code, "metadata": {}, "outputs": outputs, "execution_count": 1},
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"text": "Other."}, ["text"]),
        ({"code": "x = 2"}, ["code"]),
        ({"table": "<div class='table-wrap'>2</div>"}, ["1 table"]),
        ({"figure": "b2xk"}, ["1 figure"]),
        ({"verdict": "fails"}, ["claim holds -> fails: It forgets"]),
    ],
)
def test_each_kind_of_change_is_named(change, said):
    assert review.differences(page(), page(**change)) == said


def test_what_a_reader_does_not_see_is_no_difference():
    other = copy.deepcopy(page())
    other["cells"][1]["execution_count"] = 7
    other["metadata"]["unlearnlib"] = {"mode": "pinned"}
    assert review.differences(page(), other) == []


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def git(*arguments):
        named = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *named, *arguments], check=True, capture_output=True)

    (tmp_path / "notebooks").mkdir()
    notebooks.write_text("notebooks/01-x.ipynb", notebooks.dumps(page()))
    notebooks.write_text("index.md", "front")
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "first")
    return tmp_path


def test_changed_pages_are_listed(repository, capsys):
    notebooks.write_text("notebooks/01-x.ipynb", notebooks.dumps(page(verdict="fails")))
    notebooks.write_text("index.md", "another front")
    assert review.command(["changed", "--since", "main"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "index.md: text",
        "notebooks/01-x.ipynb: claim holds -> fails: It forgets",
        "2 pages differ",
    ]


def test_an_unknown_commit_is_refused_in_one_line(repository, capsys):
    with pytest.raises(SystemExit) as refused:
        review.command(["changed", "--since", "--output=x"])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as refused:
        review.command(["changed", "--since", "nowhere"])
    assert refused.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) <= 2
