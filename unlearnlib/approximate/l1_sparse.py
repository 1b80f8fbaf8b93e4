"""L1-sparse: fine-tune on the retain set while a penalty thins the weights out, less and less.

    min_theta  L_R(theta) + gamma_e ||theta||_1,     gamma_e = gamma (1 - e / E)   in epoch e = 0 .. E - 1

Jia et al., NeurIPS 2023, arXiv 2304.04934. Limit: with gamma 0 it is fine-tuning. Deviations: none; the defaults are
ours. The authors use the recipe that is published for `finetune`, but publish no gamma: the default of their argument,
0.2, belongs to another method and destroys the network. Look between 1e-6 and 1e-3.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from unlearnlib.approximate.gradients import trainable
from unlearnlib.approximate.steps import Steps, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.loop import Part


@dataclass(frozen=True)
class L1Sparse(Steps):
    gamma: float = 1e-4  # of the first epoch

    def __post_init__(self):
        if not self.gamma >= 0:
            raise ValueError(f"l1_sparse needs gamma >= 0, not {self.gamma}")


class _Thinning(Part):
    def __init__(self, gamma: float, epochs: int, steps: int):
        self._gamma, self._epochs, self._steps, self._done = gamma, epochs, steps, 0

    def penalty(self, model: nn.Module) -> Tensor | float:
        epoch = self._done * self._epochs // self._steps
        weight = self._gamma * (1 - epoch / self._epochs)
        return weight * sum(p.abs().sum() for p in trainable(model).values())

    def after_step(self, model: nn.Module, step: int) -> bool:
        self._done = step + 1
        return False


@method(
    "l1_sparse",
    L1Sparse,
    family="gradient",
    reads="retain",
    paper="jia2023",
    cost="gradient * epochs * seen(R, batch_size)",
    fails="Where gamma is large for the network's size: the penalty thins out what the retain set needs.",
    origin="the defaults are ours; no gamma is published",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "gamma": (1e-6, 1e-3, "log")},
)
def l1_sparse(model, split, config: L1Sparse, run) -> Program:
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps, (_Thinning(config.gamma, config.epochs, steps),))
