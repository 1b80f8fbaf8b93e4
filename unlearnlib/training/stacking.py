"""Many networks of one architecture as one network, so that K small models cost few large operations.

The K models lie side by side along dimension 1, model-major: pictures [B, K*C, H, W], vectors [B, K*F]. In that
layout a convolution of K models is one grouped convolution, K batch norms are one batch norm over K*C channels, K
linear layers are one batched matrix product, and every module without parameters (activation, pooling, flatten)
works unchanged. A layer with weights must be exactly one of these classes and no more: parametrisations, hooks, masks,
further attributes and subclasses are refused. Then `Stack` checks outputs, gradients and statistics, in eval and in
train mode, against the models themselves and refuses what does not agree (dropout, say, whose draws would be others),
so that a stack is never silently wrong.
"""

import copy

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.training.modes import evaluating, training_mode
from unlearnlib.training.networks import Normalise
from unlearnlib.training.renewal import copied, hooked


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
_PLAIN = {
    type(layer): (set(vars(layer)), set(layer._parameters), set(layer._buffers))
    for layer in (
        *(nn.Linear(1, 1), nn.Conv2d(1, 1, 1), nn.BatchNorm1d(1), nn.BatchNorm2d(1), nn.GroupNorm(1, 1)),
        Normalise(torch.zeros(1), torch.ones(1)),
    )
}


def _check_plain(members: list[nn.Module]) -> None:
    """Unstackable where a layer is more than its class, or the members differ in kind or in what is frozen."""
    first = members[0]
    own = [*first.named_parameters(recurse=False), *first.named_buffers(recurse=False)]
    kinds = {(type(m), tuple((n, p.requires_grad) for n, p in m.named_parameters(recurse=False))) for m in members}
    if len(kinds) > 1 or any(map(hooked, members)):
        raise Unstackable(f"{type(first).__name__} differs between the models or has hooks, so it cannot be stacked")
    if own:
        plain = _PLAIN.get(type(first))
        if plain is None or (set(vars(first)), set(first._parameters), set(first._buffers)) != plain:
            raise Unstackable(f"{type(first).__name__} cannot be stacked; its models are trained one at a time")


def _join(members: list[nn.Module]) -> nn.Module:
    first = members[0]
    _check_plain(members)
    if isinstance(first, nn.Linear):
        layer = StackedLinear(members)
        for name, value in layer.named_parameters():
            value.requires_grad_(getattr(first, name).requires_grad)
        return layer
    if isinstance(first, nn.Conv2d) and first.padding_mode != "zeros":
        raise Unstackable(f"a convolution with padding_mode={first.padding_mode!r} cannot be stacked")
    if isinstance(first, _JOINABLE):
        return _concatenated(members)
    layer = copy.copy(first)
    layer._modules = {
        name: _join([m._modules[name] for m in members]) for name, child in first._modules.items() if child is not None
    }
    return layer


class Stack:
    """K models of one architecture as one: `logits(pixels [B, K, C, H, W]) -> [B, K, classes]`.

    `module` is the joined network (train it with any optimiser); `unstacked()` gives K models with its weights.
    Raises Unstackable (a ValueError) where the joined network would not compute, or not learn, what the models do.

    example   pixels [1, C, H, W]
    """

    def __init__(self, models: list[nn.Module], example: Tensor):
        self._models = [copied(m) for m in models]
        shared = [p for p in models[0].parameters()]
        named = [p for _, p in models[0].named_parameters(remove_duplicate=False)]
        if len(shared) != len(named):
            raise Unstackable("tied weights cannot be stacked; its models are trained one at a time")
        self.count = len(models)
        self.module = _join(self._models)
        noise = torch.rand(4, self.count, *example.shape[1:], generator=torch.Generator().manual_seed(0))
        self._check(example[:1, None] + noise.to(example))

    def _check(self, probes: Tensor) -> None:
        """Compare outputs, gradients and statistics with the models', on copies: probes [B, K, C, H, W]."""
        for mode in (evaluating, training_mode):
            stack, alone = copy.copy(self), [copied(m) for m in self._models]
            stack.module, stack._models = copied(self.module), alone
            try:
                found = _learnt(stack.module, mode, lambda module: self._through(module, probes))
            except Exception as error:  # a stranger's layer may fail in any way on a layout that it does not know
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise Unstackable(f"the stacked network does not run: {reason}") from None
            joined = stack.unstacked()
            for k, (model, seen) in enumerate(zip(alone, joined, strict=True)):
                expected = _learnt(model, mode, lambda module, k=k: module(probes[:, k]))
                pairs = [(found[:, k], expected)]
                pairs += zip(_values(seen), _values(model), strict=True)
                if not all(_close(a, b) for a, b in pairs):
                    raise Unstackable("the stacked network does not compute what the models do")

    def _through(self, module: nn.Module, pixels: Tensor) -> Tensor:
        return module(pixels.flatten(1, 2)).unflatten(1, (self.count, -1))

    def logits(self, pixels: Tensor) -> Tensor:
        return self._through(self.module, pixels)

    @torch.no_grad()
    def unstacked(self) -> list[nn.Module]:
        """K copies of the models with the weights and statistics that the stack has now."""
        result = [copied(m) for m in self._models]
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


def _learnt(module: nn.Module, mode, forward) -> Tensor:
    """The logits of a pass in `mode`; afterwards the parameters of `module` are their own gradients."""
    with mode(module), torch.enable_grad(), seeding.isolated(0, "stack"):
        logits = forward(module)
        if logits.requires_grad:
            logits.square().sum().backward()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    return logits.detach()


def _values(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in [*model.parameters(), *model.buffers()]]


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal to rounding, which is judged by the largest entry."""
    largest = float(b.abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4 * max(1.0, largest))
