"""Class-wise noise: one fixed pattern a class, drawn and not trained.

    delta_i = eps * s_(y_i),   s_k in {-1, 1} on squares of `patch` x `patch` pixels

The patterns separate linearly, so that a network can answer from them alone: a shortcut. Yu et al. (KDD 2022,
arXiv:2111.00898) draw such patterns in place of trained noise.

Deviations: theirs are blocks of Gaussian draws, with a small noise of their own in each picture, and a budget in the
2-norm; here they are signs and the budget is eps in every pixel.
"""

from dataclasses import dataclass

from torch import Tensor

from unlearnlib.prevention.controls import signs
from unlearnlib.prevention.protected import Task, check_known


@dataclass(frozen=True)
class ClassWise:
    patch: int = 4  # side of the squares that share a sign


def class_wise(task: Task, config: ClassWise):
    """eps times the pattern of each label."""
    patterns = task.eps * signs(task.classes, task.examples.shape, config.patch, task.generator("patterns"))

    def noise(examples, tally) -> Tensor:
        check_known(examples, task.classes)
        return patterns[examples.labels]

    return noise(task.examples, task.tally), noise
