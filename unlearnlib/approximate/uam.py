"""UAM: learn the retain set where the forget loss is a little higher, and mirror the step in the forget gradient.

    w'  = w + rho g_F / ||g_F||^2,      g_F = grad L_F(w):    to first order L_F(w') = L_F(w) + rho
    g   = grad L_R(w')
    w  <- w - lr (I - gamma P) g,       P = g_F g_F^T / ||g_F||^2

gamma 2 is the mirror image: it has the length of g, and its part along g_F points the other way. It is the gradient of
w -> L_R(w'(w)) where the Hessian of L_F is the identity times ||g_F||^2 / rho. Kim et al., NeurIPS 2025, key
kim2025uam. Limits: rho 0 and gamma 0 is fine-tuning on R (but for the statistics of batch norm, which see F as well);
gamma 1 moves orthogonally to g_F. Forget batches come round beside the passes over R, as in `neggrad_plus`.

Deviations: none known; the equation is that of the paper as others quote it. Not repeated from the authors' library: its
`gamma` is read and never used, so the mirror is missing; rho is divided by ||g_F||, not by its square (so its rho is
another quantity); w is restored by subtraction, with rounding. Its values of rho for pictures are not published, so no
row stands as published; the defaults are ours.

A step has two gradients at two places, so models are not stacked and no parts are taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.driven import Pictures, driven
from unlearnlib.approximate.gradients import flat, moved, set_gradient, trainable, weights
from unlearnlib.approximate.neggrad import pairs
from unlearnlib.approximate.steps import Descent
from unlearnlib.approximate.task_vector import put
from unlearnlib.methods.registry import method
from unlearnlib.training.batches import steps_of
from unlearnlib.training.modes import training_mode


@dataclass(frozen=True)
class Uam(Descent):
    epochs: int = 5  # passes over the retain set
    rho: float = 0.1  # by how much the forget loss is raised, in nats
    gamma: float = 2.0  # 2: mirrored; 1: projected; 0: neither
    forget_batch_size: int | None = None  # None: batch_size

    def __post_init__(self):
        if self.rho < 0 or (self.forget_batch_size is not None and self.forget_batch_size < 1):
            raise ValueError("uam needs rho >= 0 and forget_batch_size >= 1 or None")


def mirrored(g: Tensor, axis: Tensor, gamma: float) -> Tensor:
    """(I - gamma P) g, P the projection on `axis` [P]; g itself where that is zero."""
    square = axis @ axis
    return g - gamma * (g @ axis) / square * axis if square > 0 else g


@method(
    "uam",
    Uam,
    family="gradient",
    reads="retain, forget",
    paper="kim2025uam",
    cost=(
        "(lambda n, b: gradient * epochs * (seen(R, batch_size)"
        " + n // max(1, steps(F, b)) * seen(F, b) + n % max(1, steps(F, b)) * min(F, b)))"
        "(steps(R, batch_size), forget_batch_size or batch_size)"
    ),
    fails=(
        "Where forgotten pictures are fitted so well that their gradient is nearly zero: then the way to a loss that "
        "is higher by rho is long, and what is learnt at its end has nothing to do with where it started."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "rho": (1e-4, 1.0, "log")},
)
def uam(model, split, config: Uam, run) -> nn.Module:
    recipe, pictures = run.taught(config.recipe()), Pictures(model, split.train, run)

    def gradient(index: Tensor) -> Tensor:
        pixels, labels = pictures(index)
        loss = F.cross_entropy(model(pixels), labels, label_smoothing=recipe.label_smoothing)
        run.tally.count("gradient", len(index))
        return flat(torch.autograd.grad(loss, list(trainable(model).values()), materialize_grads=True))

    def turn(retain: Tensor, forget: Tensor) -> None:
        here, up = weights(model).clone(), gradient(forget)
        square = up @ up
        if square > 0:
            moved(model, config.rho / square * up)
        g = gradient(retain)
        put(model, here)
        set_gradient(model, mirrored(g, up, config.gamma))

    def turns() -> Iterator[Callable[[], None]]:
        for pair in pairs(split, config, run):
            yield partial(turn, *pair)

    steps = steps_of(len(split.retain_index), recipe)
    return driven(model, turns(), recipe, steps, run, training_mode(model, split.train.pixels([0])))
