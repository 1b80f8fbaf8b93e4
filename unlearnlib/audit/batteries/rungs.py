"""The rungs of the battery that need logits alone: what is estimated for one model, given retrained ones.

A rung is a function of a model and its references that returns estimates, run in the same way on the candidate and on
retrained models, so that every number has its null. This file and `networks` know how; `battery` knows when.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from unlearnlib.audit.attacks import membership
from unlearnlib.audit.attacks.interpolated import iam
from unlearnlib.audit.attacks.rmia import rmia
from unlearnlib.audit.batteries.memo import Memo, attempt
from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.distances.composites import Accuracies, accuracy, average_gap, nomus, tow
from unlearnlib.audit.statistics.intervals import t_interval
from unlearnlib.audit.statistics.roc import Roc, clopper_pearson, finite, margin, roc
from unlearnlib.audit.verdicts.tidy import Estimate
from unlearnlib.seeding import numpy_generator

SMALLEST_SIDE = 10  # members or non-members below which an attack is not valid
TPR_AT = (0.01, 0.1)


@dataclass(frozen=True, eq=False)
class Logits:
    """Logits of one model on the three parts: [n, classes] each."""

    forget: np.ndarray
    retain: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Truth:
    """Labels of the three parts. Attacks compare the forget set with test pictures of the classes that occur in it."""

    forget: np.ndarray
    retain: np.ndarray
    test: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """Bool over the test pictures: of a class that occurs in the forget set. All of them for a mixed forget set."""
        return np.isin(self.test, np.unique(self.forget))


@dataclass(frozen=True)
class Relearning:
    """Relearning on request: the target is what the first oracle reaches in `steps` steps, the cap `max_steps`."""

    lr: float
    steps: int = 20
    max_steps: int = 200
    batch_size: int = 64


def utility(m: Logits, truth: Truth, references: list[Logits]) -> list[Estimate]:
    """Accuracies with their Clopper-Pearson intervals, and the composites of them, as means over the references."""

    def right(one: Logits, subset: str) -> float:
        return accuracy(getattr(one, subset), getattr(truth, subset))

    def accuracies(one: Logits) -> Accuracies:
        return Accuracies(*(right(one, subset) for subset in ("forget", "retain", "test")))

    def of_part(statistic: str, subset: str, share: Callable[[], float]) -> Estimate:
        n = len(getattr(truth, subset))
        ci = "Clopper-Pearson"
        return attempt("accuracy", "util", subset, statistic, lambda: counted(share(), n), ci, n_examples=n)

    def composite(statistic: str, measure: Callable[[Accuracies, Accuracies], float], **aim) -> Estimate:
        def mean() -> float:
            return np.mean([measure(accuracies(m), accuracies(r)) for r in references])

        return attempt("composite", "util", "all", statistic, mean, **aim)

    result = [
        of_part("UA", "forget", lambda: 1 - right(m, "forget")),
        of_part("RA", "retain", lambda: right(m, "retain")),
        of_part("TA", "test", lambda: right(m, "test")),
    ]
    if references:
        result.append(composite("ToW", tow, direction="higher", target="max"))
        result.append(composite("average gap", average_gap, direction="lower", target="0"))
    return result


def counted(share: float, n: int) -> tuple[float, float, float]:
    """A share of n examples with its Clopper-Pearson limits."""
    return share, *clopper_pearson(round(share * n), n)


def _matched(m: Logits, truth: Truth) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of the forget set, and of unseen pictures of its classes."""
    return [(m.forget, truth.forget), (m.test[truth.matched], truth.test[truth.matched])]


def _area(name: str, make: Callable[[], Roc], **more) -> list[Estimate]:
    """AUC with DeLong's interval, and the TPR at fixed FPRs where there are enough non-members."""
    whole = attempt(name, "B", "forget", "AUC", lambda: make().auc, target="retrain", **more)
    if not whole.valid:
        return [whole]
    r = make()
    sizes = dict(n_examples=r.n_members + r.n_nonmembers, n_pos=r.n_members, n_neg=r.n_nonmembers)
    small = min(r.n_members, r.n_nonmembers) < SMALLEST_SIDE
    state = dict(valid=not small, reason=f"fewer than {SMALLEST_SIDE} examples on one side" if small else "")
    aim = {"target": "retrain", **sizes, **more, **state}
    result = [Estimate(name, "B", "forget", "AUC", r.auc, *r.interval(), "DeLong and inverted test", **aim)]
    for alpha in TPR_AT:
        if r.n_nonmembers * alpha >= 10:
            at = (r.tpr_at(alpha), *r.interval_at(alpha), "Clopper-Pearson over thresholds")
            result.append(Estimate(name, "B", "forget", "TPR", *at, direction="lower", alpha=alpha, **aim))
    return result


def population(m: Logits, truth: Truth, seed: int) -> list[Estimate]:
    """Attacks that compare the forget set with unseen pictures of its classes, under one model."""
    sides = _matched(m, truth)
    forget, unseen = (np.logaddexp(0, -margin(z, y)) for z, y in sides)  # cross-entropies
    if min(len(forget), len(unseen)) < SMALLEST_SIDE:
        why = f"an attack needs {SMALLEST_SIDE} pictures a side: {len(forget)} forgotten, {len(unseen)} unseen alike"
        return [Estimate("loss rank", "B", "forget", "AUC", float("nan"), valid=False, reason=why)]
    result = _loss_attack(m, truth, forget, unseen, seed)
    result += _area("loss rank", lambda: membership.rank_attack(forget, unseen))
    result += _area("two-sided loss", lambda: membership.two_sided_attack(forget, unseen, seed=seed))

    def ranked(measure: Callable) -> Callable[[], Roc]:
        return lambda: membership.rank_attack(*(measure(distances.softmax(z), y) for z, y in sides))

    result += _area("entropy", ranked(lambda p, _: membership.entropy(p)))
    result += _area("modified entropy", ranked(membership.modified_entropy))
    return result + _svc(m, truth, sides, seed)


def _loss_attack(m: Logits, truth: Truth, forget: np.ndarray, unseen: np.ndarray, seed: int) -> list[Estimate]:
    attack = membership.loss_attack(forget, unseen, seed=seed)
    state = dict(valid=attack.valid, reason=attack.reason, n_pos=attack.n_members, n_neg=attack.n_nonmembers)
    state["threshold_source"] = "cross-validation"
    name, ends = "loss attack", (attack.low, attack.high, "corrected t over splits")
    score = nomus(accuracy(m.test, truth.test), attack.accuracy)
    return [
        Estimate(name, "B", "forget", "accuracy", attack.accuracy, *ends, **state),
        Estimate(name, "B", "forget", "majority accuracy", attack.majority, target="0.5", **state),
        Estimate(name, "B", "forget", "forgetting score", attack.forgetting_score, **state),
        Estimate("composite", "util", "all", "NoMUS", score, direction="higher", target="max", **state),
    ]


def _svc(m: Logits, truth: Truth, sides, seed: int) -> list[Estimate]:
    """SalUn's attack, where retained pictures of the forgotten classes exist: none for a request of a whole class."""
    alike = np.isin(truth.retain, np.unique(truth.forget))
    if alike.sum() < SMALLEST_SIDE:
        return []
    confidence = [expit(margin(z, y)) for z, y in ((m.retain[alike], truth.retain[alike]), sides[1], sides[0])]
    svc = membership.svc_efficacy(*confidence, seed=seed, max_train=1000)
    found, n = counted(svc.nonmember_share, len(truth.forget)), len(truth.forget)
    more = dict(n_examples=n, threshold_source="retain against test", valid=svc.valid, reason=svc.reason)
    return [Estimate("SVC efficacy", "B", "forget", "non-member share", *found, "Clopper-Pearson", **more)]


def calibrated(m: Logits, truth: Truth, references, originals, seed: int) -> list[Estimate]:
    """Attacks that learn from retrained models how hard each example is, so forget set and unseen need not match."""
    sides = _matched(m, truth)
    if not references or min(len(sides[0][1]), len(sides[1][1]) // 2) < SMALLEST_SIDE:
        return []
    margins = [margin(z, y) for one in (m, *references, *originals) for z, y in _matched(one, truth)]
    margins = finite(*margins)  # a difference of infinite margins would be no number
    of_models = list(zip(margins[::2], margins[1::2], strict=True))
    own, before = of_models[0], of_models[1 + len(references) :]
    theirs = [np.stack(part) for part in zip(*of_models[1 : 1 + len(references)], strict=True)]
    more = dict(shadow_k=len(references))
    members = np.arange(len(own[0]) + len(own[1])) < len(own[0])
    lift = np.concatenate([s - r.mean(0) for s, r in zip(own, theirs, strict=True)])
    result = _area("calibrated margin", lambda: roc(lift, members), **more)
    result += _area("RMIA", lambda: _rmia(own, theirs, seed), **more)
    for original, _ in before:

        def completeness(fitted=original) -> tuple[float, float, float]:
            found = t_interval(np.clip(iam(own[0], fitted, theirs[0]), 0, 1), bounds=(0.0, 1.0))
            return found.value, found.low, found.high

        aim = dict(direction="higher", n_examples=len(own[0]), **more)
        result.append(attempt("IAM", "A", "forget", "completeness", completeness, "t over examples", **aim))
    return result


def _rmia(own, theirs, seed: int) -> Roc:
    """RMIA with one half of the unseen pictures as population, the other half as non-members."""
    order = numpy_generator(seed, "rmia-population").permutation(len(own[1]))
    z, scored = order[: len(order) // 2], order[len(order) // 2 :]
    target = expit(np.concatenate([own[0], own[1][scored]]))
    out = expit(np.concatenate([theirs[0], theirs[1][:, scored]], axis=1))
    score = rmia(target, out, expit(own[1][z]), expit(theirs[1][:, z]))
    return roc(score, np.arange(len(target)) < len(own[0]))


MEASURES = {
    "JS": distances.js_divergence,
    "L1": lambda p, q: distances.activation_distance(p, q, "l1"),
    "L2": lambda p, q: distances.activation_distance(p, q, "l2"),
}


def _probabilities(m: Logits, subset: str) -> np.ndarray:
    return distances.softmax(getattr(m, subset))


def distance(m: Logits, references: list[Logits], random_init: Logits | None, memo: Memo) -> list[Estimate]:
    """Mean distance of the outputs to the retrained models; the null is the distance between two of those."""
    if not references:
        return []

    def between(a: Logits, b: Logits, subset: str, name: str) -> float:
        return memo(_between, frozenset((a, b)), subset, name, memo)

    result = []
    for subset in ("forget", "test"):
        more = dict(n_examples=len(getattr(m, subset)), shadow_k=len(references))
        for name in MEASURES:
            value = float(np.mean([between(m, r, subset, name) for r in references]))
            result.append(Estimate("output distance", "A", subset, name, value, direction="lower", **more))
            noise = [between(a, b, subset, name) for a, b in combinations(references, 2)]
            if noise and name != "L1" and max(noise) > 0:
                label, ratio = f"{name} / oracle {name}", value / float(np.mean(noise))
                result.append(Estimate("output distance", "A", subset, label, ratio, direction="lower", **more))
        agree = np.mean([distances.completeness(getattr(m, subset), getattr(r, subset)) for r in references])
        aim = dict(direction="higher", **more)
        result.append(Estimate("output distance", "A", subset, "completeness", float(agree), **aim))
    if random_init is not None:
        own, noise_p = (memo(_probabilities, one, "forget") for one in (m, random_init))
        gaps = [distances.zrf_gap(own, memo(_probabilities, r, "forget"), noise_p) for r in references]
        result.append(Estimate("ZRF", "A", "forget", "gap", float(np.mean(gaps)), target="0", n_examples=len(m.forget)))
    return result


def _between(pair: frozenset[Logits], subset: str, name: str, memo: Memo) -> float:
    """All measures are symmetric, so a pair has no order; a pair of one is a model and itself."""
    sides = [memo(_probabilities, m, subset) for m in (*pair, *pair)[:2]]
    return MEASURES[name](*sides)
