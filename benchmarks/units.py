"""What each kind of work costs beside a forward pass: the weights of `unlearnlib.training.work.UNITS`, measured.

CPU time of one thread for the same examples, over that of a forward pass in eval mode without gradients; five networks
on pictures of the size that they are used on. Each time is the shortest of `repeats` calls. A curvature product is
taken from a graph that was kept; making the graph is `linearise`.

    python benchmarks/units.py          the table: median and range over the networks
    python benchmarks units             a row a kind: how near the weight of the library is
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _ratios import cpu_seconds, row
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unlearnlib.approximate.curvature.products import Curvature
from unlearnlib.approximate.gradients import example_gradients, trainable
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.training import models
from unlearnlib.training.work import UNITS, multiplications

NETWORKS = {"mlp": (1, 28), "cnn": (1, 28), "fastnet": (3, 32), "resnet_bn": (3, 32), "resnet_gn": (3, 32)}
CLASSES, BATCH, FEW = 10, 256, 32  # examples a pass, and where each has a gradient of its own


def pictures(channels: int, side: int, n: int) -> Examples:
    rng = torch.Generator().manual_seed(0)
    return Examples(torch.rand(n, channels, side, side, generator=rng), torch.arange(n) % CLASSES)


def network(name: str) -> tuple[nn.Module, Examples]:
    examples = pictures(*NETWORKS[name], BATCH)
    names = tuple(map(str, range(CLASSES)))
    return models.build(name, Dataset("noise", examples, examples, names, "noise")).eval(), examples


def shortest(call: Callable, repeats: int) -> float:
    call()  # warm up
    return min(cpu_seconds(call) for _ in range(repeats))


def measured(name: str, repeats: int) -> dict[str, float]:
    """Kind of work -> forward passes of one example."""
    model, examples = network(name)
    few, pixels, labels = examples[:FEW], examples.pixels(), examples.labels
    weights = list(trainable(model).values())
    v = torch.randn(sum(w.numel() for w in weights), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def forward(x=pixels):
        return model(x)

    def gradient():
        return torch.autograd.grad(F.cross_entropy(model(pixels), labels), weights)

    def whole(kind: str):
        return Curvature(model, examples, kind, batch_size=BATCH)(v)

    one, one_of_few = shortest(forward, repeats), shortest(lambda: forward(few.pixels()), repeats)
    kept = {kind: Curvature(model, examples, kind, batch_size=BATCH) for kind in ("hessian", "ggn")}
    products = {kind: shortest(lambda kind=kind: kept[kind](v), repeats) for kind in kept}
    logits = model(pixels)
    vjp = shortest(lambda: torch.autograd.grad(logits, weights, torch.ones_like(logits), retain_graph=True), repeats)
    made = statistics.mean(shortest(lambda kind=kind: whole(kind), repeats) - products[kind] for kind in kept)
    found = {
        "gradient": shortest(gradient, repeats),
        "linearise": made,
        "jvp": products["ggn"] - vjp,
        "vjp": vjp,
        "hvp": products["hessian"],
        "ggn": products["ggn"],
    }
    alone = {
        "example_gradient": shortest(lambda: example_gradients(model, few.pixels(), few.labels), repeats),
    }
    rows = v.double().expand(FEW, -1).contiguous()
    gram = shortest(lambda: rows @ rows.T, repeats) / (FEW * FEW * len(v))  # seconds a multiplication
    passed = one / (BATCH * multiplications(model, examples))
    beside = {k: t / one for k, t in found.items()} | {k: t / one_of_few for k, t in alone.items()}
    return beside | {"algebra": gram / passed}


def run(repeats: int = 3) -> list[dict]:
    """How near each weight is to what is measured: the smaller over the larger, median and range over networks."""
    found = [measured(name, repeats) for name in NETWORKS]
    rows = []
    for kind in found[0]:
        near = [min(f[kind] / UNITS[kind], UNITS[kind] / f[kind]) for f in found]
        rows.append(row(f"Weight of {kind} beside its measurement", near, 0.5, "of it"))
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    by_network = {name: measured(name, 7) for name in NETWORKS}
    for kind in by_network["mlp"]:
        values = sorted(found[kind] for found in by_network.values())
        middle = statistics.median(values)
        print(f"{kind:18s} {middle:5.2f}   {values[0]:.2f} to {values[-1]:.2f}   in the library {UNITS[kind]:g}")
    for name, found in by_network.items():
        print(f"{name:10s}", " ".join(f"{kind} {value:.2f}" for kind, value in found.items()))
