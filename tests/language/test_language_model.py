"""The transformer and its teaching: causal, normalised, seeded, and as torch's own attention has it."""

import pytest
import torch
from tiny import parts, taught, tiny_world, weights

from unlearnlib import language


def test_a_word_does_not_see_those_after_it():
    model, tokens = taught(), parts().forget.tokens[:4]
    changed = tokens.clone()
    changed[:, 6:] = 1
    with torch.no_grad():
        assert torch.allclose(model(tokens)[:, :6], model(changed)[:, :6], atol=1e-6)
        assert not torch.allclose(model(tokens)[:, 6:], model(changed)[:, 6:], atol=1e-2)


def test_a_block_is_torchs_own_layer():
    block = taught().blocks[0]
    peer = torch.nn.TransformerEncoderLayer(32, 2, 128, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    own = (
        *(block.mix.weight, block.mix.bias, block.out.weight, block.out.bias, block.up.weight, block.up.bias),
        *(
            block.down.weight,
            block.down.bias,
            block.norm1.weight,
            block.norm1.bias,
            block.norm2.weight,
            block.norm2.bias,
        ),
    )
    with torch.no_grad():
        for p, q in zip(peer.parameters(), own, strict=True):
            p.copy_(q)
        x, mask = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0)), torch.ones(5, 5).triu(1).bool()
        assert torch.allclose(block(x), peer(x, src_mask=mask), atol=1e-5)


def test_the_probabilities_of_all_answers_sum_to_one():
    """Over all words in the place of the value: the geometric mean is undone by the power of L."""
    texts, model = parts().forget[:1], taught()
    spot = (texts.wrong[0, 0] != texts.tokens[0]).nonzero().item()
    rows = texts.tokens.repeat(len(texts.words), 1)
    rows[:, spot] = torch.arange(len(texts.words))
    with torch.no_grad():
        first = model(rows[:1, :-1])[0].log_softmax(-1)
    nll = language.answer_nll(model, texts[torch.zeros(len(rows), dtype=torch.long)], rows)
    before = first[spot - 2, rows[0, spot - 1]]  # the word before the value
    with torch.no_grad():
        after = model(rows[:, :-1]).log_softmax(-1)[torch.arange(len(rows)), spot, rows[:, spot + 1]]
    assert torch.exp(-nll - before - after).sum().item() == pytest.approx(1, abs=1e-4)


def test_teaching_is_seeded_teaches_and_disturbs_nothing():
    texts = tiny_world().texts()
    state = torch.random.get_rng_state()
    short = language.Teaching(epochs=2, batch_size=16)
    made = [language.fit(language.build(texts, s, 16, 1, 2), texts, short, s) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(made[0]), weights(made[1])) and not torch.equal(weights(made[0]), weights(made[2]))
    p = language.answer_probability
    assert p(taught(), texts).mean() > 0.9 > 0.6 > p(taught(10, retained=True), parts().forget).mean()


def test_the_work_of_teaching():
    from unlearnlib.training.work import Tally

    tally, texts = Tally(), parts().retain
    language.fit(language.build(texts, 0, 16, 1, 2), texts, language.Teaching(epochs=3, batch_size=7), 0, tally)
    assert tally.gradient_evaluations == 3 * len(texts)


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}, {"weight_decay": -1.0}]
)
def test_bad_teaching_is_refused(bad):
    with pytest.raises(ValueError, match="teaching needs"):
        language.Teaching(**bad)


def test_what_is_not_finite_is_refused():
    from unlearnlib.training.loop import Diverged

    texts = parts().retain
    model = language.build(texts, 0, 16, 1, 2)
    with pytest.raises(Diverged):
        language.fit(model, texts, language.Teaching(epochs=60, lr=0.99, weight_decay=1e9), 0)
    with pytest.raises(ValueError, match="width=10 does not divide"):
        language.build(texts, 0, width=10, heads=4)
