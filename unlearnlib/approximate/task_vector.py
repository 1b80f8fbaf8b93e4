"""The plain task vector: learn the forget set a little better, and go the other way.

    tau = theta_F - theta_0,     theta_F = theta_0 after descent on CE over F, with its own labels
    theta = theta_0 - scale tau

Ilharco et al., ICLR 2023, arXiv 2212.04089; the baseline of `negmerge`, with which it shares all but the number of
descents. Limits: scale 0 is the original, scale -1 fine-tuning on F; on a loss 1/2 ||theta - a||^2 and one plain step
theta - theta_0 = scale lr (theta_0 - a). Deviations: the running statistics of batch norms are those of the original,
where implementations that subtract whole state dicts negate them too, and variances come out below zero. The scale is
given, or tuned with all other hyper-parameters: the paper takes the largest of 21 that keeps 95 per cent of a control
accuracy. Defaults are ours; values are published for CLIP models alone, whose schedule has a warm-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.gradients import moved, shaped, trainable, weights
from unlearnlib.approximate.steps import Descent, passes
from unlearnlib.methods.registry import Program, method


@dataclass(frozen=True)
class TaskVector(Descent):
    epochs: int = 5  # passes over the forget set
    scale: float = 0.5  # lambda, of the way back


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers as they are now, by name."""
    return {name: value.clone() for name, value in model.named_buffers()}


@torch.no_grad()
def put(model: nn.Module, vector: Tensor) -> None:
    """Give the trainable parameters the values `vector` [P]."""
    parameters = trainable(model)
    for name, piece in shaped(vector, parameters).items():
        parameters[name].copy_(piece)


@torch.no_grad()
def reset(model: nn.Module, start: Tensor, kept: Mapping[str, Tensor]) -> nn.Module:
    """`model`, in place, with the trainable weights `start` [P] and the buffers `kept`."""
    for name, value in model.named_buffers():
        value.copy_(kept[name])
    put(model, start)
    return model


def learning(model, split, config: Descent, run, number: int = 0) -> tuple:
    """Batches and steps of descent number `number` on the forget set."""
    return passes(split.forget_index, split.train.labels, config, run.generator("order", number))


@method(
    "task_vector",
    TaskVector,
    family="gradient",
    reads="forget",
    paper="ilharco2023",
    cost="gradient * epochs * seen(F, batch_size)",
    fails=(
        "Where the original fits the forget set already: the way to fit it better is short, and the way back is what "
        "rounding and weight decay made of it. Nothing guards the retain set."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 10), "scale": (0.05, 2.0, "log")},
)
def task_vector(model, split, config: TaskVector, run) -> Program:
    start, kept = weights(model).clone(), buffers(model)
    batches, steps = learning(model, split, config, run)

    def back(learnt: nn.Module) -> nn.Module:
        tau = weights(learnt) - start
        return moved(reset(learnt, start, kept), -config.scale * tau)

    return Program(model, batches, config.recipe(), steps, finish=back)
