"""The script of the leaderboard, in a real browser: ranks, duels and the keyboard on boards with known answers."""

import shutil
from pathlib import Path

import board_rows
import check_board
import pandas as pd
import pytest
from check_browser import browser

from unlearnlib.publishing import board_pages, boards

STATIC = Path(__file__).resolve().parents[2] / "book/_static"
HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'


@pytest.fixture
def site(tmp_path):
    """One page with a ranked board and one that cannot be ranked."""
    plain = board_rows.rows(request="class:3", seeds=3)
    plain = plain[~plain["audit"].str.contains("LiRA|KLoM")]
    rows = pd.concat([board_rows.rows().assign(file="a.parquet"), plain.assign(file="b.csv")])
    found = boards.boards(rows, board_rows.examples().assign(file="a-examples.parquet"), notes={"b.csv": "Old."})
    (tmp_path / "book").mkdir()
    shutil.copytree(STATIC, tmp_path / "_static")
    places = '<div data-board="leaderboard"></div><p class="board-static">static</p><div data-board="explorer"></div>'
    page = f"{HEAD}<title>t</title></head><body>{places}{board_pages.embedded(found)}</body></html>"
    (tmp_path / check_board.PAGE).write_text(page, encoding="utf-8")
    return tmp_path


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
def test_the_script_shows_known_answers_and_obeys_the_keyboard(site):
    done, wrong = check_board.check(site, browser())
    assert wrong == [] and done > 40


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
def test_a_script_that_ranks_wrongly_is_caught(site):
    script = site / "_static/boards.js"
    text = script.read_text()
    broken = text.replace("board.order[i][j] > 0", "board.order[i][j] >= 0").replace("d[2] < 0 ? a", "d[2] < 0 ? b")
    assert broken != text
    script.write_text(broken)
    wrong = "\n".join(check_board.check(site, browser())[1])
    assert "ranks within any" in wrong and "against" in wrong
