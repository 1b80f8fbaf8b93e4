"""Metrics on models whose answer is known: uniform, retrained, ruined, suppressed."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import parts, taught

from unlearnlib import language
from unlearnlib.language import metrics
from unlearnlib.training.renewal import copied


class Uniform(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(*tokens.shape, len(parts().forget.words))


def test_a_uniform_model_has_truth_ratio_one_and_one_over_v():
    texts = parts().forget
    assert torch.allclose(language.truth_ratio(Uniform(), texts), torch.ones(len(texts), dtype=torch.float64))
    p = language.answer_probability(Uniform(), texts)
    assert torch.allclose(p, torch.full_like(p, 1 / len(texts.words)))


def test_the_truth_ratio_by_hand():
    texts, model = parts().forget[:2], taught()
    for row in range(2):
        spots = texts.answer[row].nonzero().flatten()

        def p(words, row=row, spots=spots):
            return np.exp(np.mean([logs_of(model, words)[t - 1, words[t]] for t in spots]))

        right, wrong = p(texts.tokens[row]), [p(w) for w in texts.wrong[row]]
        assert language.truth_ratio(model, texts)[row].item() == pytest.approx(np.mean(wrong) / right, rel=1e-4)


def logs_of(model, words):
    with torch.no_grad():
        return model(words[None, :-1])[0].double().log_softmax(-1).numpy()


@pytest.fixture(scope="module")
def oracles():
    return [language.truth_ratio(taught(seed, retained=True), parts().forget) for seed in range(10, 18)]


def test_retrained_models_pass_and_the_original_does_not(oracles):
    """The null rejects no more often than it says: both sides answer the same questions, so rather less."""
    n = len(parts().forget)
    null = [language.forget_quality(a, [b], n) for a, b in itertools.combinations(oracles, 2)]
    assert all(np.mean(np.array(null) < level) <= level + 0.1 for level in (0.05, 0.2, 0.5)) and min(null) < 0.7
    assert language.forget_quality(language.truth_ratio(taught(), parts().forget), oracles, n) < 1e-4


def test_ruin_can_pass_and_has_a_verdict_of_its_own(oracles):
    """A truth ratio is blind to a model that answers nothing: the probability is what shows it."""
    known = [language.answer_probability(taught(s, retained=True), parts().forget).mean().item() for s in range(10, 18)]
    box = language.oracle_box(known)
    assert language.verdict(np.mean(known), box) == "as retrained"
    assert language.verdict(language.answer_probability(taught(), parts().forget).mean().item(), box) == "remembers"
    assert language.verdict(1e-6, box) == "over-forgotten"


def test_the_box_is_the_prediction_interval():
    """Nineteen of twenty further draws fall into it."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        *seen, new = rng.normal(size=4)
        low, high = language.oracle_box(seen)
        inside += low <= new <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_p_value_grows_as_questions_get_fewer():
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.normal(m, 1, 200)) for m in (0, 0.6))
    p = [language.forget_quality(a[:n], [b[:n]], n) for n in (20, 200)]
    assert p[1] < 0.01 < p[0] and p[1] == stats.ks_2samp(a, b).pvalue
    with pytest.raises(ValueError, match="asked for 200 finite truth ratios"):
        language.forget_quality(a[:20], [b], 200)
    with pytest.raises(ValueError, match="at least one retrained"):
        language.forget_quality(a, [], 200)


def test_relearning_tells_suppression_from_absence():
    """A model whose one switch hides all it knows has it back in five steps; a retrained one gets nothing of it."""
    hidden = Suppressed(taught())
    absent = taught(10, retained=True)
    before, after = language.relearned(hidden, parts().forget, steps=5, lr=0.5)
    assert before < 0.2 and after > 0.6
    before, after = language.relearned(absent, parts().forget, steps=5)
    assert after - before < 0.15


class Suppressed(torch.nn.Module):
    """Answers drowned by one scale, the only thing that can be trained."""

    def __init__(self, model):
        super().__init__()
        self.model = copied(model).requires_grad_(False)
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, tokens):
        return self.scale * self.model(tokens)


def test_metrics_refuse_in_one_line():
    with pytest.raises(ValueError, match="needs wrong answers"):
        language.truth_ratio(taught(), language.Texts.of([("a b", "c")]))
    with pytest.raises(ValueError, match="two retrained models"):
        language.oracle_box([0.2])
    with pytest.raises(ValueError, match="two facts"):
        metrics.relearned(taught(), parts().forget[:1])
