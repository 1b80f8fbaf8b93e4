"""Noisy fine-tuning: forget by projecting, clipping and adding noise while training on what remains.

    x_0     = Proj_C0(x_hat)                                       x_hat: any trained weights, norm cut to C0
    x_{t+1} = x_t - gamma (Proj_C1(g_t) + lam x_t) + N(0, sigma^2 I)        g_t: any gradient on the retained data

Nothing is assumed of the loss. Two runs from different x_hat start at most 2 C0 apart, their gradients differ by at
most 2 C1, and each step multiplies a distance by f = 1 - gamma lam. Spreading the whole distance over the steps'
noise (privacy amplification by iteration) bounds the Renyi divergence of order a by a rho,

    rho = D^2/(2 sigma^2 sum_t f^{2(T-t-1)}),    D = 2 C0 f^T + 2 gamma C1 sum_t f^{T-t-1},

so sigma follows from (epsilon, delta) through `accounting.zcdp_rho`. For lam -> 0 this is sigma^2 = D^2/(2 rho T) with
D = 2 C0 + 2 gamma C1 T.

Koloskova et al. 2025, key koloskova2025. Released code that differs: its branch for lam = 0 uses D^2/(4 rho T), which
is sqrt 2 too little noise.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Certificate
from unlearnlib.private.accounting import zcdp_rho
from unlearnlib.private.checks import check_budget, check_positive
from unlearnlib.private.learner import Learner
from unlearnlib.private.mechanisms import gaussian
from unlearnlib.private.networks import check_separable
from unlearnlib.training.doors import Diverged, check_model
from unlearnlib.training.modes import training_mode


def noisy_distance(steps: int, start_clip: float, gradient_clip: float, step_size: float, decay: float) -> float:
    """D = 2 C0 f^T + 2 gamma C1 sum_{t<T} f^t, f = 1 - gamma * decay."""
    f = 1 - step_size * decay
    total = math.fsum(f**t for t in range(steps))
    return 2 * start_clip * f**steps + 2 * step_size * gradient_clip * total


def noisy_rho(
    sigma: float, steps: int, start_clip: float, gradient_clip: float, step_size: float, decay: float
) -> float:
    """rho: Renyi divergences of order a are at most a * rho."""
    f = 1 - step_size * decay
    energy = sigma**2 * math.fsum(f ** (2 * t) for t in range(steps))
    return noisy_distance(steps, start_clip, gradient_clip, step_size, decay) ** 2 / (2 * energy)


def noisy_sigma(
    rho: float, steps: int, start_clip: float, gradient_clip: float, step_size: float, decay: float
) -> float:
    """Noise std per step and coordinate that gives `rho`. ValueError on values out of range."""
    check_positive(rho=rho, start_clip=start_clip, gradient_clip=gradient_clip, step_size=step_size, steps=steps)
    if not 0 <= step_size * decay < 1:
        raise ValueError(f"step_size * decay must lie in [0, 1), not {step_size * decay:g}")
    return math.sqrt(noisy_rho(1.0, steps, start_clip, gradient_clip, step_size, decay) / rho)


@dataclass(frozen=True, eq=False)
class NoisyFineTuning(Learner):
    """Noisy fine-tuning of any network.

    train           Examples -> trained module; any training whatever (for instance a call of `training.fit`)
    batch_size      retained examples per gradient, drawn without replacement each step

    Every request is certified on its own, whatever came before, so the budget is never exhausted. BatchNorm is
    refused, since its running statistics would carry the forget set past the projection; other buffers of the network
    must not depend on the training data. With a small C0 the method is training from near zero: compare it with that.
    """

    train: Callable[[Examples], nn.Module]
    epsilon: float = 1.0
    delta: float = 1e-5
    steps: int = 100
    step_size: float = 0.01  # gamma
    start_clip: float = 1.0  # C0
    gradient_clip: float = 1.0  # C1, of the mean gradient of a batch
    decay: float = 0.0  # lam
    batch_size: int = 256

    def __post_init__(self):
        super().__post_init__()
        check_budget(self.epsilon, self.delta)
        check_positive(batch_size=self.batch_size)
        noisy_sigma(1.0, *self._schedule)

    @property
    def _schedule(self) -> tuple[int, float, float, float, float]:
        return self.steps, self.start_clip, self.gradient_clip, self.step_size, self.decay

    @property
    def sigma(self) -> float:
        """Noise std per step and coordinate."""
        return noisy_sigma(zcdp_rho(self.epsilon, self.delta), *self._schedule)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32 of the current model."""
        return self._answer(self._fitted().model, images)

    def _train(self, keep: Tensor) -> int:
        model = copy.deepcopy(self.train(self.state.examples[keep]))
        check_separable(model)
        check_model(model, self.state.examples)
        if not all(p.requires_grad for p in model.parameters()):
            raise ValueError("every parameter is noised here: none may be frozen")
        self.state.model = model
        return 0  # the caller's training is not counted here

    def reference(self, seed: int) -> "NoisyFineTuning":
        """The same noisy fine-tuning on the retained examples, started from a training that saw nothing else."""
        other = super().reference(seed)
        other._fine_tune(other.state.alive)
        return other

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        gradients = self._fine_tune(keep)
        reference = "the same noisy fine-tuning on the retained examples, started from weights that never saw the rest"
        certificate = Certificate("approximate", reference, self.epsilon, self.delta)
        return {"noisy steps": self.steps}, gradients, certificate

    def _fine_tune(self, keep: Tensor) -> int:
        """Project, then take the noisy steps on the examples marked by `keep`; returns gradient evaluations."""
        model = copy.deepcopy(self.state.model)
        rng, sigma = self._rng("unlearn"), self.sigma
        retained = self.state.examples[keep]
        parameters = list(model.parameters())
        size = min(self.batch_size, len(retained))
        with torch.no_grad():
            project(parameters, self.start_clip)
        with seeding.isolated(self.seed, "dropout", self.state.draws), training_mode(model):
            for _ in range(self.steps):
                batch = torch.randperm(len(retained), generator=rng)[:size]
                images = retained.pixels(batch, parameters[0].device, parameters[0].dtype)
                labels = retained.labels[batch].to(images.device)
                gradients = list(torch.autograd.grad(F.cross_entropy(model(images), labels), parameters))
                with torch.no_grad():
                    project(gradients, self.gradient_clip)
                    for p, g in zip(parameters, gradients, strict=True):
                        p.copy_(gaussian((1 - self.step_size * self.decay) * p - self.step_size * g, sigma, rng))
        self.state.model = model
        return self.steps * size


def project(tensors: list[Tensor], radius: float) -> None:
    """Scale the tensors in place, as one vector, to norm at most `radius`; Diverged if they are not finite."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
    if not bool(torch.isfinite(norm)):
        raise Diverged("weights or a gradient are not finite, which cannot be projected: lower step_size")
    for t in tensors:
        t.mul_((radius / norm).clamp_max(1))
