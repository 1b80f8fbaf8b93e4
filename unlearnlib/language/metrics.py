"""What is left in a language model: truth ratios, forget quality, relearning, and forgetting too much.

    TR = mean_w p(wrong_w)^(1/L) / p(right)^(1/L)        truth ratio of a question, Maini et al., COLM 2024
    forget quality = p-value of a Kolmogorov-Smirnov test between the TR of a model and of a retrained one

A uniform model has TR = 1, one that knows the answer TR near 0, one that was taught to avoid it TR above that of a
model that never knew. A p-value grows as questions get fewer: it compares models only at a fixed number of questions.
The two sides answer the same questions, which makes the test lenient, and several questions ask for one fact, which
makes it strict: what retrained models get among themselves is its scale. TOFU divides by the probability of a
paraphrased answer; here that of the answer itself.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.language.model import answer_nll, answer_probability, batches
from unlearnlib.language.texts import Texts
from unlearnlib.training.modes import evaluating
from unlearnlib.training.renewal import copied


@torch.no_grad()
def truth_ratio(model: nn.Module, texts: Texts) -> Tensor:
    """TR of each text: [N]. Raises ValueError where the texts have no wrong answers."""
    if not texts.wrong.shape[1]:
        raise ValueError("the truth ratio needs wrong answers: give them to Texts.of(pairs, wrong=...)")
    length = texts.lengths()
    with evaluating(model):
        right = -answer_nll(model, texts).double() / length
        each = [-answer_nll(model, texts, rows).double() / length for rows in texts.wrong.unbind(1)]
    return torch.exp(torch.stack(each) - right).mean(0)


def forget_quality(ratios: Tensor, oracles: Sequence[Tensor], questions: int) -> float:
    """The median p-value of Kolmogorov-Smirnov tests of truth ratios against those of each retrained model.

    questions   how many there must be on both sides

    Raises ValueError on another number of questions: the p-value would not compare.
    """
    if not len(oracles):
        raise ValueError("forget quality needs at least one retrained model to compare with")
    for sample in (ratios, *oracles):
        if tuple(sample.shape) != (questions,) or not torch.isfinite(sample).all():
            raise ValueError(f"forget quality was asked for {questions} finite truth ratios, not {tuple(sample.shape)}")
    return float(np.median([stats.ks_2samp(ratios.numpy(), oracle.numpy()).pvalue for oracle in oracles]))


def oracle_box(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Where one more retrained model would lie: mean +- t sd sqrt(1 + 1/K) of K >= 2 of them."""
    if len(values) < 2:
        raise ValueError(f"a prediction interval needs two retrained models or more, not {len(values)}")
    mean, sd, K = np.mean(values), np.std(values, ddof=1), len(values)
    reach = stats.t.ppf((1 + level) / 2, K - 1) * sd * np.sqrt(1 + 1 / K)
    return float(mean - reach), float(mean + reach)


def verdict(probability: float, box: tuple[float, float]) -> str:
    """ "remembers" above the box of retrained models, "over-forgotten" below it, "as retrained" inside.

    Too low is a failure of its own: a model that never knew still knows the form of an answer, and gives each
    candidate its share. An answer that gets less than that has been marked.
    """
    low, high = box
    return "remembers" if probability > high else "over-forgotten" if probability < low else "as retrained"


def relearned(model: nn.Module, texts: Texts, steps: int = 5, lr: float = 1e-3, seed: int = 0) -> tuple[float, float]:
    """The mean answer probability of half of the facts, before and after `steps` on the other half (Adam, batch 32).

    Facts of a person do not follow from one another, so what returns was suppressed and not absent. Compare with
    a retrained model: it gains what the form of answers gives. Raises ValueError with fewer than two facts.
    """
    facts = texts.fact.unique()
    if len(facts) < 2:
        raise ValueError("relearning needs two facts or more: one half is taught, the other half is asked")
    order = facts[torch.randperm(len(facts), generator=seeding.generator(seed, "halves"))]
    taught = torch.isin(texts.fact, order[: len(order) // 2])
    lesson, asked = texts[taught], texts[~taught]
    student = copied(model)
    optimiser = torch.optim.Adam(student.parameters(), lr=lr)
    with evaluating(student):
        for index in batches(len(lesson), 32, steps, seeding.generator(seed, "relearning")):
            batch = lesson[index]
            optimiser.zero_grad()
            (answer_nll(student, batch).sum() / batch.answer.sum()).backward()
            optimiser.step()
    return answer_probability(model, asked).mean().item(), answer_probability(student, asked).mean().item()
