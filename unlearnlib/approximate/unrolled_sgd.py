"""Unrolled SGD: add back the gradients that the forgotten examples gave, as if all had been taken at the start.

    theta' = theta + (eta m / b) sum_F grad l_i(theta_0)

with eta the learning rate, b the batch size and m the epochs of the SGD that led from theta_0 to theta. To first order
in eta, training is theta_0 minus all gradients at theta_0, so that the examples of F are taken back by their own
gradients; the error is of order eta^2, and grows with the number of steps and with the largest eigenvalue of the
Hessian. Thudi et al. 2021, arXiv 2109.13398. Limits: where the loss is linear in theta the result is retraining with
the same batches less F; m = 0 changes nothing.

`initial` is the network theta_0 that training (or fine-tuning) started from; without it the gradients are those at
theta, which is one large step of NegGrad. Deviations: all of F at once; eta, b and m are those of the training that is
to be undone, and have no sensible default. Defect of the released code that is not repeated: its sigma is the square
root of the eigenvalue.
"""

from dataclasses import dataclass

from torch import nn

from unlearnlib.approximate.gradients import mean_gradient, moved
from unlearnlib.methods.registry import method


@dataclass(frozen=True, eq=False)
class UnrolledSGD:
    epochs: int = 10  # m, of training
    lr: float = 0.01  # eta, of training
    batch_size: int = 64  # b, of training
    initial: nn.Module | None = None  # theta_0; None: the gradients are taken at theta

    def __post_init__(self):
        if self.epochs < 0 or self.lr < 0 or self.batch_size < 1:
            raise ValueError("unrolled_sgd needs epochs >= 0, lr >= 0 and batch_size >= 1")


@method(
    "unrolled_sgd",
    UnrolledSGD,
    family="curvature",
    reads="forget",
    paper="thudi2021",
    cost="gradient * F",
    fails=(
        "After long training: the expansion is about the start, and its error grows with the steps, their size and "
        "the distance covered. Needs the weights before training."
    ),
    origin="the defaults are ours; they have to be those of the training that is undone",
)
def unrolled_sgd(model, split, config: UnrolledSGD, run) -> nn.Module:
    start = model if config.initial is None else config.initial
    slope = mean_gradient(start, split.forget, tally=run.tally)
    taken = config.lr * config.epochs * len(split.forget_index) / config.batch_size
    return moved(model, taken * slope.to(next(model.parameters())))
