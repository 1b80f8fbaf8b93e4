"""The sandwich: a certificate bounds epsilon from above, an audit from below, and the truth lies between.

    lower bound of an audit  <=  epsilon of the learner  <=  its certificate

A lower bound above the certificate means a bug in the learner, in its proof or in the audit. Canaries are pictures with
one lit pixel that no other picture uses, so a linear model stores each in a weight of its own and its margin is all
there is to know about it. Two games are played:

    pairs     the canaries S are forgotten in `runs` independent models, and unknown to as many others; the score is the
              sum of their margins. `audit.epsilon`: Clopper-Pearson limits of the error rates at rank thresholds
    one run   each of m canaries joins by a coin; one model learns those, then forgets them; the coins are guessed from
              the margins. `audit.one_run`: epsilon of the unlearned model, for all canaries together; and where
              forgetting changes nothing, epsilon of training for one canary

Learners of `unlearnlib.private` with `copies` run all their models as one tensor program, others one after the other.
Models that never saw S come from `reference`, which runs what the certificate names. n counts as public.

Steinke et al. 2023, key steinke2023 (one run); the control arm, DP training with nothing done, is the case where theory
says most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unlearnlib import seeding
from unlearnlib.audit.attacks.one_run import one_run
from unlearnlib.audit.statistics.epsilon import epsilon_from_scores, gaussian_epsilon
from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Certificate
from unlearnlib.private.learner import Learner
from unlearnlib.private.logistic import LinearLearner

COLUMNS = (
    *("method", "game", "compared with", "delta", "certificate", "lower bound"),
    *("estimate", "runs", "forgotten", "holds"),
)


@dataclass(frozen=True, eq=False)
class Planted:
    """`examples`: a two-class problem whose last pictures are canaries; `canaries`: their positions in it [m]."""

    examples: Examples
    canaries: Tensor

    def without(self, gone: Tensor) -> Examples:
        """The examples but those at `gone`."""
        keep = torch.ones(len(self.examples), dtype=torch.bool)
        keep[gone] = False
        return self.examples[keep]


def plant(examples: Examples, canaries: int, label: int = 1) -> Planted:
    """Append `canaries` pictures of class `label`, each with one lit pixel in rows added below the pictures.

    Pictures are divided by their norm where it exceeds 1, as the certified learners do, so that networks see the same.
    `examples` are of one channel and two classes; uint8 or in [0, 1]. Raises ValueError otherwise.
    """
    channels, height, width = examples.shape
    if channels != 1 or not bool(((examples.labels == 0) | (examples.labels == 1)).all()):
        raise ValueError("plant needs grey pictures of the classes 0 and 1: select and relabel them first")
    if canaries < 1 or label not in (0, 1):
        raise ValueError(f"give at least one canary, of class 0 or 1, not {canaries} of class {label}")
    pixels = examples.pixels()
    pixels = pixels / torch.linalg.vector_norm(pixels.flatten(1), dim=1).clamp_min(1).view(-1, 1, 1, 1)
    extra = -(-canaries // width)
    taller = torch.cat([pixels, torch.zeros(len(pixels), 1, extra, width)], 2)
    lit = torch.zeros(canaries, (height + extra) * width)
    lit[torch.arange(canaries), height * width + torch.arange(canaries)] = 1.0
    images = torch.cat([taller, lit.view(canaries, 1, height + extra, width)])
    labels = torch.cat([examples.labels, torch.full((canaries,), label)])
    return Planted(Examples(images, labels), len(pixels) + torch.arange(canaries))


@dataclass(frozen=True)
class Pairs:
    """Scores of models that forgot the canaries and of models that never saw them, [runs] each, and what is claimed."""

    forgotten: np.ndarray
    never: np.ndarray
    certificate: Certificate

    def lower_bound(self, confidence: float = 0.95) -> float:
        """Epsilon that these scores refute, at the certificate's delta."""
        return epsilon_from_scores(self.forgotten, self.never, self.certificate.delta, confidence)

    def gaussian_estimate(self) -> float:
        """Epsilon of two Gaussians with the means of the scores and their pooled deviation: an estimate, no bound.

        NaN at delta = 0, where Gaussians have no epsilon.
        """
        if self.certificate.delta == 0:
            return math.nan
        spread = math.sqrt((self.forgotten.var(ddof=1) + self.never.var(ddof=1)) / 2)
        apart = abs(self.forgotten.mean() - self.never.mean())
        return gaussian_epsilon(apart / spread, self.certificate.delta) if spread > 0 else math.inf


def pairs(learner: Learner, planted: Planted, runs: int, *, forget: Sequence[int] | None = None) -> Pairs:
    """Play the game of pairs: `forget` are positions among the canaries (default: the first one alone).

    The other canaries take no part. Every run has a seed of its own, derived from the learner's.
    """
    if runs < 2:
        raise ValueError(f"runs must be at least 2, not {runs!r}")
    chosen = planted.canaries[list(forget or [0])]
    others = planted.canaries[~torch.isin(planted.canaries, chosen)]
    everything = planted.without(others)
    n = len(everything) - len(chosen)
    pictures = everything.images[n:]
    gone = range(n, len(everything))
    if isinstance(learner, LinearLearner):
        saw = replace(learner, copies=runs).fit(everything)
        certificate = saw.forget(gone).certificate
        scores = saw.margins(pictures), saw.reference(_seed(learner.seed, "never")).margins(pictures)
    else:
        both = []
        for run in range(runs):
            saw = replace(learner, seed=_seed(learner.seed, "saw", run)).fit(everything)
            certificate = saw.forget(gone).certificate
            never = saw.reference(_seed(learner.seed, "never", run))
            both.append((_margins(saw, pictures), _margins(never, pictures)))
        scores = (torch.stack(side, 1) for side in zip(*both, strict=True))
    return Pairs(*(s.sum(0).numpy() for s in scores), certificate)


@dataclass(frozen=True)
class Run:
    """One model that forgot the canaries whose coin was 1: their margins [m], the coins [m], and what is claimed.

    `single` is the certificate for one canary where forgetting changes nothing, else None.
    """

    margins: np.ndarray
    included: np.ndarray
    certificate: Certificate
    single: float | None


def run_once(learner: Learner, planted: Planted) -> Run:
    """Toss the coins of all canaries, learn those with 1, forget them, and score all."""
    m = len(planted.canaries)
    coins = torch.rand(m, generator=seeding.generator(learner.seed, "coins")) < 0.5
    if not bool(coins.any()):
        raise ValueError(f"no coin of {m} came up 1, so nothing is forgotten: plant more canaries")
    given = planted.without(planted.canaries[~coins])
    n = len(given) - int(coins.sum())
    fitted = replace(learner).fit(given)
    pictures = planted.examples.images[planted.canaries]
    single = None
    receipt = fitted.forget(range(n, len(given)))
    if receipt.touched == {"weights": 0}:
        single = replace(learner).fit(given).forget([n]).certificate.epsilon
    return Run(_margins(fitted, pictures).numpy(), coins.numpy(), receipt.certificate, single)


def sandwich(
    learners: Mapping[str, Learner],
    planted: Planted,
    *,
    runs: int | Mapping[str, int] = 1000,
    one_run_of: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row for each learner and game: its certificate, the audited lower bound, and whether they are in order.

    runs         models on either side of the game of pairs, for all learners or by name
    one_run_of   learners that also play the one-run game (default: all)
    confidence   of all lower bounds together: the error is split evenly over them

    "certificate" is infinite where a group is not covered. Raises ValueError on an unknown name.
    """
    one_run_of = list(learners) if one_run_of is None else list(one_run_of)
    for name in [*one_run_of, *(runs if isinstance(runs, Mapping) else ())]:
        if name not in learners:
            raise ValueError(f"no learner {name!r}: there are {', '.join(learners)}")
    played, rows = {name: run_once(learners[name], planted) for name in one_run_of}, []
    bounds = len(learners) + sum(1 if game.single is None else 2 for game in played.values())
    level = 1 - (1 - confidence) / bounds
    for name, learner in learners.items():
        many = runs[name] if isinstance(runs, Mapping) else runs
        game = pairs(learner, planted, many)
        lower, guess = game.lower_bound(level), game.gaussian_estimate()
        rows.append(_row(name, "pairs", game.certificate, lower, guess, many, 1))
        if name not in played:
            continue
        once = played[name]
        found = one_run(once.margins, once.included, once.certificate.delta, level)
        gone = int(once.included.sum())
        rows.append(_row(name, "one run, all canaries", once.certificate, found.unlearning_epsilon, math.nan, 1, gone))
        if once.single is not None:
            certificate = replace(once.certificate, epsilon=once.single)
            rows.append(_row(name, "one run, one of the canaries", certificate, found.epsilon, math.nan, 1, 1))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(name: str, game: str, certificate: Certificate, lower: float, guess: float, *counts: int) -> tuple:
    upper = certificate.epsilon if math.isfinite(certificate.epsilon) else math.inf
    known = (certificate.compared_with, certificate.delta, upper, lower)
    return (name, game, *known, guess, *counts, bool(lower <= upper))


def _seed(seed: int, *labels: str | int) -> int:
    """A seed for one run of many."""
    return int(torch.randint(2**62, (), generator=seeding.generator(seed, *labels)))


def _margins(learner: Learner, pictures: Tensor) -> Tensor:
    """Log-odds of class 1 [m], float64."""
    logits = learner.logits(pictures).double()
    return logits[:, 1] - logits[:, 0]
