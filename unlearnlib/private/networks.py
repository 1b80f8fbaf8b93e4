"""What the private learners of networks ask of a network, and its per-example clipped gradients.

    clipped_gradients(model, x, y, C)  ->  sum_i g_i min(1, C/||g_i||)  and all ||g_i||,    g_i = grad CE(f(x_i), y_i)

Book-keeping (Bu et al. 2023, key bu2023): one backward pass yields, for each layer, its input a_i and the derivative
d_i of the loss with respect to its output; weight gradients of the whole batch are never formed by autograd.

    linear      ||g_i||^2 = ||a_i||^2 ||d_i||^2,                 sum_i c_i g_i = (c d)^T a: no per-example matrix at all
    conv        g_i = d_i unfold(a_i)^T, one small matrix each;  sum_i c_i g_i from them
    norms       g_i = sum over positions of d_i * normalised a_i

Networks with other parametrised layers, in-place activations, or a weight that is used twice or outside its layer (the
autograd graph tells) go through vmap(grad), some two to four times slower on a CPU. Whatever is chosen is first held
against autograd on two examples, each alone: a gradient that misses a part would be clipped and noised as if whole.
"""

from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from unlearnlib import seeding
from unlearnlib.training.models import evaluating


class _NoRule(Exception):
    """The layer rules do not cover this network; use vmap."""


def check_separable(model: nn.Module) -> None:
    """ValueError if a norm mixes examples or keeps their statistics, or weights are rounded too coarsely or frozen."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"layer {name!r} is a BatchNorm, which mixes examples: use GroupNorm instead")
        if getattr(layer, "track_running_stats", False):
            raise ValueError(f"layer {name!r} keeps statistics of the data without noise: use GroupNorm instead")
        if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in layer._forward_pre_hooks.values()):
            raise ValueError(f"layer {name!r} is normalised by a hook: use torch.nn.utils.parametrizations instead")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the network has no trainable parameters")
    if any(p.dtype not in (torch.float32, torch.float64) for p in model.parameters()):
        raise ValueError("clipping and noise need float32 or float64 weights: convert the network with .float()")


def check_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether the layer rules give what autograd does, in eval mode, for the first two examples, each alone.

    ValueError if vmap(grad) does not either, or if training changes a buffer, which no noise would cover.
    """
    check_separable(model)
    if len(images) == 0:
        return True
    images, labels = images[:2], labels[:2]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with seeding.isolated(0, "check of gradients"):
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        with evaluating(model), torch.no_grad():  # which gives back the modes of all layers
            functional_call(model.train(), buffers, (images,))
        for name, before in model.named_buffers():
            if not torch.equal(before, buffers[name]):
                raise ValueError(f"buffer {name!r} takes up data in training without noise: remove its layer")
        with evaluating(model):
            known = dict.fromkeys(trained, 0.0)
            for x, y in zip(images, labels, strict=True):
                loss = F.cross_entropy(model(x[None]), y[None])
                gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
                for (name, p), g in zip(trained.items(), gradients, strict=True):
                    known[name] = known[name] + (torch.zeros_like(p) if g is None else g)
            size = torch.stack([g.norm() for g in known.values()]).norm()
            for rules in (True, False):
                try:
                    sums, _ = clipped_gradients(model, images, labels, torch.inf, rules=rules)
                except (RuntimeError, TypeError, NotImplementedError) as problem:
                    reason = str(problem).splitlines()[0][:120]
                    raise ValueError(f"no gradient of single examples for this network: {reason}") from problem
                missed = [n for n, g in known.items() if (sums[n] - g).norm() > 1e-3 * g.norm() + 1e-6 * size]
                if not missed:
                    return rules
    raise ValueError(f"gradients of single examples miss a part of {missed[0]!r}: use weights as attributes of layers")


def clipped_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clip: float,
    *,
    keep: Mapping[str, Tensor] | None = None,
    chunk: int = 64,
    rules: bool | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum of clipped per-example gradients of the cross-entropy, and the norms before clipping.

    images  [B, ...] floating, labels [B]; B = 0 gives zeros
    clip    C > 0; `math.inf` sums unclipped gradients
    keep    name -> bool tensor: other entries of that parameter have no gradient, neither in norms nor sums
    chunk   examples handled at once; it bounds the memory and does not change the result
    rules   what `check_gradients` said, which is asked if None; False takes vmap(grad) for every network

    Returns ({name: tensor like the parameter}, norms [B]). The model and its mode are left alone.
    """
    rules = check_gradients(model, images, labels) if rules is None else rules
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameters[name]) for name in names}
    norms = [torch.zeros(0, device=images.device)]
    layers = _covered(model) if rules else None
    keep = {} if keep is None else keep
    for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
        if len(x) == 0:
            continue
        parts = None
        if layers is not None:
            try:
                parts = _by_rules(model, layers, x, y, keep)
            except _NoRule:
                layers = None
        if parts is None:
            parts = _by_vmap(model, names, x, y, keep)
        squares, weighted = parts
        norm = squares.sqrt()
        scale = (clip / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1)
        for name, total in weighted(scale).items():
            sums[name] += total
        norms.append(norm)
    return sums, torch.cat(norms)


def _by_vmap(model: nn.Module, names: list[str], x: Tensor, y: Tensor, keep: Mapping[str, Tensor]):
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    trained = {name: parameters[name] for name in names}

    def loss(trained: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {**parameters, **trained}, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(trained, x, y)
    gradients = {name: g * keep[name] if name in keep else g for name, g in gradients.items()}
    squares = sum(g.flatten(1).square().sum(1) for g in gradients.values())
    return squares, lambda c: {name: torch.tensordot(c, g, 1) for name, g in gradients.items()}


def _covered(model: nn.Module) -> dict[nn.Module, str] | None:
    """Layer -> its name, for every layer with trainable parameters; None if some layer has no rule."""
    layers, seen = {}, []
    for name, layer in model.named_modules():
        if getattr(layer, "inplace", False):
            return None
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if {name for name, _ in layer.named_parameters(recurse=False)} - {"weight", "bias"}:
            return None
        known = isinstance(layer, (nn.Linear, nn.GroupNorm, nn.LayerNorm))
        plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not (known or plain) or type(layer).__module__.split(".")[0] != "torch":
            return None
        layers[layer] = name
        seen += [id(p) for p in own]
    total = sum(p.requires_grad for p in model.parameters())
    return layers if len(set(seen)) == len(seen) == total else None


def _by_rules(model: nn.Module, layers: dict[nn.Module, str], x: Tensor, y: Tensor, keep: Mapping[str, Tensor]):
    caught: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def catch(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        caught[layer].append((inputs[0].detach(), output))

    hooks = [layer.register_forward_hook(catch) for layer in layers]
    try:
        with torch.enable_grad():
            total = F.cross_entropy(model(x), y, reduction="sum")
    finally:
        for hook in hooks:
            hook.remove()
    if any(len(calls) > 1 or any(len(output) != len(x) for _, output in calls) for calls in caught.values()):
        raise _NoRule
    used = [layer for layer, calls in caught.items() if calls and calls[0][1].requires_grad]
    uses = _uses(total)
    # Only the derivatives with respect to outputs: autograd then skips every weight gradient.
    derivatives = torch.autograd.grad(total, [caught[layer][0][1] for layer in used], allow_unused=True)
    reached = {layer: d for layer, d in zip(used, derivatives, strict=True) if d is not None}
    if any(uses[id(p)] > (layer in reached) for layer in layers for p in layer.parameters(recurse=False)):
        raise _NoRule  # used a second time, or without its layer
    with torch.no_grad():
        parts = []
        for layer, d in reached.items():
            parts += _rule(layer, layers[layer], caught[layer][0][0], d, keep)
        squares = sum(square for _, square, _ in parts)
    return squares, lambda c: {name: weighted(c) for name, _, weighted in parts}


def _uses(loss: Tensor) -> Counter:
    """How often each leaf tensor, by its id, is an operand of the graph behind `loss`."""
    uses, seen, pending = Counter(), set(), [loss.grad_fn]
    while pending:
        for node, _ in pending.pop().next_functions:
            if hasattr(node, "variable"):
                uses[id(node.variable)] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                pending.append(node)
    return uses


def _rule(layer: nn.Module, prefix: str, a: Tensor, d: Tensor, keep: Mapping[str, Tensor]) -> list:
    """For each parameter: (name, squared norms [B], c -> sum_i c_i g_i)."""

    def full(which: str) -> str:
        return f"{prefix}.{which}" if prefix else which

    def stored(which: str, g: Tensor) -> tuple:
        """The rule for per-example gradients [B, ...] that are small enough to hold."""
        name, shape = full(which), getattr(layer, which).shape
        g = g.reshape(len(g), *shape)
        g = g * keep[name] if name in keep else g
        return name, g.flatten(1).square().sum(1), lambda c: (c @ g.flatten(1)).view(shape)

    def trained(which: str) -> bool:
        parameter = getattr(layer, which, None)
        return parameter is not None and parameter.requires_grad

    parts = []
    if isinstance(layer, nn.Linear) and a.ndim == 2:
        if trained("weight"):
            name = full("weight")
            mask = keep.get(name)
            if mask is None:
                square = a.square().sum(1) * d.square().sum(1)
                parts.append((name, square, lambda c: (c[:, None] * d).T @ a))
            else:
                square = (d.square() @ mask.to(d.dtype) * a.square()).sum(1)
                parts.append((name, square, lambda c: (c[:, None] * d).T @ a * mask))
        if trained("bias"):
            parts.append(stored("bias", d))
        return parts
    if isinstance(layer, nn.Linear):
        a, d = a.flatten(1, -2), d.flatten(1, -2)
        weight, bias = d.transpose(1, 2) @ a if trained("weight") else None, d.sum(1)
    elif isinstance(layer, nn.Conv2d):
        weight = _conv(layer, a, d) if trained("weight") else None
        bias = d.flatten(2).sum(2)
    elif isinstance(layer, nn.GroupNorm):
        weight = d * F.group_norm(a, layer.num_groups, eps=layer.eps)
        weight, bias = (t.reshape(len(t), layer.num_channels, -1).sum(2) for t in (weight, d))
    else:
        shape = layer.normalized_shape
        weight, bias = d * F.layer_norm(a, shape, eps=layer.eps), d
        weight, bias = (t.reshape(len(t), -1, *shape).sum(1) for t in (weight, bias))
    if trained("weight"):
        parts.append(stored("weight", weight))
    if trained("bias"):
        parts.append(stored("bias", bias))
    return parts


def _conv(layer: nn.Conv2d, a: Tensor, d: Tensor) -> Tensor:
    """Per-example weight gradients [B, out, in/groups * kh * kw] of a convolution."""
    batch, groups = len(a), layer.groups
    if layer.dilation == (1, 1):  # a strided view and one copy: a third faster than F.unfold on a CPU
        (down, across), (kh, kw) = layer.padding, layer.kernel_size
        windows = F.pad(a, (across, across, down, down)).unfold(2, kh, layer.stride[0]).unfold(3, kw, layer.stride[1])
        columns = windows.permute(0, 1, 4, 5, 2, 3).reshape(batch, -1, windows.shape[2] * windows.shape[3])
    else:
        columns = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns = columns.view(batch * groups, -1, columns.shape[2])
    d = d.reshape(batch * groups, -1, columns.shape[2])
    return torch.bmm(d, columns.transpose(1, 2)).view(batch, layer.out_channels, -1)
