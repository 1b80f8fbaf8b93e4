"""DLFD as it was released: what the authors' code does, written anew from a description of it, defects included.

    z      = (x - mean) / std                                               normalised pixels
    noise <- noise + step * sign grad_noise [ w_f <T, C>(f(z), f(z_f)) - lambda_t CE(f(z*), y) ],   noise_0 = 0
    z*    <- clip(z + noise, 0, 1)                                          `noise_steps` times
    theta <- theta - lr grad CE(f_theta(z*), y)

Differences from the paper, all kept here:

- <T, C> is computed from the *unperturbed* batch, so its gradient with respect to the noise does not exist and w_f
  has no effect: the noise only lowers the cross-entropy, so pictures become easier. While lambda_t = 0, at
  the first batch, the noise is exactly zero;
- features are the logits;
- normalised pixels are clipped to [0, 1], which is neither their range nor centred;
- Sinkhorn (regularisation 0.01) stops after 50 iterations or once its potential moves by less than 0.1 in total;
- the first batch runs in train mode, in which each noise step sends the perturbed, the forgotten and the clean batch
  through the network, so batch norm is updated 3 `noise_steps` + 1 times; later batches run in eval mode;
- both sets are read in their order, the forget set again and again, and a pair of batches of unequal size is skipped;
- the score is the cross-validated accuracy of a logistic regression on losses, forget set against the whole
  validation set, however unequal: for a wide imbalance it is that of the constant answer;
- each batch decides anew, without hysteresis, whether to perturb; the checkpoint is the most accurate on the same
  validation set whose score is within the limit.

Since the transport term has no gradient, only the first batch, in train mode, evaluates it at every step; the noise is
the same. A forget set smaller than a batch would be skipped for ever: here it sets the batch size. For its mean and
scale we use the statistics of the training pixels. Where no checkpoint is within the limit the last weights are
returned. Defaults are those of the released age experiment.
Choi and Na, AAAI 2025, arXiv 2409.14747; see the bug ledger.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from torch import Tensor, nn

from unlearnlib.dlfd.transport import cosine_cost
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.modes import training_mode
from unlearnlib.training.prediction import predict
from unlearnlib.training.progress import progress_bar


@dataclass(frozen=True)
class DlfdAsReleased:
    epochs: int = 1  # passes over the retain set
    lr: float = 8e-3  # of sgd, constant
    batch_size: int = 32  # examples a step, of either set
    momentum: float = 0.9  # heavy ball
    weight_decay: float = 5e-4  # part of the gradient
    transport_weight: float = 3.0  # inert
    ce_weight: tuple[float, float] = (0.0, 1.0)  # weight of the classification loss, at the first and at the last batch
    noise_steps: int = 15  # steps of the perturbation for each batch
    noise_step: float = 0.4  # in units of the normalised pixels
    threshold: float = 0.15  # a batch is perturbed while the score is at least this
    score_limit: float = 0.09  # a checkpoint must score at most this

    def __post_init__(self):
        if self.noise_steps < 0 or self.noise_step < 0:
            raise ValueError("dlfd_as_released needs noise_steps >= 0 and noise_step >= 0")
        if self.epochs < 0 or self.batch_size < 1 or not self.lr >= 0:
            raise ValueError("dlfd_as_released needs epochs >= 0, batch_size >= 1 and lr >= 0")


def early_plan(cost: Tensor, regularisation: float = 0.01, iterations: int = 50, stop: float = 0.1) -> Tensor:
    """The released transport plan [m, n]: Sinkhorn with 1e-6 inside each logarithm, stopped early."""
    m, n = cost.shape
    row, column = torch.zeros(m).to(cost), torch.zeros(n).to(cost)

    def kernel() -> Tensor:
        return (row[:, None] + column - cost) / regularisation

    for _ in range(iterations):
        before = row
        row = regularisation * (np.log(1 / m + 1e-6) - torch.log(kernel().exp().sum(1) + 1e-6)) + row
        column = regularisation * (np.log(1 / n + 1e-6) - torch.log(kernel().exp().sum(0) + 1e-6)) + column
        if (row - before).abs().sum() < stop:
            break
    return kernel().exp()


def released_transport(retain_logits: Tensor, forget_logits: Tensor) -> Tensor:
    """<T, C> between the logits of an unperturbed retain batch and of a forget batch."""
    cost = cosine_cost(retain_logits, forget_logits)
    return (early_plan(cost.detach()) * cost).sum()


def released_noise(
    normalised: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    transport: Callable[[], Tensor],
    *,
    config: DlfdAsReleased,
    ce_weight: float,
) -> tuple[Tensor, Tensor]:
    """The noise and the clipped pictures z* [B, C, H, W]; `normalised` maps z to logits, `images` are z.

    transport() is the value of the transport term, asked for after the perturbed batch went through the network, at
    each step; it takes part in the objective and has no gradient here.
    """
    noise = torch.zeros_like(images)
    for _ in range(config.noise_steps):
        noise.requires_grad_(True)
        easier = F.cross_entropy(normalised((images + noise).clamp(0, 1)), labels)
        objective = config.transport_weight * transport() - ce_weight * easier
        (gradient,) = torch.autograd.grad(objective, noise)
        noise = (noise + config.noise_step * gradient.sign()).detach()
    return noise, (images + noise).clamp(0, 1)


def released_score(forget_losses: Tensor, unseen_losses: Tensor, seed: int) -> float:
    """|accuracy - 1/2| of a logistic regression on the loss over ten stratified splits of all losses, unbalanced."""
    losses = torch.cat([forget_losses, unseen_losses]).double().numpy()[:, None]
    member = np.arange(len(losses)) < len(forget_losses)
    splits = StratifiedShuffleSplit(10, random_state=seed)
    return abs(float(cross_val_score(LogisticRegression(), losses, member, cv=splits).mean()) - 0.5)


@method(
    "dlfd_as_released",
    DlfdAsReleased,
    family="distribution",
    reads="retain, forget",
    paper="choi2024",
    cost=(
        "at most (lambda b: gradient * epochs * R * (1 + noise_steps) + forward * (2 * epochs * R + 2 * b * noise_steps"
        " + epochs * steps(R, b, True) * (F + V)))(max(1, min(batch_size, F, R)))"
    ),
    fails=(
        "Its noise ignores the forget set. Each batch pays a pass over the whole forget and validation sets, and its "
        "score is that of the constant answer where these differ much in size."
    ),
    published={
        "epochs": 1,
        "lr": 8e-3,
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "transport_weight": 3.0,
        "ce_weight": (0.0, 1.0),
        "noise_steps": 15,
        "noise_step": 0.4,
        "threshold": 0.15,
        "score_limit": 0.09,
    },
    origin="the released age experiment",
    search={"lr": (3e-4, 2e-2, "log"), "noise_step": (0.02, 2.0, "log"), "threshold": (0.02, 0.2)},
)
def dlfd_as_released(model, split, config: DlfdAsReleased, run) -> nn.Module:
    if min(len(split.validation), len(split.forget_index)) < 10:
        raise ValueError("dlfd_as_released needs 10 forgotten and 10 validation examples for its attack")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
    network, judge = _Normalised(model, split.train, run.tally), _Judge(split, config, run)
    pairs, example = _pairs(split, config), split.train.pixels([0])
    start, end = config.ce_weight
    with progress_bar(len(pairs), run.progress) as bar:
        for number, (retained, forgotten) in enumerate(pairs):
            bar.update()
            if len(retained) != len(forgotten):
                continue
            first = judge.score is None  # what measures the score switches train mode off for good
            with training_mode(model, example) if first else models.evaluating(model):
                images, labels = network.read(retained)
                if first or judge.score >= config.threshold:
                    weight = start + (end - start) * number / max(1, len(pairs) - 1)
                    images = _perturbed(network, images, labels, forgotten, config, weight)
                loss = F.cross_entropy(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.tally.count("gradient", len(labels))
            judge.read(model)
    return judge.chosen(model)


def _pairs(split, config: DlfdAsReleased) -> list[tuple[Tensor, Tensor]]:
    """Positions of each step's retain and forget batch: both sets in their order, the forget set again and again."""
    size = min(config.batch_size, len(split.forget_index), len(split.retain_index))
    retained = split.retain_index.split(size) * config.epochs
    return list(zip(retained, cycle(split.forget_index.split(size)), strict=False))


class _Normalised:
    """The network as a map of normalised pixels z to logits."""

    def __init__(self, model: nn.Module, train, tally):
        self.model, self.tally, self._train = model, tally, train
        self._device = models.device_of(model)
        self._mean, self._std = (
            v.reshape(1, -1, 1, 1).to(next(model.parameters())) for v in models.pixel_statistics(train)
        )

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """z and the labels of the examples at `index`."""
        pixels = self._train.pixels(index, device=self._device, dtype=self._mean.dtype)
        return (pixels - self._mean) / self._std, self._train.labels[index].to(self._device)

    def __call__(self, z: Tensor) -> Tensor:
        return self.model(z * self._std + self._mean)


def _perturbed(
    network: _Normalised, images: Tensor, labels: Tensor, forgotten: Tensor, config: DlfdAsReleased, ce_weight: float
) -> Tensor:
    """z* of one batch."""
    aside, _ = network.read(forgotten)

    @torch.no_grad()
    def transport() -> Tensor:
        z_forget = network(aside)  # in this order: in train mode batch norm and dropout tell it
        network.tally.count("forward", len(aside) + len(images))
        return released_transport(network(images), z_forget)

    if not network.model.training:
        value = transport()  # nothing that it depends on changes
        _, moved = released_noise(network, images, labels, lambda: value, config=config, ce_weight=ce_weight)
    else:
        _, moved = released_noise(network, images, labels, transport, config=config, ce_weight=ce_weight)
    network.tally.count("gradient", config.noise_steps * len(labels))
    return moved


class _Judge:
    """Reads score and accuracy after each step, and keeps the most accurate weights whose score is within the limit."""

    def __init__(self, split, config: DlfdAsReleased, run):
        self._parts, self._limit, self._tally = (split.forget, split.validation), config.score_limit, run.tally
        self._seed = int(torch.randint(2**31, (), generator=run.generator("attack")))
        self._best, self._state = -1.0, None
        self.score: float | None = None

    def read(self, model: nn.Module) -> None:
        outputs = [predict(model, part, tally=self._tally) for part in self._parts]
        losses = [
            F.cross_entropy(z, part.labels, reduction="none") for z, part in zip(outputs, self._parts, strict=True)
        ]
        self.score = released_score(*losses, self._seed)
        accuracy = (outputs[1].argmax(1) == self._parts[1].labels).float().mean().item()
        if self.score <= self._limit and accuracy > self._best:
            self._best, self._state = accuracy, copy.deepcopy(model.state_dict())

    def chosen(self, model: nn.Module) -> nn.Module:
        if self._state is not None:
            model.load_state_dict(self._state)
        return model
