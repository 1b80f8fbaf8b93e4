"""Draws that keep the share of every class."""

import torch
from torch import Tensor

from unlearnlib.data.tensors import check_fraction


def stratified(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """A bool mask over `labels` that holds out about `fraction` of every class; every class keeps an image.

    Class c of n_c images gives floor(fraction n_c); the images missing from round(fraction N) come one each from
    the classes with the largest remainders, ties broken at random. By hand, because scikit-learn's stratified splits
    refuse a class of one image and may take every image of a small class.
    """
    check_fraction("a held-out fraction", fraction)
    labels = labels.cpu()
    n, sizes = len(labels), torch.bincount(labels)
    order = torch.randperm(n, generator=generator)
    order = order[torch.sort(labels[order], stable=True).indices]  # class by class, shuffled within
    rank = torch.arange(n) - (sizes.cumsum(0) - sizes)[labels[order]]
    wanted = fraction * sizes.double()
    quota = (wanted + 1e-9).floor().long()
    shuffled = torch.randperm(len(sizes), generator=generator)
    largest = shuffled[torch.sort((quota - wanted)[shuffled], stable=True).indices]
    largest = largest[quota[largest] + 1 < sizes[largest]]
    quota[largest[: max(0, round(fraction * n) - int(quota.sum()))]] += 1
    mask = torch.zeros(n, dtype=torch.bool)
    mask[order[rank < quota[labels[order]]]] = True
    return mask
