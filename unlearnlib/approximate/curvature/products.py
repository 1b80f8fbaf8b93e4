"""Products with the Hessian and the Gauss-Newton matrix of the mean cross-entropy, without forming either.

    H v = (1/n) sum_i grad^2 CE(f(x_i), y_i) v                                          `hvp`
    G v = (1/n) sum_i J_i^T (diag(p_i) - p_i p_i^T) J_i v                               `ggn_vp`

with J_i = df(x_i)/dtheta [C, P] and p_i = softmax f(x_i). G is H without the curvature of the network itself: it is
positive semi-definite, it is the Fisher matrix of the model's own answers, and H = G where f is linear in theta. All
by reverse differentiation alone (G: the derivative of J^T u with respect to u gives J v; Pearlmutter's product for H),
so that every network that can be differentiated twice will do. Networks are in eval mode. Vectors [P] are in the order
of `gradients.trainable`.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearnlib.approximate.gradients import flat, pixel_batches, pulled_back, shaped, trainable
from unlearnlib.training.loop import Tally
from unlearnlib.training.models import evaluating

KINDS = ("ggn", "hessian")
LARGEST = 12_000  # of a matrix that is formed: 0.6 GB in float32


class Curvature:
    """v -> C v, a map that can be used many times at one theta: what solvers iterate on.

    kind         "ggn" (G) or "hessian" (H)
    batch_size   bounds the memory; where all examples fit into one batch its graph is kept, else every product makes
                 it anew ("linearise" in the tally)

    The weights of the model must not change between products. Raises ValueError on an empty set and an unknown kind.
    """

    def __init__(
        self, model: nn.Module, examples, kind: str = "ggn", *, batch_size: int = 1024, tally: Tally | None = None
    ):
        if kind not in KINDS:
            raise ValueError(f"curvature is one of {', '.join(KINDS)}, not {kind!r}")
        if not len(examples):
            raise ValueError("curvature needs at least one example")
        self.model, self.examples, self.kind, self.tally = model, examples, kind, tally
        self._batch_size, self._kept = batch_size, None
        self.size = sum(p.numel() for p in trainable(model).values())

    def __call__(self, v: Tensor) -> Tensor:
        """C v [P] for v [P]."""
        if v.shape != (self.size,):
            raise ValueError(f"the vector must have shape [{self.size}], one entry a trainable weight, not {v.shape}")
        self._count("ggn" if self.kind == "ggn" else "hvp", len(self.examples))
        if len(self.examples) <= self._batch_size:
            if self._kept is None:
                self._kept = next(self._linearised())
            return self._kept(v)
        return sum(product(v) for product in self._linearised())

    def _count(self, kind: str, examples: int) -> None:
        if self.tally is not None:
            self.tally.count(kind, examples)

    def on(self, index: Tensor) -> "Curvature":
        """The same matrix of the examples at `index` alone: its mean over random draws is C."""
        return Curvature(self.model, self.examples[index], self.kind, batch_size=self._batch_size, tally=self.tally)

    def dense(self) -> Tensor:
        """C [P, P]. Raises ValueError for more than 12,000 weights."""
        if self.size > LARGEST:
            raise ValueError(f'{self.size} weights are too many for a dense matrix: solve with "cg" or "ekfac"')
        first = next(iter(trainable(self.model).values()))
        if self.kind == "hessian":
            return torch.stack([self(row) for row in torch.eye(self.size, dtype=first.dtype, device=first.device)])
        total = torch.zeros(self.size, self.size, dtype=first.dtype, device=first.device)
        for pixels, _ in pixel_batches(self.model, self.examples, max(1, 2**22 // self.size)):
            with torch.no_grad(), evaluating(self.model):
                logits = self.model(pixels)
            self._count("forward", len(pixels))
            rows = (root(logits).mT @ jacobians(self.model, pixels, tally=self.tally)).flatten(0, 1)
            total.addmm_(rows.T, rows, alpha=1 / len(self.examples))
        return total

    def _linearised(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """One product a batch, each divided by the number of all examples."""
        linearise = self._hessian if self.kind == "hessian" else self._gauss_newton
        for pixels, labels in pixel_batches(self.model, self.examples, self._batch_size):
            self._count("linearise", len(pixels))
            # the fused attention kernels have no second derivative
            with evaluating(self.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                yield linearise(self.model(pixels), labels)

    def _hessian(self, logits: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(self.examples)
        return _derivative(self.model, loss, None, list(trainable(self.model).values()))

    def _gauss_newton(self, logits: Tensor, _labels: Tensor) -> Callable[[Tensor], Tensor]:
        weights, u = list(trainable(self.model).values()), torch.zeros_like(logits, requires_grad=True)
        forward = _derivative(self.model, logits, u, u)

        def product(v: Tensor) -> Tensor:
            mapped = through_softmax(logits.detach(), forward(v)) / len(self.examples)
            return flat(torch.autograd.grad(logits, weights, mapped, retain_graph=True, materialize_grads=True))

        return product


def _derivative(model: nn.Module, outputs: Tensor, u: Tensor | None, by) -> Callable[[Tensor], Tensor]:
    """v -> d<grad_theta <outputs, u>, v>/d(by): H v where outputs is the loss and by theta, J v where by is u."""
    parameters = trainable(model)
    slope = torch.autograd.grad(outputs, list(parameters.values()), u, create_graph=True, materialize_grads=True)
    pairs = [(s, name) for s, name in zip(slope, parameters, strict=True) if s.requires_grad]

    def derivative(v: Tensor) -> Tensor:
        given = shaped(v, parameters)
        along = [given[name] for _, name in pairs]
        found = torch.autograd.grad([s for s, _ in pairs], by, along, retain_graph=True, materialize_grads=True)
        return found[0] if by is u else flat(found)

    return derivative


def jvp(model: nn.Module, examples, v: Tensor, *, batch_size: int = 1024) -> Tensor:
    """J_i v of each example, how its logits move along v [P]: [n, C]."""
    found = []
    for pixels, _ in pixel_batches(model, examples, batch_size):
        with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = model(pixels)
            u = torch.zeros_like(logits, requires_grad=True)
            found.append(_derivative(model, logits, u, u)(v))
    return torch.cat(found)


def through_softmax(logits: Tensor, moved: Tensor) -> Tensor:
    """(diag(p) - p p^T) moved, the Hessian of the cross-entropy in the logits: [B, C] and [B, C] -> [B, C]."""
    p = torch.softmax(logits, dim=1)
    return p * (moved - (p * moved).sum(1, keepdim=True))


def root(logits: Tensor) -> Tensor:
    """R [B, C, C] with R R^T = diag(p) - p p^T: column c is sqrt(p_c) (e_c - p), the gradient for the answer c."""
    p = torch.softmax(logits, dim=1)
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return (identity - p[:, :, None]) * p.sqrt()[:, None, :]


def jacobians(model: nn.Module, pixels: Tensor, *, tally: Tally | None = None) -> Tensor:
    """J_i = df(x_i)/dtheta of each example in eval mode: pixels [B, C, H, W] -> [B, classes, P].

    One class after another: a layer with a weight of its own and no rule for two batch dimensions (PReLU) stays right.
    """
    with torch.no_grad(), evaluating(model):
        unit = torch.eye(model(pixels[:1]).shape[1], dtype=pixels.dtype, device=pixels.device)
    with sdpa_kernel(SDPBackend.MATH):
        rows = [pulled_back(model, pixels, one.expand(len(pixels), -1)) for one in unit]
    if tally is not None:
        tally.count("example_gradient", len(pixels) * len(unit))
    return torch.stack(rows, 1)


def hvp(model: nn.Module, examples, v: Tensor, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """H v [P] for v [P], H the Hessian of the mean cross-entropy over `examples`. For many products use `Curvature`."""
    return Curvature(model, examples, "hessian", batch_size=batch_size, tally=tally)(v)


def ggn_vp(model: nn.Module, examples, v: Tensor, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """G v [P] for v [P], G the Gauss-Newton matrix over `examples`. For many products use `Curvature`."""
    return Curvature(model, examples, "ggn", batch_size=batch_size, tally=tally)(v)
