"""The door for models: what is asked of a network before anything is done with it.

It takes pixels [B, C, H, W] and answers logits, one floating tensor [B, classes] of finite numbers.
"""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from unlearnlib import seeding
from unlearnlib.training.modes import device_of, evaluating
from unlearnlib.training.renewal import copied


def check_model(model: nn.Module, examples, *, training: bool = False) -> int:
    """How many classes `model` answers; ValueError in one line where it is no classifier of such pictures.

    examples   an Examples, whose shape and largest label count, or a shape (C, H, W)
    training   also ask what it answers in train mode (a copy is asked)

    The model is asked about two pictures of noise, in eval mode; no picture of the examples is read.
    """
    check_values(model)
    shape = examples if isinstance(examples, tuple) else examples.shape
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with seeding.isolated(0, "door"), torch.no_grad(), evaluating(model):
        logits = asked(model, noise)
    check_finite_answer(logits)
    if not isinstance(examples, tuple):
        check_labels(logits.shape[1], examples.labels)
    if training:
        with seeding.isolated(0, "door"), torch.no_grad():
            asked(copied(model).train(), noise)
    return logits.shape[1]


def check_values(model: nn.Module) -> None:
    """ValueError where it is no module, or its weights have no values yet (lazy layers, the meta device)."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model is a torch.nn.Module, not {type(model).__name__}")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(value, (UninitializedParameter, UninitializedBuffer)):
            raise ValueError(f"{name} is lazy and has no shape yet: send one batch through the model first")
        if value.is_meta:
            raise ValueError(f"{name} is on the meta device and has no values: use model.to_empty and load weights")


def asked(model: nn.Module, pixels: Tensor) -> Tensor:
    """Logits [B, classes] of pixels [B, C, H, W] in the model's precision and on its device, or a ValueError."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), pixels.dtype)
    try:
        return answer(model, pixels.to(device=device_of(model), dtype=dtype))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError) as error:
        if isinstance(error, _NoLogits):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        shape = "x".join(map(str, pixels.shape[1:]))
        raise ValueError(f"the model cannot take pictures {shape}: {reason}") from None


class _NoLogits(ValueError):
    pass


def answer(model: nn.Module, pixels: Tensor) -> Tensor:
    """`model(pixels)`, which must be a floating tensor [B, classes] (ValueError)."""
    logits = model(pixels)
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise _NoLogits(f"the model answers a {kind}, not logits [B, classes]: wrap it so that it returns these alone")
    if not logits.is_floating_point() or logits.ndim != 2 or len(logits) != len(pixels) or not logits.shape[1]:
        wrong = f"{logits.dtype} {list(logits.shape)} for {len(pixels)} pictures"
        raise _NoLogits(f"the model answers {wrong}, not floating logits [B, classes]")
    return logits


def check_labels(classes: int, labels: Tensor) -> None:
    """ValueError where a label is none of the model's `classes`."""
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(f"the model answers {classes} classes, but there is a label {int(labels.max())}")


def check_finite_answer(logits: Tensor) -> None:
    """Raise Diverged (a ValueError) where logits are NaN or infinite."""
    if not torch.isfinite(logits).all():
        raise Diverged("the model answers NaN or infinite logits: its weights or its statistics are damaged")


class Diverged(ArithmeticError, ValueError):
    """Training produced numbers that are not finite, or a model that came with such."""
