"""What a model answers: logits in blocks, in eval mode, on the CPU."""

import torch
from torch import Tensor, nn

from unlearnlib.training.doors import answer, check_finite_answer, check_values
from unlearnlib.training.modes import device_of, evaluating
from unlearnlib.training.precision import lowered
from unlearnlib.training.work import Tally

_BLOCK = 256  # pictures whose activations fit the cache of a processor


def predict(model: nn.Module, examples, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """Logits float32 [N, classes] on the CPU, in eval mode; the model is left in the mode it was in.

    `examples` is an Examples, or pixels [N, C, H, W]. A model in half precision is given half-precision pixels. In the
    fast mode a float32 model computes in mixed precision where that is faster. Raises ValueError where there are no
    examples or the model answers anything but logits, and Diverged (a ValueError) where these are not finite.
    """
    check_values(model)
    if not len(examples):
        raise ValueError("no examples to predict: the set is empty")
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = examples if isinstance(examples, Tensor) else None
    n = len(examples)

    def pixels(start: int, stop: int) -> Tensor:
        index = torch.arange(start, min(stop, n))
        found = images[index] if images is not None else examples.pixels(index)
        return found.to(device=device, dtype=dtype)

    parts = []
    with torch.no_grad(), evaluating(model):
        lower = n >= _BLOCK and lowered("auto", model, pixels(0, _BLOCK), backward=False)
        size, layout = (_BLOCK, torch.channels_last) if lower else (batch_size, torch.contiguous_format)
        for start in range(0, n, size):
            block = pixels(start, start + size).to(memory_format=layout)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                parts.append(answer(model, block).float().cpu())
    if tally is not None:
        tally.forward_evaluations += n
    logits = torch.cat(parts)
    check_finite_answer(logits)
    return logits


def accuracy(model: nn.Module, examples) -> float:
    """The share of `examples` whose largest logit is at their label."""
    return (predict(model, examples).argmax(1) == examples.labels).float().mean().item()
