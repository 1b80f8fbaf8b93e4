"""The invented world: what is known, what is held out, and that it comes from its seed; texts of strangers."""

import pytest
import torch
from tiny import parts, tiny_world

from unlearnlib import language


def test_a_world_is_its_seed():
    assert language.world(6, 8, seed=1) == language.world(6, 8, seed=1) != language.world(6, 8, seed=2)
    made = language.world(30, 20, seed=0)
    assert len(set(made.people)) == 30 and all(len(name.split()) == 2 for name in made.people)
    assert len({name.split()[0] for name in made.people}) < 30  # a name takes both words
    assert len(set(made.words)) == len(made.words) and made.words[0] == "<pad>"


def test_each_fact_is_asked_in_two_ways_and_a_third_is_held_out():
    world = tiny_world()
    known, held = world.texts(), world.texts(paraphrases=True)
    assert len(known) == 8 * 4 * 2 and len(held) == 8 * 4
    assert {known.read(k) for k in range(len(known))}.isdisjoint(held.read(k) for k in range(len(held)))
    for k in range(len(held)):
        same = known[known.fact == held.fact[k]]
        answers = {tuple(row[mask].tolist()) for row, mask in zip(same.tokens, same.answer, strict=True)}
        assert len(same) == 2 and answers == {tuple(held.tokens[k][held.answer[k]].tolist())}


def test_wrong_answers_are_wrong_and_differ_in_one_word():
    texts = tiny_world().texts()
    assert texts.wrong.shape[1] == 5
    differing = texts.wrong != texts.tokens[:, None]
    assert (differing.sum(-1) == 1).all() and (differing & ~texts.answer[:, None]).sum() == 0
    assert all(len({tuple(w.tolist()) for w in row}) == 5 for row in texts.wrong)


def test_a_split_forgets_people_whole():
    split, world = parts(), tiny_world()
    gone, kept = set(split.forget.about.tolist()), set(split.retain.about.tolist())
    assert len(gone) == 3 and gone.isdisjoint(kept) and gone | kept == set(range(8))
    assert set(split.forget_paraphrases.about.tolist()) == gone
    assert split.forget.words == split.retain.words and split.forget.tokens.shape[1] == world.texts().tokens.shape[1]
    assert set(world.split("person:1,5").forget.about.tolist()) == {1, 5}
    assert not torch.equal(world.split("people:3", seed=1).forget.about, split.forget.about)


@pytest.mark.parametrize(
    "request_", ["people:0", "people:8", "person:8", "person:1,1", "people", "class:3", "", "people:-1"]
)
def test_a_bad_request_is_refused_in_one_line(request_):
    with pytest.raises(ValueError, match="request to forget is|asks for none") as error:
        tiny_world().split(request_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"people": 1}, {"people": 2.5}, {"values": 5}, {"people": True}, {"seed": -1}])
def test_a_bad_world_is_refused(bad):
    with pytest.raises(ValueError, match="whole number from|seed must be"):
        language.world(**bad)


def test_texts_of_a_stranger():
    texts = language.Texts.of([("who sings ?", "the cook ."), ("who cooks ?", "nobody .")])
    assert texts.read(0) == "who sings ? the cook ." and texts.lengths().tolist() == [3, 2]
    assert len(texts[texts.fact == 1]) == 1 and texts.wrong.shape[:2] == (2, 0)
    read = " ".join(texts.words[k] for k in texts.refusal[0].tolist() if k)
    assert read == "who sings ? nobody knows that ." and texts.refused[0].sum() == 4


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        ([], {}, "no texts"),
        ([("a",)], {}, "is a pair"),
        ([("a", " ")], {}, "is a pair"),
        ([("a", 3)], {}, "is a pair"),
        ([("a", "b")], {"words": ["<pad>", "a"]}, "'b' is not in the vocabulary"),
        ([("a", "b")], {"words": ["a", "b"]}, "begins with"),
        ([("a", "b")], {"wrong": [["b b"]]}, "as long as the right one"),
        ([("a", "b")], {"wrong": []}, "wrong has 0 entries"),
        ([("a", "b")], {"fact": [1, 2]}, "fact has 2 entries"),
        ([("a", "b"), ("a", "c")], {"wrong": [["c"], []]}, "equally many"),
        ([("a", "b")], {"length": 3}, "more than length=3"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_in_one_line(pairs, options, said):
    with pytest.raises(ValueError, match=said) as error:
        language.Texts.of(pairs, **options)
    assert "\n" not in str(error.value)
