"""The one list of audits that can be put on a single candidate, with what each needs: the panel of `meta_evaluation`.

What a statistic and its p-value are is said in `seen`; audits of class requests are in `class_panel`.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import norm, t

from unlearnlib.audit.attacks.gaussian_one_run import gaussian_one_run
from unlearnlib.audit.attacks.rmia import rmia
from unlearnlib.audit.attacks.sequential import sequential_audit
from unlearnlib.audit.batteries.seen import RELEARN_STEPS, Found, Instrument, Seen, predicted, sides
from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.distances.klom import klom, klom_null
from unlearnlib.audit.distances.relative_kernel import kernel_test
from unlearnlib.audit.statistics.roc import margin, roc
from unlearnlib.seeding import numpy_generator

TARGET_STEP = 10  # of relearning
PERMUTATIONS = 199  # of the kernel tests
CHOSEN = 4  # one in so many forgotten examples counts as vulnerable


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


def _one_run(one: Seen, references: Sequence[Seen]) -> Found:
    """Gaussian one-run test: log-odds of planted labels among the wrong ones, canaries in against test pictures out.

    The labels of those left out are drawn as those of the canaries were. Where the scores contradict the model of the
    bound, or do not differ on one side, it is withheld, and nothing is rejected.
    """
    world, rng = one.world, numpy_generator(0, "labels of canaries that were left out")
    z, truth = one.answers.test, world.labels["test"]
    drawn = (truth + rng.integers(1, z.shape[1], len(z))) % z.shape[1]
    chosen = world.canaries
    inside = _odds(one.answers.forget[chosen], world.true_labels[chosen], world.labels["forget"][chosen])
    scores, coins = sides(inside, _odds(z, truth, drawn))
    if min(np.ptp(scores[coins]), np.ptp(scores[~coins])) < 1e-9:
        return 0.0, 1.0
    found, sizes = gaussian_one_run(scores, coins), (coins.sum(), (~coins).sum())
    statistic = found.estimate * math.sqrt(sizes[0] * sizes[1] / len(coins))
    return found.estimate, float(t.sf(statistic, len(coins) - 2)) if found.valid else 1.0


def _odds(logits: np.ndarray, truth: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """Log-odds of the planted label among all classes but the true one."""
    z, rows = logits.astype(np.float64), np.arange(len(logits))
    own = z[rows, planted]
    z[rows, truth] = z[rows, planted] = -np.inf
    return own - logsumexp(z, axis=1)


def _mean_margins(references: Sequence[Seen], part: str) -> np.ndarray:
    return np.mean([r.margins[part] for r in references], axis=0)


def _calibrated(one: Seen, references: Sequence[Seen]):
    return roc(*sides(*(one.margins[p] - _mean_margins(references, p) for p in ("forget", "test"))))


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


def _kernel(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """The absolute kernel test: candidate and siblings against the references, margins on F."""
    u, r = (np.stack([m.margins["forget"] for m in side]) for side in ([one, *siblings], references))
    found = kernel_test(u, r, permutations=PERMUTATIONS)
    return found.distance, found.p_value


def _relative_kernel(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """The relative one: half of the references, rounded to 4 bits, are the harmless control."""
    half = len(references) // 2
    u, r = (np.stack([m.margins["forget"] for m in side]) for side in ([one, *siblings], references[half:]))
    found = kernel_test(u, r, np.stack([m.rounded for m in references[:half]]), permutations=PERMUTATIONS)
    return found.statistic, found.p_value


def _sequential(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """Bets of the sequential audit against "no difference", on mean margins of F; p = 1 / the largest wealth."""
    n = min(1 + len(siblings), len(references))
    u, r = (np.array([m.margins["forget"].mean() for m in side[:n]]) for side in ([one, *siblings], references))
    wealth = sequential_audit(u, r, grid=(0.0,)).wealth.max()
    return float(u.mean() - r.mean()), min(1.0, 1 / float(wealth))


def _vulnerable(one: Seen, siblings: Sequence[Seen], references: Sequence[Seen]) -> Found:
    """LiRA on the quarter of F that was most exposed: originals, as many as siblings, against half of the references.

    The other half judges. The original of the candidate does not choose.
    """
    world, half = one.world, len(references) // 2
    labels = world.labels["forget"]
    others = [a for i, a in enumerate(world.originals) if i != one.original % len(world.originals)]
    knew = np.stack([margin(a.forget, labels) for a in others[: len(siblings)]])
    never, judges = (np.stack([m.margins["forget"] for m in side]) for side in (references[:half], references[half:]))
    exposure = (knew.mean(0) - never.mean(0)) / np.sqrt((knew.var(0, ddof=1) + never.var(0, ddof=1)) / 2 + 1e-12)
    chosen = np.argsort(-exposure, kind="stable")[: max(len(labels) // CHOSEN, 1)]

    def shift(margins: np.ndarray, theirs: np.ndarray) -> float:
        variance = theirs.var(0, ddof=1)
        return float(((margins - theirs.mean(0)) / np.sqrt((variance + variance.mean()) / 2 + 1e-12))[chosen].mean())

    value = shift(one.margins["forget"], judges)
    return value, predicted(value, np.array([shift(m, np.delete(judges, i, 0)) for i, m in enumerate(judges)]))


PANEL = (
    Instrument("loss rank", (0, 1, 16, 64), _loss_rank, lambda m, r: _loss_rank(m, ())[0]),
    Instrument("forget accuracy", (0, 1, 16, 64), _accuracy, lambda m, r: float(m.right.mean())),
    Instrument("canary rank", (0,), _canaries, needs="canaries"),
    Instrument("Gaussian one run", (0,), _one_run, needs="canaries"),
    Instrument("calibrated margin", (1, 16, 64), _calibrated_alone, lambda m, r: _calibrated(m, r).auc),
    Instrument("RMIA", (1, 16, 64), _rmia_alone, lambda m, r: _rmia(m, r).auc),
    Instrument("output distance", (1, 16, 64), _outputs_alone, lambda m, r: float(_divergence(m, r, "forget").mean())),
    Instrument("relearn time", (16, 64), None, _relearn, needs="network"),
    Instrument("alignment with the original", (16, 64), None, lambda m, r: m.alignment, needs="network"),
    Instrument("weights near the original", (16, 64), None, lambda m, r: -m.moved, needs="network"),
    Instrument("LiRA", (16, 64), None, _lira),
    Instrument("two-sided margin", (16, 64), None, _two_sided),
    Instrument("U-LiRA", (16, 64), grouped=_ulira),
    Instrument("vulnerable examples", (16, 64), grouped=_vulnerable, needs="network"),
    Instrument("KLoM", (16, 64), grouped=_klom),
    Instrument("kernel test", (16, 64), grouped=_kernel),
    Instrument("relative kernel test", (16, 64), grouped=_relative_kernel, needs="network"),
    Instrument("sequential audit", (64,), grouped=_sequential),
)
