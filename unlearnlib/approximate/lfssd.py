"""LFSSD: SSD without labels, by what the size of the output depends on.

    I = E | grad_theta ||f(x)||^2 |      f(x) the logits, example by example

in the place of SSD's squared gradients of the loss; selection and dampening are those of `ssd`. Foster et al., Tiny
Papers at ICLR 2024, arXiv 2402.19308. Limits: the limits of `ssd`; labels have no influence at all. Deviations: the
mean is one of single examples, where the released lines average a batch before they take the absolute value. The
authors publish neither alpha nor lambda. This importance is of first order in the gradient and SSD's of second, so
ratios of it are about square roots of SSD's, and the default power of |D| / |F| is half of SSD's.
"""

from dataclasses import dataclass

from torch import nn

from unlearnlib.approximate.fisher import mean_power
from unlearnlib.approximate.ssd import Dampening, both_importances, chosen_alpha, dampen
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class LFSSD(Dampening):
    power: float = 0.25  # 0: as much as to the training set; at 1 nothing is selected


def sensitivity(model: nn.Module, examples, tally=None):
    """E | grad_theta ||f(x)||^2 | over `examples`: [P]. Labels are not read."""
    return mean_power(model, examples, lambda logits, _labels: [2 * logits], 1, tally=tally)


@method(
    "lfssd",
    LFSSD,
    family="curvature",
    reads="retain, forget",
    paper="foster2024lossfree",
    cost="gradient * (F + R)",
    fails="As ssd. Its importance is of first order, so ratios are smaller and a given alpha selects fewer weights.",
    origin="the defaults are ours; none are published",
    search={"power": (0.0, 0.5), "dampening": (0.01, 1.0, "log")},
)
def lfssd(model, split, config: LFSSD, run) -> nn.Module:
    alpha = chosen_alpha(config, len(split.forget_index), len(split.retain_index))
    pair = both_importances(split, lambda part: sensitivity(model, part, run.tally))
    return dampen(model, *pair, alpha, config.dampening)
