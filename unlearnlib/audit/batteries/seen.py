"""What an audit sees of one model, and what an instrument of the `panel` is.

An instrument turns a candidate, the auditor's reference models and, for some, siblings of the candidate into one
statistic, high for residual, and a p-value for "this is a retrained model". The p-value is the auditor's own:

    no or one reference    from the examples, as if they were independent and the reference exact
    several                where the statistic falls among those of the references, each audited with the others:
                           Student's prediction, t = (T - mean) / (sd sqrt(1 + 1/n)), one-sided
    siblings               the audit's own, on candidate and siblings beside the references

Whether these p-values keep their level is what the meta-evaluation finds out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import t

from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.evidence.relearn import relearn_curve
from unlearnlib.audit.known_answers.residuals import PARTS, Answers, World, quantised
from unlearnlib.audit.statistics.roc import as_array, margin, roc
from unlearnlib.training.models import features
from unlearnlib.training.prediction import predict

RELEARNING = {"lr": 0.05, "batch_size": 32}
RELEARN_STEPS = 40
Found = tuple[float, float]  # statistic and p-value


@dataclass(frozen=True, eq=False)
class Seen:
    """A model as audits see it; everything is computed once, on first use. `original` numbers one of the world's."""

    answers: Answers
    world: World
    original: int = 0

    @cached_property
    def margins(self) -> dict[str, np.ndarray]:
        found = (margin(getattr(self.answers, p), self.world.labels[p]) for p in PARTS)
        return {p: np.clip(m, -100, 100) for p, m in zip(PARTS, found, strict=True)}

    @cached_property
    def probabilities(self) -> dict[str, np.ndarray]:
        return {p: distances.softmax(getattr(self.answers, p)) for p in PARTS}

    @cached_property
    def right(self) -> np.ndarray:
        return (self.answers.forget.argmax(1) == self.world.labels["forget"]).astype(float)

    @cached_property
    def loss_rank(self):
        return roc(*sides(self.margins["forget"], self.margins["test"]))

    @cached_property
    def curve(self) -> np.ndarray:
        """Loss on F before and after each of 40 relearning steps."""
        return relearn_curve(self.answers.network, self.world.forget, RELEARN_STEPS, **RELEARNING)

    @cached_property
    def alignment(self) -> float:
        """Debiased CKA of the features of F with those of the original."""
        return distances.linear_cka(*(_features(a, self.world) for a in (self.answers, self._first)))

    @cached_property
    def moved(self) -> float:
        """L2 distance of the weights to the original's."""
        return distances.weight_distance(self.answers.network, self._first.network)

    @cached_property
    def rounded(self) -> np.ndarray:
        """Margins on F of the network with weights of 4 bits, a change that remembers nothing."""
        logits = as_array(predict(quantised(self.answers.network, 4), self.world.forget))
        return np.clip(margin(logits, self.world.labels["forget"]), -100, 100)

    @property
    def _first(self) -> Answers:
        return self.world.originals[self.original % len(self.world.originals)]


def _features(answers: Answers, world: World) -> np.ndarray:
    return features(answers.network, world.forget.pixels()).numpy()


def sides(inside, outside) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([inside, outside]), np.arange(len(inside) + len(outside)) < len(inside)


@dataclass(frozen=True)
class Instrument:
    """One audit. `extra` are the numbers of models it is run with beside the candidate, `needs` what else it takes."""

    name: str
    extra: tuple[int, ...]
    alone: Callable[[Seen, Sequence[Seen]], Found] | None = None  # no or one reference
    several: Callable[[Seen, Sequence[Seen]], float] | None = None  # two or more: the statistic
    grouped: Callable[[Seen, Sequence[Seen], Sequence[Seen]], Found] | None = None  # candidate, siblings, references
    needs: str = ""
    two_sided: bool = False  # of `several`: far from the references in either direction

    def found(self, one: Seen, references: Sequence[Seen], siblings: Sequence[Seen], null: np.ndarray) -> Found:
        """Statistic and p-value; `null` are the statistics of the references, each against the others."""
        if self.grouped is not None:
            return self.grouped(one, siblings, references)
        if len(references) < 2:
            return self.alone(one, references)
        value = self.several(one, references)
        p = predicted(value, null)
        return (abs(value - null.mean()), 2 * min(p, 1 - p)) if self.two_sided else (value, p)

    def null(self, references: Sequence[Seen]) -> np.ndarray:
        """The statistic of each reference against the others."""
        if self.several is None or len(references) < 2:
            return np.empty(0)
        left_out = [[*references[:i], *references[i + 1 :]] for i in range(len(references))]
        return np.array([self.several(one, rest) for one, rest in zip(references, left_out, strict=True)])

    def fits(self, world: World) -> bool:
        """Whether the world has what the instrument needs."""
        has = {"canaries": world.canaries.any(), "network": bool(world.originals), "class": world.label is not None}
        return bool(has.get(self.needs, True))


def predicted(value: float, null: np.ndarray) -> float:
    """One-sided p-value of `value` as one further draw of the law of `null`."""
    spread = null.std(ddof=1) * math.sqrt(1 + 1 / len(null))
    return float(t.sf((value - null.mean()) / max(spread, 1e-12), len(null) - 1))
