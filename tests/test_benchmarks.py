"""The runner of the benchmarks: rows replaced by script, files whole or not at all, verdicts by the goal."""

import ast
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("bench_main", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(script, name, ratio=2.0):
    return {"script": script, "name": name, "ratio": ratio, "low": 1.0, "high": 3.0, "goal": 2, "unit": "x"}


def test_every_script_has_a_run_that_takes_repeats(bench):
    assert set(bench.names()) >= {"dpsgd", "forest", "lira", "training"}
    for name in bench.names():
        tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
        runs = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
        assert [argument.arg for argument in runs[0].args.args] == ["repeats"], name


def test_no_script_hides_an_installed_package():
    """A script's folder comes first on the path, so that `import coverage` within a package would find the script."""
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"__main__"}
    assert not scripts & ({*sys.stdlib_module_names} | set(importlib.metadata.packages_distributions()))


def test_peak_memory_is_what_the_work_holds_at_once(bench):
    from _machine import peak_memory

    assert 60 < peak_memory(lambda: bytes(b"1" * (64 << 20))) < 140


def test_rows_of_a_script_replace_its_old_rows_and_leave_the_others(bench):
    old = [row("b", "one"), row("b", "two"), row("c", "three")]
    new = bench.merged(old, [row("b", "four")])
    assert [(r["script"], r["name"]) for r in new] == [("b", "four"), ("c", "three")]
    assert [r["script"] for r in bench.merged(new, [row("a", "five")])] == ["a", "b", "c"]


def test_the_verdict_is_the_median_against_the_goal(bench):
    assert bench.line(row("a", "x", 2.0)).endswith("goal 2: reached")
    assert bench.line(row("a", "x", 1.99)).endswith("goal 2: missed")


def test_a_run_writes_its_rows_and_the_machine(bench, tmp_path, monkeypatch, capsys):
    output = tmp_path / "deep" / "performance.json"
    monkeypatch.setattr(bench, "measured", lambda name, repeats: [row(name, f"{repeats} times")])
    assert bench.main(["lira", "--repeats", "2", "--output", str(output)]) == 0
    assert bench.main(["forest", "--output", str(output)]) == 0
    kept = json.loads(output.read_text())
    assert [(r["script"], r["name"]) for r in kept["rows"]] == [("forest", "3 times"), ("lira", "2 times")]
    assert kept["machine"]["torch"] and kept["machine"]["threads"] == "1"
    assert [path.name for path in output.parent.iterdir()] == ["performance.json"]  # no half-written file is left
    assert "goal 2: reached" in capsys.readouterr().out


def test_a_script_that_fails_is_named_and_the_others_go_on(bench, tmp_path, monkeypatch, capsys):
    def measured(name, repeats):
        if name == "forest":
            raise RuntimeError("forest: no compiler")
        return [row(name, "fine")]

    monkeypatch.setattr(bench, "measured", measured)
    output = tmp_path / "performance.json"
    assert bench.main(["forest", "lira", "--output", str(output)]) == 1
    assert "failed: forest: no compiler" in capsys.readouterr().err
    assert [r["script"] for r in json.loads(output.read_text())["rows"]] == ["lira"]
    with pytest.raises(SystemExit):
        bench.main(["lyra"])
    assert "no script lyra" in capsys.readouterr().err


def test_a_script_runs_in_a_process_of_its_own_with_one_thread(bench, tmp_path, monkeypatch):
    script = tmp_path / "tiny.py"
    script.write_text(
        "import os\n\n\ndef run(repeats=3):\n"
        "    if repeats == 9:\n        raise ArithmeticError('nine')\n"
        "    return [{'name': os.environ['OMP_NUM_THREADS'], 'ratio': repeats, 'low': 1, 'high': 1, 'goal': 1}]\n"
    )
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "__main__.py"))
    assert bench.measured("tiny", 5) == [{"script": "tiny", "name": "1", "ratio": 5, "low": 1, "high": 1, "goal": 1}]
    with pytest.raises(RuntimeError, match="tiny: ArithmeticError: nine"):
        bench.measured("tiny", 9)


def test_the_profile_weighs_chapters_equally_and_stands_apart(bench, monkeypatch):
    assert "operations" not in bench.names() and "peers" in bench.names()
    monkeypatch.setattr("sys.path", list(sys.path))  # the script puts the repository first
    spec = importlib.util.spec_from_file_location("bench_operations", FOLDER / "operations.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.summed({"01": (10.0, {"a": (5.0, 3), "b": (1.0, 1)}), "03": (1.0, {"a": (0.1, 2)})})
    assert found["between"] == pytest.approx(1 - (0.6 + 0.1) / 2) and found["chapters"] == ["01", "03"]
    a, b = found["operations"]
    assert a == {"operation": "a", "share": pytest.approx(0.3), "calls": 5, "01": 0.5, "03": 0.1}
    assert b == {"operation": "b", "share": pytest.approx(0.05), "calls": 1, "01": 0.1, "03": 0.0}


def test_the_rows_of_an_accelerator_are_made_where_one_is(monkeypatch):
    """On the processor in its place: the work is done, and both ratios are near one."""
    import torch

    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("bench_accelerator", FOLDER / "accelerator.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.rows(torch.device("cpu"), 1, n=256, count=2)
    assert len(made) == 2 and all(0.1 < r["ratio"] < 10 for r in made)
    if not torch.accelerator.is_available():
        assert script.run(1) == []
