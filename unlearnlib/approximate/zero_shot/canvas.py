"""What is known of the pictures when none is at hand: their shape, and the units of their pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.training.modes import device_of
from unlearnlib.training.networks import Normalise


@dataclass(frozen=True)
class Canvas:
    """Pictures x = mean + std u [n, *shape] of arrays u in units of the pixels' spread; mean and std are [C, 1, 1]."""

    shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor

    @staticmethod
    def of(model: nn.Module, shape: tuple[int, int, int], limits=None) -> "Canvas":
        """The canvas of pictures of this shape and these limits that `model` takes.

        The mean and the spread are those that a normalising first layer of the model holds, which are part of the
        model and no picture. Without one they are those of uniform noise between the limits; without limits 0 and 1.
        """
        layers = [m for m in model.modules() if isinstance(m, Normalise) and m.mean.shape[1] in (1, shape[0])]
        like, device = next(model.parameters()), device_of(model)
        if layers:
            mean, std = layers[0].mean[0], layers[0].std[0]
        else:
            low, high = (
                torch.as_tensor(e, dtype=torch.float64).reshape(-1, 1, 1) for e in limits or (-(3**0.5), 3**0.5)
            )
            mean, std = (low + high) / 2, (high - low) / 12**0.5
        ends = (v.detach().to(device=device, dtype=like.dtype).expand(shape[0], 1, 1) for v in (mean, std))
        return Canvas(tuple(shape), *ends)

    def picture(self, u: Tensor) -> Tensor:
        """The pictures of u [n, *shape]."""
        return self.mean + self.std * u

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """n standard normal u [n, *shape]: of their pictures every pixel is drawn by itself."""
        return torch.randn(n, *self.shape, generator=rng, dtype=torch.float64).to(self.mean)
