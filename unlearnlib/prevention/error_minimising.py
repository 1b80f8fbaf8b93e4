"""Error-minimising noise: make every picture so easy that nothing is left to learn from it.

    min_theta min_(|delta_i| <= eps) sum_i CE(f_theta(x_i + delta_i), y_i)

alternates `learn` steps of theta on batches of x + delta with `descend` signed steps of every delta,

    delta <- clip(delta - step eps sign(grad_delta CE), -eps, eps),

until the share of pictures that f_theta gets wrong falls below `stop`, or for `rounds` rounds. `shared="class"` has one
delta a class, whose gradient is the sum over the pictures of the class in a batch.

Huang et al. (ICLR 2021, arXiv:2101.04898). Their code takes learn=10, step=0.1 and, for noise of each picture,
descend=20 and stop=0.01, which are the defaults here but for `descend`. Deviations: at most `rounds` rounds, which
bounds the cost where the error does not fall; class-wise they average the deltas of the pictures, here their gradients.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.prevention.protected import Task
from unlearnlib.training.batches import minibatches
from unlearnlib.training.modes import evaluating, training_mode
from unlearnlib.training.recipe import Recipe, optimiser_of

Seen = Callable[[Tensor], Tensor]  # pixels as published -> pixels as the network sees them


@dataclass(frozen=True)
class ErrorMinimising:
    rounds: int = 6  # at most
    learn: int = 10  # steps of the network in a round
    descend: int = 10  # steps of every picture's noise in a round; 0 leaves it random
    step: float = 0.1  # length of a step of the noise, in units of eps
    stop: float = 0.01  # share of wrong answers on protected pictures at which it is done
    shared: str = "picture"  # who has a noise of its own: "picture" or "class"
    batch_size: int = 128
    lr: float = 0.05  # of the network, by SGD with momentum 0.9
    network: str | nn.Module = "cnn"  # what the noise is made against: a name, or a network whose architecture is taken


def signed_steps(
    loss: Callable[[Tensor], Tensor], noise: Tensor, radius: float, size: float, steps: int, towards: int
) -> Tensor:
    """`steps` steps of length `size` by the sign of the gradient of `loss`, up (1) or down (-1), inside +-radius."""
    for _ in range(steps):
        noise = noise.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(noise), noise)
        noise = (noise.detach() + towards * size * gradient.sign()).clamp(-radius, radius)
    return noise.detach()


def alternated(task: Task, config: ErrorMinimising, hardened: Callable[[nn.Module, Tensor, Tensor, str], Seen]):
    """The noise [N, C, H, W] of the alternation above.

    hardened   (network, protected pixels, labels, stage) -> how the network is to see pixels, gradients and all
    """
    if config.shared not in ("picture", "class"):
        raise ValueError(f"shared is 'picture' or 'class', not {config.shared!r}")
    pixels, labels, eps = task.examples.pixels(), task.examples.labels, task.eps
    rows = labels if config.shared == "class" else torch.arange(len(labels))
    start = torch.rand(int(rows.max()) + 1, *task.examples.shape, generator=task.generator("start"))
    table = eps * (2 * start - 1)
    model = task.surrogate(config.network)
    recipe = Recipe(optimiser="sgd", lr=config.lr, nesterov=False, weight_decay=5e-4)
    optimiser = optimiser_of(list(model.parameters()), recipe)
    order = _endless(len(labels), config.batch_size, task.generator("order"))

    def protected(index: Tensor) -> Tensor:
        return (pixels[index] + table[rows[index]]).clamp(0, 1)

    for _ in range(config.rounds):
        for _ in range(config.learn):
            index = next(order)
            x = protected(index)
            x = hardened(model, x, labels[index], "learn")(x)
            with training_mode(model, pixels[:1]):
                loss = F.cross_entropy(model(x), labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            task.tally.count("gradient", len(index))
        with evaluating(model):
            for index in torch.arange(len(labels)).split(config.batch_size):
                used, place = rows[index].unique(return_inverse=True)

                def loss(noise, index=index, place=place):
                    x = (pixels[index] + noise[place]).clamp(0, 1)
                    seen = hardened(model, x.detach(), labels[index], "descend")(x)
                    return F.cross_entropy(model(seen), labels[index], reduction="sum")

                table[used] = signed_steps(loss, table[used], eps, config.step * eps, config.descend, -1)
                task.tally.count("gradient", len(index) * config.descend)
            task.tally.count("forward", len(labels))
            if _wrong(model, protected, labels, config.batch_size) < config.stop:
                break
    return table[rows]


def _endless(n: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from minibatches(n, size, 1, rng, keep_last=True)


@torch.no_grad()
def _wrong(model: nn.Module, protected: Callable[[Tensor], Tensor], labels: Tensor, size: int) -> float:
    wrong = [
        (model(protected(index)).argmax(1) != labels[index]).sum() for index in torch.arange(len(labels)).split(size)
    ]
    return float(sum(wrong)) / len(labels)


def error_minimising(task: Task, config: ErrorMinimising):
    """The noise that the alternation ends with; further pictures need it anew."""
    return alternated(task, config, lambda model, x, labels, stage: lambda seen: seen), None
