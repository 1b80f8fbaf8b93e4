"""Dynamic forgetting and the choice of a checkpoint: what DLFD reads while it runs."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import norm, rankdata
from torch import Tensor, nn

from unlearnlib.training.prediction import predict

SAMPLE = 512  # examples a side: the standard error of the score is then about 0.015


def membership_score(forget_losses: Tensor, unseen_losses: Tensor) -> float:
    """|accuracy - 1/2| of the attack "low loss means member", were both losses Gaussian with one variance.

    From the rank AUC: accuracy = Phi(Phi^-1(AUC) / sqrt 2). Needs no threshold and no balance between the two sets.
    """
    n, m = len(forget_losses), len(unseen_losses)
    ranks = rankdata(-torch.cat([forget_losses, unseen_losses]).double().numpy())
    auc = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    inside = min(max(auc, 0.5 / (n * m)), 1 - 0.5 / (n * m))
    return abs(float(norm.cdf(norm.ppf(inside) / 2**0.5)) - 0.5)


@dataclass(frozen=True)
class Rule:
    """When to distance, and which checkpoint to keep."""

    threshold: float  # distance while the score is above it
    patience: int  # readings in a row on the other side before that switches
    score_limit: float  # a checkpoint must score at most this, if any does
    refresh: int  # examples a side whose loss is measured anew at a reading


class _Losses:
    """Cross-entropies of a fixed sample. A reading measures the next `refresh` of them and remembers the rest."""

    def __init__(self, examples, refresh: int):
        self._examples, self._refresh, self._at = examples, refresh, 0
        self._known: Tensor | None = None

    def read(self, model: nn.Module, tally) -> Tensor:
        n = len(self._examples)
        where = torch.arange(n)
        if self._known is not None and self._refresh < n:
            where = (self._at + torch.arange(self._refresh)) % n
            self._at = (self._at + self._refresh) % n
        part = self._examples[where]
        losses = F.cross_entropy(predict(model, part, tally=tally), part.labels, reduction="none")
        if self._known is None:
            self._known = losses
        else:
            self._known[where] = losses
        return self._known


class Monitor:
    """Measures the forgetting score, decides whether to distance, and keeps the best checkpoint.

    The validation set is halved: one half are the unseen examples of the score, the other half selects. Neither the
    test set nor a later attack has a part in it.
    """

    def __init__(self, split, rule: Rule, run):
        order = torch.randperm(len(split.validation), generator=run.generator("validation"))
        if len(order) < 4:
            raise ValueError("dlfd needs a validation set of at least 4 examples to measure its forgetting score")
        half = len(order) // 2
        shuffled = torch.randperm(len(split.forget_index), generator=run.generator("monitor"))
        forget = split.train[split.forget_index[shuffled[:SAMPLE]]]
        self._sides = _Losses(forget, rule.refresh), _Losses(split.validation[order[:half][:SAMPLE]], rule.refresh)
        self._select = split.validation[order[half:][:SAMPLE]]
        self._rule, self._tally = rule, run.tally
        self.distancing, self._against = True, 0
        self._best = (-1, -float("inf"))
        self.best_state: dict[str, Tensor] = {}
        self.readings: list[float] = []  # the scores so far

    def score(self, model: nn.Module) -> float:
        """The forgetting score now."""
        return membership_score(*(side.read(model, self._tally) for side in self._sides))

    def accuracy(self, model: nn.Module) -> float:
        """The accuracy on the selecting half."""
        logits = predict(model, self._select, tally=self._tally)
        return (logits.argmax(1) == self._select.labels).float().mean().item()

    def switch(self, score: float) -> None:
        """Turn distancing on above the threshold and off below it, after `patience` readings in a row."""
        wanted = score > self._rule.threshold
        self._against = self._against + 1 if wanted != self.distancing else 0
        if self._against >= self._rule.patience:
            self.distancing, self._against = wanted, 0

    def check(self, model: nn.Module) -> None:
        """A reading of a checkpoint: keep it if it is the most accurate within the limit (or else scores lowest)."""
        score = self.score(model)
        self.readings.append(score)
        rank = (1, self.accuracy(model)) if score <= self._rule.score_limit else (0, -score)
        if rank > self._best:
            self._best, self.best_state = rank, copy.deepcopy(model.state_dict())
        self.switch(score)
