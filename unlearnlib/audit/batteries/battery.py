"""The battery: every audit that the given models allow, as one tidy table.

One model, its forget set and unseen pictures are enough for accuracies and population attacks. One retrained model
adds gaps, distances and calibrated attacks, two or more the null band, an original the interpolated score and the
probes. Logits are computed once a model and shared. Whatever cannot be run is absent; whatever was run and means
nothing (an attacker that always gives one answer, too few examples, constant features) is there with `valid_flag` false
and the reason.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from unlearnlib.audit.batteries import networks
from unlearnlib.audit.batteries import rungs as rung
from unlearnlib.audit.batteries.ensembles import ensemble_estimates
from unlearnlib.audit.batteries.memo import Memo
from unlearnlib.audit.batteries.rungs import Logits, Relearning, Truth
from unlearnlib.audit.statistics.roc import as_array, margin
from unlearnlib.audit.verdicts.tidy import Estimate, row, table
from unlearnlib.methods.records import Cost
from unlearnlib.training.doors import check_labels
from unlearnlib.training.prediction import predict

NULL_MODELS = 10  # retrained models that are audited as candidates themselves, to make the null band
RUNGS = ("utility", "population", "calibrated", "distance", "ensemble", "weights", "probe", "relearn", "cost")


def battery(
    model,
    split,
    *,
    oracles: Sequence = (),
    originals: Sequence = (),
    unlearned: Sequence = (),
    parents: Sequence | None = None,
    null=None,
    random_init=None,
    pair: int | None = None,
    cost: Cost | None = None,
    retrain_cost: Cost | None = None,
    relearning: Relearning | None = None,
    rungs: Sequence[str] = RUNGS,
    tags: Mapping[str, object] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Audit one unlearned model; one row an estimate, in the schema `tidy.COLUMNS`.

    model         the candidate. Models are modules, objects with `.logits(images)`, functions of images, or the
                  `rungs.Logits` that they have for this split, which then are not computed again
    split         the `data.Split` that was unlearned; non-members are its test part (validation without one)
    oracles       models retrained without the forget set, other seeds; two or more give a null band
    originals     models before unlearning; the first serves the interpolated score and the probes
    unlearned     the same method run again, other seeds; eight or more (and sixteen oracles) compare distributions
    parents       names the original of `model` and of each of `unlearned`, as by its seed; without it no epsilon is
                  certified from these models, and siblings of one original count once
    null          one or more further retrains, audited as if they were candidates
    random_init   an untrained model, for the gap in ZRF
    pair          which oracle shares the model's training seed: `gap` is then to that one, not to their mean
    cost          of unlearning; with `retrain_cost` also as a fraction
    relearning    settings of relearn time, which is skipped without them (it trains)
    rungs         which parts to run, all that the models allow by default
    tags          columns that the caller knows (method, dataset, seed_train, ...), see `tidy.TAGS`
    seed          of the evaluation: subsamples and halves
    """
    unknown = [name for name in rungs if name not in RUNGS]
    if unknown:
        raise ValueError(f"rungs are {', '.join(RUNGS)}; not {', '.join(unknown)}")
    unseen = split.test if split.test is not None else split.validation
    if len(unseen) == 0:
        raise ValueError("the split has neither test nor validation pictures: attacks need some that were never seen")
    nulls = [] if null is None else list(null) if isinstance(null, (list, tuple)) else [null]
    oracles, originals = list(oracles), list(originals)
    if pair is not None:
        if not 0 <= pair < len(oracles):
            raise ValueError(f"pair must number one of the {len(oracles)} oracles, not {pair}")
        oracles.insert(0, oracles.pop(pair))
    parts = (split.forget, split.retain, unseen)
    truth = Truth(*(as_array(part.labels) for part in parts))

    def outputs(one) -> Logits:
        return one if isinstance(one, Logits) else Logits(*(logits_of(one, part) for part in parts))

    own, theirs = outputs(model), [outputs(o) for o in oracles]
    compared = audit_logits(
        own,
        truth,
        oracles=theirs,
        originals=[outputs(o) for o in originals[:1]],
        nulls=[outputs(n) for n in nulls],
        random_init=None if random_init is None else outputs(random_init),
        rungs=rungs,
        seed=seed,
    )
    if oracles and all(isinstance(m, torch.nn.Module) for m in (model, *oracles, *originals, *nulls)):
        memo = Memo()
        if "weights" in rungs:
            compared += _compared(networks.weights, model, oracles, nulls)
        if "probe" in rungs and originals:
            fitted = networks.fitted_part(split.retain, seed)
            of = functools.partial(networks.probe, fitted=fitted, read=split.forget, original=originals[0], memo=memo)
            compared += _compared(of, model, oracles, nulls)
        if "relearn" in rungs and relearning is not None:
            how = dict(forget=split.forget, settings=relearning, first_oracle=oracles[0], seed=seed, memo=memo)
            compared += _compared(functools.partial(networks.relearn, **how), model, oracles, nulls)
    alone: list[tuple[Estimate, list[Estimate]]] = []
    if "ensemble" in rungs and unlearned and oracles:
        several = [own, *(outputs(u) for u in unlearned)]
        for subset in ("forget", "retain", "test"):
            labels = getattr(truth, subset)
            sides = [np.stack([margin(getattr(m, subset), labels) for m in side]) for side in (several, theirs)]
            alone += ensemble_estimates(*sides, subset=subset, parents=parents, seed=seed)
    if "cost" in rungs and cost is not None:
        alone += [(e, []) for e in networks.cost_rows(cost, retrain_cost)]

    fraction = {}
    if cost is not None and retrain_cost is not None and retrain_cost.work:
        fraction = {"cost_frac_retrain": cost.work / retrain_cost.work}
    described = {
        "forget_kind": split.request.partition(":")[0],
        "forget_set_id": f"{split.request}, seed {split.seed}",
        **dict(tags or {}),
        **fraction,
        "seed_eval": seed,
    }
    rows = [row(e, retrained=r, null=n, paired=pair is not None, tags=described) for e, r, n in compared]
    return table(rows + [row(e, retrained=r, tags=described) for e, r in alone])


def logits_of(model, examples) -> np.ndarray:
    """Logits [n, classes]: of a module (in eval mode), an object with `.logits`, or a function of images.

    float32, but for a float64 module.
    """
    if isinstance(model, torch.nn.Module):
        logits = predict(model, examples)
        check_labels(logits.shape[1], examples.labels)
        return as_array(logits)
    answer = getattr(model, "logits", model)
    if not callable(answer):
        raise ValueError(f"cannot get logits from {type(model).__name__}: give a module, .logits(images) or a function")
    parts = [
        as_array(answer(examples.pixels(torch.arange(i, min(i + 1024, len(examples))))))
        for i in range(0, len(examples), 1024)
    ]
    return np.concatenate(parts).astype(np.float32)


def audit_logits(
    candidate: Logits,
    truth: Truth,
    *,
    oracles: Sequence[Logits] = (),
    originals: Sequence[Logits] = (),
    nulls: Sequence[Logits] = (),
    random_init: Logits | None = None,
    rungs: Sequence[str] = RUNGS,
    seed: int = 0,
) -> list[tuple[Estimate, list[Estimate], list[Estimate]]]:
    """The part of the battery that needs logits only: (estimate, the oracles' own, the nulls' own) for each.

    Oracles are scored against the other oracles, as the candidate is against all of them.
    """
    parts: list[Callable[[Logits, list[Logits]], list[Estimate]]] = []
    if "utility" in rungs:
        parts.append(lambda m, refs: rung.utility(m, truth, refs))
    if "population" in rungs:
        parts.append(lambda m, refs: rung.population(m, truth, seed))
    if "calibrated" in rungs:
        parts.append(lambda m, refs: rung.calibrated(m, truth, refs, originals, seed))
    if "distance" in rungs:
        parts.append(functools.partial(rung.distance, random_init=random_init, memo=Memo()))
    return [line for part in parts for line in _compared(part, candidate, list(oracles), list(nulls))]


def _compared(audit, candidate, oracles: list, nulls: list):
    """`audit(model, references)` on the candidate and, in the same way, on retrained models, matched by key."""
    own = audit(candidate, oracles)
    others = [audit(o, oracles[:i] + oracles[i + 1 :]) for i, o in enumerate(oracles[:NULL_MODELS])]
    fresh = [audit(n, oracles) for n in nulls]

    def matching(results, key):
        return [e for estimates in results for e in estimates if e.key == key]

    return [(e, matching(others, e.key), matching(fresh, e.key)) for e in own]
