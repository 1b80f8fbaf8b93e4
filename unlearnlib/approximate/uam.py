"""UAM: learn the retain set where the forget loss is a little higher, and mirror the step in the forget gradient.

    w'  = w + rho g_F / ||g_F||^2,      g_F = grad L_F(w):    to first order L_F(w') = L_F(w) + rho
    g   = grad L_R(w')
    w  <- w - lr (I - gamma P) g,       P = g_F g_F^T / ||g_F||^2

gamma 2 is the mirror image: it has the length of g, and its part along g_F points the other way. For small rho and lr
a plain step changes L_R by -lr ||g||^2 (1 - gamma cos^2(g, g_F)): with gamma 2 it rises where the two gradients are
within 45 degrees of one line, with gamma 1 it never does. Kim et al., NeurIPS 2025, key kim2025uam. Limits: rho 0 and
gamma 0 is fine-tuning on R (but for the statistics of batch norm, which see F as well); gamma 1 moves orthogonally to
g_F. Forget batches come round beside the passes over R, as in `neggrad_plus`.

The equation is the paper's algorithm as others quote it, with the cross-entropy for both losses; deviations from it are
not known. Not repeated from the authors' library: its `gamma` is read and never used, so the mirror is missing; rho is
divided by ||g_F||, not by its square (so its rho is another quantity); w is restored by subtraction, with rounding. No
values of rho for pictures are published, so no row stands as published; the defaults are ours.

A step has two gradients at two places, so models are not stacked and no parts are taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from unlearnlib.approximate.driven import Pictures, driven, slope
from unlearnlib.approximate.gradients import moved, set_gradient, weights
from unlearnlib.approximate.neggrad import pairs
from unlearnlib.approximate.steps import Descent
from unlearnlib.approximate.task_vector import put
from unlearnlib.methods.registry import method
from unlearnlib.training.batches import steps_of
from unlearnlib.training.modes import training_mode


@dataclass(frozen=True)
class Uam(Descent):
    epochs: int = 5  # passes over the retain set
    lr: float = 3e-4
    rho: float = 0.01  # by how much the forget loss is raised, in nats
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
        "Where both gradients are nearly parallel: the mirrored step then raises the retain loss and, at a large rate, "
        "ends in NaN. And where forgotten pictures are fitted so well that the way to a loss higher by rho is long."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-4, 1e-1, "log"), "epochs": (1, 5), "rho": (1e-3, 1.0, "log"), "gamma": (0.0, 2.0)},
)
def uam(model, split, config: Uam, run) -> nn.Module:
    recipe, pictures = run.taught(config.recipe()), Pictures(model, split.train, run)

    def gradient(index: Tensor) -> Tensor:
        return slope(model, *pictures(index), run.label_smoothing, run.tally)

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
