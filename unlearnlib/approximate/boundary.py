"""Boundary unlearning: hand the region of the forgotten class to its neighbours.

    shrink   x' = clamp(x + step * sign grad_x CE(f_theta0(x), y)),   y' = the likeliest class of f_theta0(x') but y
             min_theta  E_F CE(f_theta(x), y')
    expand   give the head one more output, the shadow class;  min_theta E_F CE(f_theta(x), shadow);  drop that output

Both read the forget set only, and both are for whole classes. Chen et al., CVPR 2023, arXiv 2303.11570. Limits: with
two classes the nearest other class is the only one, and shrink is relabelling. Deviations: y' is never y, which the
released code allows where the perturbation does not cross a boundary; pixels are moved in their own units and clamped
to their valid range, since the network normalises them itself; the defaults are ours. The authors use SGD with lr
1e-5, momentum 0.9, 10 epochs, batches of 64 and a step of 0.1.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.steps import Steps, only_whole_classes, passes
from unlearnlib.data.examples import pixel_limits
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models


@dataclass(frozen=True)
class BoundaryShrink(Steps):
    epochs: int = 10
    lr: float = 1e-3
    step: float = 0.1  # in pixel units


def nearest_other(model: nn.Module, examples, step: float, tally, batch_size: int = 256) -> Tensor:
    """For each example the class y' [N] other than its own that a step of its pixels up its loss makes likeliest."""
    device, low_high = models.device_of(model), pixel_limits(examples)
    limits = tuple(v.to(device) for v in low_high)
    found = []
    with models.evaluating(model), torch.enable_grad():
        for start in range(0, len(examples), batch_size):
            where = slice(start, start + batch_size)
            pixels = examples.pixels(where, device=device).requires_grad_(True)
            labels = examples.labels[where].to(device)
            loss = F.cross_entropy(model(pixels), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
            with torch.no_grad():
                logits = model((pixels + step * gradient.sign()).clamp(*limits))
                found.append(logits.scatter(1, labels[:, None], -torch.inf).argmax(1).cpu())
    tally.gradient_evaluations += len(examples)
    tally.forward_evaluations += len(examples)
    return torch.cat(found)


@method(
    "boundary_shrink",
    BoundaryShrink,
    family="gradient",
    reads="forget",
    paper="chen2023",
    cost="(epochs + 1) * F",
    fails="On anything but whole classes, which it refuses. Nothing guards the retain set.",
    published={"epochs": 10, "lr": 1e-5, "batch_size": 64, "step": 0.1},
    origin="the authors' values",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def boundary_shrink(model, split, config: BoundaryShrink, run) -> Program:
    only_whole_classes("boundary_shrink", split)
    labels = split.train.labels.clone()
    labels[split.forget_index] = nearest_other(model, split.forget, config.step, run.tally)
    batches, steps = passes(split.forget_index, labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)


@dataclass(frozen=True)
class BoundaryExpand(Steps):
    epochs: int = 10
    lr: float = 1e-3


def widened(model: nn.Module, head: str, rng: torch.Generator) -> nn.Module:
    """`model` with one more output of the linear layer `head`, its weights uniform as in a new layer; in place."""
    old = model.get_submodule(head)
    bound = old.in_features**-0.5
    new = copy.deepcopy(old)
    row = (2 * torch.rand(1, old.in_features, generator=rng) - 1) * bound
    new.weight = nn.Parameter(torch.cat([old.weight.detach(), row.to(old.weight)]), old.weight.requires_grad)
    if old.bias is not None:
        shift = (2 * torch.rand(1, generator=rng) - 1) * bound
        new.bias = nn.Parameter(torch.cat([old.bias.detach(), shift.to(old.bias)]), old.bias.requires_grad)
    new.out_features += 1
    model.set_submodule(head, new)
    return model


def narrowed(model: nn.Module, head: str) -> nn.Module:
    """`model` without the last output of `head`: the reverse of `widened`; in place."""
    new = copy.deepcopy(model.get_submodule(head))
    for name, p in list(new.named_parameters()):
        setattr(new, name, nn.Parameter(p.detach()[:-1].clone(), p.requires_grad))
    new.out_features -= 1
    model.set_submodule(head, new)
    return model


@method(
    "boundary_expand",
    BoundaryExpand,
    family="gradient",
    reads="forget",
    paper="chen2023",
    cost="epochs * F",
    fails=(
        "On anything but whole classes, which it refuses, and on networks whose last layer is not a linear one of "
        "its own. Nothing guards the retain set."
    ),
    published={"epochs": 10, "lr": 1e-5, "batch_size": 64},
    origin="the authors' values",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def boundary_expand(model, split, config: BoundaryExpand, run) -> Program:
    only_whole_classes("boundary_expand", split)
    example = split.forget.pixels([0])
    head, classes = models.head_name(model, example), _classes(model, example)
    layer = model.get_submodule(head)
    uses = [p for _, p in model.named_parameters(remove_duplicate=False) if p is getattr(layer, "weight", None)]
    if not isinstance(layer, nn.Linear) or layer.out_features != classes or len(uses) != 1:
        raise ValueError(
            "boundary_expand needs a network whose last layer is a linear one of its own: use another method"
        )
    wide = widened(model, head, run.generator("shadow"))
    labels = torch.full_like(split.train.labels, classes)
    batches, steps = passes(split.forget_index, labels, config, run.generator("order"))
    return Program(wide, batches, config.recipe(), steps, finish=lambda trained: narrowed(trained, head))


@torch.no_grad()
def _classes(model: nn.Module, example: Tensor) -> int:
    with models.evaluating(model):
        return model(example.to(models.device_of(model))).shape[1]
