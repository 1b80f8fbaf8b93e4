"""The door of the registry of language models: what it keeps, what it refuses, what each method does."""

import dataclasses

import pytest
import torch
from tiny import parts, taught, tiny_world, weights

from unlearnlib import language
from unlearnlib.language.model import answer_nll, batches
from unlearnlib.language.unlearning import METHODS
from unlearnlib.seeding import generator
from unlearnlib.training.renewal import copied

NAMES = list(METHODS)
P = language.answer_probability


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_seeded_and_disturbs_nothing(name):
    model, split = copied(taught()), parts()
    model.train()
    model.blocks[0].eval()
    model.place.weight.requires_grad_(False)
    before, state = weights(model), torch.random.get_rng_state()
    made = [language.unlearn(name, model, split, seed=s, steps=3) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(model), before) and all(p.grad is None for p in model.parameters())
    one, same, other = (weights(done.model) for done in made)
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, before)
    assert [m.training for m in made[0].model.modules()] == [m.training for m in model.modules()]
    assert not made[0].model.place.weight.requires_grad and made[0].certificate is None
    assert made[0].method == name and made[0].cost.work > 0 and made[0].config.steps == 3


@pytest.mark.parametrize("name", NAMES)
def test_paraphrases_are_withheld(name):
    other = dataclasses.replace(parts(), forget_paraphrases=None, retain_paraphrases=None)
    made = [language.unlearn(name, taught(), split, seed=0, steps=2).model for split in (parts(), other)]
    assert torch.equal(*map(weights, made))


@pytest.mark.parametrize(
    ("name", "work"),
    [
        *(("finetune", 3 * 24), ("ascent", 3 * 24), ("graddiff", 3 * 48), ("simnpo", 3 * 48), ("task_vector", 3 * 24)),
        *(("npo", 3 * 48 + 24), ("dpo", 3 * 72 + 48), ("rmu", 3 * 48 + 24)),
    ],
)
def test_the_cost_is_what_was_done(name, work):
    """Three steps of eight forgotten and eight retained texts: 3 for a gradient, 1 for a look by the original."""
    assert language.unlearn(name, taught(), parts(), seed=0, steps=3, batch_size=8).cost.work == work


def test_one_step_of_graddiff_by_hand():
    split, model = parts(), copied(taught())
    a = next(batches(len(split.forget), 8, 1, generator(5, "forget batches")))
    b = next(batches(len(split.retain), 8, 1, generator(5, "retain batches")))
    f, r = split.forget[a], split.retain[b]
    mean = [answer_nll(model, x).sum() / x.answer.sum() for x in (f, r)]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    (2 * mean[1] - mean[0]).backward()
    optimiser.step()
    done = language.unlearn("graddiff", taught(), split, seed=5, steps=1, batch_size=8, retain=2.0)
    assert torch.allclose(weights(done.model), weights(model), atol=1e-7)


def test_a_task_vector_is_a_line_through_the_original():
    ends = [weights(language.unlearn("task_vector", taught(), parts(), seed=0, scale=s, steps=4).model) for s in (1, 3)]
    start = weights(taught())
    assert torch.allclose(ends[1] - start, 3 * (ends[0] - start), atol=1e-6)
    tuned = language.unlearn("task_vector", taught(), parts(), seed=0, scale=0, steps=4).model
    assert torch.equal(weights(tuned), start)


def test_rmu_moves_the_blocks_below_its_layer_alone():
    done = language.unlearn("rmu", taught(), parts(), seed=0, steps=5, layer=1).model
    moved = {
        n for (n, p), q in zip(done.named_parameters(), taught().parameters(), strict=True) if not torch.equal(p, q)
    }
    assert moved and all(name.startswith("blocks.0.") for name in moved)


def test_forgetting_lowers_the_answers_and_the_repair_keeps_the_others():
    split, model = parts(), taught()
    assert P(model, split.forget).mean() > 0.9
    for name in ("graddiff", "npo", "simnpo"):
        made = language.unlearn(name, model, split, seed=0, steps=80).model
        assert P(made, split.forget).mean() < 0.6 < P(made, split.retain).mean()
    control = language.unlearn("finetune", model, split, seed=0, steps=80).model
    assert P(control, split.retain).mean() > 0.9


class Other(torch.nn.Module):
    """A stranger's model: something from word numbers to something."""

    def __init__(self, made):
        super().__init__()
        self.weight, self.made = torch.nn.Parameter(torch.zeros(1)), made

    def forward(self, tokens):
        return self.made(tokens) + self.weight


V = len(tiny_world().words)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "simpo"}, "did you mean 'simnpo'"),
        ({"name": 7}, "known are ascent"),
        ({"betta": 1.0}, "did you mean 'beta'"),
        ({"steps": 0}, "steps must be above 0"),
        ({"lr": float("nan")}, "lr is a number of 0 or more"),
        ({"steps": 2.5}, "steps is a whole number"),
        ({"beta": True}, "beta is a number"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"texts": [1]}, "must be a language.TextSplit"),
        ({"texts": language.TextSplit(parts().forget[:0], parts().retain)}, "forget set is empty"),
        ({"texts": language.TextSplit(parts().forget, parts().retain[:0])}, "retain set is empty"),
        ({"texts": language.TextSplit(parts().forget, language.Texts.of([("a", "b")]))}, "one vocabulary"),
        ({"model": "gpt"}, "must be a torch module"),
        ({"model": Other(lambda t: torch.zeros(len(t), t.shape[1], V + 1))}, "must give logits"),
        ({"model": Other(lambda t: torch.full((len(t), t.shape[1], V), torch.inf))}, "not finite"),
        ({"model": torch.nn.Linear(3, 3)}, "does not read texts"),
        ({"name": "rmu", "layer": 9}, "at least layer=9 blocks"),
        ({"name": "rmu", "model": Other(lambda t: torch.zeros(len(t), t.shape[1], V))}, "rmu needs a model"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said):
    given = {"name": "simnpo", "model": taught(), "texts": parts(), "seed": 0, **change}
    name, model, texts = (given.pop(k) for k in ("name", "model", "texts"))
    with pytest.raises(ValueError, match=said) as error:
        language.unlearn(name, model, texts, **given)
    assert "\n" not in str(error.value)


def test_a_strangers_model_is_accepted():
    table = torch.nn.Parameter(torch.zeros(V))
    model = Other(lambda t: torch.zeros(len(t), t.shape[1], V) + table)
    model.table = table
    done = language.unlearn("simnpo", model, parts(), seed=0, steps=2, lr=0.0001)
    assert isinstance(done.model, Other)


def test_the_table_of_methods():
    table = language.methods()
    assert list(table.name) == NAMES and "steps=60" in table.defaults[0] + table.defaults[1]
