"""The adaptive deleter finds planted shards, breaks a real `Sisa`, and is stopped by noise with a known guarantee."""

import math

import pytest
import torch
from small import dataset, examples

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.exact import shard_attack
from unlearnlib.exact.sisa import Sisa
from unlearnlib.private import accounting
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe


def wrong_labels(n: int = 120, share: float = 0.25) -> tuple[Examples, torch.Tensor]:
    clean, rng = examples(n=n), seeding.generator(0, "wrong labels")
    wrong = torch.rand(n, generator=rng) < share
    return Examples(clean.images, torch.where(wrong, (clean.labels + 1) % 3, clean.labels)), wrong


def make(seed: int) -> Sisa:
    ds = dataset()
    recipe = Recipe(epochs=40, batch_size=8, lr=1e-2, schedule="constant", weight_decay=0.0)
    return Sisa(
        lambda s: models.build("mlp", ds, seed=s, hidden=(64,)), recipe, shards=4, slices=1, seed=seed, stacked=True
    )


def test_targets_are_the_widest_gaps_of_the_chosen_shards():
    values = torch.tensor([[0.9, 0.5, 0.1, 0.8], [0.1, 0.4, 0.2, 0.1], [0.3, 0.0, 0.9, 0.0]])
    assert shard_attack.targeted(values, 1, 2).tolist() == [3, 0]  # gaps 0.7 and 0.6; the second example has 0.1
    assert shard_attack.targeted(values, 1, 9).tolist() == [3, 0, 1]
    assert shard_attack.targeted(values[[2, 0, 1]], 1, 9).tolist() == [2]


def test_confidences_are_the_shards_own_and_noise_has_its_scale():
    data, _ = wrong_labels(24)
    learner = make(0)
    learner.recipe = Recipe(epochs=1, batch_size=8)
    values = shard_attack.confidences(learner.fit(data), data)
    lone = torch.softmax(models_logits(learner, 2, data), 1)[torch.arange(24), data.labels]
    torch.testing.assert_close(values[2], lone)
    rng = seeding.generator(0, "noise")
    assert torch.equal(shard_attack.published(values, 0.0, rng), values)
    noise = shard_attack.published(torch.zeros(4, 5000), 2.0, rng)
    assert noise.std().item() == pytest.approx(2.0, rel=0.02)
    with pytest.raises(ValueError, match="sigma"):
        shard_attack.published(values, -1.0, rng)


def models_logits(learner: Sisa, shard: int, data: Examples) -> torch.Tensor:
    with torch.no_grad():
        return learner._networks[shard](data.pixels())


def test_the_guarantee_is_that_of_a_gaussian_mechanism_with_two_rows_moved():
    """Two of the rows change by at most 1 in each of m columns: the distance is at most sqrt(2 m), and that is met."""
    m, sigma = 50, 30.0
    before, after = torch.zeros(4, m), torch.zeros(4, m)
    after[1:3] = 1
    sensitivity = (after - before).norm().item()
    mu = shard_attack.privacy(sigma, m)
    assert mu == pytest.approx(sensitivity / sigma)
    expected = accounting.gaussian_epsilon(sigma, 1e-5, sensitivity=sensitivity)
    assert accounting.gdp_epsilon(mu, 1e-5) == pytest.approx(expected, rel=1e-6)
    assert shard_attack.privacy(0.0, m) == math.inf


def test_a_real_sisa_falls_to_the_adaptive_deleter_and_not_to_the_blind_one():
    data, wrong = wrong_labels()
    trials = [
        shard_attack.attack(make, data, examples(n=90, seed=5), deletions=14, sigmas=(0.0, 1e6), seed=s).set_index(
            ["arm", "sigma"]
        )
        for s in range(3)
    ]
    values = torch.stack([torch.tensor(t["advantage"].to_numpy()) for t in trials])
    arms = [name for name, _ in trials[0].index]
    assert arms == ["blind", "adaptive", "retrained", "adaptive"]
    hits = torch.stack([torch.tensor(t["hits"].to_numpy()) for t in trials]).mean(0)
    assert hits[1] > 0.9 and hits[3] < 0.75  # noise of 1e6 leaves nothing to read
    attacked, retrained = values[:, 1], values[:, 2]
    assert attacked.min() > 0.05 and attacked.min() > retrained.max()
    chosen = shard_attack.targeted(shard_attack.confidences(make(0).fit(data), data), 2, 14)
    assert wrong[chosen[:7]].all()  # what one shard alone believes most firmly is what is wrong
    with pytest.raises(ValueError, match="at least two"):
        one = make(0)
        one.shards = 1
        one.weights = torch.ones(1)
        shard_attack.attack(lambda s: one, data, data, deletions=3)
