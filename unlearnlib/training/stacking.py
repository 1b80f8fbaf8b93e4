"""Many networks of one architecture as one network, so that K small models cost few large operations.

The K models lie side by side along dimension 1, model-major: pictures [B, K*C, H, W], vectors [B, K*F]. In that
layout a convolution of K models is one grouped convolution, K batch norms are one batch norm over K*C channels, K
linear layers are one batched matrix product, and every module without parameters (activation, pooling, flatten)
works unchanged. `stack` checks the result against the models themselves and refuses what does not agree, so a
network that treats dimension 1 in another way is never silently wrong.
"""

import copy

import torch
from torch import Tensor, nn

from unlearnlib.training.models import Normalise, evaluating


class Unstackable(ValueError):
    """The architecture has a layer that cannot be stacked; train its models one at a time."""


class StackedLinear(nn.Module):
    """K linear layers: [B, K*I] -> [B, K*O], weight [K, I, O], bias [K, 1, O]."""

    def __init__(self, members: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([m.weight.detach().T for m in members]).contiguous())
        bias = members[0].bias is not None
        self.bias = nn.Parameter(torch.stack([m.bias.detach()[None] for m in members])) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        count, fan_in, _ = self.weight.shape
        inputs = x.reshape(len(x), count, fan_in).transpose(0, 1)
        if self.bias is None:
            return torch.bmm(inputs, self.weight).transpose(0, 1).flatten(1)
        return torch.baddbmm(self.bias, inputs, self.weight).transpose(0, 1).flatten(1)

    def copy_back(self, members: list[nn.Linear]) -> None:
        for member, weight in zip(members, self.weight, strict=True):
            member.weight.copy_(weight.T)
        if self.bias is not None:
            for member, bias in zip(members, self.bias, strict=True):
                member.bias.copy_(bias[0])


def _concatenated(members: list[nn.Module]) -> nn.Module:
    """One layer whose parameters and buffers are those of the members, one after another along their channels."""
    count, first = len(members), members[0]
    layer = copy.deepcopy(first)
    axis = 1 if isinstance(first, Normalise) else 0
    for name, value in list(layer.named_parameters(recurse=False)):
        joined = torch.cat([getattr(m, name).detach() for m in members], dim=axis)
        setattr(layer, name, nn.Parameter(joined, requires_grad=value.requires_grad))
    for name, value in list(layer.named_buffers(recurse=False)):
        if value.dim() > 0:
            setattr(layer, name, torch.cat([getattr(m, name) for m in members], dim=axis))
    if isinstance(first, nn.Conv2d):
        layer.groups *= count
        layer.in_channels *= count
        layer.out_channels *= count
    elif isinstance(first, nn.GroupNorm):
        layer.num_groups *= count
        layer.num_channels *= count
    elif not isinstance(first, Normalise):
        layer.num_features *= count
    return layer


_JOINABLE = (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, Normalise)


def _join(members: list[nn.Module]) -> nn.Module:
    first = members[0]
    if isinstance(first, nn.Linear):
        layer = StackedLinear(members)
        for name, value in layer.named_parameters():
            value.requires_grad_(getattr(first, name).requires_grad)
        return layer
    if isinstance(first, nn.Conv2d) and first.padding_mode != "zeros":
        raise Unstackable(f"a convolution with padding_mode={first.padding_mode!r} cannot be stacked")
    if isinstance(first, _JOINABLE):
        return _concatenated(members)
    own = [*first.named_parameters(recurse=False), *first.named_buffers(recurse=False)]
    if own:
        raise Unstackable(f"{type(first).__name__} cannot be stacked; its models are trained one at a time")
    layer = copy.copy(first)
    layer._modules = {
        name: _join([m._modules[name] for m in members]) for name, child in first._modules.items() if child is not None
    }
    return layer


class Stack:
    """K models of one architecture as one: `logits(pixels [B, K, C, H, W]) -> [B, K, classes]`.

    `module` is the joined network (train it with any optimiser); `unstacked()` gives K models with its weights.
    Raises Unstackable (a ValueError) where the joined network would not compute what the models do.
    """

    def __init__(self, models: list[nn.Module], example: Tensor):
        self._models = [copy.deepcopy(m) for m in models]
        shared = [p for p in models[0].parameters()]
        named = [p for _, p in models[0].named_parameters(remove_duplicate=False)]
        if len(shared) != len(named):
            raise Unstackable("tied weights cannot be stacked; its models are trained one at a time")
        self.count = len(models)
        self.module = _join(models)
        self._check(models, example)

    def _check(self, models, example: Tensor) -> None:
        # Each model gets pictures of its own: equal ones would hide a network that mixes up its models.
        base = example[:1].repeat(2, *[1] * (example.dim() - 1)) if len(example) == 1 else example[:2]
        probes = [base.roll(k, -1) * (1 - k / (2 * self.count)) for k in range(self.count)]
        with torch.no_grad(), evaluating(self.module):
            try:
                joined = self.logits(torch.stack(probes, dim=1))
            except RuntimeError as error:
                raise Unstackable(f"the stacked network does not run: {str(error).splitlines()[0]}") from None
            for position, (model, probe) in enumerate(zip(models, probes, strict=True)):
                with evaluating(model):
                    alone = model(probe)
                if not torch.allclose(joined[:, position], alone, rtol=1e-3, atol=1e-4):
                    raise Unstackable("the stacked network does not compute what the models do")

    def logits(self, pixels: Tensor) -> Tensor:
        return self.module(pixels.flatten(1, 2)).unflatten(1, (self.count, -1))

    @torch.no_grad()
    def unstacked(self) -> list[nn.Module]:
        """K copies of the models with the weights and statistics that the stack has now."""
        result = [copy.deepcopy(m) for m in self._models]
        _part([*result], self.module)
        return result


def _part(members: list[nn.Module], layer: nn.Module) -> None:
    first = members[0]
    if isinstance(layer, StackedLinear):
        layer.copy_back(members)
        return
    if isinstance(first, _JOINABLE):
        axis = 1 if isinstance(first, Normalise) else 0
        for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            parts = value.chunk(len(members), dim=axis) if value.dim() else [value] * len(members)
            for member, part in zip(members, parts, strict=True):
                getattr(member, name).copy_(part)
        return
    for name, child in layer._modules.items():
        _part([m._modules[name] for m in members], child)
