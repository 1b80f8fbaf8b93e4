"""LoTUS: soften the original's answers about the forget set until they are as good as about unseen pictures.

    min_theta  mean over F and R' of CE(t(x), p_theta(x)),    t(x) = softmax((f_theta0(x) + g) / tau_F)     on F
                                                              t(x) = one-hot argmax(f_theta0(x) + g)        on R'
    tau_F = exp(alpha (acc(theta, F) - acc(theta_0, U)))

g is standard Gumbel noise, new for each picture and step, so that on R' the target is a class drawn from what the
original answers. R' is a part of the retain set, drawn once; U are unseen pictures, the validation set; where whole
classes are forgotten acc(theta_0, U) counts as 0. Tau is set anew before each epoch, and it ends where acc(theta, F) is
`margin` below acc(theta_0, U). No label is taught: those of the retain set are not read, those of forget and validation
set by the accuracies alone. Spartalis et al., CVPR 2025, arXiv 2503.18314. Limits: with alpha 0, or equal accuracies,
tau is 1.

Deviations: where pictures are not augmented the original is asked once about each; the defaults are ours but for those
of the loss. `decimals` rounds both accuracies as the released code does, which makes tau a step function. Published is
the released row for CIFAR-10 and a ViT. That for a ResNet-18 has lr 1e-4, 10 epochs, batches of 128 and alpha 8 (32 for
a class), with crops that have black borders and no flips, which `augment` does not know.

The targets follow the student, so models are not stacked: it runs one at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.steps import Steps, even, shuffled, taught, whole_classes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, steps, steps_of
from unlearnlib.training.loop import Part, Stage
from unlearnlib.training.prediction import predict


@dataclass(frozen=True)
class Lotus(Steps):
    alpha: float = 2.0  # of the temperature
    retain_fraction: float = 0.3  # of the retain set that is taught
    margin: float = 0.01  # it ends where the accuracy on the forget set is that far below the one on unseen pictures
    decimals: int | None = None  # to which both accuracies are rounded; None: not

    def __post_init__(self):
        if not 0 <= self.retain_fraction <= 1:
            raise ValueError(f"lotus needs 0 <= retain_fraction <= 1, not {self.retain_fraction}")


def targets(logits: Tensor, noise: Tensor, gone: Tensor, tau: float) -> Tensor:
    """t [B, C] of logits and Gumbel noise [B, C]: soft at temperature tau where `gone` [B], else one class."""
    noisy = logits + noise
    drawn = F.one_hot(noisy.argmax(1), logits.shape[1]).to(logits)
    return torch.where(gone[:, None], torch.softmax(noisy / tau, 1), drawn)


def gumbel(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float64."""
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=rng).log()


class _Temperature(Part):
    """Reads the student's accuracy on the forget set at the end of each epoch but the last."""

    stage = Stage.WATCH

    def __init__(self, split, original: nn.Module, per_epoch: int, config: Lotus, tally):
        self._forget, self._per_epoch, self._config, self._tally = split.forget, per_epoch, config, tally
        self._steps, self._aim = config.epochs * per_epoch, 0.0
        if not whole_classes(split):
            if not len(split.validation):
                raise ValueError("lotus compares with unseen pictures: split with a validation part")
            self._aim = self._accuracy(original, split.validation)
        self.enough = self._followed(original)

    def _accuracy(self, model: nn.Module, examples) -> float:
        right = (predict(model, examples, tally=self._tally).argmax(1) == examples.labels).sum().item()
        found, decimals = right / len(examples), self._config.decimals
        return found if decimals is None else round(found, decimals)

    def _followed(self, model: nn.Module) -> bool:
        """Sets tau; whether it is time to end."""
        gap = self._accuracy(model, self._forget) - self._aim
        self.tau = math.exp(self._config.alpha * gap)
        return gap <= -self._config.margin

    def after_step(self, model: nn.Module, step: int) -> bool:
        if (step + 1) % self._per_epoch or step + 1 == self._steps:
            return False
        self.enough = self._followed(model)
        return self.enough


def _batches(model, split, where: Tensor, config: Lotus, run, temperature: _Temperature) -> Iterator[Batch]:
    teacher = taught(model, split, where, run, lambda logits, _labels: logits)
    labels, gone, rng = split.train.labels, split.is_forget, run.generator("gumbel")

    def soft(index: Tensor, logits: Tensor) -> Tensor:
        return targets(logits, gumbel(logits.shape, rng).to(logits), gone[index], temperature.tau)

    def answer(index: Tensor):
        found = teacher(index)
        return (lambda pixels: soft(index, found(pixels))) if callable(found) else soft(index, found)

    for index in shuffled(where, config, run.generator("order")):
        yield Batch(index, labels[index], even(index, 0.0), answer(index), even(index))


@method(
    "lotus",
    Lotus,
    family="distillation",
    reads="retain, forget",
    paper="spartalis2025",
    cost=(
        "at most (lambda kept: gradient * epochs * seen(F + kept, batch_size)"
        " + forward * (max(1, epochs) * F + V"
        " + (F + kept if augment == 'none' else epochs * seen(F + kept, batch_size))))(floor(retain_fraction * R))"
    ),
    fails=(
        "Where forgotten and unseen pictures are answered equally well from the start: it does nothing, or next to "
        "nothing; and it looks at accuracy alone, which can agree while the confidences still differ."
    ),
    published={
        "epochs": 3,
        "optimiser": "adamw",
        "lr": 1e-6,
        "weight_decay": 5e-4,
        "batch_size": 32,
        "keep_last": True,
        "alpha": 2.0,
        "retain_fraction": 0.3,
        "margin": 0.01,
        "decimals": 2,
    },
    origin="the released values for CIFAR-10 and a ViT",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "alpha": (1.0, 32.0, "log")},
)
def lotus(model, split, config: Lotus, run) -> Program:
    drawn = torch.randperm(len(split.retain_index), generator=run.generator("subset"))
    kept = split.retain_index[drawn[: math.floor(config.retain_fraction * len(drawn))]]
    where, recipe = torch.cat([kept, split.forget_index]).sort().values, config.recipe()
    per_epoch = steps(len(where), config.batch_size, config.keep_last)
    temperature = _Temperature(split, model, per_epoch, config, run.tally)
    batches = () if temperature.enough else _batches(model, split, where, config, run, temperature)
    return Program(model, batches, recipe, steps_of(len(where), recipe), (temperature,))
