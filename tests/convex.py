"""Small problems in float64 that several test files share: overlapping classes, linear networks, exact refits."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from unlearnlib.approximate.gradients import flat, moved
from unlearnlib.data.examples import Examples, Split
from unlearnlib.methods import registry


def linear(classes: int, inputs: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def points(n: int, inputs: int = 5, classes: int = 2, seed: int = 0) -> Examples:
    """Overlapping Gaussian classes: a convex problem with points of very different influence."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, inputs, generator=rng, dtype=torch.float64)
    x = centres[labels] + torch.randn(n, inputs, generator=rng, dtype=torch.float64)
    return Examples(x[:, :, None, None], labels)


def divided(train: Examples, forget) -> Split:
    mask = torch.zeros(len(train), dtype=torch.bool)
    mask[forget] = True
    return Split(train, mask, train[:0], None, "given", 0, None)


def refit(model: nn.Module, examples: Examples, lam: float) -> nn.Module:
    """argmin of the mean cross-entropy + lam/2 ||theta||^2, by Newton's method without the code under test."""
    model = copy.deepcopy(model)
    weights = list(model.parameters())
    pixels = examples.pixels(dtype=torch.float64)
    for _ in range(30):

        def loss(*values):
            names = [name for name, _ in model.named_parameters()]
            logits = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (pixels,))
            return F.cross_entropy(logits, examples.labels) + lam / 2 * sum(v.square().sum() for v in values)

        values = tuple(p.detach() for p in weights)
        slope = torch.cat([g.flatten() for g in torch.func.grad(loss, tuple(range(len(values))))(*values)])
        if slope.norm() < 1e-13:
            break
        hessian = torch.func.hessian(loss, tuple(range(len(values))))(*values)
        sizes = [v.numel() for v in values]
        rows = [
            torch.cat([h.reshape(a, b) for h, b in zip(row, sizes, strict=True)], 1)
            for row, a in zip(hessian, sizes, strict=True)
        ]
        moved(model, -torch.linalg.solve(torch.cat(rows), slope))
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return flat(p.detach() for p in model.parameters())


def tanh_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def removed(function, config, model, parts):
    return function(copy.deepcopy(model), parts, config, registry.Run(0))
