"""The door to all methods: what is refused, what is left alone, and what holds for every registered method."""

import copy
import dataclasses

import pytest
import torch
from small import BY_CLASS, CONVOLVES, asked, dataset, examples, ingredients, same, split, state, stranger

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

# amnesiac takes the record of its own training, so it has tests of its own for what follows.
NAMES = sorted(set(HOMES) - {"amnesiac"})
QUICK = {
    "influence": {"iterations": 5},
    "newton": {"iterations": 5},
    "pbrf": {"steps": 6},
    "retrain": {"recipe": Recipe(epochs=1)},
    "lotus": {"epochs": 1, "batch_size": 16, "margin": 1.0},  # it goes on whatever the accuracies
    "mu_mis": {"epochs": 1, "batch_size": 16, "optimiser": "adam", "lr": 1e-2},  # felt in bfloat16
    "ssd": {"alpha": 0.5, "dampening": 0.5},
    "lfssd": {"alpha": 0.5, "dampening": 0.5},
    "dlfd": {"noise_steps": 2, "batch_size": 16, "patience": 1, "threshold": 0.0},
    "noise": {"steps": 3},
    "inversion": {"steps": 3, "pictures": 4, "inversion_steps": 3},
    "recall": {"rounds": 2, "inversion_steps": 3},
    "gkt": {"rounds": 2, "threshold": 1.0},
}


def quick(name: str) -> dict:
    """Few passes, for methods that count them."""
    config = registry.configure(name)
    return QUICK.get(name) or ({"epochs": 1, "batch_size": 16} if hasattr(config, "epochs") else {})


@pytest.fixture(scope="module")
def trained():
    parts = split()
    model = models.build("resnet_bn", dataset(), width=4)
    return training.fit(model, parts.train, Recipe(epochs=2, batch_size=16)), parts


@pytest.mark.parametrize("name", NAMES)
def test_every_method_leaves_its_input_alone_and_repeats(name, trained):
    model, parts = trained[0], asked(name, trained[1])
    model.train()
    model[1].eval()
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    first = ul.unlearn(name, model, parts, seed=1, **quick(name), **ingredients(name, parts))
    assert torch.equal(torch.get_rng_state(), rng)
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert [m.training for m in first.model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in first.model.parameters())
    assert first.cost.seconds > 0 and first.cost.work > 0
    second = ul.unlearn(name, model, parts, seed=1, **quick(name), **ingredients(name, parts))
    assert same(state(first.model), state(second.model))
    assert not same(state(first.model), before)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_reads_what_it_says_it_reads(name, trained):
    model, parts = trained[0], asked(name, trained[1])
    reads = registry.find(name).reads
    other = examples(n=len(parts.train), seed=9)
    for part, index in (("retain", parts.retain_index), ("forget", parts.forget_index)):
        images = parts.train.images.clone()
        images[index] = other.images[index]
        changed = dataclasses.replace(parts, train=dataclasses.replace(parts.train, images=images))
        results = [ul.unlearn(name, model, p, seed=1, **quick(name), **ingredients(name, p)) for p in (parts, changed)]
        assert same(*(state(r.model) for r in results)) != (part in reads), f"{name} and the {part} set"


@pytest.mark.parametrize("name", NAMES)
def test_no_method_sees_the_test_set(name, trained, monkeypatch):
    model, parts = trained[0], asked(name, trained[1])
    seen = []
    method = registry.find(name)

    def spy(model, split, config, run):
        seen.append(split.test)
        return method.function(model, split, config, run)

    monkeypatch.setitem(registry._registered, name, dataclasses.replace(method, function=spy))
    ul.unlearn(name, model, parts, seed=0, **quick(name), **ingredients(name, parts))
    assert seen == [None]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONVOLVES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_method_takes_a_strangers_network(name, dtype):
    net, parts = stranger().to(dtype).eval(), asked(name, split())
    before = state(net)
    result = ul.unlearn(name, net, parts, seed=0, **quick(name), **ingredients(name, parts)).model
    after = state(result)
    assert {v.dtype for v in after.values()} == {v.dtype for v in before.values()}
    assert torch.equal(after["stem.weight"], before["stem.weight"])  # frozen
    assert not result.stem.weight.requires_grad and result.head.weight.requires_grad
    assert result.third.weight is result.second.weight  # tied
    some = ("head.weight",) if name != "assd" else ("head.weight", "first.weight", "second.weight")  # one weight in 40
    assert not all(torch.equal(after[n], before[n]) for n in some)
    assert not result.training


@pytest.mark.parametrize("name", NAMES)
def test_many_at_once_equal_one_at_a_time(name, trained):
    parts = split()
    rng = torch.Generator().manual_seed(0)
    splits, nets = [], []
    for k in range(3):
        forget = torch.zeros(len(parts.train), dtype=torch.bool)
        forget[torch.randperm(len(parts.train), generator=rng)[:20]] = True
        forget = parts.train.labels == k if name in BY_CLASS else forget
        splits.append(dataclasses.replace(parts, is_forget=forget))
        net = models.build("cnn" if name in CONVOLVES else "mlp", dataset(), seed=k)
        nets.append(net.double() if name != "dlfd" else net)
    seeds = [4, 5, 6]
    many = ul.unlearn_many(name, nets, splits, seeds=seeds, **quick(name), **ingredients(name, parts))
    for net, part, seed, result in zip(nets, splits, seeds, many, strict=True):
        alone = ul.unlearn(name, net, part, seed=seed, **quick(name), **ingredients(name, parts))
        for key, value in state(alone.model).items():
            assert torch.allclose(state(result.model)[key], value, atol=2e-6), key
        assert result.cost.gradient_evaluations == alone.cost.gradient_evaluations


def test_errors_name_the_nearest(trained):
    model, parts = trained
    with pytest.raises(ValueError, match="unknown unlearning method 'finetun': did you mean 'finetune'"):
        ul.unlearn("finetun", model, parts, seed=0)
    with pytest.raises(ValueError, match="no hyper-parameter 'epoch': did you mean 'epochs'"):
        ul.unlearn("finetune", model, parts, seed=0, epoch=3)
    with pytest.raises(ValueError, match="0 <= alpha <= 1"):
        ul.unlearn("neggrad_plus", model, parts, seed=0, alpha=2)
    with pytest.raises(ValueError, match="share one train"):
        ul.unlearn_many("finetune", [model, model], [parts, split()], seeds=[0, 1])
    with pytest.raises(training.Diverged):
        ul.unlearn("neggrad", models.build("mlp", dataset()), parts, seed=0, lr=1e18, epochs=9)


def test_the_table_of_methods():
    table = ul.methods()
    assert set(table.name) == set(HOMES) and table.paper.str.len().min() > 0
    assert table.set_index("name").loc["retrain", "guarantee"] == "exact"


def test_on_other_data_the_authors_pictures_are_not_imitated():
    found = registry.find("finetune")
    assert found.published["augment"] == "flip-crop-zero"
    assert set(found.published) - set(found.published_elsewhere) == {"augment", "label_smoothing"}
    assert found.published_elsewhere.items() <= found.published.items()


def test_unlearning_works_on_any_map_style_dataset():
    parts = split()
    as_tensors = [torch.utils.data.TensorDataset(p.pixels(), p.labels) for p in (parts.retain, parts.forget)]
    held_out = torch.utils.data.TensorDataset(parts.validation.pixels(), parts.validation.labels)
    theirs = Split.of(retain=as_tensors[0], forget=as_tensors[1], validation=held_out, test=held_out)
    net = stranger()
    first, second = (ul.unlearn("finetune", net, p, seed=0, epochs=1) for p in (parts, theirs))
    for a, b in zip(state(first.model).values(), state(second.model).values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)


def test_the_seed_matters(trained):
    model, parts = trained
    results = [state(ul.unlearn("finetune", copy.deepcopy(model), parts, seed=s, epochs=1).model) for s in (0, 1)]
    assert not same(*results)
