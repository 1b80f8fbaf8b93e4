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
- the first batch runs in train mode, batch norm reading perturbed and forgotten pictures; later ones in eval mode;
- the score is the cross-validated accuracy of a logistic regression on losses, forget set against the whole
  validation set, however unequal: for a wide imbalance it is that of the constant answer;
- each batch decides anew, without hysteresis, whether to perturb; the checkpoint is the most accurate on the same
  validation set whose score is within the limit.

Since the transport term has no gradient it is evaluated once a batch, not at every step; the noise is the same. For
its clip and mean we use the statistics of the training pixels. Defaults are those of the released age experiment.
Choi and Na, AAAI 2025, arXiv 2409.14747; see the bug ledger.
"""

import copy
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from torch import Tensor, nn

from unlearnlib.approximate.steps import Descent, endless, passes
from unlearnlib.dlfd.transport import cosine_cost
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.modes import training_mode
from unlearnlib.training.prediction import predict
from unlearnlib.training.progress import progress_bar


@dataclass(frozen=True)
class DlfdAsReleased(Descent):
    epochs: int = 1
    lr: float = 8e-3
    batch_size: int = 32
    transport_weight: float = 3.0  # inert
    ce_weight: tuple[float, float] = (0.0, 1.0)  # weight of the classification loss, at the first and at the last batch
    noise_steps: int = 15  # steps of the perturbation for each batch
    noise_step: float = 0.4  # in units of the normalised pixels
    threshold: float = 0.15  # a batch is perturbed while the score is at least this
    score_limit: float = 0.09  # a checkpoint must score at most this

    def __post_init__(self):
        if self.noise_steps < 0 or self.noise_step < 0:
            raise ValueError("dlfd_as_released needs noise_steps >= 0 and noise_step >= 0")
        if (self.optimiser, self.schedule) != ("sgd", "constant"):
            raise ValueError("dlfd_as_released is sgd with a constant learning rate: leave optimiser and schedule")


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
    normalised, images: Tensor, labels: Tensor, transport: Tensor, *, config: DlfdAsReleased, ce_weight: float
) -> tuple[Tensor, Tensor]:
    """The noise and the clipped pictures z* [B, C, H, W]; `normalised` maps z to logits, `images` are z.

    `transport` is the value of the transport term; it takes part in the objective and has no gradient here.
    """
    noise = torch.zeros_like(images)
    for _ in range(config.noise_steps):
        noise.requires_grad_(True)
        easier = F.cross_entropy(normalised((images + noise).clamp(0, 1)), labels)
        objective = config.transport_weight * transport - ce_weight * easier
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
    cost="at most epochs * R * (1 + noise_steps)",
    fails=(
        "Its noise ignores the forget set. Each batch pays a pass over the whole forget and validation sets, and its "
        "score is that of the constant answer where these differ much in size."
    ),
    published={
        "lr": 8e-3,
        "batch_size": 32,
        "noise_steps": 15,
        "noise_step": 0.4,
        "threshold": 0.15,
        "score_limit": 0.09,
    },
    origin="the released age experiment",
    taught=False,  # the released loop has neither augmentation nor smoothing
    search={"lr": (3e-4, 2e-2, "log"), "noise_step": (0.02, 2.0, "log"), "threshold": (0.02, 0.2)},
)
def dlfd_as_released(model, split, config: DlfdAsReleased, run) -> nn.Module:
    if min(len(split.validation), len(split.forget_index)) < 10:
        raise ValueError("dlfd_as_released needs 10 forgotten and 10 validation examples for its attack")
    device = models.device_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
    mean, std = (v.reshape(1, -1, 1, 1).to(device) for v in models.pixel_statistics(split.train))
    retain, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    forget = endless(split.forget_index, config.batch_size, run.generator("forget"))
    attack_seed = int(torch.randint(2**31, (), generator=run.generator("attack")))
    score, best, best_state = None, -1.0, None
    was_training = [module.training for module in model.modules()]

    def normalised(z: Tensor) -> Tensor:
        run.tally.forward_evaluations += len(z)
        return model(z * std + mean)

    mode = ExitStack()  # train mode for the first batch; what measures the score below switches it off for good
    mode.enter_context(training_mode(model, split.train.pixels([0])))
    with progress_bar(steps, run.progress) as bar:
        for number, (batch, picked) in enumerate(zip(retain, forget, strict=False)):
            images, labels = (split.train.pixels(batch.index, device=device) - mean) / std, batch.labels.to(device)
            if score is None or score >= config.threshold:
                with torch.no_grad():
                    aside = (split.train.pixels(picked, device=device) - mean) / std
                    transport = released_transport(normalised(images), normalised(aside))
                start, end = config.ce_weight
                weight = start + (end - start) * number / max(1, steps - 1)
                _, images = released_noise(normalised, images, labels, transport, config=config, ce_weight=weight)
                run.tally.gradient_evaluations += config.noise_steps * len(labels)
                run.tally.forward_evaluations -= config.noise_steps * len(labels)
            loss = F.cross_entropy(model(images * std + mean), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.tally.gradient_evaluations += len(labels)
            mode.close()
            model.eval()
            outputs = [predict(model, part, tally=run.tally) for part in (split.forget, split.validation)]
            parts = zip(outputs, (split.forget, split.validation), strict=True)
            score = released_score(*(F.cross_entropy(z, p.labels, reduction="none") for z, p in parts), attack_seed)
            accuracy = (outputs[1].argmax(1) == split.validation.labels).float().mean().item()
            if score <= config.score_limit and accuracy > best:
                best, best_state = accuracy, copy.deepcopy(model.state_dict())
            bar.update()
    if best_state is not None:
        model.load_state_dict(best_state)
    for module, training in zip(model.modules(), was_training, strict=True):
        module.training = training
    return model
