"""RUM: divide the forget set by how much of it was memorised, and forget each part by an algorithm that suits it.

    F = F_1 + ... + F_K,    sorted by memorisation, the least first
    theta_k = A_k(theta_{k-1}),    where A_k forgets F_k and retains D - F_1 - ... - F_k

Zhao et al., NeurIPS 2024, arXiv 2406.01257. The default is the authors' order for CIFAR-10: leave alone what was
hardly memorised, since a retrained model answers it as well; fine-tune away the middle; SalUn for the rest. With K = 1
it is the algorithm itself bit for bit, with "nothing" everywhere the original. Parts are as large as can be, where
they are uneven the later ones by one example; a part without examples is left out, so that of a single example the
last algorithm remains. What belongs to later parts is still retained, as in the authors' script for memorisation
(their script for distances retains D - F throughout).

Scores are the caller's, or else the loss of the original at each forgotten example: the authors' proxy "confidence",
which they average over the epochs of training, at its end. Deviations: no row is published, since the authors
downloaded their memorisation scores, and their released scripts do not run (an undefined name in their commands, an
option that is not declared). Not repeated from them: parts that overlap where they are larger than a third, and two
of the proxies that number the parts from the other end than memorisation does.

Several streams of batches, each of an algorithm of its own, so models are not stacked and no parts are taken.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.methods import registry
from unlearnlib.methods.registry import method
from unlearnlib.training.prediction import predict
from unlearnlib.training.work import Tally

NOTHING = "nothing"  # the algorithm that leaves a part alone
_SHARED = ("freeze_norms", "augment", "label_smoothing")


@dataclass(frozen=True, repr=False)
class Algorithm:
    """A method's name, the hyper-parameters that were given for it, and all of them (None: nothing is done)."""

    name: str
    given: Mapping[str, object]
    config: object

    def __repr__(self) -> str:
        return repr((self.name, dict(self.given)) if self.given else self.name)


class Algorithms(tuple):
    """One `Algorithm` a part."""

    def work(self, forget: int, retain: int, validation: int, classes: int, weights: int, passed: float) -> float:
        """What all of them cost together, by the formulas that they declare."""
        sizes = {"validation": validation, "classes": classes, "weights": weights, "multiplications": passed}
        parts, total, later = shares(forget, len(self)), 0.0, forget
        for algorithm, size in zip(self, parts, strict=True):
            later -= size
            if algorithm.config is not None:
                total += registry.work(algorithm.name, size, retain + later, **sizes, **_values(algorithm.config))
        return total


@dataclass(frozen=True)
class Rum:
    algorithms: tuple = (NOTHING, "finetune", "salun")  # name or (name, {values}); of the least memorised part first
    rate: float = 1.0  # what all their learning rates are multiplied by
    scores: Tensor | None = None  # memorisation of each training example, higher is more; None: the original's loss

    def __post_init__(self):
        if not self.rate >= 0:
            raise ValueError(f"rum needs rate >= 0, not {self.rate}")
        if not isinstance(self.algorithms, (tuple, list)) or not self.algorithms:
            raise ValueError(_WANTED + f", not {self.algorithms!r}")
        shared = {name: getattr(self, name) for name in _SHARED if hasattr(self, name)}
        found = Algorithms(_algorithm(given, self.rate, shared) for given in self.algorithms)
        object.__setattr__(self, "algorithms", found)


_WANTED = "rum takes algorithms such as ('nothing', 'finetune', ('salun', {'lr': 0.1}))"


def _algorithm(asked, rate: float, shared: Mapping) -> Algorithm:
    """An algorithm as the caller names it, with `shared` where it takes that and was not told otherwise."""
    if isinstance(asked, Algorithm):  # of another configuration, whose rate may have been another
        asked = asked.name, asked.given
    name, given = asked if isinstance(asked, (tuple, list)) and len(asked) == 2 else (asked, {})
    if not isinstance(name, str) or not isinstance(given, Mapping) or (name == NOTHING and given):
        raise ValueError(f"{_WANTED}, not {asked!r}")
    if name == NOTHING:
        return Algorithm(name, given, None)
    known = {f.name for f in dataclasses.fields(registry.find(name).config)}
    config = registry.configure(name, **{**{k: v for k, v in shared.items() if k in known}, **given})
    if rate != 1 and "lr" in known:
        config = registry.configure(name, **{**_values(config), "lr": rate * config.lr})
    return Algorithm(name, given, config)


def _values(config) -> dict[str, object]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def shares(forget: int, parts: int) -> list[int]:
    """Sizes of the parts of the forget set: equal, but that the later ones may have one more."""
    return [(forget + k) // parts for k in range(parts)]


def memorised(model: nn.Module, split, scores: Tensor | None, run) -> Tensor:
    """Scores [F] of the forget set. Raises ValueError where the given ones are not a number for each training example.

    Without them: -log p_y of `model`, by which examples are in the order of 1 - confidence.
    """
    if scores is None:
        forget = split.forget
        logits = predict(model, forget, tally=run.tally).double()
        return F.cross_entropy(logits, forget.labels.to(logits.device), reduction="none").cpu()
    right = isinstance(scores, Tensor) and scores.shape == (len(split.train),) and bool(torch.isfinite(scores).all())
    if not right:
        raise ValueError(f"rum needs scores=, a tensor [{len(split.train)}] of finite numbers, one a training example")
    return scores[split.forget_index.to(scores.device)].double().cpu()


def parts_of(split, scores: Tensor, count: int, rng: torch.Generator) -> list[Tensor]:
    """Positions in `split.train` of each part, by scores [F] from the lowest on; ties are broken at random."""
    chance = torch.randperm(len(scores), generator=rng)
    order = chance[scores[chance].argsort(stable=True)]
    return list(split.forget_index[order].split(shares(len(scores), count)))


def request_of(split, part: Tensor, done: Tensor):
    """The split in which `part` is to be forgotten and what is `done` [N] was never there."""
    mask = torch.zeros_like(split.is_forget)
    mask[part] = True
    index = None if split.index is None else split.index[~done]
    return dataclasses.replace(split, train=split.train[~done], is_forget=mask[~done], index=index)


@method(
    "rum",
    Rum,
    family="saliency",
    reads="retain, forget",
    paper="zhao2024",
    taught=True,
    cost="at most forward * F + algorithms.work(F, R, V, C, P, M)",
    fails=(
        "Where the scores do not tell what is hard to forget, it is its algorithms on smaller sets at several times "
        "the price; and nothing stops a later one from bringing back what an earlier one removed."
    ),
    origin="the authors' order for CIFAR-10; the hyper-parameters are the algorithms' own defaults",
    search={"rate": (0.1, 10.0, "log")},
)
def rum(model, split, config: Rum, run) -> nn.Module:
    scores = memorised(model, split, config.scores, run)
    parts = parts_of(split, scores, len(config.algorithms), run.generator("ties"))
    done = torch.zeros_like(split.is_forget)
    for number, (algorithm, part) in enumerate(zip(config.algorithms, parts, strict=True)):
        if len(part) and algorithm.config is not None:
            settings = {"seed": run.seed + number, "progress": run.progress, **_values(algorithm.config)}
            made = registry.unlearn(algorithm.name, model, request_of(split, part, done), **settings)
            cost = made.cost
            run.tally.add(Tally(cost.gradient_evaluations, cost.forward_evaluations, dict(cost.products)))
            model = made.model
        done[part] = True
    return model
