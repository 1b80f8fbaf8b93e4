"""The rungs of the battery: what is estimated for one model, given retrained models to compare it with.

A rung is a function `(model, references) -> list[Estimate]`, run in the same way on the candidate and on retrained
models, so that every number has its null. This file knows how; `battery` knows when.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from unlearnlib.audit.attacks import membership
from unlearnlib.audit.attacks.interpolated import iam
from unlearnlib.audit.attacks.rmia import rmia
from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.distances.composites import Accuracies, accuracy, average_gap, nomus, tow
from unlearnlib.audit.distances.probes import Features, probe_accuracy
from unlearnlib.audit.evidence.relearn import log_ain, relearn_curve, relearn_time
from unlearnlib.audit.statistics.roc import Roc, as_array, clopper_pearson, margin, roc
from unlearnlib.audit.verdicts.tidy import Estimate
from unlearnlib.methods.records import Cost
from unlearnlib.seeding import numpy_generator
from unlearnlib.training.models import features

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
    def accuracies(one: Logits) -> Accuracies:
        return Accuracies(*(accuracy(getattr(one, p), getattr(truth, p)) for p in ("forget", "retain", "test")))

    own = accuracies(m)
    result = []
    for statistic, subset in (("UA", "forget"), ("RA", "retain"), ("TA", "test")):
        n, share = len(getattr(truth, subset)), getattr(own, subset)
        share = 1 - share if statistic == "UA" else share
        low, high = clopper_pearson(round(share * n), n)
        result.append(
            Estimate("accuracy", "util", subset, statistic, share, low, high, "Clopper-Pearson", n_examples=n)
        )
    if references:
        theirs = [accuracies(r) for r in references]
        for statistic, measure, direction, target in (
            ("ToW", tow, "higher", "max"),
            ("average gap", average_gap, "lower", "0"),
        ):
            value = float(np.mean([measure(own, r) for r in theirs]))
            result.append(Estimate("composite", "util", "all", statistic, value, direction=direction, target=target))
    return result


def _losses(m: Logits, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropies on the forget set and on matched unseen pictures: log(1 + exp(-margin))."""
    s = margin(m.forget, truth.forget), margin(m.test[truth.matched], truth.test[truth.matched])
    return np.logaddexp(0, -s[0]), np.logaddexp(0, -s[1])


def _area(name: str, r: Roc, subset: str = "forget", **more) -> list[Estimate]:
    """AUC with DeLong's interval, and the TPR at fixed FPRs where there are enough non-members."""
    sizes = dict(n_examples=r.n_members + r.n_nonmembers, n_pos=r.n_members, n_neg=r.n_nonmembers)
    small = min(r.n_members, r.n_nonmembers) < SMALLEST_SIDE
    state = dict(valid=not small, reason=f"fewer than {SMALLEST_SIDE} examples on one side" if small else "")
    aim = {"target": "retrain", **sizes, **more}
    result = [Estimate(name, "B", subset, "AUC", r.auc, *r.interval(), "DeLong, logit scale", **aim, **state)]
    for alpha in TPR_AT:
        if r.n_nonmembers * alpha >= 10:
            at = (r.tpr_at(alpha), *r.interval_at(alpha), "Clopper-Pearson")
            result.append(Estimate(name, "B", subset, "TPR", *at, direction="lower", alpha=alpha, **aim, **state))
    return result


def population(m: Logits, truth: Truth, seed: int) -> list[Estimate]:
    forget, unseen = _losses(m, truth)
    if min(len(forget), len(unseen)) < SMALLEST_SIDE:
        why = f"an attack needs {SMALLEST_SIDE} pictures a side: {len(forget)} forgotten, {len(unseen)} unseen alike"
        return [Estimate("loss rank", "B", "forget", "AUC", float("nan"), valid=False, reason=why)]
    attack = membership.loss_attack(forget, unseen, seed=seed)
    state = dict(valid=attack.valid, reason=attack.reason, n_pos=attack.n_members, n_neg=attack.n_nonmembers)
    state["threshold_source"] = "cross-validation"
    name, ci = "loss attack", "corrected t over splits"
    result = [
        Estimate(name, "B", "forget", "accuracy", attack.accuracy, attack.low, attack.high, ci, **state),
        Estimate(name, "B", "forget", "majority accuracy", attack.majority, target="0.5", **state),
        Estimate(name, "B", "forget", "forgetting score", attack.forgetting_score, **state),
    ]
    score = nomus(accuracy(m.test, truth.test), attack.accuracy)
    result.append(Estimate("composite", "util", "all", "NoMUS", score, direction="higher", target="max", **state))
    result += _area("loss rank", membership.rank_attack(forget, unseen))
    result += _area("two-sided loss", membership.two_sided_attack(forget, unseen, seed=seed))

    p = [distances.softmax(z) for z in (m.forget, m.test[truth.matched])]
    labels = (truth.forget, truth.test[truth.matched])
    result += _area("entropy", membership.rank_attack(*map(membership.entropy, p)))
    modified = [membership.modified_entropy(q, y) for q, y in zip(p, labels, strict=True)]
    result += _area("modified entropy", membership.rank_attack(*modified))

    alike = np.isin(truth.retain, np.unique(truth.forget))
    sides = [(m.retain[alike], truth.retain[alike]), (m.test[truth.matched], labels[1]), (m.forget, truth.forget)]
    if len(sides[0][0]) >= SMALLEST_SIDE:  # none for a request that takes a whole class
        confidence = [expit(margin(z, y)) for z, y in sides]
        svc = membership.svc_efficacy(*confidence, seed=seed, max_train=1000)
        low, high = clopper_pearson(round(svc.nonmember_share * len(forget)), len(forget))
        found = (svc.nonmember_share, low, high, "Clopper-Pearson")
        more = dict(n_examples=len(forget), threshold_source="retain against test", valid=svc.valid, reason=svc.reason)
        result.append(Estimate("SVC efficacy", "B", "forget", "non-member share", *found, **more))
    return result


def calibrated(m: Logits, truth: Truth, references, originals, seed: int) -> list[Estimate]:
    """Attacks that learn from retrained models how hard each example is, so forget set and unseen need not match."""
    unseen_z, unseen_y = m.test[truth.matched], truth.test[truth.matched]
    if not references or min(len(truth.forget), len(unseen_y) // 2) < SMALLEST_SIDE:
        return []
    own = [margin(m.forget, truth.forget), margin(unseen_z, unseen_y)]
    theirs = [
        np.stack([margin(r.forget, truth.forget) for r in references]),
        np.stack([margin(r.test[truth.matched], unseen_y) for r in references]),
    ]
    members = np.arange(len(own[0]) + len(own[1])) < len(own[0])
    lift = np.concatenate([s - t.mean(0) for s, t in zip(own, theirs, strict=True)])
    result = _area("calibrated margin", roc(lift, members), shadow_k=len(references))

    order = numpy_generator(seed, "rmia-population").permutation(len(own[1]))
    z, scored = order[: len(order) // 2], order[len(order) // 2 :]
    target = expit(np.concatenate([own[0], own[1][scored]]))
    out = expit(np.concatenate([theirs[0], theirs[1][:, scored]], axis=1))
    score = rmia(target, out, expit(own[1][z]), expit(theirs[1][:, z]))
    inside = np.arange(len(target)) < len(own[0])
    result += _area("RMIA", roc(score, inside), shadow_k=len(references))

    for original in originals:
        completeness = iam(own[0], margin(original.forget, truth.forget), theirs[0])
        value, n = float(completeness.mean()), len(completeness)
        half = 1.96 * float(completeness.std(ddof=1)) / np.sqrt(n)
        more = dict(direction="higher", n_examples=n, shadow_k=len(references))
        ci = (value - half, value + half, "normal over examples")
        result.append(Estimate("IAM", "A", "forget", "completeness", value, *ci, **more))
    return result


MEASURES = {
    "JS": distances.js_divergence,
    "L1": lambda p, q: distances.activation_distance(p, q, "l1"),
    "L2": lambda p, q: distances.activation_distance(p, q, "l2"),
}


def distance(random_init: Logits | None):
    """Mean distance of the outputs to the retrained models; the null is the distance between two of those."""
    softmaxes: dict[tuple, np.ndarray] = {}
    known: dict[tuple, float] = {}

    def p(m: Logits, subset: str) -> np.ndarray:
        if (id(m), subset) not in softmaxes:
            softmaxes[id(m), subset] = distances.softmax(getattr(m, subset))
        return softmaxes[id(m), subset]

    def between(a: Logits, b: Logits, subset: str, name: str) -> float:
        key = (*sorted((id(a), id(b))), subset, name)
        if key not in known:
            known[key] = MEASURES[name](p(a, subset), p(b, subset))
        return known[key]

    def audit(m: Logits, references: list[Logits]) -> list[Estimate]:
        result = []
        for subset in ("forget", "test") if references else ():
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
        if references and random_init is not None:
            noise_p = p(random_init, "forget")
            gap = float(np.mean([distances.zrf_gap(p(m, "forget"), p(r, "forget"), noise_p) for r in references]))
            result.append(Estimate("ZRF", "A", "forget", "gap", gap, target="0", n_examples=len(m.forget)))
        return result

    return audit


def weights(model, references: list) -> list[Estimate]:
    shapes = [p.shape for p in model.parameters()]
    alike = [r for r in references if [p.shape for p in r.parameters()] == shapes]
    if not alike:
        return []
    value = float(np.mean([distances.weight_distance(model, r) for r in alike]))
    return [Estimate("weight distance", "A", "all", "L2", value, direction="lower", shadow_k=len(alike))]


def probe(parts, original, seed: int, size: int = 2000):
    """Task probe fitted on retained pictures and read on the forget set, and CKA to the retrained models there."""
    forget, retain, _ = parts
    chosen = np.sort(numpy_generator(seed, "probe").permutation(len(retain))[:size])
    fitted, read = retain[chosen], forget
    kept: dict[int, Features] = {}

    def of(model) -> Features:
        if id(model) not in kept:
            kept[id(model)] = Features(*(as_array(features(model, part.pixels())) for part in (fitted, read)))
        return kept[id(model)]

    def audit(model, references: list) -> list[Estimate]:
        own = of(model)
        more = dict(n_examples=len(read), shadow_k=len(references))
        share = probe_accuracy(own.train, fitted.labels, own.test, read.labels)
        low, high = clopper_pearson(round(share * len(read)), len(read))
        result = [Estimate("probe", "A", "forget", "accuracy", share, low, high, "Clopper-Pearson", **more)]
        if references:
            value = float(np.mean([distances.linear_cka(own.test, of(r).test) for r in references]))
            result.append(Estimate("probe", "A", "forget", "CKA to retrained", value, direction="higher", **more))
        value = distances.linear_cka(own.test, of(original).test)
        return [*result, Estimate("probe", "A", "forget", "CKA to original", value, **more)]

    return audit


def relearn(forget, settings: Relearning, first_oracle, seed: int):
    common = dict(lr=settings.lr, batch_size=settings.batch_size, seed=seed)
    target = float(relearn_curve(first_oracle, forget, settings.steps, **common)[-1])
    kept: dict[int, object] = {}

    def run(model):
        if id(model) not in kept:
            kept[id(model)] = relearn_time(model, forget, target, max_steps=settings.max_steps, **common)
        return kept[id(model)]

    def audit(model, references: list) -> list[Estimate]:
        if not references:
            return []
        ratios = [log_ain(run(model), run(r)) for r in references]
        bounds = [r.kind for r in ratios if r.kind != "exact"]
        value = float(np.mean([r.value for r in ratios]))
        valid = value == value
        reason = f"{len(bounds)} of {len(ratios)} ratios are bounds: a run hit the cap" if bounds else ""
        more = dict(n_examples=len(forget), shadow_k=len(references), valid=valid, reason=reason)
        return [Estimate("relearn", "A", "forget", "log AIN", value, target="0", **more)]

    return audit


def cost_rows(cost: Cost, retrain_cost: Cost | None) -> list[Estimate]:
    result = []
    for name in ("work", "gradient_evaluations", "forward_evaluations", "seconds"):
        value = float(getattr(cost, name))
        result.append(Estimate("cost", "cost", "all", name.replace("_", " "), value, direction="lower", target="0"))
    if retrain_cost is not None:
        for name in ("work", "seconds"):
            whole = getattr(retrain_cost, name)
            if whole:
                share = getattr(cost, name) / whole
                label = f"{name.replace('_', ' ')} / retraining"
                result.append(Estimate("cost", "cost", "all", label, share, direction="lower", target="0"))
    return result
