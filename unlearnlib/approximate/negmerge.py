"""NegMerge: the task vector, in those weights alone on whose direction many descents agree.

    tau_k = theta_k - theta_0,     theta_k = theta_0 after descent on CE over F, with hyper-parameters k = 1 .. n
    tau   = mean_k tau_k  where all n signs are the same and none is 0,  else 0          (weight by weight)
    theta = theta_0 - scale tau

Kim et al., ICML 2025, arXiv 2410.05583. Limits: n = 1 is `task_vector` bit for bit; two opposite vectors are the
original. The hyper-parameters that differ are here the learning rate, from lr / spread to lr spread in equal ratios,
and the order of the pictures. Deviations: as in `task_vector`; the authors' grids differ in rate, weight decay, passes
and augmentation, and their values for networks other than CLIP models could not be confirmed, so none stand as
published. Not repeated from the released code: statistics of batch norms merged as if they were weights, and whatever
folder holds checkpoints joining the merge.

Not one stream of batches but n, each with a recipe of its own, so models are not stacked and no parts are taken.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearnlib.approximate.gradients import moved, weights
from unlearnlib.approximate.steps import Descent
from unlearnlib.approximate.task_vector import buffers, learning, reset
from unlearnlib.methods.registry import method
from unlearnlib.training.loop import descend


@dataclass(frozen=True)
class NegMerge(Descent):
    epochs: int = 5  # passes over the forget set, in each descent
    scale: float = 1.0  # lambda, of the way back
    descents: int = 5  # n
    spread: float = 2.0  # of their learning rates, to both sides

    def __post_init__(self):
        if not (self.descents >= 1 and self.spread > 0):
            raise ValueError("negmerge needs descents >= 1 and spread > 0")


def consensus(vectors: Tensor) -> Tensor:
    """The mean [P] of vectors [n, P], and 0 where their signs are not all the same."""
    agreed = vectors.sign().sum(0).abs() == len(vectors)
    return vectors.mean(0).where(agreed, torch.zeros_like(vectors[0]))


def rates(config: NegMerge) -> list[float]:
    """The learning rate of each descent."""
    if config.descents == 1:
        return [config.lr]
    return [config.lr * config.spread ** (2 * k / (config.descents - 1) - 1) for k in range(config.descents)]


@method(
    "negmerge",
    NegMerge,
    family="gradient",
    reads="forget",
    paper="kim2025negmerge",
    cost="gradient * descents * epochs * seen(F, batch_size)",
    fails=(
        "As task_vector; and where the descents hardly differ, since then all signs agree and it is the task vector "
        "at several times its price."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 10), "scale": (0.05, 4.0, "log")},
)
def negmerge(model, split, config: NegMerge, run) -> nn.Module:
    start, kept, found = weights(model).clone(), buffers(model), []
    for number, lr in enumerate(rates(config)):
        once = replace(config, lr=lr)
        batches, steps = learning(model, split, once, run, number)
        settings = {"seed": run.seed, "tally": run.tally, "progress": run.progress}
        descend(model, split.train, batches, run.taught(once.recipe()), steps, **settings)
        found.append(weights(model) - start)
        reset(model, start, kept)
    return moved(model, -config.scale * consensus(torch.stack(found)))
