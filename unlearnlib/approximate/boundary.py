"""Boundary unlearning: hand the region of the forgotten class to its neighbours.

    shrink   x' = clamp(x + step * sign grad_x CE(f_theta0(x), y)),   y' = the likeliest class of f_theta0(x') but y
             min_theta  E_F CE(f_theta(x), y')
    expand   give the head one more output, the shadow class;  min_theta E_F CE(f_theta(x), shadow);  drop that output

Both read the forget set only, and both are for whole classes. Chen et al., CVPR 2023, arXiv 2303.11570. Limits: with
two classes the nearest other class is the only one, and shrink is relabelling. Deviations: y' is never y; pixels are
moved in their own units and clamped to their valid range, since the network normalises them itself; the row of the
shadow class is drawn as torch draws a new layer; the defaults are ours.

`as_released`, in the published rows: y' may be y where the step crosses no boundary, and the step is made as the
released attack makes it, which undoes another normalisation than the data have: of z = 2x - 1 it moves u = m + s z,
with (m, s) of CIFAR's channels, by `step`, clamps u to [0, 1] and rounds it to 1/255. In pixels of x that is about a
quarter of their range for a step of 0.1. Pictures with another number of channels than three get the means of m and s.
The shadow class's row is drawn by Xavier's normal law with bias 0, and the first step's forward pass is in eval mode.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.steps import HEAVY_BALL, Steps, only_whole_classes, passes
from unlearnlib.data.examples import pixel_limits
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import Part


@dataclass(frozen=True)
class BoundaryShrink(Steps):
    epochs: int = 10
    lr: float = 1e-3
    step: float = 0.1  # in pixel units
    as_released: bool = False  # the authors' attack, whose units are others


# What the released attack takes for the normalisation of the data; the blue mean is not that of its own loader.
_MEAN, _STD = torch.tensor([0.4914, 0.4822, 0.2265]), torch.tensor([0.2023, 0.1994, 0.2010])


def released_move(pixels: Tensor, sign: Tensor, step: float) -> Tensor:
    """Pixels [B, C, H, W] after the released attack's step along `sign`."""
    mean, std = (v if pixels.shape[1] == 3 else v.mean(0, keepdim=True) for v in (_MEAN, _STD))
    mean, std = (v.to(pixels)[:, None, None] for v in (mean, std))
    u = (2 * pixels - 1) * std + mean
    u = ((u + step * sign).clamp(0, 1) * 255).round() / 255
    return ((u - mean) / std + 1) / 2


def nearest_other(
    model: nn.Module, examples, step: float, tally, batch_size: int = 256, *, as_released: bool = False
) -> Tensor:
    """For each example the class y' [N] other than its own that a step of its pixels up its loss makes likeliest.

    as_released   by `released_move`, and y' may be its own
    """
    device, low_high = models.device_of(model), pixel_limits(examples)
    dtype = next(model.parameters()).dtype
    limits = tuple(v.to(device=device, dtype=dtype) for v in low_high)
    found = []
    with models.evaluating(model), torch.enable_grad():
        for start in range(0, len(examples), batch_size):
            where = slice(start, start + batch_size)
            pixels = examples.pixels(where, device=device, dtype=dtype).requires_grad_(True)
            labels = examples.labels[where].to(device)
            loss = F.cross_entropy(model(pixels), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
            with torch.no_grad():
                if as_released:
                    found.append(model(released_move(pixels, gradient.sign(), step)).argmax(1).cpu())
                    continue
                logits = model((pixels + step * gradient.sign()).clamp(*limits))
                found.append(logits.scatter(1, labels[:, None], -torch.inf).argmax(1).cpu())
    tally.count("gradient", len(examples))
    tally.count("forward", len(examples))
    return torch.cat(found)


_PUBLISHED = HEAVY_BALL | {"epochs": 10, "lr": 1e-5, "weight_decay": 0.0, "batch_size": 64, "as_released": True}


@method(
    "boundary_shrink",
    BoundaryShrink,
    family="gradient",
    reads="forget",
    paper="chen2023",
    cost="gradient * (F + epochs * seen(F, batch_size)) + forward * F",
    fails="On anything but whole classes, which it refuses. Nothing guards the retain set.",
    published=_PUBLISHED | {"step": 0.1},
    origin="the released values for a class of CIFAR-10",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def boundary_shrink(model, split, config: BoundaryShrink, run) -> Program:
    only_whole_classes("boundary_shrink", split)
    labels = split.train.labels.clone()
    labels[split.forget_index] = nearest_other(
        model, split.forget, config.step, run.tally, as_released=config.as_released
    )
    batches, steps = passes(split.forget_index, labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)


@dataclass(frozen=True)
class BoundaryExpand(Steps):
    epochs: int = 10
    lr: float = 1e-3
    as_released: bool = False  # the authors' draw of the new row, and a first step in eval mode


def widened(model: nn.Module, head: str, rng: torch.Generator, *, xavier: bool = False) -> nn.Module:
    """`model` with one more output of the linear layer `head`, in place.

    Its weights are uniform as in a new layer; where `xavier`, normal as in a new layer of all outputs, and its bias 0.
    """
    old = model.get_submodule(head)
    bound = old.in_features**-0.5
    new = copy.deepcopy(old)
    row = (2 * torch.rand(1, old.in_features, generator=rng) - 1) * bound
    if xavier:
        row = torch.randn(1, old.in_features, generator=rng) * (2 / (old.in_features + old.out_features + 1)) ** 0.5
    new.weight = nn.Parameter(torch.cat([old.weight.detach(), row.to(old.weight)]), old.weight.requires_grad)
    if old.bias is not None:
        shift = torch.zeros(1) if xavier else (2 * torch.rand(1, generator=rng) - 1) * bound
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
    cost="gradient * epochs * seen(F, batch_size)",
    fails=(
        "On anything but whole classes, which it refuses, and on networks whose last layer is not a linear one of "
        "its own. Nothing guards the retain set."
    ),
    published=_PUBLISHED,
    origin="the released values for a class of CIFAR-10",
    search={"lr": (1e-5, 1e-1, "log"), "epochs": (1, 10)},
)
def boundary_expand(model, split, config: BoundaryExpand, run) -> Program:
    only_whole_classes("boundary_expand", split)
    head, classes = models.head_name(model, split.forget.pixels([0])), check_model(model, split.train)
    layer = model.get_submodule(head)
    uses = [p for _, p in model.named_parameters(remove_duplicate=False) if p is getattr(layer, "weight", None)]
    if not isinstance(layer, nn.Linear) or layer.out_features != classes or len(uses) != 1:
        raise ValueError(
            "boundary_expand needs a network whose last layer is a linear one of its own: use another method"
        )
    wide = widened(model, head, run.generator("shadow"), xavier=config.as_released)
    labels = torch.full_like(split.train.labels, classes)
    batches, steps = passes(split.forget_index, labels, config, run.generator("order"))
    parts = ()
    if config.as_released:
        parts = (_EvalFirst(wide),)
        batches = parts[0].watched(batches)
    return Program(wide, batches, config.recipe(), steps, parts, lambda trained: narrowed(trained, head))


class _EvalFirst(Part):
    """The released loop calls train() after its first forward pass, which so is one in eval mode."""

    def __init__(self, model: nn.Module):
        self._model, self._modes = model, []

    def watched(self, batches):
        for batch in batches:
            if not self._modes:
                self._modes = [(m, m.training) for m in self._model.modules()]
                self._model.eval()
            yield batch

    def after_gradient(self, model: nn.Module, step: int) -> None:
        if step == 0:
            for module, training in self._modes:
                module.training = training
