"""Published rows: each is run beside an independent rendering of the authors' loop, and must end where that ends.

The renderings are plain torch on plain tensors. Only the seams are shared: the orders, draws and teachers that a loop
is given come from the generators by which the methods draw theirs. The network has batch norm and dropout, in float64,
so that the two agree to rounding. One file, although it is long: the loops are read beside one another.
"""

import copy
import math
from itertools import cycle, zip_longest

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import examples, state
from torch import nn

import unlearnlib as ul
from unlearnlib import seeding
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models

SEED = 4


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Conv2d(6, 8, 1, bias=False),  # Adam would make steps of the rounding of a bias before a norm
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32, 4),
        ).double()


class Data:
    """Everything as plain tensors: x in [0, 1], y, and the positions of the retain (r) and forget set (f)."""

    def __init__(self, whole: bool, rare: bool = False):
        train = examples(n=1500 if rare else 157, classes=4, channels=3)
        if rare:  # the class that goes is a small part, as a class of CIFAR-100 is
            train = train[(train.labels != 2) | (torch.arange(len(train)) < 80)]
        gone = train.labels == 2 if whole else torch.arange(len(train)) % 5 == 1
        held_out = examples(n=40, classes=4, channels=3, seed=3)
        self.split = Split(train, gone, held_out, None, "class:c" if whole else "random:0.2", 0, None)
        self.x, self.y = train.images.double() / 255, train.labels
        self.r, self.f = (~gone).nonzero()[:, 0], gone.nonzero()[:, 0]


def stream(*names):
    return seeding.generator(SEED, *names)


def batches(where, size, rng):
    """One shuffled pass; the last batch is kept."""
    return where[torch.randperm(len(where), generator=rng)].split(size)


def flip_crop(x, rng):
    """RandomCrop(8, padding=1) with black borders, then a horizontal flip, picture by picture."""
    corner, flip = torch.randint(0, 3, (len(x), 2), generator=rng), torch.randint(0, 2, (len(x), 1), generator=rng)
    moved = []
    for picture, (top, left), flipped in zip(F.pad(x, (1, 1, 1, 1)), corner.tolist(), flip, strict=True):
        picture = picture[:, top : top + 8, left : left + 8]
        moved.append(picture.flip(2) if flipped else picture)
    return torch.stack(moved)


def step(optimiser, loss):
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), **options)


def kl(student, teacher, T):
    found = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="sum")
    return found * T**2 / len(student)


# The loops. Each returns the network it has made of a copy of the original.


def scrub_epochs(net, d, opt, rate, *, epochs, msteps, gamma, alpha, T, forget_batch, retain_batch):
    teacher, forget, order = copy.deepcopy(net).eval(), stream("forget"), stream("order")
    for e in range(1, epochs + 1):
        for group in opt.param_groups:
            group["lr"] = rate(e)
        net.train()
        if e <= msteps:
            for i in batches(d.f, forget_batch, forget):
                with torch.no_grad():
                    t = teacher(d.x[i])
                step(opt, -kl(net(d.x[i]), t, T))
        for i in batches(d.r, retain_batch, order):
            with torch.no_grad():
                t = teacher(d.x[i])
            s = net(d.x[i])
            step(opt, gamma * F.cross_entropy(s, d.y[i]) + alpha * kl(s, t, T))
        yield


def decayed(lr, milestones):
    return lambda e: lr * 0.1 ** sum(e > m for m in milestones)


SMALL = {"epochs": 10, "msteps": 3, "gamma": 1.0, "alpha": 0.5, "T": 2.0, "forget_batch": 64, "retain_batch": 32}


def scrub(net, d):
    opt = torch.optim.Adam(net.parameters(), 5e-4, weight_decay=0.1)
    for _ in scrub_epochs(net, d, opt, decayed(5e-4, (5, 8, 9)), **SMALL):
        pass
    return net


def scrub_r(net, d):
    def error(x, y):
        net.eval()
        with torch.no_grad():
            return float((net(x).argmax(1) != y).double().mean())

    own = {"epochs": 5, "msteps": 3, "gamma": 1.0, "alpha": 0.5, "T": 4.0, "forget_batch": 16, "retain_batch": 32}
    opt = sgd(net, lr=5e-4, momentum=0.9, weight_decay=5e-4)
    errors, saved = [], []
    for _ in scrub_epochs(net, d, opt, decayed(5e-4, (3, 5, 9)), **own):
        errors.append(error(d.x[d.f], d.y[d.f]))
        saved.append(copy.deepcopy(net.state_dict()))
    held_out = d.split.validation
    seen = torch.isin(held_out.labels, d.y[d.f])
    reference = error(held_out.images[seen].double() / 255, held_out.labels[seen])
    net.load_state_dict(saved[int(np.argmin([abs(e - reference) for e in errors]))])
    return net


def neggrad_plus(net, d):
    opt, forget, order = sgd(net, lr=0.01), stream("forget"), stream("order")
    net.train()
    for _ in range(5):
        for r, f in zip(batches(d.r, 32, order), cycle(batches(d.f, 16, forget))):
            retained = F.cross_entropy(net(d.x[r]), d.y[r])
            step(opt, 0.9999 * retained - (1 - 0.9999) * F.cross_entropy(net(d.x[f]), d.y[f]))
    return net


def finetune(net, d):
    opt, order, draws = sgd(net, lr=0.01, momentum=0.9, weight_decay=5e-4), stream("order"), stream("augmentation")
    net.train()
    for _ in range(10):
        for i in batches(d.r, 256, order):
            step(opt, F.cross_entropy(net(flip_crop(d.x[i], draws)), d.y[i]))
    return net


def last_layer(net, d, epochs):
    for p in net[:-1].parameters():
        p.requires_grad_(False)
    opt = torch.optim.SGD(net[-1].parameters(), lr=0.01, momentum=0.9, weight_decay=5e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=1, T_mult=2, eta_min=5e-4)
    order, draws = stream("order"), stream("augmentation")
    net.train()
    for _ in range(epochs):
        for i in batches(d.r, 64, order):
            opt.zero_grad()
            F.cross_entropy(net(flip_crop(d.x[i], draws)), d.y[i]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            opt.step()
        schedule.step()
    return net.requires_grad_(True)


def cf_k(net, d):
    return last_layer(net, d, 30)


def eu_k(net, d):
    with seeding.isolated(SEED, "initialisation"):
        nn.init.kaiming_normal_(net[-1].weight)
        nn.init.zeros_(net[-1].bias)
    return last_layer(net, d, 62)


def random_labels(net, d):
    y, shift = d.y.clone(), torch.randint(1, 4, d.f.shape, generator=stream("labels"))
    y[d.f] = (d.y[d.f] + shift) % 4  # uniform over the other classes, drawn once
    opt, order = torch.optim.Adam(net.parameters(), 1e-4), stream("order")
    for _ in range(3):
        net.train()
        for i in batches(torch.arange(len(y)), 128, order):
            F.cross_entropy(net(d.x[i]), y[i]).backward()
            opt.step()
            opt.zero_grad()
    return net


def salun(net, d):
    start = [p.detach().clone() for p in net.parameters()]
    net.eval()
    slopes = torch.autograd.grad(-F.cross_entropy(net(d.x[d.f]), d.y[d.f]), list(net.parameters()))
    size = torch.cat([s.abs().flatten() for s in slopes])
    rank = torch.empty_like(size)
    rank[torch.sort(size, descending=True, stable=True).indices] = torch.arange(len(size), dtype=size.dtype)
    masks = [
        m.view_as(p)
        for m, p in zip((rank < len(size) / 2).double().split([p.numel() for p in start]), start, strict=True)
    ]
    opt = sgd(net, lr=0.013, momentum=0.9, weight_decay=5e-4)
    order, forget, drawn, draws = stream("order"), stream("forget"), stream("labels"), stream("augmentation")

    def masked_step(x, y):
        opt.zero_grad()
        F.cross_entropy(net(flip_crop(x, draws)), y).backward()
        for p, m in zip(net.parameters(), masks, strict=True):
            p.grad *= m
        opt.step()
        with torch.no_grad():
            for p, m, p0 in zip(net.parameters(), masks, start, strict=True):
                p.copy_(m * p + (1 - m) * p0)
                opt.state[p]["momentum_buffer"] *= m

    net.train()
    for _ in range(10):
        for i in batches(d.f, 256, forget):
            masked_step(d.x[i], torch.randint(0, 4, (len(i),), generator=drawn))
        for i in batches(d.r, 256, order):
            masked_step(d.x[i], d.y[i])
    return net


def squares(net, d, where, names):
    """Mean over shuffled, augmented batches of 128 of the squared gradient of a batch's mean loss."""
    order, draws = stream(*names), stream(*names, "augmentation")
    groups = batches(where, 128, order)
    net.eval()
    total = [torch.zeros_like(p) for p in net.parameters()]
    for i in groups:
        loss = F.cross_entropy(net(flip_crop(d.x[i], draws)), d.y[i])
        for t, g in zip(total, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            t += g**2 / len(groups)
    return total


def endless(where, rng):
    while True:
        yield from batches(where, 128, rng)


def sfron(net, d):
    pairs = zip(squares(net, d, d.f, ("mask",)), squares(net, d, d.r, ("mask",)), strict=True)
    masks = [(f + 1e-15) / (r + 1e-15) >= 1 for f, r in pairs]
    opt = sgd(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 1500)
    retain, forget, draws = endless(d.r, stream("order")), endless(d.f, stream("forget")), stream("augmentation")
    net.train()
    for t in range(1500):
        if t % 5 == 0:
            i = next(forget)
            losses = F.cross_entropy(net(flip_crop(d.x[i], draws)), d.y[i], reduction="none")
            w = 1 / (losses.detach() ** 0.5 + 1e-15)
            opt.zero_grad()
            (-12.5 * (1 + math.cos(math.pi * t / 1500)) * (w / w.sum() * losses).sum()).backward()
            for p, m in zip(net.parameters(), masks, strict=True):
                p.grad *= m
            nn.utils.clip_grad_norm_(net.parameters(), 7.0)
            opt.step()
        i = next(retain)
        step(opt, F.cross_entropy(net(flip_crop(d.x[i], draws)), d.y[i]))
        schedule.step()
    return net


def delete(net, d):
    teacher, opt = copy.deepcopy(net).eval(), sgd(net, lr=1e-4, momentum=0.9)
    order, draws = stream("order"), stream("augmentation")
    for _ in range(20):
        for i in batches(d.f, 128, order):
            net.train()
            x = flip_crop(d.x[i], draws)
            with torch.no_grad():
                z = teacher(x)
                z[range(len(i)), d.y[i]] = -1e10
            step(opt, F.kl_div(F.log_softmax(net(x), 1), F.softmax(z, 1), reduction="batchmean"))
    return net


def boundary_shrink(net, d):
    test, opt, order = copy.deepcopy(net).eval(), sgd(net, lr=1e-5, momentum=0.9), stream("order")
    mean = torch.tensor([0.4914, 0.4822, 0.2265]).view(3, 1, 1).double()
    std = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1).double()

    def on_normalised(z):  # their network reads z = (x - .5) / .5, ours x
        return test(0.5 * z + 0.5)

    for _ in range(10):
        for i in batches(d.f, 64, order):
            z = ((d.x[i] - 0.5) / 0.5).requires_grad_(True)
            (g,) = torch.autograd.grad(F.cross_entropy(on_normalised(z), d.y[i]), z)
            u = (z * std + mean).detach()
            a = u + (u + 0.1 * g.sign() - u).clamp(-0.1, 0.1)
            a = (a.clamp(0, 1) * 255).round() / 255
            with torch.no_grad():
                y = on_normalised((a - mean) / std).argmax(1)
            net.train()
            step(opt, F.cross_entropy(net(d.x[i]), y))
    return net


def boundary_expand(net, d):
    rng, old = stream("shadow"), net[-1]
    torch.rand(1, 32, generator=rng)  # the row that a new layer would have
    wide = nn.utils.skip_init(nn.Linear, 32, 5).double()  # without a draw
    with torch.no_grad():
        wide.weight[:4], wide.bias[:4] = old.weight, old.bias
        wide.weight[4], wide.bias[4] = torch.randn(1, 32, generator=rng) * math.sqrt(2 / (32 + 5)), 0.0
    net[-1] = wide
    opt, order = sgd(net, lr=1e-5, momentum=0.9), stream("order")
    net.eval()
    for _ in range(10):
        for i in batches(d.f, 64, order):
            z = net(d.x[i])
            net.train()  # after the forward pass
            step(opt, F.cross_entropy(z, torch.full_like(i, 4)))
    with torch.no_grad():
        old.weight.copy_(wide.weight[:4]), old.bias.copy_(wide.bias[:4])
    net[-1] = old
    return net


def unsir(net, d):
    kept = torch.cat([d.r[d.y[d.r] == c][:1000] for c in (0, 1, 3)]).sort().values
    mean, std = models.pixel_statistics(d.split.train[kept])
    mean, std = mean.view(3, 1, 1).double(), std.view(3, 1, 1).double()

    def on_normalised(z):
        return net(mean + std * z)

    net.train()
    noise = torch.randn(256, 3, 8, 8, generator=stream("noise")).double().requires_grad_(True)
    opt = torch.optim.Adam([noise], 0.1)
    for _ in range(40):
        loss = -F.cross_entropy(on_normalised(noise), torch.full((256,), 2))
        step(opt, loss + 0.1 * (noise**2).sum([1, 2, 3]).mean())
    z = (d.x[kept] - mean) / std
    z = torch.cat([z, *[noise.detach()[:3]] * 20])
    y = torch.cat([d.y[kept], torch.zeros(60, dtype=torch.long)])
    for name, count, lr in (("order", len(z), 0.02), ("repair", len(kept), 0.01)):
        opt, order = torch.optim.Adam(net.parameters(), lr), stream(name)
        with seeding.isolated(SEED, "dropout"):
            for i in batches(torch.arange(count), 256, order):
                step(opt, F.cross_entropy(on_normalised(z[i]), y[i]))
    return net


def jit(net, d):
    mean, std = (v.view(3, 1, 1).double() for v in models.pixel_statistics(d.split.train[d.f]))
    opt, rng, x_all = sgd(net, lr=3e-4), stream("noise"), (d.x[d.f] - mean) / std
    net.train()
    opt.zero_grad()
    for x in x_all.split(128):
        noise = torch.randn(len(x), 25, 3, 8, 8, generator=rng).double()
        out, loss = net(x * std + mean), 0
        for n in range(25):
            x2 = torch.clamp(x + 0.5 * noise[:, n], x.min(), x.max())
            with torch.no_grad():
                out2 = net(x2 * std + mean)
            loss = loss + ((out - out2).norm(dim=1) / (x - x2).flatten(1).norm(dim=1)).sum()
        (loss / 25).backward()
        opt.step()
    return net


def bad_teacher(net, d):
    good, bad = copy.deepcopy(net).eval(), models.fresh(net, SEED).eval()
    drawn = torch.randperm(len(d.r), generator=stream("subset"))[: int(0.3 * len(d.r))].sort().values
    where, opt = torch.cat([d.r[drawn], d.f]).sort().values, torch.optim.Adam(net.parameters(), 1e-4)
    net.train()
    for i in batches(where, 256, stream("order")):
        gone = torch.isin(i, d.f).double()[:, None]
        with torch.no_grad():
            t = gone * F.softmax(bad(d.x[i]), 1) + (1 - gone) * F.softmax(good(d.x[i]), 1)
        loss = F.kl_div(F.log_softmax(net(d.x[i]), 1), t, reduction="none").mean()  # over examples and classes
        step(opt, loss)
    return net


def batch_squares(net, x, y, size):
    net.eval()
    total = 0
    for a, b in zip(x.split(size), y.split(size), strict=True):
        g = torch.autograd.grad(F.cross_entropy(net(a), b), list(net.parameters()))
        total = total + torch.cat([v.flatten() for v in g]) ** 2
    return total / math.ceil(len(x) / size)


def dampened(net, selected, factor):
    with torch.no_grad():
        vector = nn.utils.parameters_to_vector(net.parameters())
        nn.utils.vector_to_parameters(torch.where(selected, vector * factor.clamp(max=1), vector), net.parameters())
    return net


def ssd(net, d):
    by_class = torch.cat([d.r[d.y[d.r] == c] for c in range(4)])  # their retain set is put together class by class
    everything = torch.cat([by_class, d.f])
    forget, full = (batch_squares(net, d.x[w], d.y[w], 64) for w in (d.f, everything))
    return dampened(net, forget > 10 * full, full / forget)


def assd(net, d):
    forget, retain = (batch_squares(net, d.x[w], d.y[w], 1024) for w in (d.f, d.r))
    ratio = (forget / retain).numpy()
    ratio[np.isinf(ratio)] = np.nan
    share = 100 * len(d.f) / (len(d.f) + len(d.r))
    alpha = np.nanpercentile(ratio, 100 - math.log(1 + share))
    return dampened(net, forget > alpha * retain, retain / forget)


def fisher_forgetting(net, d):
    net.eval()
    parameters = list(net.parameters())
    fisher = [torch.zeros_like(p) for p in parameters]
    for x in d.x[d.r]:
        log_p = F.log_softmax(net(x[None]), 1)[0]
        for c in range(4):
            slopes = torch.autograd.grad(log_p[c], parameters, retain_graph=True)
            for total, g in zip(fisher, slopes, strict=True):
                total += log_p[c].exp().detach() * g**2 / len(d.r)
    noise = torch.randn(sum(map(torch.numel, parameters)), generator=stream("noise"), dtype=torch.float64)
    with torch.no_grad():
        for p, f, xi in zip(parameters, fisher, noise.split([p.numel() for p in parameters]), strict=True):
            mu, var = p.clone(), (1 / (f + 1e-8)).clamp(max=1e3)
            if p.size(0) == 4:
                var = var.clamp(max=1e2)
            var = 1e-6 * var
            if p.ndim > 1:
                var = var.mean(1, keepdim=True).expand_as(p).clone()
            if p.size(0) == 4:
                mu[2], var[2] = 0, 1e-4
                var *= 10
            elif p.ndim == 1:
                var *= 10
            p.copy_(mu + var.sqrt() * xi.view_as(p))
    return net


def attacked(f0, x0, y):
    """Their projected descent in the L2 ball, one picture at a time: the picture and its wrong answer."""
    eps, x = 0.04, x0[None].clone()
    while True:
        for _ in range(50):
            x = x.detach().requires_grad_(True)
            z = f0(x)
            if z.argmax(1).item() != y:
                return x.detach()[0], z.argmax(1)[0]
            (g,) = torch.autograd.grad(F.cross_entropy(z, y[None]), x)
            delta = x.detach() + eps / 10 * g / g.norm() - x0  # without their 1e-10
            x = torch.clamp(x0 + delta * min(1.0, float(eps / delta.norm())), 0, 1)
        eps *= 2


def amun(net, d):
    f0 = copy.deepcopy(net).eval()
    pictures, wrong = map(torch.stack, zip(*[attacked(f0, d.x[i], d.y[i]) for i in d.f], strict=True))
    n, x, y = len(d.x), torch.cat([d.x, pictures]), torch.cat([d.y, wrong])
    opt = sgd(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.1)
    order, draws = stream("order"), stream("augmentation")
    net.train()
    for _ in range(10):
        for i in batches(torch.arange(len(x)), 128, order):
            seen = x[i].clone()
            seen[i < n] = flip_crop(x[i[i < n]], draws)
            step(opt, F.cross_entropy(net(seen), y[i]))
        schedule.step()
    return net


def lotus(net, d):
    def accuracy(x, y):
        net.eval()
        with torch.no_grad():
            return round((net(x).argmax(1) == y).sum().item() / len(y), 2)

    teacher, held_out = copy.deepcopy(net).eval(), d.split.validation
    opt = torch.optim.AdamW(net.parameters(), lr=1e-6, weight_decay=5e-4)
    kept = d.r[torch.randperm(len(d.r), generator=stream("subset"))[: int(0.3 * len(d.r))]]
    where, order, noise = torch.cat([kept, d.f]).sort().values, stream("order"), stream("gumbel")
    unseen, epochs = accuracy(held_out.images.double() / 255, held_out.labels), 0
    for _ in range(3):
        gap = accuracy(d.x[d.f], d.y[d.f]) - unseen
        if gap <= -0.01:
            break
        tau, epochs = np.exp(2.0 * gap), epochs + 1
        net.train()
        for i in batches(where, 32, order):
            with torch.no_grad():
                z = teacher(d.x[i])
            noisy = z - torch.empty_like(z).exponential_(generator=noise).log()
            gone = torch.isin(i, d.f).double()[:, None]
            t = gone * F.softmax(noisy / tau, 1) + (1 - gone) * F.one_hot(noisy.argmax(1), 4)
            step(opt, -(t * F.log_softmax(net(d.x[i]), 1)).sum(1).mean())
    assert epochs == 3 and gap != 0
    return net


def munba(net, d):
    opt = sgd(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    order, forget, drawn, draws = stream("order"), stream("forget"), stream("labels"), stream("augmentation")
    net.train()
    for _ in range(10):
        for r, f in zip_longest(batches(d.r, 256, order), batches(d.f, 256, forget)):
            opt.zero_grad()
            loss = F.cross_entropy(net(flip_crop(d.x[r], draws)), d.y[r])
            if f is not None:
                x, y = flip_crop(d.x[f], draws), torch.randint(0, 4, (len(f),), generator=drawn)
                other = F.cross_entropy(net(x), y)
                grads = [torch.autograd.grad(v, list(net.parameters()), retain_graph=True) for v in (loss, other)]
                a, b = (torch.cat([g.flatten() for g in gs]) for gs in grads)
                g1, g2, g3 = a @ a, a @ b, b @ b
                first = torch.sqrt((g1 * g3 - g2 * torch.sqrt(g1 * g3)) / (g1 * g1 * g3 - g1 * g2 * g2))
                second = (1 - g1 * first * first) / (g2 * first)  # both without their 1e-8
                assert first > 0 and second > 0
                loss = first * loss + second * other
            loss.backward()
            if f is not None:
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
    return net


# name -> its loop; whether a whole class is forgotten; where dropout draws from
LOOPS = {
    "scrub": (scrub, False, "dropout"),
    "scrub_r": (scrub_r, True, "dropout"),
    "neggrad_plus": (neggrad_plus, False, "dropout"),
    "finetune": (finetune, False, "dropout"),
    "cf_k": (cf_k, False, "dropout"),
    "eu_k": (eu_k, False, "dropout"),
    "random_labels": (random_labels, False, "dropout"),
    "salun": (salun, False, "dropout"),
    "sfron": (sfron, False, "dropout"),
    "delete": (delete, True, "dropout"),
    "boundary_shrink": (boundary_shrink, True, "dropout"),
    "boundary_expand": (boundary_expand, True, "dropout"),
    "unsir": (unsir, True, "method"),
    "jit": (jit, True, "method"),
    "bad_teacher": (bad_teacher, False, "dropout"),
    "ssd": (ssd, True, "method"),
    "assd": (assd, False, "method"),
    "fisher_forgetting": (fisher_forgetting, True, "method"),
    "amun": (amun, False, "method"),
    "lotus": (lotus, False, "dropout"),
    "munba": (munba, True, "method"),
}
RARE = ("ssd", "munba")


@pytest.mark.parametrize("name", LOOPS)
def test_the_published_row_is_the_authors_loop(name):
    loop, whole, dropout = LOOPS[name]
    data, start = Data(whole, rare=name in RARE), network()
    made = ul.unlearn(name, start, data.split, seed=SEED, **registry.find(name).published).model
    with seeding.isolated(SEED, dropout):
        expected = loop(network(), data)
    found, wanted = state(made), state(expected)
    assert list(found) == list(wanted)
    moved = max(float((wanted[k] - p.detach()).abs().max()) for k, p in start.named_parameters())
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, rtol=1e-10, atol=1e-10 * moved), key
    assert moved > 1e-6


def test_every_published_row_has_its_loop():
    import test_published_competition as competition  # which imports this file

    published = {name for name in HOMES if registry.find(name).published}
    # in tests/dlfd/test_as_released.py, tests/approximate/zero_shot/test_gkt.py, tests/attribution/test_matching.py
    # and test_published_competition.py
    elsewhere = {"dlfd_as_released", "gkt", "datamodel_matching", *competition.LOOPS}
    assert published == {*LOOPS, *elsewhere}


SILENT = ("neggrad", "l1_sparse", "woodfisher", "lfssd", "orthograd", "ntk", "amnesiac")
SINCE_2024 = ("task_vector", "negmerge", "uam", "mu_mis")  # their values for pictures could not be read


@pytest.mark.parametrize("name", [*SILENT, *SINCE_2024])
def test_where_nothing_was_published_there_is_no_row(name):
    assert not registry.find(name).published
    assert registry.find(name).origin
