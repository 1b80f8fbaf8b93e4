"""NTK scrubbing: what removing the forget set would change in the linearised network, applied to the network.

Around theta the logits are f(x) + J(x) delta. With residuals r_i = e_y - softmax(f(x_i)) of a set S, stacked as J_S
[n C, P] and r_S [n C], its best linear correction is a ridge regression, and the step is the difference of two:

    delta_S = argmin || J_S delta - r_S ||^2 + damping |D| ||delta||^2 = J_S^T (J_S J_S^T + damping |D| I)^-1 r_S
    theta <- theta + scale (delta_R - delta_D)

which equals the paper's form with kernels K_AB = J_A J_B^T (K + damping |D| I on the diagonal blocks),

    P J_F^T M V,   P = I - J_R^T K_RR^-1 J_R,  M = (K_FF - K_FR K_RR^-1 K_RF)^-1,  V = -(r_F - K_FR K_RR^-1 r_R)

with scale 1. Golatkar et al., ECCV 2020, arXiv 2003.02960. Limit: for a linear model and squared loss it is exact
deletion from ridge regression. Deviations: the network is linearised where it is, not where it started (nobody kept
its start). The authors also compute the scale from that start, so no published row can be given. No noise is added
afterwards (`fisher_forgetting` does that). The softmax enters by its residual only: its curvature p (1 - p) counts as
1, which makes steps short where p is 0 or 1.

The kernel has a row for each example and class, so this is for small models: more than 2^28 numbers are refused.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.curvature.products import jacobians
from unlearnlib.approximate.fisher import check_size
from unlearnlib.approximate.gradients import moved, pixel_batches, trainable
from unlearnlib.methods.registry import method
from unlearnlib.training.models import evaluating
from unlearnlib.training.prediction import predict


@dataclass(frozen=True)
class NTK:
    damping: float = 1e-2  # of the ridge regressions, a mean over examples
    scale: float = 1.0  # of the step

    def __post_init__(self):
        if not self.damping > 0:
            raise ValueError("ntk needs damping > 0")


def corrections(rows: Tensor, residuals: Tensor, forget: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """delta_R and delta_D [P]: argmin_delta ||J_S delta - r_S||^2 + ridge ||delta||^2, S = R and S = D, in float64.

    rows [N, classes, P], residuals [N, classes], forget bool [N]. Solved on the smaller of the two sides, with the
    products of the retained rows formed once.
    """
    parts = [(rows[keep].flatten(0, 1).double(), residuals[keep].flatten().double()) for keep in (~forget, forget)]
    (kept, left), (gone, right) = parts
    both, whole = torch.cat([kept, gone]), torch.cat([left, right])
    unit = ridge * torch.eye(min(both.shape), dtype=both.dtype, device=both.device)
    if len(both) > both.shape[1]:
        gram, b = kept.T @ kept + unit, kept.T @ left
        return torch.linalg.solve(gram, b), torch.linalg.solve(gram + gone.T @ gone, b + gone.T @ right)
    kernel, n = both @ both.T + unit, len(kept)
    return kept.T @ torch.linalg.solve(kernel[:n, :n], left), both.T @ torch.linalg.solve(kernel, whole)


@method(
    "ntk",
    NTK,
    family="curvature",
    reads="retain, forget",
    paper="golatkar2020box",
    cost=(
        "(forward + example_gradient * C) * (F + R)"
        " + (lambda n, r: algebra / M * (n * n * P + (n**3 + r**3) / 3 if n <= P else n * P * P + 2 / 3 * P**3))"
        "(C * (F + R), C * R)"
    ),
    fails=(
        "For all but small models and sets: it is dense. Where the network is sure of its answers the unscaled step is "
        "far too short, and scaled up it leaves the region in which the network is linear."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log"), "scale": (1.0, 1000.0, "log")},
)
def ntk(model, split, config: NTK, run) -> nn.Module:
    train = split.train
    classes = predict(model, train[:1]).shape[1]
    size = sum(p.numel() for p in trainable(model).values())
    check_size(len(train) * classes, size, "ntk is for small models and sets")
    parts = list(pixel_batches(model, train, max(1, min(256, 2**22 // size))))
    rows = torch.cat([jacobians(model, pixels, tally=run.tally) for pixels, _ in parts])
    with torch.no_grad(), evaluating(model):
        logits = torch.cat([model(pixels) for pixels, _ in parts])
    run.tally.count("forward", len(train))
    n, r = classes * len(train), classes * len(split.retain_index)
    solved = n * n * size + (n**3 + r**3) / 3 if n <= size else n * size * size + 2 / 3 * size**3
    run.tally.algebra(solved, model, train)
    residuals = torch.nn.functional.one_hot(train.labels, classes).to(logits) - logits.softmax(1)
    forget = split.is_forget.to(rows.device)
    retained, complete = corrections(rows, residuals, forget, config.damping * len(train))
    return moved(model, (config.scale * (retained - complete)).to(logits))
