"""Pruning: exact zeros after every step, kept = 1 as if it were not there, masks by hand, and whose mask it is."""

import pytest
import torch
from small import same, split, state, stranger
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate.pruning import Masked, magnitude_masks, pruned
from unlearnlib.training import Batch, Part, Recipe, descend
from unlearnlib.training.renewal import copied

RECIPE = Recipe(lr=0.1, momentum=0.9, weight_decay=0.1)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def test_masks_keep_the_largest_weights_of_each_matrix():
    model = network()
    with torch.no_grad():
        model[3].weight.copy_(torch.arange(24.0).reshape(3, 8) - 12)
        model[3].weight[0, 0] = 12.0  # as large as ... -12 was: now the largest
    masks = magnitude_masks(model, 0.25)
    assert set(masks) == {"1.weight", "3.weight"} and masks["1.weight"].sum() == 128
    kept = model[3].weight[masks["3.weight"]].abs()
    assert len(kept) == 6 and kept.min() >= model[3].weight[~masks["3.weight"]].abs().max()
    least, most = (model[1].weight.detach().abs()[m] for m in (masks["1.weight"], ~masks["1.weight"]))
    assert least.min() >= most.max()
    assert magnitude_masks(model, 1e-6)["3.weight"].sum() == 1 and magnitude_masks(model, 1)["1.weight"].all()
    assert not any(name.startswith("stem") for name in magnitude_masks(stranger(), 0.5))  # frozen


class Watch(Part):
    """Counts the weights outside the masks that are not zero after a step."""

    def __init__(self, masks):
        self.masks, self.found = masks, []

    def after_step(self, model, step):
        weights = dict(model.named_parameters())
        self.found.append(sum(int((weights[n][~m] != 0).sum()) for n, m in self.masks.items()))
        return False


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_masked_weights_are_exactly_zero_after_every_step(optimiser):
    parts, model = split(), network()
    masks = magnitude_masks(model, 0.3)
    recipe = Recipe(optimiser=optimiser, lr=0.05, momentum=0.9, weight_decay=0.1)
    batches = [Batch(torch.arange(20), parts.train.labels[:20])] * 5

    def zeros(part) -> list[int]:
        # the step before the mask moves the weights: without the mask (planted) they are not zero
        watch = Watch(masks)
        watch.stage = 2
        descend(pruned(model, masks), parts.train, batches, recipe, 5, seed=0, parts=[part, watch])
        return watch.found

    assert zeros(Masked(masks)) == [0] * 5 and all(n > 100 for n in zeros(Part()))


def test_a_method_starts_pruned_ends_pruned_and_moves_what_is_kept():
    parts, model = split(), network()
    masks = magnitude_masks(model, 0.2)
    before = state(model)
    done = ul.unlearn("finetune", model, parts, seed=0, epochs=1, parts=(Masked(0.2),))
    own = ul.unlearn("finetune", model, parts, seed=0, epochs=1, parts=(Masked(masks),))
    assert same(state(done.model), state(own.model)) and same(state(model), before)
    for name, mask in masks.items():
        weight = state(done.model)[name]
        assert (weight[~mask] == 0).all() and not torch.equal(weight[mask], before[name][mask])
    still = ul.unlearn("finetune", model, parts, seed=0, epochs=1, lr=0.0, weight_decay=0.0, parts=(Masked(0.2),))
    assert same(state(still.model), state(pruned(model, masks)))


def test_kept_1_is_fine_tuning_bit_by_bit():
    parts, model = split(), stranger()
    plain = ul.unlearn("finetune", model, parts, seed=0, epochs=2)
    masked = ul.unlearn("finetune", model, parts, seed=0, epochs=2, parts=(Masked(1.0),))
    assert same(state(plain.model), state(masked.model))
    assert not same(state(plain.model), state(ul.unlearn("finetune", model, parts, seed=0, parts=(Masked(0.5),)).model))


@pytest.mark.parametrize("kept", [0.0, 1.5, True, "half", float("nan")])
def test_bad_shares_are_refused(kept):
    with pytest.raises(ValueError, match="kept is a share"):
        magnitude_masks(network(), kept)


def test_masks_of_another_network_are_refused_and_a_share_needs_a_method():
    with pytest.raises(ValueError, match="belongs to another network"):
        pruned(stranger(), magnitude_masks(network(), 0.5))
    parts = split()
    batches = [Batch(torch.arange(4), parts.train.labels[:4])]
    with pytest.raises(ValueError, match="no mask yet"):
        descend(copied(network()), parts.train, batches, RECIPE, 1, seed=0, parts=[Masked(0.5)])
