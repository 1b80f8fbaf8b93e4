"""Tables of measured things say what the files say, and only that."""

import json
import re
from pathlib import Path

import pytest

from unlearnlib.publishing import measured
from unlearnlib.publishing.markup import UNMEASURED

MACHINE = {"processor": "P", "cores": "2"}


def ratio(name, value, goal, **more):
    return {"name": name, "ratio": value, "low": value / 2, "high": 2 * value, "goal": goal, "unit": "x", **more}


def cells(table):
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line] for line in lines]


def test_a_ratio_stands_beside_its_goal_with_a_verdict():
    text = measured.ratios({"machine": MACHINE, "rows": [ratio("a | b", 250.4, 200), ratio("c", 1.234, 3)]})
    assert "Goals reached: 1 of 2" in text and "processor: P; cores: 2" in text
    assert cells(text)[2:] == [
        ["a \\| b", "250 x", "125 to 501", "200", "reached"],
        ["c", "1.23 x", "0.617 to 2.47", "3", "missed"],
    ]


def test_growth_is_the_slope_of_logarithms_where_the_work_is_long_enough():
    sizes = (1_000, 2_000, 4_000, 8_000)
    points = [dict(work="a", over="pictures", size=n, seconds=0.001 * n**1.5 / 1e3, megabytes=7) for n in sizes]
    points += [dict(work="b", over="models", size=n, seconds=1e-4, megabytes=0) for n in sizes]
    points += [dict(work="c", over="models", size=n, seconds=9.0 if n > 1_000 else 1e-4, megabytes=0) for n in sizes]
    found = cells(measured.growth(points))[2:]
    a = ["a", "pictures, 1,000 to 8,000", "0.0316 s, 7 MB", "0.716 s, 7 MB", "1.50"]
    assert found[0] == a
    assert [line[4] for line in found[1:]] == ["", "0.00"]  # too short to say; and the short point is left out


def test_an_operation_stands_with_its_shares_and_what_was_done_about_it():
    found = [{"operation": "aten::mm", "share": 0.2, "01": 0.3, "03": 0.1}]
    found.append({"operation": "aten::new", "share": 0.0149, "01": 0.0298, "03": 0.0})
    text = measured.operations({"between": 0.4312, "chapters": ["01", "03"], "operations": found})
    first, second = cells(text)[2:]
    assert "in Python: 43 %" in text
    assert first[:4] == ["`aten::mm`", "20.0 %", "30.0 %", "10.0 %"] and "OpenBLAS" in first[4]
    assert second == ["`aten::new`", "1.5 %", "3.0 %", "0.0 %", "Nothing."]


def test_every_operation_of_the_committed_profile_has_its_text():
    path = Path(__file__).resolve().parents[2] / measured.FOLDER / "operations.json"
    assert {row["operation"] for row in json.loads(path.read_text())["operations"]} <= set(measured._DONE)


def test_tables_come_from_the_files_of_the_folder_and_say_so_where_there_are_none(tmp_path):
    assert set(measured.texts(tmp_path).values()) == {UNMEASURED}
    (tmp_path / "performance.json").write_text(json.dumps({"machine": MACHINE, "rows": [ratio("a", 2.0, 1)]}))
    found = measured.texts(tmp_path)
    assert "reached" in found["performance-table.md"]


@pytest.mark.parametrize(("number", "text"), [(1234.5, "1234"), (99.96, "100"), (2.345, "2.35"), (0.0123, "0.0123")])
def test_numbers_are_short(number, text):
    assert measured._short(number) == text
