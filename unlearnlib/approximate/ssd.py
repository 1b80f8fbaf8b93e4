"""SSD: dampen the weights that matter much more to the forget set than to the training set.

    theta_j <- theta_j min(lambda I_D,j / I_F,j, 1)     where I_F,j > alpha I_D,j
    I = E (grad CE)^2                                   example by example: the diagonal of the empirical Fisher matrix

over the forget set F and the whole training set D. Foster et al., AAAI 2024, arXiv 2308.07707. Limits: alpha to
infinity changes nothing; alpha = lambda = 0 zeroes every weight on which the loss of F depends; where F is like D,
nothing changes from alpha = 1 on. As I_D >= |F| / |D| I_F, no weight is selected once alpha >= |D| / |F|: alpha must
shrink as the forget set grows. Weights with I_F = 0 stay, whatever alpha. Deviations: none in substance; I_D is
assembled from forget and retain set, so every example is read once. The defaults alpha 10, lambda 1 are the authors'.
In the released code I is the square of the mean gradient of a batch, in which opposite examples cancel: it shrinks as
the batch grows and depends on the order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import flat, shaped, trainable
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class SSD:
    alpha: float = 10.0  # how much more a weight must matter to the forget set
    dampening: float = 1.0  # lambda

    def __post_init__(self):
        if not (self.alpha >= 0 and self.dampening >= 0):
            raise ValueError("ssd needs alpha >= 0 and dampening >= 0")


def dampened(weights: Tensor, forget: Tensor, train: Tensor, alpha: float, dampening: float) -> Tensor:
    """The weights [P] after dampening by their importance to the forget set [P] and to the training set [P]."""
    factor = torch.where(forget > 0, dampening * train / forget, 1.0).clamp(max=1.0)
    return torch.where(forget > alpha * train, weights * factor, weights)


@torch.no_grad()
def dampen(model: nn.Module, split, config: SSD, importance) -> nn.Module:
    """SSD with importance(examples) -> [P] on the model in place."""
    counts = len(split.forget_index), len(split.retain_index)
    forget, retain = importance(split.forget), importance(split.retain)
    train = (counts[0] * forget + counts[1] * retain) / sum(counts)
    parameters = trainable(model)
    weights = dampened(flat(parameters.values()), forget, train, config.alpha, config.dampening)
    for name, value in shaped(weights, parameters).items():
        parameters[name].copy_(value)
    return model


@method(
    "ssd",
    SSD,
    family="curvature",
    reads="retain, forget",
    paper="foster2024",
    cost="F + R",
    fails=(
        "For random forget sets, whose importance is hardly above that of the training set: few weights are selected, "
        "and lowering alpha damages all classes alike. Networks in which classes share their weights lose accuracy."
    ),
    published={"alpha": 10.0, "dampening": 1.0},
    origin="the authors' values",
    search={"alpha": (0.5, 100.0, "log"), "dampening": (0.01, 1.0, "log")},
)
def ssd(model, split, config: SSD, run) -> nn.Module:
    return dampen(model, split, config, lambda part: fisher_diagonal(model, part, "empirical", tally=run.tally))
