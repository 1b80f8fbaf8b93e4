"""ASSD: SSD whose threshold follows from the size of the forget set.

    theta_j <- theta_j min(lambda I_R,j / I_F,j, 1)     where I_F,j > alpha I_R,j
    alpha = the (100 - ln(1 + s))-th percentile of I_F,j / I_R,j over all weights,     s = 100 |F| / |D| per cent

so a share of ln(1 + s) per cent of the weights is dampened, about 0.7 % of them for s = 1 % and 2.4 % for 10 %. The
importances are those of `ssd`, but that of the retain set R stands where SSD has that of all data D. Schoepf et al.
2024, arXiv 2402.10098. Ratios that are not finite (weights that do not matter to R) do not enter the percentile, and
the weights are dampened. Limits: lambda large changes nothing.

Deviations: by default importances are means of squared gradients of single examples, the Fisher diagonal; the
released code squares the mean gradient of batches of 1,024, which `group_size` gives and the published row uses. It
leaves the mode of the network to chance (its call of eval is commented out); here it is eval mode.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.ssd import dampen, group_squares
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class ASSD:
    dampening: float = 1.0  # lambda
    group_size: int = 1  # examples whose gradients are averaged before they are squared: 1 is the Fisher diagonal

    def __post_init__(self):
        if not (self.dampening >= 0 and self.group_size >= 1):
            raise ValueError("assd needs dampening >= 0 and group_size >= 1")


def percentile(forget: int, retain: int) -> float:
    """100 - ln(1 + s), s = 100 |F| / |D|."""
    return 100 - math.log(1 + 100 * forget / (forget + retain))


def adaptive_alpha(forget: Tensor, retain: Tensor, at: float) -> float:
    """The percentile `at` of forget / retain [P], with those ratios left out that are not finite; 0 where all are."""
    ratio = (forget / retain).double().cpu().numpy()
    finite = ratio[np.isfinite(ratio)]
    return float(np.percentile(finite, at)) if len(finite) else 0.0


@method(
    "assd",
    ASSD,
    family="curvature",
    reads="retain, forget",
    paper="schoepf2024",
    cost="gradient * (F + R)",
    fails="As ssd; and it dampens its share of the weights whether or not any matters to the forget set alone.",
    published={"dampening": 1.0, "group_size": 1024},
    origin="the released code for a supply chain's data, the only one released",
    search={"dampening": (0.01, 1.0, "log")},
)
def assd(model, split, config: ASSD, run) -> nn.Module:
    def importance(examples) -> Tensor:
        if config.group_size == 1:
            return fisher_diagonal(model, examples, "empirical", tally=run.tally)
        return group_squares(model, examples, config.group_size, run.tally)

    forget, retain = importance(split.forget), importance(split.retain)
    at = percentile(len(split.forget_index), len(split.retain_index))
    return dampen(model, forget, retain, adaptive_alpha(forget, retain, at), config.dampening)
