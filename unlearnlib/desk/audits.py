"""The audits that a receipt can afford: no model is trained for them, and they say what they could have missed."""

from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import nn

from unlearnlib.audit.attacks.membership import rank_attack
from unlearnlib.audit.statistics.roc import clopper_pearson
from unlearnlib.audit.verdicts.planning import plan
from unlearnlib.data.examples import Examples, Split
from unlearnlib.training.prediction import predict

POWER = 0.8


@dataclass(frozen=True)
class Finding:
    """One number with its 95 % interval, before and after the deletion, and what it says in words.

    detectable   the smallest deviation from chance that so many examples show with probability 0.8; None: no such
    """

    audit: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    detectable: float | None
    verdict: str


def audited(before: nn.Module, after: nn.Module, split: Split) -> list[dict]:
    """Membership of the deleted examples by their loss, and the accuracies, as plain data.

    The attack asks whether losses on deleted examples are smaller than on held-out ones of `split.test`; 1/2 is what
    equal losses give. It is the weakest attack of the book: it finds what is plain to see, and finding nothing is no
    proof. Where deleted and held-out examples differ in kind, a retrained model would not give 1/2 either.
    """
    held_out = split.test
    found = [_accuracy(name, before, after, part) for name, part in _parts(split).items()]
    if held_out is None or len(held_out) < 2 or len(split.forget_index) < 2:
        return [asdict(finding) for finding in found]
    old, new = (_attack(model, split.forget, held_out) for model in (before, after))
    seen = detectable(min(len(split.forget_index), len(held_out)))
    apart = not new[1] <= 0.5 <= new[2]
    could = (
        "with so few any deviation could be missed" if seen is None else f"deviations below {seen:.2f} could be missed"
    )
    verdict = (
        "losses on the deleted examples differ from losses on unseen ones"
        if apart
        else f"losses on the deleted examples were not told from losses on unseen ones; {could}"
    )
    return [asdict(finding) for finding in [Finding("membership by loss, AUC", old, new, seen, verdict), *found]]


def _parts(split: Split) -> dict[str, Examples]:
    parts = {"deleted": split.forget, "retained": split.retain, "held out": split.test}
    return {name: part for name, part in parts.items() if part is not None and len(part)}


def _attack(model: nn.Module, forget: Examples, unseen: Examples) -> tuple[float, float, float]:
    losses = [
        F.cross_entropy(predict(model, part).double(), part.labels, reduction="none").numpy()
        for part in (forget, unseen)
    ]
    attack = rank_attack(*losses)
    return (attack.auc, *attack.interval())


def _accuracy(name: str, before: nn.Module, after: nn.Module, part: Examples) -> Finding:
    def share(model: nn.Module) -> tuple[float, float, float]:
        right = int((predict(model, part).argmax(1) == part.labels).sum())
        low, high = clopper_pearson(right, len(part))
        return right / len(part), float(low), float(high)

    old, new = share(before), share(after)
    verdict = f"{len(part)} examples; changed by {new[0] - old[0]:+.3f}"
    return Finding(f"accuracy, {name}", old, new, None, verdict)


def detectable(n: int) -> float | None:
    """The smallest |AUC - 1/2| that `n` examples a side find with probability 0.8, to 0.005; None where none is."""
    for step in range(1, 100):
        try:
            if plan("loss rank", effect=step * 0.005, power=POWER).examples <= n:
                return step * 0.005
        except ValueError:  # too small for any size
            continue
    return None
