"""The authors' own loops, written anew in a few lines, on a toy network with a batch norm: published values agree.

The loops are those of the released DDPM and VAE programs, without conditions that are dropped, which the samplers here
do not have. Data are given in the same order, and random numbers drawn in the same order, as here.
"""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from toys import CLASSES, SHAPE, T, released_like, split, weights

from unlearnlib import data, generative
from unlearnlib.generative.cvae import CVAE
from unlearnlib.seeding import generator
from unlearnlib.training.batches import minibatches

D, SEED = 6, 3


def cycle(examples, size, name, count, seed=SEED):
    order = minibatches(len(examples), size, count, generator(seed, name), keep_last=True)
    for index in itertools.islice(order, count):
        yield examples.pixels(index, dtype=torch.float64), examples.labels[index]


def noised(model, x, rng):
    """x_t = sqrt(a) x + sqrt(1 - a) e, at steps of which the second half mirrors the first."""
    x = x.flatten(1) * 2 - 1
    e = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    t = torch.randint(T, (len(x) // 2 + 1,), generator=rng)
    t = torch.cat([t, T - t - 1])[: len(x)]
    a = model.levels[t][:, None]
    return a.sqrt() * x + (1 - a).sqrt() * e, t, e


def eps_loss(model, x, c, rng):
    xt, t, e = noised(model, x, rng)
    return (e - model.network(xt, t, c)).square().sum(1)


def agree(name, loop, **values):
    start = released_like()
    ours = generative.unlearn(name, start, split(), seed=SEED, **values).model
    theirs = copy.deepcopy(start).train()
    loop(theirs)
    moved = (weights(theirs) - weights(start)).abs().max()
    assert moved > 1e-4
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-9 * moved.item() + 1e-13, rtol=1e-9)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), atol=1e-10)


def published(name, kind="diffusion", **shorter):
    """The authors' values, with fewer steps; means over 3,072 values become means over the six of the toy."""
    values = generative.published(name, kind)
    for weight in ("push", "retain"):
        if values.get(weight) == 1 / 3072:
            values[weight] = 1 / D
    return {**values, "batch_size": 16, **shorter}


def clipped_gradients(model, examples, name):
    model.eval()
    rng, found = generator(SEED, name, "draws"), []
    for x, c in cycle(examples, 16, name, -(-len(examples) // 16)):
        model.zero_grad()
        eps_loss(model, x, c, rng).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        found.append([p.grad.clone() for p in model.parameters()])
    model.train()
    return found


def test_salun():
    def loop(model):
        found = clipped_gradients(model, split().forget, "mask")
        total = [sum(g).abs() for g in zip(*found, strict=True)]
        everything = -torch.cat([g.flatten() for g in total])
        ranks = torch.argsort(torch.argsort(everything, stable=True))
        masks = [m < int(len(everything) * 0.5) for m in ranks.split([g.numel() for g in total])]
        optimiser, rng = torch.optim.Adam(model.parameters(), 1e-4), generator(SEED, "draws")
        forget, retain = (cycle(getattr(split(), p), 16, f"{p} batches", 7) for p in ("forget", "retain"))
        for (x, c), (y, d) in zip(forget, retain, strict=True):
            remain = eps_loss(model, y, d, rng).mean()
            xt, t, _ = noised(model, x, rng)
            output = model.network(xt, t, c)
            pseudo = model.network(xt, t, (c + 1) % CLASSES).detach()
            loss = F.mse_loss(pseudo, output) + 1e-3 * remain
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for p, m in zip(model.parameters(), masks, strict=True):
                p.grad *= m.view_as(p)
            optimiser.step()

    agree("salun", loop, **published("salun", steps=7))


def test_sfron():
    def loop(model):
        fisher = []
        for part in ("forget", "retain"):
            found = clipped_gradients(model, getattr(split(), part), part)
            fisher.append([sum(g**2 for g in gs) / len(found) for gs in zip(*found, strict=True)])
        masks = [(f + 1e-15) / (r + 1e-15) >= 1.0 for f, r in zip(*fisher, strict=True)]
        optimiser, rng, steps = torch.optim.Adam(model.parameters(), 1e-4), generator(SEED, "draws"), 7
        forget, retain = (cycle(getattr(split(), p), 16, f"{p} batches", steps) for p in ("forget", "retain"))
        for k, ((x, c), (y, d)) in enumerate(zip(forget, retain, strict=True)):
            losses = eps_loss(model, x, c, rng)
            coef = 1 / (losses.detach().pow(0.5) + 1e-8)
            adaptive = -((coef / coef.sum()) * losses * len(x)).mean()
            optimiser.zero_grad()
            (10.0 * (1 + math.cos(math.pi * k / steps)) / 2 * adaptive).backward()
            for p, m in zip(model.parameters(), masks, strict=True):
                p.grad *= m
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            eps_loss(model, y, d, rng).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    agree("sfron", loop, **published("sfron", steps=7))


def erasediff_loop(model, inner=2, own_optimiser=False, draws=None):
    optimiser, rng = torch.optim.Adam(model.parameters(), 1e-4), generator(SEED, "draws")
    unlearning = torch.optim.Adam(model.parameters(), 1e-4) if own_optimiser else optimiser

    def redirected(x, c):  # rng: as it is when this is called
        pseudo = [1, 2][torch.randint(2, (), generator=rng)]
        xt, t, _ = noised(model, x, rng)
        output = model.network(xt, t, c)
        return F.mse_loss(model.network(xt, t, torch.full_like(c, pseudo)).detach(), output)

    for turn in range(2 * 2):
        held = [p.detach().clone() for p in model.parameters()]
        average = 0.0
        for k in range(inner):
            losses = []
            for x, c in cycle(split().forget, 16, f"inner {turn} {k}", 2):
                loss = redirected(x, c)
                unlearning.zero_grad()
                loss.backward()
                unlearning.step()
                losses.append(loss.detach())
            average = sum(losses) / len(losses)
        with torch.no_grad():
            for p, old in zip(model.parameters(), held, strict=True):
                p.copy_(old)
        rng = rng if draws is None else draws(turn)
        pairs = zip(
            cycle(split().forget, 16, f"forget {turn}", 2), cycle(split().retain, 16, f"retain {turn}", 2), strict=True
        )
        for (x, c), (y, d) in pairs:
            remain = (eps_loss(model, y, d, rng) / D).mean()
            loss = remain + 0.1 * (redirected(x, c) - average)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()


def test_erasediff():
    agree("erasediff", erasediff_loop, **published("erasediff", epochs=2))


def test_the_inner_problem_of_erasediff_has_no_gradient():
    """What they reach is a constant. With an optimiser of their own and no norms they change nothing at all."""

    def run(inner):
        model = released_like()
        model.network.norm = torch.nn.Identity()
        erasediff_loop(model, inner, own_optimiser=True, draws=lambda turn: generator(SEED, "draws", turn))
        return weights(model)

    assert torch.equal(run(2), run(0)) and not torch.equal(run(2), weights(released_like()))


@pytest.mark.parametrize("replay", [24, 0])
def test_selective_amnesia_of_a_ddpm(replay):
    def loop(model):
        original, fisher = copy.deepcopy(model).eval(), []
        rng, asked = generator(SEED, "fisher"), torch.arange(6) % CLASSES
        shown = original.sample(torch.randn(6, D, generator=rng, dtype=torch.float64), asked)
        model.eval()
        for k in range(6):
            x = shown[k : k + 1].flatten(1) * 2 - 1
            e = torch.randn(T, D, generator=rng, dtype=torch.float64)
            a = model.levels[:, None]
            output = model.network(a.sqrt() * x + (1 - a).sqrt() * e, torch.arange(T), asked[k].repeat(T))
            model.zero_grad()
            (e - output).square().sum().backward()
            fisher.append([p.grad.clone() ** 2 for p in model.parameters()])
        fisher = [sum(g) / 6 for g in zip(*fisher, strict=True)]
        model.train()
        start, others = [p.detach().clone() for p in model.parameters()], torch.tensor([1, 2])
        optimiser, rng = torch.optim.Adam(model.parameters(), 1e-4), generator(SEED, "draws")
        if replay:
            labels = others[torch.arange(replay) % 2]
            noise = torch.randn(replay, D, generator=generator(SEED, "replay"), dtype=torch.float64)
            pool = data.Examples(original.sample(noise, labels), labels)
            remembered = cycle(pool, 16, "replay batches", 7)
        for _ in range(7):
            if replay:
                y, d = next(remembered)
            else:
                d = others[torch.randint(2, (16,), generator=rng)]
                y = original.sample(torch.randn(16, D, generator=rng, dtype=torch.float64), d)
            u = torch.rand((len(d), *SHAPE), generator=rng, dtype=y.dtype)
            t = torch.randint(T, (len(d) // 2 + 1,), generator=rng)
            t = torch.cat([t, T - t - 1])[: len(d)]
            total = 0.0
            for x, c in ((u, torch.zeros_like(d)), (y, d)):
                x = x.flatten(1) * 2 - 1.0
                e = torch.randn(x.shape, generator=rng, dtype=x.dtype)
                a = model.levels[t][:, None]
                output = model.network(a.sqrt() * x + (1 - a).sqrt() * e, t, c)
                total = total + (e - output).square().sum(1).mean()
            for f, p, p0 in zip(fisher, model.parameters(), start, strict=True):
                total = total + 10.0 * (f * (p - p0) ** 2).sum()
            optimiser.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    agree("selective_amnesia", loop, **published("selective_amnesia", steps=7, fisher=6, replay=replay))


def test_selective_amnesia_of_a_vae():
    torch.manual_seed(0)
    start = CVAE(SHAPE, CLASSES, hidden=(8, 8), code=2).double()
    values = published("selective_amnesia", "cvae", steps=7, fisher=6)
    values |= {"push": 16.0, "retain": 16.0}  # the released loss is a sum over the batch, here of 16
    ours = generative.unlearn("selective_amnesia", start, split(), seed=SEED, **values).model
    vae = copy.deepcopy(start)

    def loss_of(x, c, rng):
        x, c = x.flatten(1), F.one_hot(c, CLASSES).double()
        mu, log_var = vae.encoder(torch.cat([x, c], 1)).chunk(2, 1)
        z = mu + torch.randn(mu.shape, generator=rng, dtype=mu.dtype) * torch.exp(0.5 * log_var)
        recon = torch.sigmoid(vae.decoder(torch.cat([z, c], 1)))
        kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
        return F.binary_cross_entropy(recon, x, reduction="sum") + kl

    def draw(z, c):
        with torch.no_grad():
            c = F.one_hot(c, CLASSES).double()
            return torch.sigmoid(start.decoder(torch.cat([z, c], 1)))

    rng, labels, fisher = generator(SEED, "fisher"), torch.arange(6) % CLASSES, []
    shown = draw(torch.randn(6, 2, generator=rng, dtype=torch.float64), labels)
    for k in range(6):
        vae.zero_grad()
        loss_of(shown[k : k + 1], labels[k : k + 1], rng).backward()
        fisher.append([p.grad.clone() ** 2 / 6 for p in vae.parameters()])
    fisher = [sum(g) for g in zip(*fisher, strict=True)]
    optimiser, rng, others = torch.optim.Adam(vae.parameters(), 1e-4), generator(SEED, "draws"), torch.tensor([1, 2])
    for _ in range(7):
        d = others[torch.randint(2, (16,), generator=rng)]
        y = draw(torch.randn(16, 2, generator=rng, dtype=torch.float64), d)
        u = torch.rand((16, *SHAPE), generator=rng, dtype=torch.float64)
        loss = loss_of(u, torch.zeros_like(d), rng) + loss_of(y, d, rng)
        for f, p, p0 in zip(fisher, vae.parameters(), start.parameters(), strict=True):
            loss = loss + 100.0 * (f * (p - p0) ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (weights(vae) - weights(start)).abs().max() > 1e-4
    assert torch.allclose(weights(ours), weights(vae), atol=1e-12, rtol=1e-9)


def test_published_values_are_named_and_complete():
    for name, kind in (("salun", "diffusion"), ("selective_amnesia", "cvae")):
        values = generative.published(name, kind)
        config = generative.configure(name, **values)
        assert all(getattr(config, k) == v for k, v in values.items())
    assert dataclasses.asdict(generative.configure("salun", **generative.published("salun")))["keep"] == 0.5
    with pytest.raises(ValueError, match="no published values of 'redirect'"):
        generative.published("redirect")
