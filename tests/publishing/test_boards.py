"""Boards: known ranks, bands and quantiles reach the page; missing and malformed results are told."""

import json
import re

import board_rows
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from unlearnlib.publishing import board_pages, boards, guide


def made(**changes):
    rows = board_rows.rows(**changes).assign(file="a.parquet")
    return boards.boards(rows, board_rows.examples().assign(file="a-examples.parquet"))


def lines_of(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]


def test_planted_ranks_are_those_of_the_page():
    (board,) = made()
    leaks = [board_rows.PLANTED[line["method"]][0] for line in board["lines"]]
    assert leaks == sorted(leaks)
    table = lines_of(board_pages.ranking(board))[2:]
    assert {line[1]: line[0] for line in table} == {
        "retrain, other seed": "1",
        "SISA": "2",
        "salun": "3 to 4",
        "ssd": "3 to 4",
        "scrub": "5",
        "finetune, 5 %": "6",
        "original": "7",
    }
    by_name = {line["method"]: line for line in board["lines"]}
    assert by_name["ssd"]["damage"][0] == pytest.approx(-0.2, abs=0.005) and by_name["ssd"]["cost"] == 0.02


def test_estimates_have_students_interval_and_the_band_of_one_more_retraining():
    (board,) = made()
    rows = board_rows.rows()
    loss = next(e for e in board["estimates"] if e["title"].startswith("KLoM"))
    where = [line["method"] for line in board["lines"]].index("scrub")
    values = rows[(rows["method"] == "scrub") & rows["audit"].str.startswith("KLoM")]["value"]
    half = t.ppf(0.975, 7) * values.std() / np.sqrt(8)
    np.testing.assert_allclose(loss["points"][where], [values.mean(), values.mean() - half, values.mean() + half], 1e-3)
    null = rows[(rows["method"] == "retrain, other seed") & rows["audit"].str.startswith("KLoM")]["value"]
    half = t.ppf(0.975, 7) * null.std() * np.sqrt(1 + 1 / 8)
    np.testing.assert_allclose(loss["null"], [null.mean() - half, null.mean() + half], 1e-3)
    titles = [e["title"] for e in board["estimates"]]
    assert titles[0] == "U-LiRA: forgotten against never seen (area)" and len(titles) == 5


def test_leakage_is_the_quantiles_of_the_examples():
    (board,) = made()
    shift = next(part for part in board["leakage"] if part["title"].startswith("Margin"))
    where = [line["method"] for line in board["lines"]].index("original")
    np.testing.assert_allclose(shift["quantiles"][where], 0.4 * np.linspace(0, 2, boards.QUANTILES), atol=1e-3)
    assert shift["examples"] == 50


def test_examples_of_a_method_without_rows_are_refused():
    rows = board_rows.rows({"original": (0.4, 0, 0), "scrub": (0.1, 0.1, 0)}).assign(file="a.parquet")
    with pytest.raises(ValueError, match="a-examples.parquet: no results file has rows of SISA"):
        boards.boards(rows, board_rows.examples().assign(file="a-examples.parquet"))


def test_without_a_ranking_audit_a_board_is_explored_and_says_why():
    rows = board_rows.rows().assign(file="a.parquet")
    (board,) = boards.boards(rows[~rows["audit"].str.contains("LiRA|KLoM")], notes={"a.parquet": "Old."})
    assert not board["ranked"] and "no valid U-LiRA" in board["why"] and board["notes"] == ["Old."]
    assert board["order"] == [] and len(board["estimates"]) == 3
    assert {line[0] for line in lines_of(board_pages.ranking(board))[2:]} == {"not ranked"}


def test_one_seed_has_scores_and_no_ranks():
    (board,) = made(seeds=1)
    assert board["ranked"] and board["order"] == [] and all(line["scores"] for line in board["lines"])
    assert "board-ranks.svg" not in board_pages.texts([board], board_rows.rows(seeds=1).assign(file="a.parquet"), {})


def test_requests_make_boards_of_their_own_and_read_well():
    rows = pd.concat([board_rows.rows(), board_rows.rows(request="class:3", seeds=3)]).assign(file="a.parquet")
    found = boards.boards(rows)
    assert [board["request"] for board in found] == ["random 10 %", "one class (3)"]
    assert boards.in_words("a third of random:0.25") == "a third of random 25 %"
    assert boards.in_words("random, own set for each model") == "random examples, own set for each model"
    assert boards.in_words("mislabelled:0.01") == "mislabelled 1 %" and boards.in_words("odd") == "odd"


def test_a_trial_on_small_pictures_stands_behind_every_ranked_board():
    trial = board_rows.rows(request="class:3").assign(file="quick.parquet", study=boards.QUICK)
    larger = board_rows.rows(seeds=3).assign(file="a.parquet")
    found = boards.boards(pd.concat([trial, larger]))
    assert [(board["trial"], board["request"]) for board in found] == [(False, "random 10 %"), (True, "one class (3)")]
    assert found[0]["rows"] < found[1]["rows"]


def test_budgets_are_lines_of_their_own_and_baselines_stand_once():
    """One file a budget, each with the baselines once more: as pools of large networks are kept."""
    rows = pd.concat([board_rows.rows().assign(budget=share) for share in (0.02, 0.1)]).assign(file="a.parquet")
    lines = [board_rows.examples().assign(budget=share, file="a-examples.parquet") for share in (0.02, 0.1)]
    (board,) = boards.boards(rows, pd.concat(lines))
    names = [line["method"] for line in board["lines"]]
    curves = dict(zip(names, board["leakage"][0]["quantiles"], strict=True))
    assert curves["scrub, 2 %"] == curves["scrub, 10 %"] and curves["original"] is not None
    assert {"scrub, 2 %", "scrub, 10 %", "original", "retrain, other seed"} < set(names) and "scrub" not in names
    assert board["rows"] == 5 * 8 * (2 * 5 + 2) and boards.about("scrub, 2 %")["base"] == "scrub"


def test_what_is_known_of_a_method_is_found_by_its_label():
    assert boards.about("scrub, tuned")["base"] == boards.about("scrub (5 %)")["base"] == "scrub"
    assert boards.about("scrub_r")["base"] == "scrub_r" and boards.about("scrubber")["base"] == ""
    assert boards.about("finetune, 5 %")["reads"] == "retain"
    assert boards.about("SISA")["guarantee"] == "exact" and boards.about("DP-SGD")["guarantee"] == "certified"
    assert boards.about("original")["guarantee"] == "none" and boards.about("mine")["guarantee"] == "unknown"
    assert boards.about("retrain, other seed")["guarantee"] == "exact"


def test_without_results_all_fragments_say_so():
    rows = board_rows.rows()[:0].assign(file="")
    texts = board_pages.texts([], rows, {})
    assert "nothing is ranked" in texts["board-ranks.md"]
    assert all("No results file" in texts[name] for name in ("board-costs.md", "guide-costs.md", "board-requests.md"))
    assert texts["board-files.md"].count("not there yet") == len(board_pages.PLANNED)
    assert "no method is named" in guide.budgets([])
    data = re.search(r'id="boards-data">(.*?)</script>', texts["board.html"])[1]
    assert json.loads(data) == {"boards": []}


def test_data_cannot_end_their_script_and_hold_no_nan():
    rows = board_rows.rows({"original": (0.4, 0, 0), "</script><b>": (0.1, np.nan, 0)}).assign(file="a.parquet")
    page = board_pages.embedded(boards.boards(rows))
    assert page.count("</script>") == 2 and "NaN" not in page
    assert '"\\u003c/script>\\u003cb>"' in page


def test_drawings_are_the_same_twice_and_say_what_they_show():
    board = made()[0]
    first, second = (board_pages.texts([board], board_rows.rows().assign(file="a.parquet"), {}) for _ in range(2))
    assert first == second
    for name in ("board-ranks.svg", "board-costs.svg", "board-requests.svg"):
        drawing = first[name]
        assert 'role="img"' in drawing and 'aria-label="' in drawing
        assert set(re.findall(r"https?://[^\"' ]+", drawing)) == {"http://www.w3.org/2000/svg"}


def test_a_budget_names_what_may_be_first_among_what_it_pays_for():
    table = {line[0]: line[1:] for line in lines_of(guide.budgets(made()))[2:]}
    assert table["2 %"] == ["ssd", "ssd"]
    assert table["5 %"] == ["ssd", "ssd"] and table["10 %"] == ["ssd", "ssd"]
    assert table["25 %"] == ["SISA", "SISA"]
    tied = {"original": (0.2, 0.0, 0), "scrub": (0.2, 0.01, 0), "ssd": (0.2, 0.01, 0), "salun": (0.4, 0.01, 0)}
    table = {line[0]: line[1:] for line in lines_of(guide.budgets(boards.boards(_of(tied))))[2:]}
    assert sorted(table["2 %"][0].split(", ")) == ["scrub", "ssd"] and table["2 %"][1] == "none"


def _of(planted):
    return board_rows.rows(planted, noise=0.01).assign(file="a.parquet")
