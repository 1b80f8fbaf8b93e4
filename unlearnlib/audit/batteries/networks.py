"""The rungs of the battery that look into networks, and its cost: weights, probes, relearning."""

import numpy as np

from unlearnlib.audit.batteries.memo import Memo, attempt
from unlearnlib.audit.batteries.rungs import Relearning, counted
from unlearnlib.audit.distances import outputs as distances
from unlearnlib.audit.distances.probes import Features, probe_accuracy
from unlearnlib.audit.evidence.relearn import log_ain, relearn_curve, relearn_time
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.audit.verdicts.tidy import Estimate
from unlearnlib.methods.records import Cost
from unlearnlib.seeding import numpy_generator
from unlearnlib.training.models import features

PROBED = 2000  # retained pictures at most, on which a probe is fitted


def weights(model, references: list) -> list[Estimate]:
    """Mean distance of the parameters to the retrained models of the same shapes."""
    shapes = [p.shape for p in model.parameters()]
    alike = [r for r in references if [p.shape for p in r.parameters()] == shapes]
    if not alike:
        return []
    value = float(np.mean([distances.weight_distance(model, r) for r in alike]))
    return [Estimate("weight distance", "A", "all", "L2", value, direction="lower", shadow_k=len(alike))]


def probe(model, references: list, fitted, read, original, memo: Memo) -> list[Estimate]:
    """Task probe fitted on retained pictures and read on the forget set, and CKA to the retrained models there."""

    def of(one) -> Features:
        return memo(_features, one, fitted, read)

    def share() -> tuple[float, float, float]:
        return counted(probe_accuracy(of(model).train, fitted.labels, of(model).test, read.labels), len(read))

    def alignment(others: list) -> float:
        return float(np.mean([distances.linear_cka(of(model).test, of(one).test) for one in others]))

    more = dict(n_examples=len(read), shadow_k=len(references))
    result = [attempt("probe", "A", "forget", "accuracy", share, "Clopper-Pearson", **more)]
    if references:
        aim = dict(direction="higher", **more)
        result.append(attempt("probe", "A", "forget", "CKA to retrained", lambda: alignment(references), **aim))
    return [*result, attempt("probe", "A", "forget", "CKA to original", lambda: alignment([original]), **more)]


def relearn(model, references: list, forget, settings: Relearning, first_oracle, seed: int, memo: Memo):
    """Logarithm of relearn time over that of the retrained models, to what the first oracle reaches."""
    if not references:
        return []
    runs = (forget, settings, first_oracle, seed, memo)
    more = dict(target="0", n_examples=len(forget), shadow_k=len(references))
    try:
        ratios = [log_ain(*(memo(_relearned, one, *runs) for one in (model, r))) for r in references]
    except ValueError as refusal:  # as of batch normalisation on a single picture
        reason = " ".join(str(refusal).split())
        return [Estimate("relearn", "A", "forget", "log AIN", float("nan"), valid=False, reason=reason, **more)]
    bounds = sum(r.kind != "exact" for r in ratios)
    value = float(np.mean([r.value for r in ratios]))
    more["reason"] = f"{bounds} of {len(ratios)} ratios are bounds: a run hit the cap" if bounds else ""
    return [Estimate("relearn", "A", "forget", "log AIN", value, valid=value == value, **more)]


def cost_rows(cost: Cost, retrain_cost: Cost | None) -> list[Estimate]:
    """What unlearning cost, and as a share of retraining."""
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


def fitted_part(retain, seed: int):
    """The retained pictures on which the probe is fitted, at random."""
    return retain[np.sort(numpy_generator(seed, "probe").permutation(len(retain))[:PROBED])]


def _features(model, fitted, read) -> Features:
    return Features(*(as_array(features(model, part.pixels()), np.float64) for part in (fitted, read)))


def _relearned(model, forget, settings: Relearning, first_oracle, seed: int, memo: Memo):
    target = memo(_target, first_oracle, forget, settings, seed)
    how = dict(lr=settings.lr, batch_size=settings.batch_size, seed=seed)
    return relearn_time(model, forget, target, max_steps=settings.max_steps, **how)


def _target(oracle, forget, settings: Relearning, seed: int) -> float:
    how = dict(lr=settings.lr, batch_size=settings.batch_size, seed=seed)
    return float(relearn_curve(oracle, forget, settings.steps, **how)[-1])
