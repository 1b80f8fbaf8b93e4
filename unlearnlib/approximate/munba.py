"""MUNBa: the step on which remembering and forgetting agree in Nash's bargain.

    max_g  log(g . g_R) + log(g . g_F)   in a ball,     g_R = grad L_R,   g_F = grad of CE on F with random labels
    g = a_R g_R + a_F g_F    where  K a = 1 / a,  K the 2 x 2 matrix of inner products:
    a_i = 1 / (||g_i|| sqrt(1 + cos(g_R, g_F)))

so both gain, ||g||^2 = 2, and g points along the bisector of the two gradients, whatever the size of the losses:
multiplying one by ten changes nothing. g is clipped to the length `clip`. Labels are drawn anew for each batch, among
all classes, the true one included; those of the forget set are not read. A pass is one over R: while there are forget
batches too a step is a bargain, then steps are on R alone, without that clip. Wu and Harandi, ICCV 2025, arXiv
2411.15537.

Deviations: where the two are opposite, or one is zero, there is no bargain, and the step is on R alone. The closed form
is the one above; the released one adds 1e-8 to its denominators, of sixth and second order in the gradients, so that
for small gradients or a small cosine its weights are wrong or negative, and it silently takes L_R + 0.1 L_F instead.
Elsewhere they agree. With more forget than retain batches the released code fails; here the rest is not read. Published
are the defaults of the released command; the values of the paper's runs are not known. The defaults here are ours.

A step has two gradients, so models are not stacked and no parts are taken.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn

from unlearnlib.approximate.driven import Pictures, driven, slope
from unlearnlib.approximate.gradients import set_gradient, trainable
from unlearnlib.approximate.steps import HEAVY_BALL, Descent, shuffled
from unlearnlib.methods.registry import method
from unlearnlib.training.batches import steps_of
from unlearnlib.training.doors import check_model
from unlearnlib.training.modes import training_mode


@dataclass(frozen=True)
class Munba(Descent):
    epochs: int = 5  # passes over the retain set
    clip: float = 1.0  # largest norm of a bargain, which is sqrt(2) without

    def __post_init__(self):
        if not self.clip > 0:
            raise ValueError(f"munba needs clip > 0, not {self.clip}")


def bargain(first: Tensor, second: Tensor) -> Tensor | None:
    """The g [P] of two gradients [P]; None where they allow none."""
    lengths = first.norm(), second.norm()
    if not min(lengths) > 0:
        return None
    both = first / lengths[0] + second / lengths[1]  # of length sqrt(2 (1 + cos))
    return math.sqrt(2) * both / both.norm() if both.norm() > 1e-6 else None


@method(
    "munba",
    Munba,
    family="gradient",
    reads="retain, forget",
    paper="wu2025",
    cost=(
        "(lambda n, m: gradient * epochs * (seen(R, batch_size)"
        " + (seen(F, batch_size) if m <= n else n * min(F, batch_size))))"
        "(steps(R, batch_size), steps(F, batch_size))"
    ),
    fails=(
        "As random labels, which is what it teaches. Near a minimum of the retain loss, whose gradient it takes at "
        "unit length, however small, it does not come to rest."
    ),
    published=HEAVY_BALL
    | {
        "epochs": 10,
        "lr": 0.01,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "augment": "flip-crop-zero",
        "clip": 1.0,
    },
    origin="the defaults of the released command for CIFAR-10",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5)},
)
def munba(model, split, config: Munba, run) -> nn.Module:
    recipe, pictures = run.taught(config.recipe()), Pictures(model, split.train, run)
    classes, drawn = check_model(model, split.train), run.generator("labels")

    def gradient(pixels: Tensor, labels: Tensor) -> Tensor:
        return slope(model, pixels, labels, run.label_smoothing, run.tally)

    def turn(retain: Tensor, forget: Tensor | None) -> None:
        step = gradient(*pictures(retain))
        if forget is None:
            return set_gradient(model, step)
        pixels, labels = pictures(forget)
        labels = torch.randint(0, classes, labels.shape, generator=drawn).to(labels)
        agreed = bargain(step, gradient(pixels, labels))
        set_gradient(model, step if agreed is None else agreed)
        nn.utils.clip_grad_norm_(list(trainable(model).values()), config.clip)

    def turns() -> Iterator[Callable[[], None]]:
        once, order, forget_order = replace(config, epochs=1), run.generator("order"), run.generator("forget")
        for _ in range(config.epochs):
            beside = shuffled(split.forget_index, once, forget_order)
            for retain, forget in zip_longest(shuffled(split.retain_index, once, order), beside):
                if retain is None:
                    break
                yield partial(turn, retain, forget)

    steps = steps_of(len(split.retain_index), recipe)
    return driven(model, turns(), recipe, steps, run, training_mode(model, split.train.pixels([0])))
