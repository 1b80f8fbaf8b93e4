"""What a model answers: logits in blocks, in eval mode, on the CPU."""

import torch
from torch import Tensor, nn

from unlearnlib.data import doors
from unlearnlib.training.loop import Tally
from unlearnlib.training.models import device_of, evaluating
from unlearnlib.training.precision import lowered

_BLOCK = 256  # pictures whose activations fit the cache of a processor


def predict(model: nn.Module, examples, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """Logits float32 [N, classes] on the CPU, in eval mode; the model is left in the mode it was in.

    `examples` is an Examples, or pixels [N, C, H, W] as `doors.pixels` takes them; none give [0, classes]. A model in
    half precision is given half-precision pixels. In the fast mode a float32 model computes in mixed precision where
    that is faster.
    """
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = doors.as_tensor(examples)
    n = len(images)

    def pixels(start: int, stop: int) -> Tensor:
        found = doors.pixels(images[start:stop], device=device)
        return (found if n else found.new_zeros(1, *found.shape[1:])).to(dtype)

    parts = []
    with torch.no_grad(), evaluating(model):
        lower = n >= _BLOCK and lowered("auto", model, pixels(0, _BLOCK), backward=False)
        size, layout = (_BLOCK, torch.channels_last) if lower else (batch_size, torch.contiguous_format)
        for start in range(0, max(n, 1), size):
            block = pixels(start, start + size).to(memory_format=layout)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                parts.append(model(block).float().cpu())
    if tally is not None:
        tally.forward_evaluations += n
    return torch.cat(parts)[:n]


def accuracy(model: nn.Module, examples) -> float:
    """The share of `examples` whose largest logit is at their label."""
    return (predict(model, examples).argmax(1) == examples.labels).float().mean().item()
