"""The losses of forgetting, as functions of answer negative log-likelihoods: l [B], at the original l_ref [B].

    ascent    -l                                                   unbounded below
    NPO       (2/beta) softplus(-beta (l - l_ref))                   >= 0, Zhang et al., COLM 2024
    SimNPO    (2/beta) softplus(gamma - beta l / L)                  >= 0, Fan et al., 2024
    DPO       (1/beta) softplus(-beta ((l - l_ref) - (r - r_ref)))   >= 0, Rafailov et al., NeurIPS 2023

The r of DPO is l of a refusal, "nobody knows that", to the same question.

At the original the gradient of NPO is that of ascent; for beta -> 0, NPO - (2/beta) log 2 -> -(l - l_ref):
ascent, again.
All are means over the batch. The log-likelihood is that of the softmax: logits in its place are no likelihood.
"""

import torch.nn.functional as F
from torch import Tensor


def npo(nll: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation: ascent that fades as p falls below its value at the original."""
    return (2 / beta) * F.softplus(-beta * (nll - reference)).mean()


def simnpo(nll: Tensor, length: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """Without a reference, by the mean over the L words: fades where p^(1/L) itself is small."""
    return (2 / beta) * F.softplus(gamma - beta * nll / length).mean()


def dpo(nll: Tensor, reference: Tensor, refusal: Tensor, refusal_reference: Tensor, beta: float) -> Tensor:
    """Direct preference of a refusal over the answer."""
    return F.softplus(-beta * ((nll - reference) - (refusal - refusal_reference))).mean() / beta
