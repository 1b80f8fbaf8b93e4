"""SSD: dampen the weights that matter much more to the forget set than to the training set.

    theta_j <- theta_j min(lambda I_D,j / I_F,j, 1)     where I_F,j > alpha I_D,j
    I = E (grad CE)^2                                   example by example: the diagonal of the empirical Fisher matrix

over the forget set F and the whole training set D. Foster et al., AAAI 2024, arXiv 2308.07707. Limits: alpha to
infinity changes nothing; alpha = lambda = 0 zeroes every weight on which the loss of F depends; where F is like D,
nothing changes from alpha = 1 on. Weights with I_F = 0 stay, whatever alpha.

As I_D >= |F| / |D| I_F, no weight is selected once alpha >= |D| / |F|: alpha lies between 1 and |D| / |F|. Our default
is a power of that ratio, by default its root, the middle of the two on a scale of factors: it is the authors' 10 where
F is a hundredth of D, as a class of CIFAR-100 is, and selects something for every size of F. A given alpha of |D| / |F|
or more is warned of.

In the released code I is the mean over batches of the squared gradient of a batch's mean loss, in which opposite
examples cancel: it is about a batch size smaller and depends on the order, which is that of D with the retained
examples first, class by class where whole classes are forgotten. `group_size` gives that; I_D is then not tied to I_F
by |F| / |D|, and the authors' alpha selects weights. Deviations of the published row: none.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import batch_gradients, flat, shaped, trainable
from unlearnlib.approximate.steps import whole_classes
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class Dampening:
    alpha: float | None = None  # how much more a weight must matter to the forget set; None: (|D| / |F|)^power
    power: float = 0.5  # 0: as much as to the training set; at 1 nothing is selected
    dampening: float = 1.0  # lambda

    def __post_init__(self):
        if not ((self.alpha is None or self.alpha >= 0) and 0 <= self.power <= 1 and self.dampening >= 0):
            raise ValueError("dampening needs alpha >= 0 or None, power between 0 and 1 and dampening >= 0")


@dataclass(frozen=True)
class SSD(Dampening):
    group_size: int = 1  # examples whose gradients are averaged before they are squared: 1 is the Fisher diagonal

    def __post_init__(self):
        super().__post_init__()
        if self.group_size < 1:
            raise ValueError(f"ssd needs group_size >= 1, not {self.group_size}")


def chosen_alpha(config: Dampening, forget: int, retain: int, *, bounded: bool = True) -> float:
    """alpha for sets of these sizes; a warning where it can select nothing, importances being means over examples."""
    ratio = (forget + retain) / forget
    if config.alpha is None:
        return ratio**config.power
    if bounded and config.alpha >= ratio:
        warnings.warn(
            f"alpha {config.alpha:g} selects no weight: it must be below |D| / |F| = {ratio:.3g}; leave alpha out",
            stacklevel=2,
        )
    return config.alpha


def dampened(weights: Tensor, forget: Tensor, train: Tensor, alpha: float, dampening: float) -> Tensor:
    """The weights [P] after dampening by their importance to the forget set [P] and to the training set [P]."""
    factor = torch.where(forget > 0, dampening * train / forget, 1.0).clamp(max=1.0)
    return torch.where(forget > alpha * train, weights * factor, weights)


@torch.no_grad()
def dampen(model: nn.Module, forget: Tensor, train: Tensor, alpha: float, dampening: float) -> nn.Module:
    """`dampened` for the trainable weights of the model, in place."""
    parameters = trainable(model)
    weights = dampened(flat(parameters.values()), forget, train, alpha, dampening)
    for name, value in shaped(weights, parameters).items():
        parameters[name].copy_(value)
    return model


def both_importances(split, importance: Callable) -> tuple[Tensor, Tensor]:
    """Those of the forget set and of the training set, for a mean over examples: every example is read once."""
    counts = len(split.forget_index), len(split.retain_index)
    forget, retain = importance(split.forget), importance(split.retain)
    return forget, (counts[0] * forget + counts[1] * retain) / sum(counts)


def group_squares(model: nn.Module, examples, size: int, tally=None) -> Tensor:
    """The mean over consecutive groups of `size` examples of the squared gradient of a group's mean loss, [P]."""
    groups = torch.arange(len(examples)).split(size)
    return sum(g.square() for g in batch_gradients(model, examples, groups, tally=tally)) / len(groups)


def released_order(split) -> Tensor:
    """Positions of the retain set as the released scripts read them: by class where whole classes are forgotten."""
    kept = split.retain_index
    return kept[split.train.labels[kept].argsort(stable=True)] if whole_classes(split) else kept


@method(
    "ssd",
    SSD,
    family="curvature",
    reads="retain, forget",
    paper="foster2024",
    cost="gradient * (F + R + (F if group_size > 1 else 0))",
    fails=(
        "For random forget sets, whose importance is hardly above that of the training set: few weights are selected, "
        "and lowering alpha damages all classes alike. Networks in which classes share their weights lose accuracy."
    ),
    published={"alpha": 10.0, "dampening": 1.0, "group_size": 64},
    origin="the released code for a class and a ResNet-18",
    search={"power": (0.0, 0.9), "dampening": (0.01, 1.0, "log")},
)
def ssd(model, split, config: SSD, run) -> nn.Module:
    alpha = chosen_alpha(config, len(split.forget_index), len(split.retain_index), bounded=config.group_size == 1)
    if config.group_size == 1:
        pair = both_importances(split, lambda part: fisher_diagonal(model, part, "empirical", tally=run.tally))
    else:
        everything = split.train[torch.cat([released_order(split), split.forget_index])]
        pair = [group_squares(model, part, config.group_size, run.tally) for part in (split.forget, everything)]
    return dampen(model, *pair, alpha, config.dampening)
