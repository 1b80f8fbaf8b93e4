"""The one list of audits that can be put on a single candidate, with what each needs: the panel of `meta_evaluation`.

An instrument turns a candidate, the auditor's reference models and, for some, siblings of the candidate into one
statistic, high for residual, and a p-value for "this is a retrained model". The p-value is the auditor's own:

    no or one reference    from the examples, as if they were independent and the reference exact
    several                where the statistic falls among those of the references, each audited with the others:
                           Student's prediction, t = (T - mean) / (sd sqrt(1 + 1/n)), one-sided

Whether these p-values keep their level is what the meta-evaluation finds out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit
from scipy.stats import norm, t

from unlearnlib.audit.attacks.rmia import rmia
from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.distances.klom import klom, klom_null
from unlearnlib.audit.evidence.relearn import relearn_curve
from unlearnlib.audit.known_answers.residuals import PARTS, Answers, World
from unlearnlib.audit.statistics.roc import margin, roc
from unlearnlib.training.models import features

RELEARNING = {"lr": 0.05, "batch_size": 32}
RELEARN_STEPS, TARGET_STEP = 40, 10
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
        return roc(*_sides(self.margins["forget"], self.margins["test"]))

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

    @property
    def _first(self) -> Answers:
        return self.world.originals[self.original % len(self.world.originals)]


def _features(answers: Answers, world: World) -> np.ndarray:
    return features(answers.network, world.forget.pixels()).numpy()


def _sides(inside, outside) -> tuple[np.ndarray, np.ndarray]:
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

    def found(self, one: Seen, references: Sequence[Seen], siblings: Sequence[Seen], null: np.ndarray) -> Found:
        """Statistic and p-value; `null` are the statistics of the references, each against the others."""
        if self.grouped is not None:
            return self.grouped(one, siblings, references)
        if len(references) < 2:
            return self.alone(one, references)
        value = self.several(one, references)
        return value, predicted(value, null)

    def null(self, references: Sequence[Seen]) -> np.ndarray:
        """The statistic of each reference against the others."""
        if self.several is None or len(references) < 2:
            return np.empty(0)
        left_out = [[*references[:i], *references[i + 1 :]] for i in range(len(references))]
        return np.array([self.several(one, rest) for one, rest in zip(references, left_out, strict=True)])

    def fits(self, world: World) -> bool:
        """Whether the world has what the instrument needs."""
        has = {"": True, "canaries": world.canaries.any(), "network": bool(world.originals)}
        return bool(has.get(self.needs, True))


def predicted(value: float, null: np.ndarray) -> float:
    """One-sided p-value of `value` as one further draw of the law of `null`."""
    spread = null.std(ddof=1) * math.sqrt(1 + 1 / len(null))
    return float(t.sf((value - null.mean()) / max(spread, 1e-12), len(null) - 1))


def _z(value: float, error: float) -> Found:
    return value, float(norm.sf(value / max(error, 1e-12)))


def _loss_rank(one: Seen, references: Sequence[Seen]) -> Found:
    if references:
        gap = one.loss_rank.auc - references[0].loss_rank.auc
        return _z(gap, math.hypot(one.loss_rank.standard_error, references[0].loss_rank.standard_error))
    return _z(one.loss_rank.auc - 0.5, one.loss_rank.standard_error)


def _accuracy(one: Seen, references: Sequence[Seen]) -> Found:
    if references:
        gap = one.right - references[0].right
        return _z(gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap)))
    test = (one.answers.test.argmax(1) == one.world.labels["test"]).astype(float)
    both = [v.var(ddof=1) / len(v) for v in (one.right, test)]
    return _z(one.right.mean() - test.mean(), math.sqrt(sum(both)))


def _canaries(one: Seen, references: Sequence[Seen]) -> Found:
    """Mean rank of the planted label among all classes but the highest-ranking true answer of a model without it.

    The planted label was drawn from the C - 1 wrong ones, so without having seen it a model ranks it among them as any
    other: the rank is uniform on 0..C-2 whatever the model. Nothing has to be trained, but it must have been planted.
    """
    chosen = one.world.canaries
    z, planted = one.answers.forget[chosen], one.world.labels["forget"][chosen]
    truth = one.world.true_labels[chosen]
    rows = np.arange(len(z))
    own, wrong = z[rows, planted], np.ones(z.shape, bool)
    wrong[rows, truth] = wrong[rows, planted] = False
    below = ((z < own[:, None]) & wrong).sum(1) + 0.5 * ((z == own[:, None]) & wrong).sum(1)
    last = z.shape[1] - 2  # the highest rank
    variance = ((last + 1) ** 2 - 1) / 12
    return _z(below.mean() / last - 0.5, math.sqrt(variance / len(z)) / last)


def _mean_margins(references: Sequence[Seen], part: str) -> np.ndarray:
    return np.mean([r.margins[part] for r in references], axis=0)


def _calibrated(one: Seen, references: Sequence[Seen]):
    return roc(*_sides(*(one.margins[p] - _mean_margins(references, p) for p in ("forget", "test"))))


def _calibrated_alone(one: Seen, references: Sequence[Seen]) -> Found:
    r = _calibrated(one, references)
    return _z(r.auc - 0.5, r.standard_error)


def _rmia(one: Seen, references: Sequence[Seen]):
    """Every second test picture is the population, the others are the non-members."""
    half = np.arange(len(one.margins["test"])) % 2 == 0

    def probabilities(model: Seen) -> tuple[np.ndarray, np.ndarray]:
        f, unseen = (expit(model.margins[p]) for p in ("forget", "test"))
        return np.concatenate([f, unseen[~half]]), unseen[half]

    (target, z), others = probabilities(one), [probabilities(r) for r in references]
    score = rmia(target, np.stack([o for o, _ in others]), z, np.stack([o for _, o in others]))
    return roc(score, np.arange(len(target)) < len(one.margins["forget"]))


def _rmia_alone(one: Seen, references: Sequence[Seen]) -> Found:
    r = _rmia(one, references)
    return _z(r.auc - 0.5, r.standard_error)


def _divergence(one: Seen, references: Sequence[Seen], part: str) -> np.ndarray:
    p = one.probabilities[part]
    return np.mean([distances.jensen_shannon(p, r.probabilities[part]) for r in references], axis=0)


def _outputs_alone(one: Seen, references: Sequence[Seen]) -> Found:
    """Divergence on F against that on test pictures, which both models never saw."""
    f, unseen = (_divergence(one, references, p) for p in ("forget", "test"))
    return _z(f.mean() - unseen.mean(), math.sqrt(f.var(ddof=1) / len(f) + unseen.var(ddof=1) / len(unseen)))


def _relearn(one: Seen, references: Sequence[Seen]) -> float:
    """Minus the log of relearn time over that of the references, to the mean loss that they reach in ten steps."""
    target = np.mean([r.curve[TARGET_STEP] for r in references])

    def time(model: Seen) -> float:
        reached = np.flatnonzero(model.curve <= target)
        return max(float(reached[0]) if len(reached) else RELEARN_STEPS + 1.0, 0.5)

    return float(np.mean([math.log(time(r)) for r in references]) - math.log(time(one)))


def _standardised(one: Seen, references: Sequence[Seen], part: str) -> np.ndarray:
    """(s - mean) / sd of each example, sd shrunk half-way to that of all examples: LiRA without models that saw x."""
    theirs = np.stack([r.margins[part] for r in references])
    variance = theirs.var(0, ddof=1)
    return (one.margins[part] - theirs.mean(0)) / np.sqrt((variance + variance.mean()) / 2 + 1e-12)


def _lira(one: Seen, references: Sequence[Seen]) -> float:
    f, unseen = (_standardised(one, references, p) for p in ("forget", "test"))
    return float(f.mean() - unseen.mean())


def _two_sided(one: Seen, references: Sequence[Seen]) -> float:
    return float(np.log((_standardised(one, references, "forget") ** 2).mean()))


def _ulira(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """Mean log ratio over F, the candidate's siblings against the references, one sigma for all examples."""
    s, u, r = (np.stack([m.margins["forget"] for m in side]) for side in ([one], siblings, references))

    def ratio(x, retrained):
        pooled = np.concatenate([u - u.mean(0), retrained - retrained.mean(0)]).var() + 1e-12
        return float((((x - retrained.mean(0)) ** 2 - (x - u.mean(0)) ** 2) / (2 * pooled)).mean())

    null = np.array([ratio(r[i], np.delete(r, i, 0)) for i in range(len(r))])
    value = ratio(s[0], r)
    return value, predicted(value, null)


def _klom(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """Gaussian KLoM of candidate and siblings against as many references, beside that of references by themselves."""
    n = min(len(references) // 2, 1 + len(siblings))
    u, r = (np.stack([m.margins["forget"] for m in side]) for side in ([one, *siblings][:n], references))
    value, null = klom(u, r[:n], estimator="gaussian").mean, klom_null(r, estimator="gaussian", n=n, splits=20)
    return _z(value - null.mean, null.means.std(ddof=1))


PANEL = (
    Instrument("loss rank", (0, 1, 16, 64), _loss_rank, lambda m, r: _loss_rank(m, ())[0]),
    Instrument("forget accuracy", (0, 1, 16, 64), _accuracy, lambda m, r: float(m.right.mean())),
    Instrument("canary rank", (0,), _canaries, needs="canaries"),
    Instrument("calibrated margin", (1, 16, 64), _calibrated_alone, lambda m, r: _calibrated(m, r).auc),
    Instrument("RMIA", (1, 16, 64), _rmia_alone, lambda m, r: _rmia(m, r).auc),
    Instrument("output distance", (1, 16, 64), _outputs_alone, lambda m, r: float(_divergence(m, r, "forget").mean())),
    Instrument("relearn time", (16, 64), None, _relearn, needs="network"),
    Instrument("alignment with the original", (16, 64), None, lambda m, r: m.alignment, needs="network"),
    Instrument("weights near the original", (16, 64), None, lambda m, r: -m.moved, needs="network"),
    Instrument("LiRA", (16, 64), None, _lira),
    Instrument("two-sided margin", (16, 64), None, _two_sided),
    Instrument("U-LiRA", (16, 64), grouped=_ulira),
    Instrument("KLoM", (16, 64), grouped=_klom),
)
