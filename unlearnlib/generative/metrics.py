"""What a sampler still draws, and what else has moved.

    forget rate  share of samples asked for as the forgotten class in which a judge sees it
    agreement    share of samples asked for as a retained class in which the judge sees that
    FD           || m_a - m_b ||^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)      of features with means m, covariances A, B
    I            E_(z, c) || phi(G_0(z, c)) - phi(G(z, c)) ||               integrity: same noise z, same label c

FD (Frechet distance, Heusel et al., NeurIPS 2017) compares two crowds of pictures, integrity two pictures of one
noise. Integrity is the question of Schioppa et al. (arXiv 2411.02068): what does a user get who asks as before? phi
here are the features of a small judge, or the pixels; it is no published perceptual distance. I is 0 for the
original, but not for a retrained sampler: that one is a scale for it. c are retained classes: of a class that it was
never taught a retrained sampler has no picture.

The law of noise is symmetric. So an original that is given -z in place of z (`Mirrored`) draws by the same law: its
FD is that of a second sample, while its I is that of other pictures.
"""

import torch
from torch import Tensor, nn


class Mirrored(nn.Module):
    """A sampler that is asked with the noise -z where z is given: the same law, other pictures."""

    def __init__(self, sampler: nn.Module):
        super().__init__()
        self.sampler = sampler

    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.sampler.sample(-noise, labels)


@torch.no_grad()
def integrity(original, unlearned, noise: Tensor, labels: Tensor, features=None) -> float:
    """I: the mean distance of the pictures that both samplers draw from the same noise and labels.

    features   pictures -> [n, k], in which it is measured; None: the pixels
    """
    if len(noise) != len(labels) or not len(noise):
        raise ValueError(f"integrity needs a label for each noise, not {len(labels)} for {len(noise)}")
    pair = [sampler.sample(noise, labels) for sampler in (original, unlearned)]
    a, b = (flat(pictures if features is None else features(pictures)) for pictures in pair)
    return (a - b).norm(dim=1).mean().item()


@torch.no_grad()
def frechet(a: Tensor, b: Tensor) -> float:
    """FD of two samples of features [n, k], [m, k], of 2 or more each. Their bias falls with n: compare at equal n."""
    a, b = flat(a), flat(b)
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise ValueError(f"FD compares two samples [n, k] of 2 or more each, not {list(a.shape)} and {list(b.shape)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("FD needs finite features")
    A, B = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    return max(0.0, ((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * shared).item())


@torch.no_grad()
def agreement(sampler, judge, noise: Tensor, labels: Tensor) -> float:
    """The share of samples in which the judge sees the label that was asked for."""
    if len(noise) != len(labels) or not len(noise):
        raise ValueError(f"agreement needs a label for each noise, not {len(labels)} for {len(noise)}")
    return (judge(sampler.sample(noise, labels)).argmax(1) == labels).float().mean().item()


def forget_rate(sampler, judge, noise: Tensor, label: int) -> float:
    """The share of samples asked for as `label` in which the judge still sees it."""
    return agreement(sampler, judge, noise, torch.full((len(noise),), label))


def flat(values: Tensor) -> Tensor:
    """[n, k] in double precision."""
    return values.detach().flatten(1).double()
