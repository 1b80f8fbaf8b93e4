"""Pruning as an aid: train with a fixed mask, under which the smallest weights are and stay zero.

    theta_0 <- m * theta_0,     theta <- m * (theta - step),     m_i = 1 for the `kept` share of largest |theta_i|

in each weight matrix or kernel by itself; biases, norms and frozen weights are not masked. Jia et al., NeurIPS 2023,
arXiv 2304.04934, prune before they unlearn. Limits: kept = 1 is the method without the part, bit by bit. A mask made
from the original has been made with the help of the forgotten examples and so tells of them: `magnitude_masks` of a
network that never saw them is its counterpart.

    ul.unlearn("finetune", model, split, seed=0, parts=(Masked(0.2),))
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unlearnlib.approximate.gradients import trainable
from unlearnlib.training.loop import Part, Stage
from unlearnlib.training.renewal import copied


def magnitude_masks(model: nn.Module, kept: float) -> dict[str, Tensor]:
    """name -> True where a weight is kept: of every trainable matrix or kernel the `kept` share of largest size.

    At least one weight of each is kept; of equals the first. Raises ValueError unless 0 < kept <= 1.
    """
    if isinstance(kept, bool) or not isinstance(kept, (int, float)) or not 0 < kept <= 1:
        raise ValueError(f"kept is a share above 0 and at most 1, not {kept!r}")
    masks = {}
    for name, p in trainable(model).items():
        if p.ndim >= 2:
            order = torch.sort(p.detach().abs().flatten(), descending=True, stable=True).indices
            mask = torch.zeros(p.numel(), dtype=torch.bool, device=p.device)
            mask[order[: max(1, round(kept * p.numel()))]] = True
            masks[name] = mask.reshape(p.shape)
    return masks


@torch.no_grad()
def _zero(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            raise ValueError(f"the mask of {name!r} belongs to another network: make one with magnitude_masks")
        weights[name].masked_fill_(~mask, 0.0)
    return model


def pruned(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose weights outside the masks are zero. Raises ValueError on another network's masks."""
    return _zero(copied(model), masks)


class Masked(Part):
    """Weights outside the mask are zero at the start and exactly zero after every step, momentum and decay included.

    kept   a share, for `magnitude_masks` of the network that the descent starts from, or such masks, for which the
           caller prunes the start (`pruned`) where it runs `training.descend` himself
    """

    stage = Stage.BOUND

    def __init__(self, kept: float | Mapping[str, Tensor]):
        self.masks = dict(kept) if isinstance(kept, Mapping) else None
        self.kept = None if isinstance(kept, Mapping) else kept

    def applied(self, program, split, run):
        masks = self.masks if self.masks is not None else magnitude_masks(program.model, self.kept)
        _zero(program.model, masks)
        return super(Masked, Masked(masks)).applied(program, split, run)

    def after_step(self, model: nn.Module, step: int) -> bool:
        if self.masks is None:
            raise ValueError("a share has no mask yet: give masks, from magnitude_masks, to a descent of your own")
        _zero(model, self.masks)
        return False
