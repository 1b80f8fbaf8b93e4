"""Recall: before each step back, pictures on which the changed model and the original differ most (ARM).

    u  <- argmin_u  D (1 - M(p, q)) - notlocal CE_gone(p) - notlocal_new CE_gone(q) + diversity sum_c m_c log m_c
                    + sharpen CE(p, argmax p) + l2 mean_i ||u_i|| / pixels + tv TV(u)
    theta <- theta - lr grad [ CE(t(x), f_theta(x)) ],    t(x) the original's answer less the forgotten classes

u is moved by gradient descent, x = mean + std u are its pictures. p = softmax(f_theta0(x)) of the original, q =
softmax(f_theta(x)) of the model that is being changed, and M = (KL(a || p) + KL(a || q)) / 2 with a = (p + q) / 2, KL
summed over classes; m is the mean of p over the pictures, CE_gone the mean cross-entropy with the forgotten classes as
labels. So the pictures show what has changed, and not the classes that are meant to change. Ji et al., Automatic Recall
Machines, 2020, arXiv 2006.12323: a method of continual learning, whose weights for MNIST are the defaults. There a real
batch of new classes moves theta first. Without data the step that forgets is one on inverted pictures of the forgotten
classes, taught the original's answers less these classes. That use is our reconstruction, so nothing is published.
`recalling` without such pictures is the repair alone.

Limits: theta = theta0 gives M = 0 and no gradient of it, so that priors alone move the pictures; no recall steps leave
them the noise that they start from. Deviations: a step of a picture has a largest length (M has no upper bound, and
without one pictures run off where the changed model is far from the original; None is the authors'), and its rate is
ours; targets lose the forgotten classes; networks are in eval mode while pictures are made, and batch norms keep their
statistics: in the authors' code both networks are in train mode. Their name for M is symmetric KL; it is computed as in
their code and is no Jensen-Shannon divergence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.zero_shot.canvas import Canvas
from unlearnlib.approximate.zero_shot.inversion import Inversion, inverted, total_variation
from unlearnlib.approximate.zero_shot.repairing import counts, forgotten, numbers, without
from unlearnlib.methods.registry import method
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import evaluating, norms_frozen, training_mode
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


@dataclass(frozen=True)
class Recall:
    """Weights of the objective of recall, its steps, and those of the model."""

    rounds: int = 100  # each makes pictures and takes a step on them
    lr: float = 0.05  # of the model's steps, plain SGD
    pictures: int = 20  # recalled in a round
    recall_steps: int = 10  # of descent on the pictures
    recall_lr: float = 1.0  # of these, on means over the pictures
    largest: float | None = 1.0  # step of a picture, the norm in units of the pixels' spread; None: any
    divergence: float = 1.0  # weight D
    notlocal: float = 1.0  # weight of the original's distance from the forgotten classes
    notlocal_new: float = 0.1  # weight of the changed model's
    diversity: float = 16.0  # weight of answering all classes equally often
    sharpen: float = 0.1  # weight of sure answers
    l2: float = 1.0  # weight of a picture's norm
    tv: float = 1.0  # weight of total variation
    forget_pictures: int = 20  # inverted, of each forgotten class: what the steps that forget are taken on
    inversion_steps: int = 100  # of Adam, on these

    def __post_init__(self):
        counts("rounds", self.rounds, 0)
        counts("pictures", self.pictures, 1)
        counts("recall_steps", self.recall_steps, 0)
        counts("forget_pictures", self.forget_pictures, 1)
        counts("inversion_steps", self.inversion_steps, 0)
        numbers(self, "recall_lr", *(() if self.largest is None else ("largest",)), above=0.0)
        numbers(self, "lr", "divergence", "notlocal", "notlocal_new", "diversity", "sharpen", "l2", "tv")


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """M = (KL(a || p) + KL(a || q)) / 2 of two answers, logits [B, C], a = (p + q) / 2; the mean over B."""
    logs = [torch.log_softmax(z, dim=1) for z in (first, second)]
    middle = torch.logaddexp(*logs) - math.log(2)  # in logarithms: probabilities of 0 would have no gradient
    return 0.5 * sum(F.kl_div(log, middle, reduction="batchmean", log_target=True) for log in logs)


def away_from(logits: Tensor, classes: Tensor) -> Tensor:
    """-CE with each of `classes` as the label, the mean over pictures and classes."""
    return torch.log_softmax(logits, dim=1)[:, classes].mean() if len(classes) else logits.sum() * 0


def objective(u: Tensor, old: Tensor, new: Tensor, gone: Tensor, config: Recall) -> Tensor:
    """What u [n, C, H, W] descends on, whose pictures have the answers `old` and `new`, logits [n, classes]."""
    mean = torch.softmax(old, dim=1).mean(0).clamp(min=torch.finfo(old.dtype).tiny)
    return (
        config.divergence * (1 - divergence(old, new))
        + config.notlocal * away_from(old, gone)
        + config.notlocal_new * away_from(new, gone)
        + config.diversity * (mean * mean.log()).sum()
        + config.sharpen * F.cross_entropy(old, old.argmax(1))
        + config.l2 * u.flatten(1).norm(dim=1).mean() / u[0].numel()
        + config.tv * total_variation(u)
    )


def recalled(
    teacher: nn.Module,
    model: nn.Module,
    start: Tensor,
    canvas: Canvas,
    gone: Tensor,
    config: Recall,
    tally: Tally | None = None,
) -> Tensor:
    """`start`, u [n, C, H, W], after `recall_steps` of descent on `objective`; no parameter of a network moves."""
    u = start
    with evaluating(teacher), evaluating(model), torch.enable_grad():
        for _ in range(config.recall_steps):
            u = u.detach().requires_grad_(True)
            x = canvas.picture(u)
            slope = torch.autograd.grad(objective(u, teacher(x), model(x), gone, config), u)[0]
            step = config.recall_lr * slope
            if config.largest is not None:
                step = (
                    step
                    * (config.largest / step.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1)[:, None, None, None]
                )
            u = u - step
            if tally is not None:
                tally.count("gradient", 2 * len(u))
    return u.detach()


def recalling(
    model: nn.Module,
    teacher: nn.Module,
    canvas: Canvas,
    gone: Tensor,
    config: Recall,
    rng: torch.Generator,
    *,
    forget: Tensor | None = None,
    tally: Tally | None = None,
) -> Iterator[Tensor]:
    """Change `model` in place, round by round; each round yields its recalled pictures.

    forget   pictures [n, C, H, W] whose step forgets, before pictures are recalled in each round; None: repair alone
    """
    tally, frozen = tally if tally is not None else Tally(), copied(teacher).eval().requires_grad_(False)
    like = next(model.parameters())
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = torch.optim.SGD(parameters, lr=config.lr)

    def taught(x: Tensor) -> None:
        with torch.no_grad():
            targets = without(frozen(x), gone)
        with norms_frozen(), training_mode(model, x[:1]), torch.enable_grad():
            optimiser.zero_grad()
            F.cross_entropy(model(x), targets).backward()
            optimiser.step()
        tally.count("forward", len(x))
        tally.count("gradient", len(x))

    for _ in range(config.rounds):
        if forget is not None:
            taught(forget.to(like))
        start = canvas.noise(config.pictures, rng)
        x = canvas.picture(recalled(frozen, model, start, canvas, gone, config, tally))
        if not torch.isfinite(x).all():
            raise ValueError("recalled pictures are not finite: lower recall_lr")
        taught(x)
        yield x.cpu()
    check_finite(model)


@method(
    "recall",
    Recall,
    family="zero-shot",
    reads="none",
    paper="ji2020",
    cost=(
        "at most (lambda n: gradient * inversion_steps * n + rounds * ((gradient + forward) * (n + pictures)"
        " + 2 * gradient * recall_steps * pictures))(C * forget_pictures)"
    ),
    fails=(
        "Where `recall_lr`, which belongs to the number of pictures and to the network, makes pictures that both "
        "networks answer alike: it then repairs nothing. For whole classes only."
    ),
    origin="the authors' weights for MNIST; how it is used to forget is ours, and so are rounds and pictures",
    search={"lr": (1e-3, 0.3, "log"), "recall_lr": (1.0, 100.0, "log"), "rounds": (20, 200)},
)
def recall(model, split, config: Recall, run) -> nn.Module:
    gone, canvas = forgotten("recall", split), Canvas.of(model, split.train.shape, split.train.limits)
    labels, prior = gone.repeat(config.forget_pictures), Inversion(inversion_steps=config.inversion_steps)
    forget = inverted(model, labels, canvas, prior, run.generator("pictures"), tally=run.tally)
    stream = model, copied(model), canvas, gone, config, run.generator("recall")
    for _ in recalling(*stream, forget=forget, tally=run.tally):
        pass
    return model
