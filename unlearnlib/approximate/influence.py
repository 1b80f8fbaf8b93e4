"""Influence functions: take back the first-order effect of the forgotten examples, or that with their leverage.

With the losses l_i, C = (1/n) sum_D J_i^T H_i J_i the Gauss-Newton matrix (or the Hessian) over the training set D of n
examples, J_i = df(x_i)/dtheta, H_i = diag(p_i) - p_i p_i^T and A = C + damping I:

    influence            theta + (1/n) A^-1 sum_F grad l_i                                            koh2017
    rescaled_influence   theta + (1/n) A^-1 sum_F J_i^T (I - H_i K_i)^-1 (p_i - e_yi),   K_i = J_i A^-1 J_i^T / n

The first is the derivative of the minimiser in the weight of F, times the change of that weight: a group's effect is
the sum of the effects of its members. The second removes each member with a Newton step of its own, on a matrix without
it, and adds those up: `rubinstein2025`, whose 1 - h_i for scalar losses becomes the matrix I - H_i K_i. Limits: with
squared loss and F = {i} the first is 1 - h_ii of leaving i out, the second exactly that. `damping` is the curvature of
the penalty (lam on a mean loss with lam/2 ||theta||^2) and whatever more is needed to make A positive definite; swept,
it interpolates from Newton's direction to the gradient's. Networks are no minima, so there the target is the proximal
Bregman response of `pbrf` rather than retraining (bae2022).

Deviations: the Gauss-Newton matrix by default, which is positive semi-definite; `strength` multiplies the step.

`curvature_of="retain"` is the removal step of guo2020 (also warnecke2023), a Newton step on the retain set from the
minimum of (1/n) sum_D l_i + (l2 / 2) ||theta||^2. There sum_D grad l_i = -n l2 theta, so the slope of the retain set's
objective is -(sum_F grad l_i + |F| l2 theta) / |R|, and

    theta + (C_R + damping I)^-1 (sum_F grad l_i + |F| l2 theta) / |R|

l2 is the part of `damping` that is the penalty of the training objective, by default all of it; 0 where there was none.
Limit: for squared loss and damping = l2 it is retraining. The certified form is `private.CertifiedNewton`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.curvature import kronecker, solvers
from unlearnlib.approximate.curvature.products import Curvature, jacobians, jvp, root
from unlearnlib.approximate.curvature.solvers import solve
from unlearnlib.approximate.gradients import flat, mean_gradient, moved, pixel_batches, trainable
from unlearnlib.methods.registry import method
from unlearnlib.training.loop import Tally
from unlearnlib.training.models import evaluating

LARGEST_LEVERAGE = 0.95  # above this only approximate inverses get


@dataclass(frozen=True)
class Inverse:
    """Hyper-parameters of methods that solve (C + damping I) x = b; see `curvature.solve`."""

    damping: float = 1e-2  # added to the curvature; the weight of the penalty, or of a pull to the start
    solver: str = "cg"  # of the linear system: "cg", "lissa", "dense", "kfac" or "ekfac"
    kind: str = "ggn"  # or "hessian"
    iterations: int = 30  # of the solver, at most
    tolerance: float = 1e-4  # stop at this residual, relative to the right-hand side

    def solved(self, model: nn.Module, rhs: Tensor, examples, tally: Tally | None, extra: float = 0.0) -> Tensor:
        """(C + (damping + extra) I)^-1 rhs with C over `examples`."""
        options = {"solver": self.solver, "kind": self.kind, "iterations": self.iterations, "tolerance": self.tolerance}
        return solve(model, rhs, examples, damping=self.damping + extra, **options, tally=tally).x


# The work of `Inverse.solved` over n examples, at most, in the language of `methods.costs`; p(k) is that of k products.
SOLVING = (
    "(lambda n: (lambda p: p(iterations + (20 if solver == 'lissa' else 0)) if solver in ('cg', 'lissa')"
    " else p(P + 1) if solver == 'dense' and kind == 'hessian'"
    " else p(1) + n * (forward + example_gradient * C if solver == 'dense' else 3 * (gradient + vjp * (C - 1))))"
    "(lambda k: (linearise * (1 if n <= 1024 else k) + ggn * k) * n))"
)


@dataclass(frozen=True)
class Influence(Inverse):
    strength: float = 1.0  # of the step; 1 is what the theory says
    curvature_of: str = "all"  # the training set, or "retain"
    l2: float | None = None  # of the objective of training, for "retain": its part of the damping; None: all of it

    def __post_init__(self):
        if self.curvature_of not in ("all", "retain"):
            raise ValueError(f"influence takes curvature_of all or retain, not {self.curvature_of!r}")
        if self.l2 is not None and not (self.curvature_of == "retain" and 0 <= self.l2 <= self.damping):
            raise ValueError('influence takes l2 with curvature_of="retain" only, and at most the damping')


@dataclass(frozen=True)
class RescaledInfluence(Inverse):
    solver: str = "ekfac"  # or "kfac", "dense": leverages need an inverse that serves many right-hand sides
    samples: int | None = 8  # answers drawn for each example, for kfac and ekfac; None: all classes
    strength: float = 1.0  # of the step; 1 is what the theory says

    def __post_init__(self):
        if self.solver not in ("dense", "kfac", "ekfac"):
            raise ValueError(f"rescaled_influence takes the solver dense, kfac or ekfac, not {self.solver!r}")


@method(
    "influence",
    Influence,
    family="curvature",
    reads="retain, forget",
    paper="koh2017",
    cost=f"at most gradient * F + {SOLVING}(R + F)",
    fails=(
        "For large forget sets, whose members it takes to act independently, and in deep networks as an estimate of "
        "retraining: there it approximates a constrained response, and depends on the damping."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log"), "strength": (0.3, 10.0, "log")},
)
def influence(model, split, config: Influence, run) -> nn.Module:
    slope, examples = mean_gradient(model, split.forget, tally=run.tally), split.train
    if config.curvature_of == "retain":
        l2, examples = config.damping if config.l2 is None else config.l2, split.retain
        slope = slope + l2 * flat(p.detach() for p in trainable(model).values())
    slope = slope * (len(split.forget_index) / len(examples))
    return moved(model, config.strength * config.solved(model, slope, examples, run.tally))


@method(
    "rescaled_influence",
    RescaledInfluence,
    family="curvature",
    reads="retain, forget",
    paper="rubinstein2025",
    cost=(
        "at most (R + F) * ((forward + example_gradient * C if kind == 'ggn' else linearise + hvp * P)"
        " if solver == 'dense' else 3 * (gradient + vjp * ((samples or C) - 1)))"
        " + F * (2 * gradient + vjp * (C - 1) + example_gradient * C)"
    ),
    fails=(
        "For groups that act together, such as copies of one example or a whole class: leverages are those of single "
        "examples. In deep networks as influence."
    ),
    origin="the defaults are ours",
    search={"damping": (1e-4, 1.0, "log"), "strength": (0.3, 10.0, "log")},
)
def rescaled_influence(model, split, config: RescaledInfluence, run) -> nn.Module:
    n, tally = len(split.train), run.tally
    if config.solver == "dense":
        curvature = Curvature(model, split.train, config.kind, tally=tally).dense()
        lower = solvers.factor(curvature, config.damping)
        spreads = _dense_spreads(model, split.forget, lower, tally)

        def inverse(v: Tensor) -> Tensor:
            return torch.cholesky_solve(v[:, None], lower)[:, 0]
    else:
        approximation = getattr(kronecker, config.solver)(
            model, split.train, samples=config.samples, seed=run.seed, tally=tally
        )
        spreads = kronecker.spread(approximation, model, split.forget, config.damping, tally=tally)
        inverse = approximation.inverse(config.damping)
    return moved(model, config.strength / n * inverse(released(model, split.forget, spreads / n, tally)))


def _dense_spreads(model: nn.Module, examples, lower: Tensor, tally: Tally | None) -> Tensor:
    """J_i A^-1 J_i^T of each example, [N, C, C], from Cholesky's factor of A."""
    found = []
    for pixels, _ in pixel_batches(model, examples, 32):
        rows = jacobians(model, pixels, tally=tally)
        half = torch.linalg.solve_triangular(lower, rows.flatten(0, 1).T, upper=False).T.unflatten(0, rows.shape[:2])
        found.append(half @ half.mT)
    return torch.cat(found)


def released(model: nn.Module, examples, spreads: Tensor, tally: Tally | None = None) -> Tensor:
    """sum_i J_i^T (I - H_i K_i)^-1 (p_i - e_yi) [P] over `examples`, with K_i = `spreads` [N, C, C]."""
    weights, total, done = list(trainable(model).values()), 0, 0
    for pixels, labels in pixel_batches(model, examples, 256):
        with evaluating(model), torch.enable_grad():
            logits = model(pixels)
            error = torch.softmax(logits.detach(), 1) - F.one_hot(labels, logits.shape[1])
            part = rescaled(root(logits.detach()), spreads[done : done + len(pixels)], error)
            slope = torch.autograd.grad(logits, weights, part, materialize_grads=True)
        total, done = total + torch.cat([s.flatten() for s in slope]), done + len(pixels)
    if tally is not None:
        tally.count("gradient", len(examples))
    return total


def rescaled(half: Tensor, spreads: Tensor, errors: Tensor) -> Tensor:
    """(I - H_i K_i)^-1 r_i [N, C] for H_i = R_i R_i^T: half R [N, C, C], spreads K [N, C, C], errors r [N, C].

    By (I - R R^T K)^-1 = I + R (I - R^T K R)^-1 R^T K; the eigenvalues of the symmetric R^T K R are the leverages. With
    the exact inverse they are below 1; leverages above 0.95 count as 0.95.
    """
    leverages, vectors = torch.linalg.eigh(half.mT @ spreads @ half)
    inner = vectors.mT @ (half.mT @ (spreads @ errors[:, :, None]))
    inner = inner / (1 - leverages.clamp(max=LARGEST_LEVERAGE))[:, :, None]
    return errors + (half @ (vectors @ inner))[:, :, 0]


def effects(model: nn.Module, examples, direction: Tensor) -> Tensor:
    """<direction, grad l_i> / n of each of the n examples, [n].

    With direction = A^-1 grad m, one solve, that is the first-order change of a measurement m(theta) when example i is
    removed from the training set: the influence of every training example on one prediction, without a solve for each.
    """
    return (jvp(model, examples, direction) * _errors(model, examples)).sum(1) / len(examples)


def _errors(model: nn.Module, examples) -> Tensor:
    found = []
    with torch.no_grad(), evaluating(model):
        for pixels, labels in pixel_batches(model, examples, 1024):
            p = torch.softmax(model(pixels), 1)
            found.append(p - F.one_hot(labels, p.shape[1]))
    return torch.cat(found)
