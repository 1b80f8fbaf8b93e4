"""A copy of a network for many passes, forward and backward to the pixels, with the weights as they are.

What a training step must leave open is settled once: weights take no gradient, a batch norm in eval mode is part of the
convolution before it, a convolution of a tiny map is a matrix, and mixed precision finds its weights in half precision.
The copy computes what the model computes in eval mode, up to rounding.
"""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from unlearnlib.training.models import FeatureTap

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def frozen(model: nn.Module, layer: str | None = None, *, lower: bool = False) -> nn.Module:
    """A copy of `model` in eval mode, without hooks, for passes under bfloat16 autocast where `lower`.

    Modules keep their names, and that called `layer` its input, so that a tap of the copy reads what one of the model
    does. Returns the model itself, which is right but slower, where it has hooks that are not those of a tap, or cannot
    be copied.
    """
    hooks = [getattr(module, kind) for module in model.modules() for kind in _HOOKS]
    if not all(isinstance(getattr(hook, "__self__", None), FeatureTap) for found in hooks for hook in found.values()):
        return model
    without = {id(found): type(found)() for found in hooks}
    weights = {id(p): p for p in model.parameters()}  # need no copy to be traced
    try:
        traced = copy.deepcopy(model, {**without, **weights}).eval()
        copied = copy.deepcopy(model, without).eval().requires_grad_(False)
    except (RuntimeError, TypeError):  # as torch copies no tensor with a graph, which a forward pass may remember
        return model
    for conv, norm in foldable(traced):
        if norm != layer:
            _fold(copied.get_submodule(conv), copied.get_submodule(norm))
    for module in copied.modules():
        if type(module) is nn.Conv2d and module.weight.device.type == "cpu":
            module.__class__ = _Convolution  # name, weights and being an nn.Conv2d stay
        if lower and type(module) in (nn.Linear, nn.Conv2d, _Convolution):
            # Autocast would cast these at every pass. What it leaves as it is, such as pixels and norms, stays so.
            for parameter in module.parameters():
                if parameter.dtype == torch.float32:
                    parameter.data = parameter.data.bfloat16()
    return copied


def foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the batch norm that alone reads it, both passed once and by their modules only.

    Both are children of one module, so that no other module has the output of the convolution as its input. No pairs
    where the forward pass cannot be followed. It runs with symbols for pixels and may keep them: give a copy.
    """
    modules = dict(model.named_modules())
    if not any(type(module) is nn.BatchNorm2d for module in modules.values()):
        return []
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # whatever a forward pass raises that asks a symbol for its value
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {node.target for node in nodes if node.op == "get_attr"}
    weights = {id(p) for name, p in model.named_parameters() if name in read}  # that the forward pass itself reads
    pairs = []
    for node in nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        conv, norm = modules[source.target], modules[node.target]
        kinds = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
        siblings = source.target.rpartition(".")[0] == node.target.rpartition(".")[0]
        once = calls[source.target] == calls[node.target] == 1
        if kinds and siblings and once and weights.isdisjoint(map(id, conv.parameters())):
            pairs.append((source.target, node.target))
    return pairs


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """New weights for the convolution; those of the norm, and others that share the old ones, stay."""
    statistics = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)
    norm.__class__ = _Folded


class _Folded(nn.BatchNorm2d):
    """A norm that is part of the convolution before it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Convolution(nn.Conv2d):
    """A convolution with constant weights; on a map with no more pixels than its kernel it is one matrix product.

    There most of the kernel lies on the padding, and a processor spends longer on rearranging the weights, which it
    does at every call, than on arithmetic.
    """

    _size = None  # of the map for which the matrix was made

    def forward(self, x: Tensor) -> Tensor:
        simple = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        tiny = x.dim() == 4 and x.shape[2:].numel() <= self.weight.shape[2:].numel()
        if not (simple and tiny) or isinstance(self.padding, str):
            return super().forward(x)
        if x.shape[2:] != self._size:
            self._size = x.shape[2:]
            matrix = convolution_matrix(self.weight, self._size, self.stride, self.padding)
            self._out, self._matrix = matrix.shape[:3], matrix.flatten(3).flatten(0, 2)
            self._offset = None if self.bias is None else self.bias.repeat(self._out[:2].numel())
        flat = F.linear(x.permute(0, 2, 3, 1).flatten(1), self._matrix, self._offset)
        return flat.unflatten(1, self._out).permute(0, 3, 1, 2)


def convolution_matrix(weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]):
    """What a pixel of the input adds to one of the output: [H', W', out, H, W, in] for maps [H, W] = `size`.

    Channels come last, as in `weight` then, so that blocks and not single numbers are copied.
    """
    taps = weight.permute(0, 2, 3, 1)
    shape = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, weight.shape[2:], stride, padding, strict=True)]
    matrix = weight.new_zeros(*shape, len(weight), *size, weight.shape[1])
    for row in range(shape[0]):
        for column in range(shape[1]):
            top, left = row * stride[0] - padding[0], column * stride[1] - padding[1]  # where the kernel lies
            below, right = top + weight.shape[2], left + weight.shape[3]
            inside = matrix[row, column, :, max(top, 0) : max(below, 0), max(left, 0) : max(right, 0)]
            height, width = inside.shape[1:3]
            inside.copy_(taps[:, max(-top, 0) :, max(-left, 0) :][:, :height, :width])
    return matrix
