"""Pictures of three classes, a network with a batch norm, and samplers that are taught in a moment."""

import functools

import torch
from torch import nn

from unlearnlib import data
from unlearnlib.generative.cvae import CVAE
from unlearnlib.generative.diffusion import Diffusion, Teaching, build, fit
from unlearnlib.generative.latent import Latent
from unlearnlib.seeding import generator

SHAPE, CLASSES, T = (1, 2, 3), 3, 10


def pictures(n, seed=0):
    """A class is a brightness, with a little noise."""
    rng = generator(seed, "toy pictures")
    labels = torch.arange(n) % CLASSES
    means = torch.tensor([0.2, 0.5, 0.8])[labels].view(-1, 1, 1, 1)
    return data.Examples((means + 0.05 * torch.randn(n, *SHAPE, generator=rng)).clamp(0, 1), labels)


@functools.cache
def split(label=0):
    train = pictures(90)
    gone = train.labels == label
    return data.Split.of(retain=train[~gone], forget=train[gone], validation=pictures(30, 1))


class Net(nn.Module):
    """Predicts from latents, step and label, through a batch norm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)
        self.label = nn.Embedding(CLASSES, 8)

    def forward(self, x, t, labels):
        return self.last(torch.tanh(self.norm(self.first(x) + self.label(labels) + t.to(x)[:, None] / T)))


def released_like(seed=0):
    """In double precision, in pixel space, with the linear schedule and a network that predicts the noise."""
    torch.manual_seed(seed)
    levels = (1 - torch.linspace(1e-3, 0.3, T, dtype=torch.float64)).cumprod(0)
    return Diffusion(Net(), Latent.pixels(SHAPE), levels, CLASSES, predicts="noise").double()


@functools.cache
def taught(label=None):
    """A small v sampler, taught all classes, or all but one."""
    examples = split().train if label is None else split(label).retain
    sampler = build(Latent.fit(pictures(60, 1), rank=4), CLASSES, seed=0, steps=20, hidden=32, layers=2)
    return fit(sampler, examples, Teaching(steps=400, batch_size=64, lr=5e-3, average=0.95), seed=0)


@functools.cache
def taught_cvae():
    untaught = CVAE.build(SHAPE, CLASSES, hidden=(16, 16), code=2)
    return fit(untaught, split().train, Teaching(steps=200, batch_size=64, lr=1e-2, average=0.9), seed=0)


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])
