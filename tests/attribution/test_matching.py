"""Matching logits: the two kinds are one where their targets are, and nothing moves without a change."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small import dataset, same, split, state
from torch import nn

import unlearnlib as ul
from unlearnlib import attribution, seeding, training
from unlearnlib.attribution import matching
from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

QUICK = {"epochs": 3, "batch_size": 16}
PLAIN = {"optimiser": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}


def own(model, parts, seed: int, share: float = 3.0):
    """The model's logits [N, classes] where datamodel matching asks for them: rounding depends on the company."""
    size = int(share * len(parts.forget_index))
    order = torch.randperm(len(parts.retain_index), generator=seeding.generator(seed, "sample"))
    where, found = (
        torch.cat([parts.forget_index, parts.retain_index[order[:size]]]),
        training.predict(model, parts.train),
    )
    found[where] = training.predict(model, parts.train[where])
    return found


@pytest.fixture(scope="module")
def known():
    """A model, a split, and the logits on split.train of a model retrained without the forget set."""
    parts = split(n=90, forget=15)
    net = models.build("mlp", dataset(), hidden=(8,))
    recipe = Recipe(epochs=4, batch_size=16, lr=0.01)
    oracle = training.fit(models.build("mlp", dataset(), seed=5, hidden=(8,)), parts.retain, recipe, seed=5)
    return training.fit(net, parts.train, recipe), parts, training.predict(oracle, parts.train)


def datamodel(parts, effect=None, classes=3) -> Datamodel:
    """One whose first forgotten example carries the whole effect [N, classes] (None: none)."""
    n = len(parts.train)
    weights = torch.zeros(n, n, classes, dtype=torch.float64)
    if effect is not None:
        weights[parts.forget_index[0]] = effect
    return Datamodel(weights, torch.zeros(n, classes, dtype=torch.float64), "by hand", 3, parts.train.checksum())


def test_datamodel_matching_with_the_oracles_logits_is_oracle_matching_bit_for_bit(known):
    model, parts, targets = known
    effect = own(model, parts, 3).double() - targets.double()
    ours = ul.unlearn(
        "datamodel_matching", model, parts, seed=3, datamodel=datamodel(parts, effect), weight_decay=0.01, **QUICK
    )
    theirs = attribution.oracle_matching(model, parts, targets, seed=3, weight_decay=0.01, **QUICK)
    assert same(state(ours.model), state(theirs.model)) and not same(state(ours.model), state(model))
    assert ours.cost.gradient_evaluations == theirs.cost.gradient_evaluations
    assert (ours.cost.forward_evaluations, theirs.cost.forward_evaluations) == (15 + 45, 0)
    assert theirs.method == "oracle_matching" and theirs.certificate is None


@pytest.mark.parametrize("kind", ["datamodel", "oracle"])
def test_where_nothing_is_to_change_nothing_moves(kind, known):
    model = copy.deepcopy(known[0]).double()
    parts, settings = known[1], {**PLAIN, **QUICK, "epochs": 20}
    if kind == "datamodel":
        done = ul.unlearn("datamodel_matching", model, parts, seed=0, datamodel=datamodel(parts), **settings)
    else:
        own = model(parts.train.pixels(dtype=torch.float64)).detach()
        done = attribution.oracle_matching(model, parts, own, **settings)
    before, after = state(model), state(done.model)
    assert all(torch.allclose(after[k], v, rtol=0, atol=1e-14) for k, v in before.items())
    moved = ul.unlearn(
        "datamodel_matching", model, parts, seed=0, datamodel=datamodel(parts), **{**settings, "weight_decay": 0.1}
    )
    assert max(float((state(moved.model)[k] - v).abs().max()) for k, v in before.items()) > 1e-3


def test_the_first_step_is_the_closed_form_on_a_linear_model():
    """theta - lr (2 / (B C)) sum_i (z_i - t_i) x_i^T with B all shown examples, forgotten ones as often as they are."""
    parts = split(n=60, forget=10)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False)).double()
    targets = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = {**PLAIN, "lr": 0.5, "epochs": 1, "batch_size": 1000, "retain_multiplier": 9.0, "forget_multiplier": 3}
    done = attribution.oracle_matching(net, parts, targets, **settings)
    x, w = parts.train.pixels(dtype=torch.float64).flatten(1), net[1].weight.detach()
    often = torch.ones(60, dtype=torch.float64)
    often[parts.forget_index] = 3.0
    step = 2 / (3 * often.sum()) * ((often[:, None] * (x @ w.T - targets)).T @ x)
    assert torch.allclose(done.model[1].weight, w - 0.5 * step, atol=1e-13)


def test_long_enough_it_ends_at_its_targets():
    parts = split(n=40, forget=10)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    wanted = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    targets = wanted(parts.train.pixels(dtype=torch.float64)).detach()
    settings = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "batch_size": 40, "epochs": 3000}
    done = attribution.oracle_matching(net, parts, targets, **settings)
    assert (done.model(parts.train.pixels(dtype=torch.float64)) - targets).abs().max() < 0.02


def test_the_direct_answer_is_what_is_matched(known):
    model, parts, _ = known
    effect = torch.randn(90, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = datamodel(parts, effect)
    logits = own(model, parts, 0)
    found = attribution.direct(made, logits, parts.forget_index)
    assert torch.equal(found, (logits.double() - effect).float())
    assert torch.equal(attribution.direct(made, torch.stack([logits, logits + 1]), parts.is_forget)[0], found)
    program = registry.find("datamodel_matching").function(
        copy.deepcopy(model), parts, registry.configure("datamodel_matching", datamodel=made, **QUICK), registry.Run(0)
    )
    for batch in program.batches:
        assert torch.equal(batch.targets, found[batch.index]) and not batch.weights.any()


def test_many_at_once_are_those_one_by_one(known):
    _, parts, _ = known
    nets = [models.build("mlp", dataset(), seed=k, hidden=(8,)).double() for k in range(3)]
    made = datamodel(parts, torch.ones(90, 3, dtype=torch.float64))
    many = ul.unlearn_many("datamodel_matching", nets, [parts] * 3, seeds=[1, 2, 3], datamodel=made, **QUICK)
    targets = [torch.full((90, 3), float(k), dtype=torch.float64) for k in range(3)]
    matched = attribution.oracle_matching_many(nets, [parts] * 3, targets, seeds=[1, 2, 3], **QUICK)
    for k, net in enumerate(nets):
        alone = ul.unlearn("datamodel_matching", net, parts, seed=k + 1, datamodel=made, **QUICK)
        other = attribution.oracle_matching(net, parts, targets[k], seed=k + 1, **QUICK)
        for one, together in ((alone, many[k]), (other, matched[k])):
            assert all(torch.allclose(state(together.model)[n], v, atol=1e-10) for n, v in state(one.model).items())
            assert one.cost.work == together.cost.work
    assert not same(state(matched[0].model), state(matched[1].model))


def test_the_sample_of_the_retain_set_has_its_size_and_is_drawn_from_the_seed(known):
    model, parts, targets = known

    def shown(seed, **options):
        config = matching.OracleMatching(targets=targets, batch_size=8, epochs=1, keep_last=True, **options)
        program = matching._oracle_matching(model, parts, config, registry.Run(seed))
        return torch.cat([b.index for b in program.batches]).sort().values

    first = shown(0, retain_multiplier=2.0, forget_multiplier=3)
    assert first.bincount(minlength=90)[parts.forget_index].tolist() == [3] * 15
    kept = first[~torch.isin(first, parts.forget_index)]
    assert len(kept) == len(kept.unique()) == 30
    assert torch.equal(shown(0, retain_multiplier=2.0, forget_multiplier=3), first)
    assert not torch.equal(shown(1, retain_multiplier=2.0, forget_multiplier=3), first)
    assert len(shown(0, retain_multiplier=100.0)) == 90 and len(shown(0, retain_multiplier=0.0)) == 15


def test_oracle_matching_is_no_method():
    assert "oracle_matching" not in HOMES and "oracle_matching" not in set(ul.methods().name)
    with pytest.raises(ValueError, match="unknown unlearning method 'oracle_matching'"):
        ul.unlearn("oracle_matching", nn.Linear(1, 1), split(), seed=0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: {"datamodel": None}, "needs datamodel="),
        (lambda d: {"datamodel": d.weights}, "needs datamodel="),
        (lambda d: {"datamodel": dataclasses.replace(d, checksum=None)}, "does not say of which examples"),
        (lambda d: {"datamodel": dataclasses.replace(d, checksum="0" * 64)}, "of other examples than split.train"),
        (lambda d: {"datamodel": dataclasses.replace(d, weights=d.weights[:, :5])}, r"split.train \[90, 3\]"),
        (lambda d: {"datamodel": d, "retain_multiplier": -1.0}, "retain_multiplier is a number"),
        (lambda d: {"datamodel": d, "forget_multiplier": 0.5}, "forget_multiplier is a whole number"),
        (lambda d: {"datamodel": d, "augment": "flip"}, "no hyper-parameter 'augment'"),
    ],
)
def test_a_datamodel_that_does_not_fit_is_refused(change, message, known):
    model, parts, _ = known
    with pytest.raises(ValueError, match=message):
        ul.unlearn("datamodel_matching", model, parts, seed=0, **change(datamodel(parts)))


@pytest.mark.parametrize("change", [lambda t: None, lambda t: t[:50], lambda t: t.long(), lambda t: t * torch.inf])
def test_targets_that_do_not_fit_are_refused(change, known):
    model, parts, targets = known
    with pytest.raises(ValueError, match="oracle's logits"):
        attribution.oracle_matching(model, parts, change(targets))


def test_targets_of_other_classes_are_refused(known):
    model, parts, targets = known
    with pytest.raises(ValueError, match="must be logits"):
        attribution.oracle_matching(model, parts, targets[:, :2])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(24, 3),
        ).double()


def authors_loop(net, x, forget, retain, dm_scores, *, epochs, batch, lr, retain_multiplier, forget_multiplier, rng):
    """`dm_matching` and `finetune` of the authors' code: the datamodel's answer, in eval mode, is the teacher."""
    teacher = copy.deepcopy(net).eval()
    change = dm_scores[forget].sum(dim=0)
    sample = retain[torch.randperm(len(retain), generator=rng("sample"))[: int(retain_multiplier * len(forget))]]
    shown, order = torch.cat([forget.repeat(forget_multiplier), sample]), rng("order")
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.95)
    for _ in range(epochs):
        net.train()
        for i in shown[torch.randperm(len(shown), generator=order)].split(batch):
            opt.zero_grad()
            with torch.no_grad():
                target = teacher(x[i]) - change[i]
            F.mse_loss(target, net(x[i])).backward()
            opt.step()
        scheduler.step()
    return net.eval()


def test_the_published_row_is_the_authors_loop():
    parts, start, seed = split(n=400, forget=16), network(), 4
    scores = torch.randn(400, 400, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = Datamodel(scores, torch.zeros(400, 3, dtype=torch.float64), "by hand", 3, parts.train.checksum())
    row = registry.find("datamodel_matching").published
    found = state(ul.unlearn("datamodel_matching", start, parts, seed=seed, datamodel=made, **row).model)
    settings = {"epochs": 4, "batch": 512, "lr": 1e-4, "retain_multiplier": 20.0, "forget_multiplier": 5}
    with seeding.isolated(seed, "dropout"):
        wanted = state(
            authors_loop(
                network(),
                parts.train.pixels(dtype=torch.float64),
                parts.forget_index,
                parts.retain_index,
                scores,
                rng=lambda name: seeding.generator(seed, name),
                **settings,
            )
        )
    moved = max(float((wanted[k] - p).abs().max()) for k, p in state(start).items())
    assert moved > 1e-6 and list(found) == list(wanted)
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, rtol=1e-10, atol=1e-10 * moved), key
