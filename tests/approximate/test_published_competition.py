"""Published rows of the 2023 competition's solutions, beside independent renderings of their loops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from small import state
from test_published import SEED, Data, batches, network, sgd, step, stream
from torch import nn

import unlearnlib as ul
from unlearnlib import seeding
from unlearnlib.methods import registry
from unlearnlib.training import models

# By position: the convolutions of the network, and its head.
FIRST, SECOND, HEAD = 0, 4, 9


def cosine(opt, epochs):
    return torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)


def inside(seed):
    return seeding.isolated(seed, "dropout")


def ct(net, d):
    for m in (net[FIRST], net[SECOND]):
        m.weight = nn.Parameter(m.weight.transpose(2, 3))
    opt, order = sgd(net, lr=1e-3, momentum=0.9, weight_decay=5e-4), stream("order")
    schedule = cosine(opt, 3)
    net.train()
    with inside(SEED):
        for _ in range(3):
            for i in batches(d.r, 64, order):
                step(opt, F.cross_entropy(net(d.x[i]), d.y[i]))
            schedule.step()
    return net


def msg(net, d):
    rng, convs = stream("collected"), [net[FIRST], net[SECOND]]
    few = d.r[torch.randperm(len(d.r), generator=rng)[: len(d.f)]]
    net.train()
    net.zero_grad()
    for i in batches(few, 64, rng):
        F.cross_entropy(net(d.x[i]), d.y[i]).backward()
    for i in batches(d.f, 64, rng):
        (-F.cross_entropy(net(d.x[i]), d.y[i])).backward()
    drawn, factors = stream("drawn"), []
    for m in convs:
        again = torch.zeros_like(m.weight).bool()
        again.view(-1)[torch.topk(-m.weight.grad.abs().view(-1), round(0.3 * m.weight.numel())).indices] = True
        out, _, k, _ = m.weight.shape
        new = torch.randn(m.weight.shape, generator=drawn).double() * math.sqrt(2 / (k * k * out))
        with torch.no_grad():
            m.weight[again] = new[again]
        factors.append(torch.where(again, 1.0, 0.1))
    opt, order = sgd(net, lr=1e-3, momentum=0.9, weight_decay=5e-4), stream("order")
    with inside(SEED):
        for epoch in range(5):
            for group in opt.param_groups:
                group["lr"] = 1e-3 * (1 / 3, 2 / 3, 1, 2 / 3, 1 / 3)[epoch]
            for i in batches(d.r, 64, order):
                opt.zero_grad()
                F.cross_entropy(net(d.x[i]), d.y[i]).backward()
                for m, factor in zip(convs, factors, strict=True):
                    m.weight.grad *= factor
                opt.step()
    return net


def cfw(net, d):
    rng, weight = stream("confusion"), net[FIRST].weight

    def confuse(sigma):
        with torch.no_grad():
            weight.add_(sigma * torch.randn(weight.shape, generator=rng).double())

    confuse(0.6)
    counts = torch.bincount(d.y[d.r], minlength=4)
    of_class = len(d.r) / (4 * counts.double())
    opt, order = sgd(net, lr=7e-4, momentum=0.9, weight_decay=5e-4), stream("order")
    schedule = cosine(opt, 4)
    net.train()
    with inside(SEED):
        for epoch in range(4):
            for i in batches(d.r, 64, order):
                step(opt, (F.cross_entropy(net(d.x[i]), d.y[i]) * of_class[d.y[i]]).mean())
            if epoch == 2:
                confuse(0.005)
            schedule.step()
    return net


def fcs(net, d):
    first, repel = sgd(net, lr=5e-3, momentum=0.9), sgd(net, lr=3e-4, momentum=0.9)
    repair = sgd(net, lr=1e-3 * 256 / 64, momentum=0.9, weight_decay=1e-2)
    forget, beside, order = stream("forget"), stream("beside"), stream("order")
    rounds = -(-len(d.f) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(repel, T_max=8 * rounds, eta_min=1e-6)
    net.train()
    for i in batches(d.f, 64, forget):
        logs = F.log_softmax(net(d.x[i]), -1)
        step(first, F.kl_div(logs, torch.full_like(logs, 0.25), reduction="batchmean"))
    for _ in range(8):
        for f, r in zip(batches(d.f, 64, forget), batches(d.r, 256, beside), strict=False):
            z, held = net(d.x[f]), net(d.x[r]).detach()
            step(repel, -F.log_softmax(z @ held.T / 1.15, dim=-1).mean())
            schedule.step()
        for i in batches(d.r, 256, order):
            step(repair, F.cross_entropy(net(d.x[i]), d.y[i]))
    return net


def kde(net, d):
    teacher = copy.deepcopy(net).eval()
    net = models.reinitialised(net, SEED, only={str(FIRST), str(HEAD)})
    shuffled = d.r[torch.randperm(len(d.r), generator=stream("held out"))]
    count = round(0.1 * len(d.r))
    warm, rest = shuffled[:count].sort().values, shuffled[count:].sort().values

    def divergence(i, z):
        with torch.no_grad():
            q = F.softmax(teacher(d.x[i]) / 5, 1)
        logs = F.log_softmax(z / 5, 1)
        return F.kl_div(logs, q, reduction="batchmean"), -(q * F.log_softmax(logs, 1)).sum(1).mean()

    net.train()
    opt, order = sgd(net, lr=9e-4, momentum=0.9, weight_decay=5e-4), stream("warm")
    with inside(SEED):
        for _ in range(3):
            for i in batches(warm, 64, order):
                step(opt, divergence(i, net(d.x[i]))[0])
    opt, order = sgd(net, lr=1e-3, momentum=0.9, weight_decay=5e-4), stream("order")
    schedule = cosine(opt, 3)
    with inside(SEED + 1):
        for _ in range(3):
            for i in batches(rest, 64, order):
                z = net(d.x[i])
                step(opt, F.cross_entropy(z, d.y[i]) + sum(divergence(i, z)))
            schedule.step()
    return net


def prmq(net, d):
    original = copy.deepcopy(net).eval()
    layers = [net[FIRST], net[SECOND], net[HEAD]]
    tensors = [p for m in layers for p in (m.weight, m.bias) if p is not None]
    size = torch.cat([p.detach().abs().flatten() for p in tensors])
    least = size.sort(descending=True).values[round(0.01 * len(size)) - 1]
    drawn = stream("drawn")
    with torch.no_grad():
        for p in tensors:
            gone = p.abs() < least
            if p.dim() == 1:
                p[gone] = 0
            else:
                new = (2 * torch.rand(p.shape, generator=drawn).double() - 1) / math.sqrt(p[0].numel())
                p[gone] = new[gone]
    counts = torch.bincount(d.y[d.r], minlength=4).double()
    criterion = nn.CrossEntropyLoss(weight=counts**-0.1)
    opt, order = sgd(net, lr=5e-4, momentum=0.9, weight_decay=5e-4), stream("order")

    def entropy(z):
        return -(F.softmax(z, 1) * F.log_softmax(z, 1)).sum(1)

    net.train()
    done, most = 0, int(3.2 * -(-len(d.r) // 64))
    while done <= most:
        for i in batches(d.r, 64, order):
            with torch.no_grad():
                wanted = entropy(original(d.x[i]))
            z = net(d.x[i])
            step(opt, criterion(z, d.y[i]) + F.mse_loss(entropy(z), wanted))
            done += 1
            if done > most:
                break
    return net.half().double()


def rni(net, d):
    net = models.reinitialised(net, SEED, only={str(HEAD)})
    named = dict(net.named_parameters())
    norms = [n for n in named if n.split(".")[0] in ("1", "5")]
    layers = [n for n in named if n not in norms]
    choice, noise, order, seen = stream("chosen"), stream("noise"), stream("order"), set()
    for epoch in range(9):
        chosen = [layers[i] for i in torch.randperm(len(layers), generator=choice)]
        moving = set(chosen) | set(norms)  # four tensors are fewer than nine: all of them
        if 1 <= epoch < 5:
            for name in chosen[: int(0.7 * len(layers))]:
                if name not in seen:
                    with torch.no_grad():
                        named[name] += 0.04 * torch.randn(named[name].shape, generator=noise)
        seen |= moving
        lr = 2e-4 if epoch < 8 else 1e-3
        opt = sgd(net, lr=lr, momentum=0.9, weight_decay=5e-4)
        net.train()
        with inside(SEED + epoch):
            for i in batches(d.r, 64, order):
                step(opt, F.cross_entropy(net(d.x[i]), d.y[i]))
    return net


LOOPS = {"ct": ct, "msg": msg, "cfw": cfw, "fcs": fcs, "kde": kde, "prmq": prmq, "rni": rni}


@pytest.mark.parametrize("name", LOOPS)
def test_the_published_row_is_the_solutions_loop(name):
    data, start = Data(whole=False), network()
    made = ul.unlearn(name, start, data.split, seed=SEED, **registry.find(name).published).model
    with seeding.isolated(SEED, "method"):
        expected = LOOPS[name](network(), data)
    found, wanted = state(made), state(expected)
    assert list(found) == list(wanted)
    moved = max(float((wanted[k] - p.detach()).abs().max()) for k, p in start.named_parameters())
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, rtol=1e-10, atol=1e-10 * moved), key
    assert moved > 1e-4
