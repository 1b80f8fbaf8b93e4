"""Inversion: pictures that the network itself takes for a class, and what is taught on them.

    u = argmin_u  mean_i CE(f_theta(x_i), y_i) + tv TV(u) + l2 mean_i ||u_i||^2 + norms B(x),     x = mean + std u
    TV(u) = 2 (mean of squared differences of neighbours down + the same across)
    B(x)  = sum over batch norms l of ||mean_l(x) - running mean_l|| + ||var_l(x) - running variance_l||

theta is the trained network, in eval mode and fixed; mean and std are those in its normalising first layer, or else of
its pixel range (see `Canvas`); ||.||^2 is summed over a picture's pixels; mean_l and var_l are those of the input of
norm l over the batch. Adam starts at standard normal u. B is the term of DeepInversion, Yin et al., CVPR 2020, arXiv
1912.08795; total variation is that of Automatic Recall Machines (see `recall`).

The method: `pictures` of every class are inverted, the forgotten ones too, and `repair` teaches the original's answers
to them less the forgotten classes. Limits: for a linear softmax network f = Wu + b without TV the minimum is
u = (w_y - sum_j p_j w_j) / (2 l2), and with l2 = 0 there is none: u runs off along w_y - sum_j p_j w_j. Nothing is
published of inversion as a method of unlearning; the combination and the defaults are ours.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.zero_shot.canvas import Canvas
from unlearnlib.approximate.zero_shot.repairing import Repair, counts, forgotten, numbers, repair
from unlearnlib.methods.registry import method
from unlearnlib.training.modes import BatchNorm, evaluating
from unlearnlib.training.work import Tally

_CHUNK = 256  # pictures that are optimised together


@dataclass(frozen=True)
class Inversion(Repair):
    pictures: int = 20  # of each class
    inversion_steps: int = 100  # of Adam, on the pictures
    inversion_lr: float = 0.05  # of these steps, in units of the pixels' spread
    tv: float = 1.0  # weight of total variation
    l2: float = 0.003  # weight of the squared distance from the mean
    norms: float = 0.1  # weight of the statistics of batch norms

    def __post_init__(self):
        super().__post_init__()
        counts("pictures", self.pictures, 1)
        counts("inversion_steps", self.inversion_steps, 0)
        numbers(self, "tv", "l2", "norms")
        numbers(self, "inversion_lr", above=0.0)


def total_variation(x: Tensor) -> Tensor:
    """2 (mean squared difference of neighbours down + across) of pictures [n, C, H, W], each over H x W; a scalar.

    The sums are those over neighbours, the counts those of a picture less a row or a column.
    """
    down, across = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    return 2 * sum((d.square().mean() if d.numel() else d.sum()) for d in (down, across))


@contextlib.contextmanager
def norm_distances(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block a forward pass appends, for every batch norm, how far its input is from its statistics."""
    found: list[Tensor] = []

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        over = [d for d in range(inputs[0].ndim) if d != 1]
        mean, variance = inputs[0].mean(over), inputs[0].var(over, unbiased=False)
        found.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    kept = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
    handles = [norm.register_forward_pre_hook(before) for norm in kept]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def inverted(
    model: nn.Module,
    labels: Tensor,
    canvas: Canvas,
    config: Inversion,
    rng: torch.Generator,
    *,
    tally: Tally | None = None,
) -> Tensor:
    """Pictures [n, C, H, W] that `model` answers with `labels` [n]; the model is left as it was."""
    made = []
    with evaluating(model), torch.enable_grad(), norm_distances(model) as distances:
        for u, wanted in zip(canvas.noise(len(labels), rng).split(_CHUNK), labels.split(_CHUNK), strict=True):
            u, wanted = u.clone().requires_grad_(True), wanted.to(u.device)
            optimiser = torch.optim.Adam([u], lr=config.inversion_lr)
            for _ in range(config.inversion_steps):
                distances.clear()
                loss = F.cross_entropy(model(canvas.picture(u)), wanted) + config.tv * total_variation(u)
                loss = loss + config.l2 * u.square().flatten(1).sum(1).mean()
                u.grad = torch.autograd.grad(loss + config.norms * sum(distances), u)[0]
                optimiser.step()
                if tally is not None:
                    tally.count("gradient", len(u))
            made.append(canvas.picture(u).detach().cpu())
    return torch.cat(made)


@method(
    "inversion",
    Inversion,
    family="zero-shot",
    reads="none",
    paper="yin2020",
    cost=("(lambda n: gradient * (inversion_steps * n + steps * min(n, batch_size)) + forward * n)(pictures * C)"),
    fails=(
        "Where the network's idea of a class is far from the class: its inverted pictures are then noise of another "
        "kind. For whole classes only."
    ),
    origin="the defaults are ours: inversion is published as a source of pictures, not as unlearning",
    search={"lr": (1e-3, 0.3, "log"), "pictures": (2, 40), "tv": (0.01, 10.0, "log")},
)
def inversion(model, split, config: Inversion, run) -> nn.Module:
    gone, canvas = forgotten("inversion", split), Canvas.of(model, split.train.shape, split.train.limits)
    labels = torch.arange(_classes(model, canvas)).repeat(config.pictures)
    pictures = inverted(model, labels, canvas, config, run.generator("pictures"), tally=run.tally)
    return repair(model, model, pictures, gone, config, seed=run.seed, tally=run.tally)


@torch.no_grad()
def _classes(model: nn.Module, canvas: Canvas) -> int:
    """How many classes the network answers."""
    with evaluating(model):
        return model(canvas.picture(canvas.mean.new_zeros(1, *canvas.shape))).shape[1]
