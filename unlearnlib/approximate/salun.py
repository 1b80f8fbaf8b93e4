"""SalUn: random labels, but only the weights that matter to the forget set may move.

    m = 1[ |grad L_F(theta_0)| is among the largest `fraction` of all weights ]
    theta = m * (theta_0 + Delta) + (1 - m) * theta_0,     Delta from random labels on F beside CE on R

Fan et al., ICLR 2024, arXiv 2310.12508. Limit: with fraction 1 it is `random_labels`. The gradient is that of the mean
loss over the whole forget set, so it does not depend on a batch size, and masked weights are bit-identical
to the original's whatever momentum and weight decay do (in released code weight decay moved them until 2026, see
the bug ledger). Ties, which weights without any gradient make, are broken by position, so the share is exact.
Deviations: none in substance; the defaults are ours. The authors use the top 50 %, lr 0.013, 10 epochs, batches of 256.
"""

from dataclasses import dataclass

from unlearnlib.approximate.dose.bounds import bounded
from unlearnlib.approximate.dose.limits import salient
from unlearnlib.approximate.random_labels import random_labels
from unlearnlib.approximate.steps import Steps
from unlearnlib.methods.registry import Program, method


@dataclass(frozen=True)
class SalUn(Steps):
    fraction: float = 0.5  # of the weights may change


@method(
    "salun",
    SalUn,
    family="saliency",
    reads="retain, forget",
    paper="fan2024",
    cost="epochs * (F + R) + F",
    fails="As random labels: the mask decides where the change goes, not what is taught.",
    published={"epochs": 10, "lr": 0.013, "batch_size": 256, "fraction": 0.5},
    origin="the authors' values",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "fraction": (0.1, 1.0)},
)
def salun(model, split, config: SalUn, run) -> Program:
    program = random_labels(model, split, config, run)
    return bounded(program, free=salient(program, split, run, config.fraction))
