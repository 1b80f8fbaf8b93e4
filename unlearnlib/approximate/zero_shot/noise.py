"""Noise: the control that knows nothing. The model's answers to random pixels, less the forgotten classes.

    x_i = mean + std u_i,   u_i ~ N(0, I) pixel by pixel, i = 1 .. n;     then `repair` on x_1 .. x_n

mean and std are those in the network's normalising first layer, or else of its pixel range (see `Canvas`). The
original is teacher and start. Whatever a method without data claims to have taken from its pictures, it must do
better than this. Limit: with no class gone nothing moves, since student = teacher. No paper proposes it; the defaults
are ours.
"""

from dataclasses import dataclass

from torch import nn

from unlearnlib.approximate.zero_shot.canvas import Canvas
from unlearnlib.approximate.zero_shot.repairing import Repair, counts, forgotten, repair
from unlearnlib.methods.registry import method


@dataclass(frozen=True)
class Noise(Repair):
    pictures: int = 500  # of noise

    def __post_init__(self):
        super().__post_init__()
        counts("pictures", self.pictures, 1)


@method(
    "noise",
    Noise,
    family="zero-shot",
    reads="none",
    paper="chundawat2023zero",
    cost="gradient * steps * min(pictures, batch_size) + forward * pictures",
    fails=(
        "Where the network's answers to noise do not reach the class: it is the control for methods without data, and "
        "no method to forget by. For whole classes only."
    ),
    origin="the defaults are ours: it is the control for the setting of the paper, which does not have it",
    search={"lr": (1e-3, 0.3, "log"), "steps": (50, 800, "log")},
)
def noise(model, split, config: Noise, run) -> nn.Module:
    gone = forgotten("noise", split)
    canvas = Canvas.of(model, split.train.shape, split.train.limits)
    pictures = canvas.picture(canvas.noise(config.pictures, run.generator("noise")))
    return repair(model, model, pictures, gone, config, seed=run.seed, tally=run.tally)
