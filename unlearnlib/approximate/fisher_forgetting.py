"""Fisher forgetting: add noise where the retain set does not mind it.

    theta_j <- theta_j + (lambda / (F_j + damping))^(1/4) xi_j,     xi_j ~ N(0, 1)

with F the diagonal of the true Fisher matrix of the retain set. The noise of covariance Sigma costs the retain set
tr(F Sigma) / 2 and leaves lambda tr(Sigma^-1) / 2 of what separated the weights from those of a model without the
forget set: Sigma = sqrt(lambda / F) is the diagonal minimum of the sum. Golatkar et al., CVPR 2020, arXiv 1911.04933.
Limits: lambda = 0 changes nothing; the forget set is never read (but for its classes, where released). Deviations: the
noise covers all trainable weights alike, and lambda and damping have defaults of ours.

`as_released` is the authors' variance, lambda min(1 / (F + 1e-8), 1e3), at most 1e2 lambda in tensors whose first
dimension is the number of classes (the last layer's); in matrices and kernels it is averaged over their second
dimension; it is ten times as large in the last layer and in biases and norms. Where whole classes are forgotten, their
rows of the last layer become noise of variance 1e-3 about zero, which no Fisher matrix asks for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import moved, shaped, trainable
from unlearnlib.approximate.steps import whole_classes
from unlearnlib.methods.registry import method
from unlearnlib.training.doors import check_model


@dataclass(frozen=True)
class FisherForgetting:
    strength: float = 1e-7  # lambda
    damping: float = 1e-3  # bounds the noise of weights that the retain set does not use
    power: float = 0.25  # of lambda / F
    as_released: bool = False  # the authors' variance, for which damping and power do not count

    def __post_init__(self):
        if not (self.strength >= 0 and self.damping > 0 and self.power > 0):
            raise ValueError("fisher_forgetting needs strength >= 0, damping > 0 and power > 0")


def deviation(fisher: Tensor, config: FisherForgetting) -> Tensor:
    """The standard deviation of each weight's noise, for a Fisher diagonal [P]: [P]."""
    return (config.strength / (fisher + config.damping)) ** config.power


@torch.no_grad()
def as_released(model: nn.Module, fisher: Tensor, noise: Tensor, strength: float, classes: int, gone: Tensor):
    """`model`, in place, after the released noise: fisher [P], noise [P] standard normal, `gone` the classes erased."""
    parameters = trainable(model)
    diagonals, normal = shaped(fisher, parameters), shaped(noise, parameters)
    for name, p in parameters.items():
        last = p.shape[0] == classes
        variance = strength * (1 / (diagonals[name] + 1e-8)).clamp(max=1e2 if last else 1e3)
        if p.dim() > 1:
            variance = variance.mean(1, keepdim=True).expand_as(p).clone()
        if last:
            p[gone], variance[gone] = 0.0, 1e-4
        p += (variance * (10 if last or p.dim() == 1 else 1)).sqrt() * normal[name]
    return model


@method(
    "fisher_forgetting",
    FisherForgetting,
    family="curvature",
    reads="retain",
    paper="golatkar2020",
    cost="(gradient + vjp * (C - 1)) * R",
    fails=(
        "Where forget and retain set are alike: the noise avoids the weights that matter to both, so it removes little "
        "until it destroys the model. Every dose that erases something costs accuracy on what is kept."
    ),
    published={"strength": 1e-6, "as_released": True},
    origin="the authors' notebook",
    search={"strength": (1e-12, 1e-5, "log"), "damping": (1e-4, 1e-1, "log")},
)
def fisher_forgetting(model, split, config: FisherForgetting, run) -> nn.Module:
    fisher = fisher_diagonal(model, split.retain, "true", tally=run.tally)
    noise = torch.randn(len(fisher), generator=run.generator("noise"), dtype=torch.float64).to(fisher)
    if config.as_released:
        gone = split.forget.labels.unique() if whole_classes(split) else torch.zeros(0, dtype=torch.long)
        return as_released(model, fisher, noise, config.strength, check_model(model, split.train), gone)
    return moved(model, deviation(fisher, config) * noise)
