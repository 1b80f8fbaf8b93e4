"""Fisher forgetting: add noise where the retain set does not mind it.

    theta_j <- theta_j + (lambda / (F_j + damping))^(1/4) xi_j,     xi_j ~ N(0, 1)

with F the diagonal of the true Fisher matrix of the retain set. The noise of covariance Sigma costs the retain set
tr(F Sigma) / 2 and leaves lambda tr(Sigma^-1) / 2 of what separated the weights from those of a model without the
forget set: Sigma = sqrt(lambda / F) is the diagonal minimum of the sum. Golatkar et al., CVPR 2020, arXiv 1911.04933.
Limits: lambda = 0 changes nothing; the forget set is never read. Deviations: the noise covers all trainable weights
alike, and lambda and damping have defaults of ours. The released code uses the power 1/2 (`power`), lambda 1e-6 and a
cap of 1/F at 1e3, the mean of 1/F over each row of a matrix, ten times the variance in the last layer and in norms; for
a class it replaces the row of the last layer by noise about zero, which no Fisher matrix asks for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import moved
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class FisherForgetting:
    strength: float = 1e-7  # lambda
    damping: float = 1e-3  # bounds the noise of weights that the retain set does not use
    power: float = 0.25  # of lambda / F

    def __post_init__(self):
        if not (self.strength >= 0 and self.damping > 0 and self.power > 0):
            raise ValueError("fisher_forgetting needs strength >= 0, damping > 0 and power > 0")


def deviation(fisher: Tensor, config: FisherForgetting) -> Tensor:
    """The standard deviation of each weight's noise, for a Fisher diagonal [P]: [P]."""
    return (config.strength / (fisher + config.damping)) ** config.power


@method(
    "fisher_forgetting",
    FisherForgetting,
    family="curvature",
    reads="retain",
    paper="golatkar2020",
    cost="at most 1000 * R",
    fails=(
        "Where forget and retain set are alike: the noise avoids the weights that matter to both, so it removes little "
        "until it destroys the model. Every dose that erases something costs accuracy on what is kept."
    ),
    published={"strength": 1e-6, "damping": 1e-3, "power": 0.5},
    origin="the authors' code",
    search={"strength": (1e-12, 1e-5, "log"), "damping": (1e-4, 1e-1, "log")},
)
def fisher_forgetting(model, split, config: FisherForgetting, run) -> nn.Module:
    spread = deviation(fisher_diagonal(model, split.retain, "true", tally=run.tally), config)
    noise = torch.randn(len(spread), generator=run.generator("noise"), dtype=torch.float64).to(spread)
    return moved(model, spread * noise)
