"""The archive of results: what is read, what is refused in one line, and what others get."""

import hashlib
import json

import board_rows
import numpy as np
import pandas as pd
import pytest

from unlearnlib.audit.verdicts import tidy
from unlearnlib.publishing import archive


@pytest.fixture
def folder(tmp_path):
    """A ranked Parquet file with examples, a CSV of another run, and CSV files that are no results."""
    board_rows.rows().to_parquet(tmp_path / "a.parquet", index=False)
    board_rows.rows().to_csv(tmp_path / "a.csv", index=False)  # the same once more
    board_rows.rows(request="class:3", seeds=3).to_csv(tmp_path / "b.csv", index=False)
    board_rows.examples().to_parquet(tmp_path / "a-examples.parquet", index=False)
    (tmp_path / "other.csv").write_text("audit,extra,value\nU-LiRA,0,1\n")
    (tmp_path / "commands.json").write_text('{"a": "python a.py"}')
    return tmp_path


def test_results_files_are_found_once_and_other_tables_are_left_alone(folder):
    assert [path.name for path in archive.places(folder)] == ["a.parquet", "b.csv"]
    rows = archive.results(folder)
    assert dict(rows["file"].value_counts()) == {"a.parquet": len(board_rows.rows()), "b.csv": 105}
    assert set(tidy.COLUMNS) <= set(rows) and set(rows) <= set(archive.SCHEMA)
    assert len(archive.examples(folder)) == 50 * len(board_rows.PLANTED)


def test_an_empty_folder_has_no_rows(tmp_path):
    assert len(archive.results(tmp_path)) == len(archive.examples(tmp_path)) == 0
    assert archive.commands(tmp_path) == {}


def test_every_column_of_the_schema_is_described():
    assert set(tidy.COLUMNS) <= set(archive.SCHEMA)
    assert {kind for kind, _, _ in {**archive.SCHEMA, **archive.OF_EXAMPLES}.values()} <= {
        "string",
        "number",
        "integer",
        "boolean",
    }
    frame = board_rows.rows()
    numbers = {name for name in frame if frame[name].notna().any() and pd.api.types.is_numeric_dtype(frame[name])}
    assert {name for name in numbers if archive.SCHEMA[name][0] not in ("number", "boolean")} == set()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda r: r.drop(columns=["gap", "game"]), r"bad\.parquet lacks game, gap: write the rows of"),
        (lambda r: r.drop(columns="dataset"), "lacks dataset"),
        (lambda r: r.assign(value="high"), "value must be numbers, not 'high'"),
        (lambda r: r.assign(valid_flag="yes"), "valid_flag must be true or false"),
        (lambda r: r.assign(seed_train=np.nan), "every row needs its seed_train"),
        (lambda r: r[:0], "there is no row"),
    ],
)
def test_malformed_rows_are_refused_in_one_line(tmp_path, change, says):
    change(board_rows.rows(seeds=2)).to_parquet(tmp_path / "bad.parquet", index=False)
    with pytest.raises(ValueError, match=says) as error:
        archive.results(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda e: e.drop(columns="example"), "lacks example"),
        (lambda e: e.drop(columns=["shift", "klom"]), "no column of numbers"),
        (lambda e: pd.concat([e, e[:1]]), "stands twice"),
        (lambda e: e.assign(shift="far"), "shift must be numbers"),
    ],
)
def test_malformed_examples_are_refused_in_one_line(tmp_path, change, says):
    change(board_rows.examples()).to_parquet(tmp_path / "bad-examples.parquet", index=False)
    with pytest.raises(ValueError, match=says) as error:
        archive.examples(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read") as error:
        archive.results(tmp_path)
    assert "\n" not in str(error.value)


def test_others_get_the_same_numbers_without_the_library(folder):
    tables = {"results": archive.results(folder), "results-examples": archive.examples(folder)}
    target = folder / "archive"
    written = archive.write(target, tables, archive.commands(folder))
    csv = pd.read_csv(target / "results.csv", low_memory=False)
    parquet = pd.read_parquet(target / "results.parquet")
    assert len(csv) == len(parquet) == len(tables["results"])
    np.testing.assert_allclose(csv["value"], parquet["value"], rtol=1e-6)
    np.testing.assert_array_equal(parquet["value"], tables["results"]["value"])
    told = json.loads((target / "datapackage.json").read_text())
    assert told["licenses"][0]["name"] == "CC-BY-4.0" and "Does it forget" in told["citation"]
    assert told["sources"] == [{"title": "a", "command": "python a.py"}]
    for resource in told["resources"]:
        content = (target / resource["path"]).read_bytes()
        assert resource["bytes"] == len(content)
        assert resource["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        fields = [field["name"] for field in resource["schema"]["fields"]]
        assert fields == content.decode().partition("\n")[0].split(",")
        assert all(field["description"] for field in resource["schema"]["fields"])
    before = {path: path.stat().st_mtime_ns for path in written}
    archive.write(target, tables, archive.commands(folder))
    assert before == {path: path.stat().st_mtime_ns for path in written}  # what has not changed is not touched
