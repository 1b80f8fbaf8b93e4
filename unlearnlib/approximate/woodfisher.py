"""WoodFisher: one influence step, with the empirical Fisher matrix in the place of the Hessian.

    theta <- theta + scale (F_R + damping I)^-1 v,     v = (1 / |D|) (sum_F grad l_i - |F| / |R| sum_R grad l_i)
    F_R = (1 / N) sum_i g_i g_i^T                      over N gradients of retained examples

v is the change of the gradient of the mean loss when its weights go from D to R, so the step is that of an influence
function. The inverse is exact, by the Woodbury identity on the N gradients G [N, P]:

    (G^T G / N + d I)^-1 v = (v - G^T (G G^T + N d I)^-1 G v) / d

Singh and Alistarh, NeurIPS 2020, arXiv 2004.14340 for the inverse; as an unlearning baseline in Jia et al., NeurIPS
2023, arXiv 2304.04934. Limits: scale = 0 changes nothing; damping -> infinity is a gradient step of scale / damping.
Deviations: the N examples are drawn at random. The authors publish no scale. In the released code the recursion over
examples never renews its second vector, so v is changed along the first example's gradient alone and what is left is a
plain gradient step; and the first examples of an unshuffled loader are used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.fisher import check_size, per_example_gradients
from unlearnlib.approximate.gradients import mean_gradient, moved, trainable
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class WoodFisher:
    samples: int | None = 1000  # N, at most all retained examples; None: all
    damping: float = 0.1  # added to the diagonal of the empirical Fisher matrix
    scale: float = 1.0  # of the step

    def __post_init__(self):
        if (self.samples is not None and self.samples < 1) or not self.damping > 0:
            raise ValueError("woodfisher needs samples >= 1 and damping > 0")


def inverse_product(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """(rows^T rows / N + damping I)^-1 v for rows [N, P] and v [P], computed in float64."""
    g, v = rows.double(), v.double()
    inner = g @ g.T
    inner.diagonal().add_(len(g) * damping)
    return (v - g.T @ torch.linalg.solve(inner, g @ v)) / damping


@method(
    "woodfisher",
    WoodFisher,
    family="curvature",
    reads="retain, forget",
    paper="jia2023",
    cost=(
        "(lambda n: gradient * (F + R) + example_gradient * n + algebra * (n * (n + 4) * P + n**3 / 3) / M)"
        "(min(samples or R, R))"
    ),
    fails=(
        "With few gradients, or gradients near zero: outside of what they span there is no curvature, and the step is "
        "as long as the damping lets it be."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log"), "scale": (0.1, 10.0, "log")},
)
def woodfisher(model, split, config: WoodFisher, run) -> nn.Module:
    retain = split.retain
    count = len(retain) if config.samples is None else min(config.samples, len(retain))
    check_size(count, sum(p.numel() for p in trainable(model).values()), "lower samples")
    drawn = torch.randperm(len(retain), generator=run.generator("examples"))[:count].sort().values
    share = len(split.forget_index) / (len(split.forget_index) + len(retain))
    gradients = [mean_gradient(model, part, tally=run.tally) for part in (split.forget, retain)]
    rows = per_example_gradients(model, retain[drawn])
    run.tally.count("example_gradient", count)
    run.tally.algebra(count * (count + 4) * rows.shape[1] + count**3 / 3, model, retain)
    step = config.scale * inverse_product(rows, share * (gradients[0] - gradients[1]), config.damping)
    return moved(model, step.to(rows))
