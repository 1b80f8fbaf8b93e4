"""A network as one vector: what clients and the server send each other.

The trainable parameters come first, then the floating buffers, in which batch norms keep their statistics: these are
averaged as weights are. What is frozen is not sent, and whole numbers (counts of batches) stay as they are.
"""

import torch
from torch import Tensor, nn

from unlearnlib.training.renewal import copied


def weights(model: nn.Module) -> list[Tensor]:
    """The trainable parameters of `model`."""
    return [p for p in model.parameters() if p.requires_grad]


def vector(model: nn.Module) -> Tensor:
    """What is sent of `model`: [P], on the CPU. Raises ValueError where nothing can be trained or types differ."""
    parts = [value.detach() for value in (*weights(model), *_statistics(model))]
    if not weights(model):
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    kinds = {part.dtype for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"the model mixes {' and '.join(sorted(map(str, kinds)))}: cast it to one type first")
    return torch.cat([part.flatten() for part in parts]).cpu()


@torch.no_grad()
def filled(model: nn.Module, values: Tensor) -> nn.Module:
    """A copy of `model` with the weights and statistics in `values` [P]."""
    made = copied(model)
    places = [*weights(made), *_statistics(made)]
    sizes = [place.numel() for place in places]
    if tuple(values.shape) != (sum(sizes),):
        raise ValueError(f"the model holds {sum(sizes)} numbers, not {list(values.shape)}: is it another architecture?")
    for place, part in zip(places, values.split(sizes), strict=True):
        place.copy_(part.reshape(place.shape))
    return made


def _statistics(model: nn.Module) -> list[Tensor]:
    return [value for value in model.buffers() if value.is_floating_point()]
