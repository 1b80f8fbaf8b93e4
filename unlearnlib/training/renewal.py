"""Copies of a network: the same one, or an untrained one of its architecture.

A retraining is exact only where nothing of the trained network is left in its start. So every trainable value is
overwritten with NaN before a network is drawn anew, and a value that is still NaN afterwards is refused.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from unlearnlib import seeding
from unlearnlib.training.modes import (
    BatchNorm,
    device_of,
    norms_are_frozen,
    norms_frozen,
    owned,
    resting,
    training_mode,
    without_our_hooks,
)
from unlearnlib.training.networks import Whitening

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def workable(model: nn.Module) -> nn.Module:
    """A copy in single precision where `model` is in half, whose weights cannot take small steps."""
    return copied(model)._apply(lambda t: t.float() if t.is_floating_point() and t.element_size() < 4 else t)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of networks that hold computed tensors, as pruned and weight-normed ones do."""
    computed = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return without_our_hooks(copy.deepcopy(model, {id(v): v.detach().clone() for v in computed}))


def without_graphs(model: nn.Module) -> nn.Module:
    """`model`, in place, with its computed tensors cut off from what they were computed from, so that it copies."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    return model


def restore(made: nn.Module, model: nn.Module) -> nn.Module:
    """`made`, in place, with the modes and trainable flags of `model`, whose modules it has, and without gradients."""
    for new, old in zip(made.modules(), model.modules(), strict=True):
        new.training = old.training
    for p, p0 in zip(made.parameters(), model.parameters(), strict=True):
        p.requires_grad_(p0.requires_grad)
        p.grad = None
    return made


def hooked(module: nn.Module) -> bool:
    """Whether somebody's code runs before or after this module."""
    return any(getattr(module, name, None) for name in _HOOKS)


def fresh(model: nn.Module, seed: int, example: Tensor | None = None) -> nn.Module:
    """An untrained network with the architecture of `model`: the start of a retraining.

    A model made by `models.build`, and not rebuilt since, is built again (the same initialisation law). Any other is
    copied and each of its layers reset. Frozen parameters (`requires_grad=False`) and the statistics of frozen norms
    keep their values: they were not learnt from the data at hand. Raises ValueError as `reinitialised` does.
    """
    architecture = getattr(model, "architecture", None)
    rebuilt = None if architecture is None else architecture.initialised(seed).to(device_of(model))
    if rebuilt is None or not _alike(model, rebuilt):
        with norms_frozen(False):
            return reinitialised(model, seed, example=example)
    still = resting(model, example)
    pairs = list(zip(model.named_modules(), rebuilt.modules(), strict=True))
    with torch.no_grad():
        for (name, old), new in pairs:
            for key, value in old._parameters.items():
                if value is not None:
                    new._parameters[key].data = (new._parameters[key] if value.requires_grad else value).data.to(
                        value, copy=True
                    )
                    new._parameters[key].requires_grad_(value.requires_grad)
            for key, value in old._buffers.items():
                if value is not None:
                    new._buffers[key] = (value if name in still else new._buffers[key]).to(value.dtype, copy=True)
            new.training = old.training
    return rebuilt


def _alike(model: nn.Module, rebuilt: nn.Module) -> bool:
    """Whether the networks have the same layers, parameters, ties and buffers, and nobody's hooks."""

    def facts(network: nn.Module):
        parameters = [(name, p.shape) for name, p in network.named_parameters()]
        buffers = [(name, b.shape) for name, b in network.named_buffers()]
        return repr(network), parameters, buffers, any(map(hooked, network.modules()))

    return facts(model) == facts(rebuilt)


def reinitialised(
    model: nn.Module, seed: int, *, only: set[str] | None = None, example: Tensor | None = None
) -> nn.Module:
    """A copy of `model` whose trainable parameters are drawn anew and whose running statistics are reset.

    only      restricts this to the named modules (and those inside them)
    example   pixels [n, C, H, W], with which buffers are found that move in training

    Frozen parameters, and the statistics of norms in a frozen part or inside `norms_frozen`, keep their values. Weight
    norm and other parametrisations without a state of their own are drawn as their plain layer would be. Raises
    ValueError where a trained value would be left: in a module without `reset_parameters`, under a pruning mask, in a
    spectral norm, in a buffer that moves and is not reset.
    """
    made = copied(model)
    still, kept = resting(made, example), {n: p.detach().clone() for n, p in made.named_parameters()}
    before = {name: b.clone() for name, b in made.named_buffers()}
    moving = set() if example is None else _moving(model, example)

    def concerned(name: str, module: nn.Module) -> bool:
        inside = only is None or any(name == top or name.startswith(f"{top}.") for top in only)
        return inside and name not in still and (not owned(module) or any(p.requires_grad for p in owned(module)))

    chosen = [(name, module) for name, module in made.named_modules() if concerned(name, module)]
    with torch.no_grad():
        plain = {name: _plain(module) for name, module in chosen if parametrize.is_parametrized(module)}
        for _, module in chosen:
            for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                if value.is_floating_point():
                    value.fill_(torch.nan)
    with seeding.isolated(seed, "initialisation"), torch.no_grad():
        for name, module in chosen:
            if name in plain:
                _reset_parametrised(module, plain[name])
            else:
                _reset(module)
    for name, module in chosen:
        _check_renewed(name, module, before, moving)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if not p.requires_grad:
                p.copy_(kept[name])
        for name, module in chosen if norms_are_frozen() else ():
            for leaf, buffer in module.named_buffers(recurse=False) if isinstance(module, BatchNorm) else ():
                buffer.copy_(before[f"{name}.{leaf}" if name else leaf])
    return made


def _reset(module: nn.Module) -> None:
    """Draw the module's own parameters anew, in place, as far as we know how."""
    if not hasattr(module, "reset_parameters"):
        return
    norms = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
    if norms:
        plain = copied(module)
        for hook in norms:
            remove_weight_norm(plain, hook.name)
        plain.reset_parameters()
        for hook in norms:
            weight = getattr(plain, hook.name).detach()
            getattr(module, f"{hook.name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
            getattr(module, f"{hook.name}_v").copy_(weight)
            setattr(module, hook.name, hook.compute_weight(module).detach())
        _copy_own(plain, module)
    else:
        module.reset_parameters()


def _plain(module: nn.Module) -> nn.Module:
    """The layer that a parametrised one would be without its parametrisations, with values of the same shapes.

    Not by `remove_parametrizations`, which changes the class of the layer, and that a copy shares with the original.
    """
    values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    plain = copied(module)
    plain.__class__ = type(module).__bases__[0]
    del plain._modules["parametrizations"]
    for name, value in values.items():
        plain.register_parameter(name, nn.Parameter(value))
    return plain


def _reset_parametrised(module: nn.Module, plain: nn.Module) -> None:
    if not hasattr(plain, "reset_parameters"):
        return
    plain.reset_parameters()
    try:
        for name in module.parametrizations:
            setattr(module, name, getattr(plain, name).detach())
    except (RuntimeError, NotImplementedError, ValueError):
        return  # it has no inverse, say: its values are still NaN, and refused below
    _copy_own(plain, module)


def _copy_own(plain: nn.Module, module: nn.Module) -> None:
    for name, p in module.named_parameters(recurse=False):
        if name in plain._parameters:
            p.copy_(plain._parameters[name])


@torch.no_grad()
def _check_renewed(name: str, module: nn.Module, before: dict[str, Tensor], moving: set[str]) -> None:
    """ValueError where a trained value was not drawn anew; constants that were overwritten get their values back."""
    kind, advice = type(module).__name__, "give build=, a function of the seed"
    for leaf, p in module.named_parameters(recurse=False):
        if p.requires_grad and torch.isnan(p).any():
            if not hasattr(module, "reset_parameters") and "parametrizations" not in name.split("."):
                raise ValueError(f"{kind} has parameters but no reset_parameters: {advice}")
            raise ValueError(f"{leaf} of {name or kind} cannot be drawn anew (it is reparametrised): {advice}")
    inner = "parametrizations" in name.split(".")
    for leaf, buffer in module.named_buffers(recurse=False):
        whole = f"{name}.{leaf}" if name else leaf
        old = before[whole]
        lost = buffer.is_floating_point() and bool(torch.isnan(buffer).any())
        same = lost or (torch.equal(buffer, old) and not isinstance(module, (BatchNorm, Whitening)))
        if same and (whole in moving or (lost and (inner or any(p.requires_grad for p in owned(module))))):
            raise ValueError(f"{whole} is a buffer that training moves and nothing resets: {advice}")
        if lost:
            buffer.copy_(old)


def _moving(model: nn.Module, example: Tensor) -> set[str]:
    """Buffers that a forward pass of `example` [n, C, H, W] in train mode changes."""
    probe = copied(model)
    first = next(probe.parameters())
    before = {name: b.clone() for name, b in probe.named_buffers()}
    with seeding.isolated(0, "moving buffers"), torch.no_grad(), training_mode(probe, example[:1]):
        probe(example.to(device=first.device, dtype=first.dtype))
    return {name for name, b in probe.named_buffers() if not torch.equal(b, before[name])}
