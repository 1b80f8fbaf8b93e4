"""The losses of forgetting at known points: at the original, for beta to 0, their floors, and the released forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import parts, taught

from unlearnlib.language import losses
from unlearnlib.language.model import answer_nll
from unlearnlib.training.renewal import copied


def gradient(loss, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.fixture
def wide():
    """The taught model in float64, and its forget texts."""
    return copied(taught()).double(), parts().forget[:6]


def test_npo_at_the_original_is_ascent_for_every_beta(wide):
    model, texts = wide
    ascent = gradient(-answer_nll(model, texts).mean(), model)
    for beta in (0.01, 0.1, 2.0):
        nll = answer_nll(model, texts)
        assert torch.allclose(gradient(losses.npo(nll, nll.detach(), beta), model), ascent, rtol=1e-9, atol=1e-12)


def test_dpo_without_a_refusal_is_half_of_npo():
    nll, reference = torch.rand(2, 5, dtype=torch.float64)
    same = torch.ones(5, dtype=torch.float64)
    assert losses.dpo(nll, reference, same, same, 0.7) == pytest.approx(float(losses.npo(nll, reference, 0.7)) / 2)


def test_for_small_beta_npo_is_ascent():
    nll, reference = 3 * torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for beta in (1e-3, 1e-6):
        left = losses.npo(nll, reference, beta) - 2 / beta * math.log(2)
        assert float(left) == pytest.approx(float(-(nll - reference).mean()), abs=3 * beta + 1e-8)


def test_simnpo_reads_the_mean_over_the_words():
    nll, length = torch.tensor([2.0, 6.0]), torch.tensor([1, 3])
    assert losses.simnpo(nll, length, 2.0) == pytest.approx(math.log1p(math.exp(-4.0)))
    assert losses.simnpo(nll, length, 2.0, gamma=4.0) == pytest.approx(math.log(2))  # half the push at gamma


def test_npo_and_simnpo_have_a_floor_and_ascent_has_none():
    length, reference = torch.tensor([3]), torch.tensor([0.1])
    previous = [math.inf] * 3
    for nll in (1.0, 10.0, 1e2, 1e3, 1e4):
        now = torch.tensor([nll])
        values = [losses.npo(now, reference, 0.1), losses.simnpo(now, length, 4.5), -now.mean()]
        assert values[0] >= 0 and values[1] >= 0
        assert all(a <= b for a, b in zip(values, previous, strict=True))
        previous = values
    assert previous[0] < 1e-6 and previous[1] < 1e-6 and previous[2] == -1e4


def test_undial_as_released_pushes_on_a_word_that_is_in_no_answer():
    """Its labels mark what is no answer by -100, which as an index is the word V - 100."""
    V, labels = 120, torch.tensor([-100] * 6 + [3, 4])
    student = torch.zeros(8, V, requires_grad=True)

    def pull(rows):
        mask = torch.zeros(8, V)
        mask[torch.arange(8)[rows], labels[rows]] = 1.0
        soft = F.softmax(-10.0 * mask, dim=-1)
        (g,) = torch.autograd.grad(F.cross_entropy(student[rows], soft[rows]), student)
        return g.sum(0)

    everything, answers = torch.ones(8, dtype=torch.bool), labels >= 0
    assert pull(everything).argmax() == V - 100  # descent takes most from it
    assert set(pull(answers).topk(2).indices.tolist()) == {3, 4} and pull(answers)[V - 100] < 0


def test_a_loss_of_probabilities_does_not_see_a_shift_of_all_logits(wide):
    """NPO on raw logits, as MUSE's baseline has it, does: it can be lowered without a change of any answer."""
    model, texts = wide

    class Shifted(torch.nn.Module):
        def forward(self, tokens):
            return model(tokens) - 1.0

    reference = answer_nll(model, texts).detach()
    values = [losses.npo(answer_nll(m, texts), reference, 0.1).item() for m in (model, Shifted())]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    raw = [-2 / 0.1 * F.logsigmoid(0.1 * (model(texts.tokens) - m(texts.tokens))).mean() for m in (model, Shifted())]
    assert (raw[1] - raw[0]).item() < -0.9
