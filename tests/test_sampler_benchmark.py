"""The benchmark of the larger sampler: what is kept is not made again, rows are whole, pictures come back as drawn."""

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnlib import data, generative
from unlearnlib.publishing import notebooks, sampled

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch):
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("sampler_benchmark", ROOT / "benchmarks/generative.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sampler_benchmark", module)
    spec.loader.exec_module(module)
    sys.path[:] = path
    monkeypatch.setattr(module, "SAMPLES", 18)
    monkeypatch.setattr(module, "ASKED", 4)
    return module


@pytest.fixture
def setting(bench, tmp_path):
    """Eight by eight pixels, a sampler of two steps, a judge that was never taught."""
    ds = data.load("digits")
    gone = ds.train.labels == 3
    split = data.Split.of(retain=ds.train[~gone], forget=ds.train[gone])
    judge = generative.Judge(ds.train.shape, 10).eval()
    real = judge.features(ds.test[:50].pixels()).detach()
    return bench.Setting(tmp_path, 0, split, judge, real, steps=2)


def test_a_row_is_measured_once_and_kept(bench, setting, monkeypatch):
    first, mirrored, null = (setting.row(name) for name in ("original", "original at -z", bench.NULL))
    assert first["I"] == 0 and mirrored["I"] > 0 and null["cost"] == pytest.approx(1)
    assert mirrored["relearned"] is None and 0 <= first["relearned"] <= 1 and null["seconds"] >= 0
    monkeypatch.setattr(bench.Setting, "made", lambda *_: pytest.fail("made again"))
    assert setting.row(bench.NULL) == json.loads(json.dumps(null))
    assert not [path for path in setting.folder.iterdir() if "partial" in path.name]


def test_samplers_come_back_as_they_were_taught(setting):
    first, seconds, work = setting.taught("original")
    again = setting.taught("original")
    assert again[1:] == (seconds, work) and work == 3 * 2 * 32
    for p, q in zip(first.parameters(), again[0].parameters(), strict=True):
        assert torch.equal(p, q)


def test_both_retrained_samplers_see_no_forgotten_digit_and_differ_in_their_start(bench, setting, monkeypatch):
    seen = []
    monkeypatch.setattr(
        generative, "fit", lambda start, part, *_, **options: seen.append((start, part, options["seed"])) or start
    )
    for name in ("original", *bench.RETRAINED):
        setting.taught(name, bench.RETRAINED.get(name, 0))
    (original, everything, seed), (other, part, further), (same, _, beginning) = seen
    assert (everything.labels == 3).any() and not (part.labels == 3).any()
    weights = [next(s.parameters()) for s in (original, other, same)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    assert (seed, further, beginning) == (0, 1000, 0)


def test_results_are_the_rows_that_all_seeds_have_and_none_before_the_claims_can_be_put(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULT", tmp_path / "generative.json")
    (tmp_path / "0-original.taught.json").write_text('{"seconds": 61.4, "work": 1}')
    claimed = bench.NAMES[: bench.NAMES.index("salun")]
    for seed in bench.SEEDS:
        for name in claimed[1:]:
            (tmp_path / f"{seed}-{name}.json").write_text(json.dumps({"method": name, "seed": seed}))
    (tmp_path / "0-salun.json").write_text(json.dumps({"method": "salun", "seed": 0}))
    bench.write_results(tmp_path)
    assert not bench.RESULT.exists()
    for seed in bench.SEEDS:
        (tmp_path / f"{seed}-original.json").write_text(json.dumps({"method": "original", "seed": seed}))
    bench.write_results(tmp_path)
    told = json.loads(bench.RESULT.read_text())
    assert [row["method"] for row in told["rows"]] == [*claimed] * 3 and told["teaching seconds"] == 61
    assert {"original", "original at -z", sampled.NULL, sampled.HELD, "redirect", "finetune", "ascent"} <= {*claimed}


def test_pictures_beside_each_other_come_back(bench):
    pictures = torch.rand(3, 1, 4, 4)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(bench.strip(pictures)))))
    assert sheet.shape == (4, 12)
    np.testing.assert_allclose(sheet[:, 4:8] / 255, pictures[1, 0], atol=0.5 / 255 + 1e-6)


def test_the_page_knows_all_samplers_and_the_chapter_all_its_claims(bench):
    """What the claims compare is in the benchmark, and they are still the chapter's."""
    names = {"original", "original at -z", sampled.NULL, sampled.HELD, "redirect", "finetune", "ascent"}
    assert names <= set(bench.NAMES)
    chapter = notebooks.read(ROOT / f"notebooks/{sampled.CHAPTER}.ipynb")
    made = "".join("".join(cell["source"]) for cell in chapter["cells"])
    for beginning in sampled.BEGINNINGS:
        assert f'"{beginning}' in made, beginning
