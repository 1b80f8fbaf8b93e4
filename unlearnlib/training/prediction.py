"""What a model answers: logits in blocks, in eval mode, on the CPU."""

import torch
from torch import Tensor, nn

from unlearnlib.data.doors import as_tensor
from unlearnlib.data.doors import pixels as checked
from unlearnlib.training.doors import answer, check_finite_answer, check_labels, check_values
from unlearnlib.training.modes import device_of, evaluating
from unlearnlib.training.precision import lowered
from unlearnlib.training.work import Tally

_BLOCK = 256  # pictures whose activations fit the cache of a processor


def predict(model: nn.Module, examples, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """Logits [N, classes] on the CPU, in eval mode; the model is left in the mode it was in.

    They are float32, those of a float64 model float64.

    `examples` is an Examples, or pixels [N, C, H, W] as `data.doors.pixels` takes them; none give [0, classes]. A model
    in half precision is given half-precision pixels. In the fast mode a float32 model computes in mixed precision where
    that is faster. Raises ValueError where the model answers anything but logits, and Diverged (a ValueError) where
    these are not finite.
    """
    check_values(model)
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = as_tensor(examples)
    n, wide = len(images), dtype if dtype == torch.float64 else torch.float32

    def pixels(start: int, stop: int) -> Tensor:
        found = checked(images[start:stop], device=device, dtype=wide)
        return (found if n else found.new_zeros(1, *found.shape[1:])).to(dtype)

    parts = []
    with torch.no_grad(), evaluating(model):
        lower = n >= _BLOCK and lowered("auto", model, pixels(0, _BLOCK), backward=False)
        size, layout = (_BLOCK, torch.channels_last) if lower else (batch_size, torch.contiguous_format)
        for start in range(0, max(n, 1), size):
            block = pixels(start, start + size).to(memory_format=layout)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                parts.append(answer(model, block).to(wide).cpu())
    if tally is not None:
        tally.forward_evaluations += n
    logits = torch.cat(parts)[:n]
    check_finite_answer(logits)
    return logits


def accuracy(model: nn.Module, examples) -> float:
    """The share of `examples` whose largest logit is at their label. ValueError for a label that the model lacks."""
    logits = predict(model, examples)
    check_labels(logits.shape[1], examples.labels)
    return (logits.argmax(1) == examples.labels).float().mean().item()
