"""DELETE: take the true class out of the original's answer and distil what is left, on the forget set alone.

    t(x) = softmax(f_theta0(x) with the logit of the true class at -infinity)
    min_theta  E_F KL(t(x) || p_theta(x))

so the forgotten class loses its probability while the others keep their proportions. Zhou et al., CVPR 2025, arXiv
2503.23751. Limit: with two classes the target is the other class, and this is relabelling. Deviations: none in
substance (the paper's -1e10 is -infinity here); the defaults are ours. The authors use SGD with lr 1e-4, momentum 0.9,
20 epochs and batches of 128. No retained picture is read, so in a network with batch norm the running statistics move
towards those of the forget set.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnlib.approximate.steps import Steps, even
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.prediction import predict


@dataclass(frozen=True)
class Delete(Steps):
    epochs: int = 10
    lr: float = 1e-3


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities [N, classes] with that of the class `labels` [N] removed and the others scaled up."""
    return torch.softmax(logits.scatter(1, labels[:, None], -torch.inf), dim=1)


@method(
    "delete",
    Delete,
    family="distillation",
    reads="forget",
    paper="zhou2025",
    cost="epochs * F",
    fails=(
        "Where the retrained model would still get forgotten pictures right, as for random forget sets; and "
        "nothing guards the retain set, which it does not read."
    ),
    published={"epochs": 20, "lr": 1e-4, "batch_size": 128},
    origin="the authors' values",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def delete(model, split, config: Delete, run) -> Program:
    where, forget, recipe = split.forget_index, split.forget, config.recipe()
    logits = predict(model, forget, tally=run.tally)
    if logits.shape[1] < 2:
        raise ValueError("delete needs at least two classes")
    targets = without_class(logits, forget.labels)
    order = minibatches(len(where), recipe.batch_size, recipe.epochs, run.generator("order"))
    batches = (Batch(where[i], forget.labels[i], even(i, 0.0), targets[i], even(i)) for i in order)
    return Program(model, batches, recipe, steps_of(len(where), recipe))
