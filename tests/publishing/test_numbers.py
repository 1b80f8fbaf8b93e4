"""The command that compares a reader's chapters with the committed ones finds what moved, and only that."""

import copy
import json

import pandas as pd
import pytest

from unlearnlib.__main__ import main
from unlearnlib.publishing import notebooks, numbers
from unlearnlib.publishing.tables import render

TABLE = pd.DataFrame({"method": ["retrain", "finetune"], "x": [0.5, 0.7], "x_low": [0.4, 0.6], "x_high": [0.6, 0.8]})


def page(frame=TABLE, verdict="holds", evidence="0.25 [0.20, 0.30] of it", **parameters):
    """A notebook with one table and one claim, as the runner writes them."""
    claim = {"text": "It is so", "verdict": verdict, "evidence": evidence}
    outputs = [
        {"output_type": "display_data", "data": render(frame, caption="Gaps, 3 seeds"), "metadata": {}},
        {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {"unlearnlib": {"claim": claim}}},
    ]
    cell = {"cell_type": "code", "id": "a", "source": "", "metadata": {}, "execution_count": 1, "outputs": outputs}
    stamp = {"unlearnlib": {"parameters": parameters}}
    return {"cells": [cell], "metadata": stamp, "nbformat": 4, "nbformat_minor": 5}


def moved(row, value):
    frame = TABLE.copy()
    frame.loc[row, ["x", "x_low", "x_high"]] = [value, value - 0.1, value + 0.1]
    return frame


def test_every_estimate_is_found_with_its_place():
    found = list(numbers.recorded(page()))
    assert [(n.value, n.low, n.high) for n in found] == [(0.5, 0.4, 0.6), (0.7, 0.6, 0.8), (0.25, 0.2, 0.3)]
    assert [n.place for n in found] == [
        ("Gaps, 3 seeds", "retrain", 1),
        ("Gaps, 3 seeds", "finetune", 1),
        ("It is so", "", 1),
    ]


def test_sides_that_differ_are_read_as_they_are_shown():
    frame = pd.DataFrame({"method": ["a"], "x": [0.9], "x_low": [0.5], "x_high": [1.0]})
    (first, _) = numbers.recorded(page(frame))
    assert "+0.1 -0.4" in render(frame)["text/plain"] and (first.low, first.high) == (0.5, 1.0)


def test_a_page_does_not_depart_from_itself_nor_a_number_inside_its_interval():
    assert numbers.departures(page(), page()) == []
    assert numbers.departures(page(), page(moved(1, 0.79))) == []


def test_a_number_outside_is_named_and_no_other():
    (line,) = numbers.departures(page(), page(moved(1, 0.81)))
    assert "finetune" in line and "0.81 is outside [0.6, 0.8]" in line


def test_a_missing_row_and_a_changed_verdict_are_named():
    lines = numbers.departures(page(), page(TABLE[:1], verdict="fails"))
    assert len(lines) == 2 and "is not there" in lines[0] and "'holds', 'fails'" in lines[1]


def test_rows_of_one_name_are_told_apart_by_their_order():
    frame = pd.concat([TABLE[:1], moved(0, 0.9)[:1]], ignore_index=True)
    assert [n.place[2] for n in numbers.recorded(page(frame))][:2] == [1, 2]
    assert numbers.departures(page(frame), page(frame[::-1].reset_index(drop=True)))


def test_other_parameters_are_refused():
    with pytest.raises(ValueError, match="other parameters"):
        numbers.departures(page(n_seeds=3), page(n_seeds=4))


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, nb in (("notebooks", page()), ("runs", page(moved(0, 0.7)))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "01-a.ipynb").write_text(json.dumps(copy.deepcopy(nb)))
    assert notebooks.stamp(page(a=1))["parameters"] == {"a": 1}
    assert main(["numbers"]) == 0
    assert "3 numbers, 1 claims" in capsys.readouterr().out
    assert main(["numbers", "--compare", "notebooks"]) == 0
    assert main(["numbers", "--compare", "runs"]) == 1
    assert "0.7 is outside [0.4, 0.6]" in capsys.readouterr().out
    assert main(["numbers", "--compare", "nowhere"]) == 2
    assert "unlearn run NOTEBOOK -o nowhere" in capsys.readouterr().err
