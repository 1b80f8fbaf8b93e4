"""Matching: fine-tune until the logits are those that retraining is expected, or known, to give.

    min_theta  E_{F, R'} (1/C) || f_theta(x) - t(x) ||^2

    oracle matching        t(x) = f_oracle(x), of a model trained without F: an upper bound, no method
    datamodel matching     t(x) = f_theta0(x) - sum_{i in F} beta_xi, with a `Datamodel` of every logit
    direct                 t(x) itself, without any training: where datamodel matching ends at best

R' is a sample of the retain set, drawn once. What a target says of the forgotten examples is not "be wrong": most of
them a retrained model answers as before, and ascent does not know which. Georgiev et al., ICLR 2025, arXiv 2410.23232.

Limits. With the oracle's logits as targets the two are one, bit for bit; where every beta is 0 the targets are the
original's own answers and nothing moves but by rounding, weight decay and batch norm. Datamodel matching is no better
than its datamodel, and the models behind that have to be paid before the first request: `Datamodel.work`, `break_even`.

Deviations: R' is the whole retain set where |F| retain_multiplier is more than it holds (the authors' loop fails); in
float32 (theirs runs in mixed precision); the defaults are ours. Published is the authors' configuration on CIFAR-10:
Adam, a rate that falls by 5 % after each epoch, every forgotten example five times in a pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.steps import Steps, even, shuffled
from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.data.tensors import check
from unlearnlib.methods import registry
from unlearnlib.methods.registry import Method, Program, Unlearned, method
from unlearnlib.training.batches import Batch, steps_of
from unlearnlib.training.prediction import predict

_SEEN = "seen(forget_multiplier * F + min(R, floor(retain_multiplier * F)), batch_size)"
_COST = f"gradient * epochs * {_SEEN}"


@dataclass(frozen=True)
class Matching(Steps):
    epochs: int = 20  # passes over the forgotten examples and R'
    optimiser: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    retain_multiplier: float = 3.0  # size of R' in forget sets
    forget_multiplier: int = 1  # how often a pass shows each forgotten example

    def __post_init__(self):
        repeats, share = self.forget_multiplier, self.retain_multiplier
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            raise ValueError(f"forget_multiplier is a whole number of at least 1, not {repeats!r}")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < math.inf:
            raise ValueError(f"retain_multiplier is a number of at least 0, not {share!r}")


@dataclass(frozen=True)
class DatamodelMatching(Matching):
    datamodel: Datamodel | None = None  # of the logits [N, classes] of split.train, by `Datamodel.fit`


@dataclass(frozen=True)
class OracleMatching(Matching):
    targets: Tensor | None = None  # the oracle's logits [N, classes] of split.train


def _program(model: nn.Module, split, config: Matching, run, targets_at: Callable[[Tensor], Tensor]) -> Program:
    """targets_at   positions [k] -> the logits [k, classes] that are to be matched"""
    forget, retain = split.forget_index, split.retain_index
    size = min(len(retain), math.floor(config.retain_multiplier * len(forget)))
    sample = retain[torch.randperm(len(retain), generator=run.generator("sample"))[:size]]
    where, labels = torch.cat([forget, sample]), split.train.labels
    found = targets_at(where)
    table = torch.zeros(len(split.train), found.shape[1], dtype=found.dtype)
    table[where] = found
    shown, classes = torch.cat([forget.repeat(config.forget_multiplier), sample]), found.shape[1]

    def batch(i: Tensor) -> Batch:
        return Batch(i, labels[i], even(i, 0.0), targets=table[i], target_weights=even(i, 2 / classes))

    order = shuffled(shown, config, run.generator("order"))
    return Program(model, map(batch, order), config.recipe(), steps_of(len(shown), config.recipe()))


def _checked(datamodel, split) -> Datamodel:
    made = isinstance(datamodel, Datamodel)
    check(made, "datamodel_matching needs datamodel=, fitted to the logits of split.train: see attribution.Datamodel")
    check(datamodel.checksum is not None, "the datamodel does not say of which examples: fit it with examples=")
    same = datamodel.checksum == split.train.checksum()
    check(same, "the datamodel is of other examples than split.train: fit it with examples=split.train")
    return datamodel


def direct(datamodel: Datamodel, logits: Tensor, forget) -> Tensor:
    """The datamodel's own answer to deletion, without training: logits [..., *outputs] - sum_{i in F} beta_xi.

    `forget` as in `Datamodel.effect`. Raises ValueError where the logits are of other outputs than the datamodel's.
    """
    effect = datamodel.effect(forget)
    fits = logits.shape[logits.dim() - effect.dim() :] == effect.shape
    check(fits, f"the datamodel has outputs {list(effect.shape)}, not {list(logits.shape)}: give what it was fitted to")
    return (logits.double() - effect.double()).to(logits.dtype)


@method(
    "datamodel_matching",
    DatamodelMatching,
    family="attribution",
    reads="retain, forget",
    paper="georgiev2025",
    cost=f"{_COST} + forward * (F + min(R, floor(retain_multiplier * F)))",
    fails=(
        "Where there is no datamodel: it takes hundreds of models trained on subsets, which the cost of a request does "
        "not count. And where examples act together, which no sum of their effects can say."
    ),
    published={
        "epochs": 4,
        "batch_size": 512,
        "optimiser": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "step-decay",
        "milestones": (1, 2, 3),
        "factor": 0.95,
        "keep_last": True,
        "retain_multiplier": 20.0,
        "forget_multiplier": 5,
    },
    origin="the authors' configuration for CIFAR-10 and a ResNet",
    search={"lr": (1e-4, 1e-2, "log"), "epochs": (5, 50), "retain_multiplier": (1.0, 20.0, "log")},
    taught=False,  # the effect is that on the picture as it is
)
def datamodel_matching(model, split, config: DatamodelMatching, run) -> Program:
    datamodel = _checked(config.datamodel, split)
    effect = datamodel.effect(split.forget_index)

    def targets_at(where: Tensor) -> Tensor:
        found = predict(model, split.train[where], tally=run.tally)
        wanted = [len(split.train), found.shape[1]]
        fits = list(effect.shape) == wanted
        check(fits, f"the datamodel must be of the logits of split.train {wanted}, not of {list(effect.shape)}")
        return (found.double() - effect[where].double()).to(found.dtype)

    return _program(model, split, config, run, targets_at)


def _oracle_matching(model, split, config: OracleMatching, run) -> Program:
    targets, n = config.targets, len(split.train)
    known = isinstance(targets, Tensor) and targets.dim() == 2 and len(targets) == n and targets.is_floating_point()
    check(known, f"oracle matching needs targets=, the oracle's logits of split.train: [{n}, classes]")
    check(bool(torch.isfinite(targets).all()), "the oracle's logits must be finite")
    return _program(model, split, config, run, lambda where: targets[where].cpu())


# No method: it reads a retrained model, so it stands in no table of methods and `ul.unlearn` does not know its name.
_ORACLE = Method(
    *("oracle_matching", "attribution", "retain, forget", "none", "georgiev2025", _oracle_matching, OracleMatching),
    cost=_COST,
    taught=False,
)


def oracle_matching(model: nn.Module, split, targets: Tensor, *, seed: int = 0, **hyperparameters) -> Unlearned:
    """Match the logits of a retrained model: what fine-tuning could reach, if one could predict them. An upper bound.

    targets          the oracle's logits [N, classes] of all of split.train
    hyperparameters  those of `datamodel_matching`, whose bits it gives where its targets are these

    Raises ValueError as `unlearn` does, and for targets of another shape. Its cost does not count the oracle's.
    """
    return registry.unlearn(_ORACLE, model, split, seed=seed, targets=targets, **hyperparameters)


def oracle_matching_many(
    models: Sequence[nn.Module], splits: Sequence, targets: Sequence[Tensor], *, seeds: Sequence[int], **hyperparameters
) -> list[Unlearned]:
    """`oracle_matching` for K models at once, each with targets of its own; as `unlearn_many`."""
    configs = [registry.configure(_ORACLE, targets=t, **hyperparameters) for t in targets]
    return registry.run_many(_ORACLE, models, splits, configs, seeds)
