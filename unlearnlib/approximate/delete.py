"""DELETE: take the true class out of the original's answer and distil what is left, on the forget set alone.

    t(x) = softmax(f_theta0(x) with the logit of the true class at -infinity)
    min_theta  E_F KL(t(x) || p_theta(x))

so the forgotten class loses its probability while the others keep their proportions. Zhou et al., CVPR 2025, arXiv
2503.23751. Limit: with two classes the target is the other class, and this is relabelling. Deviations: none (the
paper's -1e10 is -infinity here; where pictures are not augmented t is computed once); the defaults are ours. No
retained picture is read, so in a network with batch norm the running statistics move towards those of the forget set.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnlib.approximate.steps import HEAVY_BALL, Steps, even, shuffled, taught
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, steps_of


@dataclass(frozen=True)
class Delete(Steps):
    epochs: int = 10
    lr: float = 1e-3


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities [N, classes] with that of the class `labels` [N] removed and the others scaled up."""
    if logits.shape[1] < 2:
        raise ValueError("delete needs at least two classes")
    return torch.softmax(logits.scatter(1, labels[:, None], -torch.inf), dim=1)


@method(
    "delete",
    Delete,
    family="distillation",
    reads="forget",
    paper="zhou2025",
    cost=(
        "gradient * epochs * seen(F, batch_size) + forward * (F if augment == 'none' else epochs * seen(F, batch_size))"
    ),
    fails=(
        "Where the retrained model would still get forgotten pictures right, as for random forget sets; and "
        "nothing guards the retain set, which it does not read."
    ),
    published=HEAVY_BALL
    | {"epochs": 20, "lr": 1e-4, "weight_decay": 0.0, "batch_size": 128, "augment": "flip-crop-zero"},
    origin="the released configuration for CIFAR-10 and a ResNet-18",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def delete(model, split, config: Delete, run) -> Program:
    where, labels, recipe = split.forget_index, split.train.labels, config.recipe()
    teacher = taught(model, split, where, run, without_class)
    order = shuffled(where, config, run.generator("order"))
    batches = (Batch(i, labels[i], even(i, 0.0), teacher(i), even(i)) for i in order)
    return Program(model, batches, recipe, steps_of(len(where), recipe))
