"""The ledger of papers re-run: its format, its verdicts, and that its lines follow from committed runs."""

import csv
import importlib
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearnlib.private.descent import Constants
from unlearnlib.private.langevin import langevin_steps, learning_curve
from unlearnlib.publishing import papers, provenance

ROOT = Path(__file__).resolve().parents[2]
LINE = papers.Line("somebody2020", "accuracy", "0.90", "0.89", "0.87", "0.91", "agrees", "book/papers")


@pytest.fixture(scope="module")
def benchmark():
    """The modules of the command, which lie beside their script; the folder also has a coverage.py, hence last."""
    sys.path.append(str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("_papers_private"), importlib.import_module("_papers_statements")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def written(path, *lines):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([papers.COLUMNS, *lines])
    return path


# --- the committed ledger: what continuous integration checks of a reader's line


def test_the_ledger_is_well_formed_and_every_verdict_follows():
    lines = papers.read(ROOT / papers.LEDGER)
    assert sum(line.verdict != "cannot tell" for line in lines) >= 10
    for line in lines:
        assert list(ROOT.glob(f"{line.page}.*")), line.page


def test_our_lines_are_those_of_the_committed_runs(benchmark, monkeypatch):
    monkeypatch.chdir(ROOT)
    ours = list(benchmark[1].lines())
    assert len(ours) > 20 and ours == papers.read(papers.LEDGER)[: len(ours)]


# --- its rules


@pytest.mark.parametrize(
    ("published", "low", "high", "follows"),
    [
        ("0.9", "0.8", "0.9", "agrees"),
        ("0.9", "0.8", "0.89", "disagrees"),
        ("-1", "-2", "0", "agrees"),
        ("0.9", "", "", "cannot tell"),
        (">= 10", "10", "20", "agrees"),
        (">= 10", "9", "20", "cannot tell"),
        (">= 10", "8", "9", "disagrees"),
        ("<= 0.05", "-1", "0.05", "agrees"),
        ("<= 0.05", "0.06", "0.1", "disagrees"),
    ],
)
def test_the_verdict_follows_from_the_numbers(published, low, high, follows):
    assert papers.verdict(published, low, high) == follows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "disagrees"}, "follows from the numbers is 'agrees'"),
        ({"published": "about 0.9"}, "published is a number"),
        ({"low": ""}, "both given or both empty"),
        ({"low": "0.95"}, "above high"),
        ({"low": "nan"}, "finite number"),
        ({"ours": ""}, "ours is empty"),
        ({"ours": "0.7"}, "not between"),
        ({"statement": ""}, "statement is empty"),
        ({"source": " a"}, "without spaces at their ends"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, change, message):
    path = written(tmp_path / "a.csv", astuple(LINE), astuple(replace(LINE, statement="other") if not change else LINE))
    with pytest.raises(ValueError, match="twice"):
        papers.read(path)
    path = written(tmp_path / "a.csv", astuple(replace(LINE, **{"statement": "other", **change})))
    with pytest.raises(ValueError, match=message) as caught:
        papers.read(path)
    assert "line 2" in str(caught.value) and "\n" not in str(caught.value)


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("source,verdict\n")
    with pytest.raises(ValueError, match="first line"):
        papers.read(path)
    path = written(path, ["too", "few"])
    with pytest.raises(ValueError, match="line 2: 8 columns"):
        papers.read(path)


def test_what_is_written_is_read_and_a_bad_line_leaves_the_file(tmp_path):
    path = tmp_path / "a.csv"
    papers.write([LINE], path)
    assert papers.read(path) == [LINE]
    with pytest.raises(ValueError, match="agrees"):
        papers.write([replace(LINE, verdict="cannot tell")], path)
    assert papers.read(path) == [LINE]


def test_the_prediction_interval_holds_in_nineteen_of_twenty_cases():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        ours, theirs = rng.normal(size=4), rng.normal(size=10).mean()
        _, low, high = papers.prediction(ours.mean(), ours.std(ddof=1), 4, 10)
        inside += low <= theirs <= high
    assert abs(inside / 2000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_what_is_computed_has_the_rounding_of_the_source():
    assert papers.rounding(1.1597, "1.16") == pytest.approx((1.1597, 1.1547, 1.1647))
    assert papers.rounding(0.0, "0") == (0.0, -0.5, 0.5)


def test_fewer_than_three_runs_predict_nothing():
    with pytest.raises(ValueError, match="three runs"):
        papers.prediction(1.0, 0.1, 2)


def test_the_table_counts_and_links():
    text = papers.table([LINE, replace(LINE, low="", high="", verdict="cannot tell", page="notebooks/20-a")])
    assert text.startswith("agrees: 1, disagrees: 0, cannot tell: 1.")
    assert "{doc}`papers </book/papers>`" in text and "{doc}`20-a </notebooks/20-a>`" in text


# --- the settings that were re-run


def test_the_shared_network_has_the_weights_that_both_tutorials_have(benchmark):
    network = benchmark[0].small_network(0, glorot=True)
    assert sum(p.numel() for p in network.parameters()) == 26_010
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in network if hasattr(layer, "bias"))


def test_clipped_gradients_of_the_linear_problem_are_those_of_row_by_row(benchmark):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 7, generator=rng)
    x, y = x / x.norm(dim=1, keepdim=True), torch.randint(0, 2, (40,), generator=rng) * 2.0 - 1
    w, m = 2 * torch.randn(7, 3, generator=rng), 0.2
    found, share = benchmark[0].clipped_gradient(w, x, y, m)
    rows = torch.stack([-y * torch.sigmoid(-y * (x @ column)) for column in w.T], 1)
    each = torch.einsum("nt,nd->tnd", rows, x) + m * w.T[:, None]
    norms = each.norm(dim=2, keepdim=True)
    assert torch.allclose(found, (each / norms.clamp_min(1)).mean(1).T, atol=1e-6)
    assert 0 < share < 1 and share == pytest.approx(float((norms > 1).float().mean()))


def test_batches_of_the_two_samplings(benchmark):
    rng = torch.Generator().manual_seed(0)
    whole = torch.cat(list(benchmark[0].shuffled(1000, 96, rng)))
    assert len(whole) == len(whole.unique()) == 960
    sizes = [len(batch) for batch in benchmark[0].poisson(10_000, 100, rng)]
    assert len(sizes) == 100 and len(set(sizes)) > 10 and abs(np.mean(sizes) - 100) < 4


def test_taking_back_every_step_gives_the_first_weights_and_no_step_the_last(benchmark, monkeypatch):
    amnesiac = importlib.import_module("_papers_unlearning")
    rng = torch.Generator().manual_seed(0)
    pixels, labels = torch.rand(64, 1, 6, 6, generator=rng), torch.randint(0, 10, (64,), generator=rng)

    def network(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 10))

    monkeypatch.setattr(amnesiac, "mnist", lambda part: (pixels, labels))
    monkeypatch.setattr(amnesiac, "resnet18", network)
    with torch.random.fork_rng():
        fresh = amnesiac.correct(network(0), 2 * pixels - 1, labels)
        found = amnesiac.amnesiac(0, epochs=40, after=0)  # one batch a pass, and it holds threes
        assert found["share of batches with a three"] == 1
        assert (found["threes, removed"], found["others, removed"]) == fresh
        assert found["others, trained"] > fresh[1]
        labels[labels == 3] = 4
        found = amnesiac.amnesiac(0, epochs=40, after=0)
    assert found["share of batches with a three"] == 0
    assert found["others, removed"] == found["others, trained"]


def test_the_listed_noise_of_langevin_unlearning_needs_thousands_of_steps():
    at = Constants(11_982, 0.011982, 0.261982)

    def needed(sigma):
        return langevin_steps(learning_curve(at, sigma, 1), at, 1 / at.smoothness, 0.5, 1 / at.n)

    assert needed(0.00018914795795776367) == 4896 and needed(0.018914795795776367) <= 3


def test_the_released_loops_take_one_step_more():
    def released(steps, kept=1):
        """Positions of the results that a loop over range(kept + steps) hands back, counted in steps taken."""
        taken = [i + 1 for i in range(kept + steps)]
        return taken[steps:]

    assert [released(k) for k in (1, 2, 5)] == [[2], [3], [6]]


def test_a_page_is_stale_when_the_results_that_it_read_have_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / papers.RUNS
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    record = {"data": {papers.RUNS.as_posix(): papers.Recorded(papers.RUNS.as_posix()).checksum(), "digits": "abc"}}
    assert provenance._file_changes(record) == []
    path.write_text("[]")
    assert provenance._file_changes(record) == ["results: book/benchmarks/papers.json"]
    path.unlink()
    assert provenance._file_changes(record) == ["results: book/benchmarks/papers.json"]
