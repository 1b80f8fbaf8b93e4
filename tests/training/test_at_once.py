"""How many models are trained at once: a fixed rule in pinned mode, the fastest in the fast mode, measured once."""

import pytest
import torch
from small import dataset

from unlearnlib import training
from unlearnlib.store import cache
from unlearnlib.training import at_once, models
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=8, optimiser="sgd", lr=0.05, precision="float32")
SEEDS = list(range(6))


def build(seed):
    return models.build("mlp", dataset(), seed=seed, hidden=(8,))


@pytest.fixture
def fast(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLEARN_FAST", "1")
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))


def taking(monkeypatch, table):
    """Replace the clockwork: `table` is count -> seconds a model. Returns the counts that were measured."""
    asked = []

    def seconds(networks, examples, recipe, batch):
        asked.append(len(networks))
        return table[len(networks)]

    monkeypatch.setattr(at_once, "seconds", seconds)
    return asked


def test_pinned_mode_measures_nothing(monkeypatch):
    monkeypatch.delenv("UNLEARN_FAST", raising=False)
    asked = taking(monkeypatch, {})
    assert at_once.at_once(build, dataset().train, RECIPE, SEEDS, 8) == at_once.FIXED == 16
    assert asked == []


@pytest.mark.parametrize(("table", "expected"), [({1: 2.0, 4: 1.0}, 4), ({1: 1.0, 4: 2.0}, 1), ({1: 1, 4: 1e999}, 1)])
def test_the_fast_mode_takes_what_is_fastest_a_model_and_remembers_it(fast, monkeypatch, table, expected):
    asked = taking(monkeypatch, table)
    for _ in range(2):
        assert at_once.at_once(build, dataset().train, RECIPE, SEEDS, 8) == expected
    assert asked == [1, 4]  # six models are no sixteen, and the second time nothing is measured
    assert at_once.at_once(build, dataset().train, RECIPE, SEEDS, 4) == expected
    assert asked == [1, 4, 1, 4]  # another batch is another question


def test_what_cannot_be_stacked_takes_for_ever(fast):
    networks = [torch.nn.Sequential(torch.nn.Dropout(0.3), build(seed)) for seed in (0, 1)]
    before = torch.get_rng_state()
    assert at_once.seconds(networks, dataset().train, RECIPE, 8) == float("inf")
    assert 0 < at_once.seconds(networks[:1], dataset().train, RECIPE, 8) < 10
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("best", [1, 4])
def test_either_way_the_models_are_the_same(fast, monkeypatch, best):
    taking(monkeypatch, {1: 1.0, 4: 1.0} | {best: 0.5})
    examples = dataset().train
    masks = torch.ones(6, len(examples), dtype=torch.bool)
    made = training.fit_many(build, examples, masks, RECIPE, SEEDS, progress=False)
    for seed, one in zip(SEEDS, made, strict=True):
        alone = training.fit(build(seed), examples, RECIPE, seed, progress=False)
        for p, q in zip(one.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("chunk", [0, -1, True, 2.5, "4"])
def test_a_wrong_chunk_is_one_line(chunk):
    masks = torch.ones(6, len(dataset().train), dtype=torch.bool)
    with pytest.raises(ValueError, match="chunk must be 1 or more"):
        training.fit_many(build, dataset().train, masks, RECIPE, SEEDS, chunk=chunk, progress=False)


def test_without_a_cache_it_still_answers(fast, monkeypatch):
    monkeypatch.setattr(cache, "remember", lambda address, make: make())
    taking(monkeypatch, {1: 2.0, 4: 1.0})
    assert at_once.at_once(build, dataset().train, RECIPE, SEEDS, 8) == 4
