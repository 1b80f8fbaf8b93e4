"""Train and eval mode of a network: which of its norms keep their statistics, and what passes it in which order."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from unlearnlib import seeding
from unlearnlib.training.networks import Whitening

_frozen: contextvars.ContextVar[bool] = contextvars.ContextVar("norms_frozen", default=False)


@contextlib.contextmanager
def norms_frozen(wanted: bool = True) -> Iterator[None]:
    """Inside the block `training_mode` keeps every batch norm in eval mode: statistics are used and do not move."""
    token = _frozen.set(wanted)
    try:
        yield
    finally:
        _frozen.reset(token)


def norms_are_frozen() -> bool:
    """Whether this is inside `norms_frozen`."""
    return _frozen.get()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode inside the block; afterwards every module is in the mode it was found in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


class training_mode:
    """Train mode inside the block, but eval mode for batch norms that are to keep their statistics; modes restored.

    These are the norms inside `norms_frozen`, and those in a frozen part of the network (`resting`). In a batch that
    gives a norm one value a channel, of which there is no variance, that norm alone uses its running statistics and
    leaves them; a norm that keeps none refuses such a batch (ValueError).

    example   pixels [1, C, H, W]: layers come in the order in which these pass them, without it as they are registered
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None):
        self.model, self.example = model, example

    def __enter__(self):
        self._modes = [(m, m.training) for m in self.model.modules()]
        still = resting(self.model, self.example)
        self.model.train()
        self._handles = []
        for name, module in self.model.named_modules():
            if not isinstance(module, BatchNorm):
                continue
            if norms_are_frozen() or name in still:
                module.eval()
            else:
                hook = _OneValue()
                self._handles += [
                    module.register_forward_pre_hook(hook.before),
                    module.register_forward_hook(hook.after),
                ]

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
        for module, training in self._modes:
            module.training = training


class _OneValue:
    """Puts a batch norm into eval mode for a batch that has one value a channel."""

    switched = False

    def before(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm.training and inputs[0].numel() == inputs[0].shape[1]:
            if norm.running_mean is None:
                raise ValueError("a batch norm without running statistics cannot take one example: use larger batches")
            norm.training, self.switched = False, True

    def after(self, norm: nn.Module, *_) -> None:
        if self.switched:
            norm.training, self.switched = True, False


def without_our_hooks(model: nn.Module) -> nn.Module:
    """`model`, in place, without the hooks that a copy has taken along out of a `training_mode`."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), _OneValue)]:
                del hooks[key]
    return model


def resting(model: nn.Module, example: Tensor | None = None) -> set[str]:
    """Modules whose buffers training must leave alone: the batch norms in a frozen part of the network.

    And whitened stems made from pictures of the caller's choice.

    A norm with parameters is in one where all of these are frozen. A norm without (affine=False) is where nothing
    trainable comes before it and the network's first layer is frozen: a norm on the pixels of a network that trains
    from its first layer on is not.
    """
    modules = dict(model.named_modules())
    norms = {name for name, module in modules.items() if isinstance(module, BatchNorm)}
    given = {n for n, m in modules.items() if isinstance(m, Whitening) and int(m.source) == Whitening.GIVEN}
    found = given | {n for n in norms if owned(modules[n]) and not any(p.requires_grad for p in owned(modules[n]))}
    bare = {name for name in norms if not owned(modules[name])}
    if not bare or all(p.requires_grad for p in model.parameters()):
        return found

    def matters(module: nn.Module) -> bool:
        return bool(owned(module)) or isinstance(module, BatchNorm)

    order = list(modules) if example is None else passing(model, example, matters)
    states = [(n, [p.requires_grad for p in owned(modules[n])]) for n in order]
    first = next((flags for _, flags in states if flags), [True])
    if any(first):
        return found
    for name, flags in states:
        if any(flags):
            break
        if name in bare:
            found.add(name)
    return found


def owned(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, those of its parametrisations included."""
    inner = getattr(module, "parametrizations", None)
    more = inner.parameters() if isinstance(inner, nn.ModuleDict) else ()
    return [*module.parameters(recurse=False), *more]


def passing(model: nn.Module, example: Tensor, wanted: Callable[[nn.Module], bool]) -> list[str]:
    """Names of the `wanted` modules in the order in which `example` [1, C, H, W] first leaves them, in eval mode."""
    order, handles = [], []
    for name, module in model.named_modules():
        if wanted(module):
            handles.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
    first = next(model.parameters(), example)
    try:
        with evaluating(model), torch.no_grad(), seeding.isolated(0, "order of layers"):
            model(example.to(device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives (the CPU for a model without parameters)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
