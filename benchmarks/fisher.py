"""The Fisher diagonal in one batched pass against a loop over single examples, as unlearning code has it.

The loop takes one backward pass for each example (empirical Fisher) or for each example and class (true Fisher),
squares the gradients and adds them up, in eval mode. 256 pictures (64 for the true Fisher) of 28 x 28 pixels, ten
classes: a multi-layer perceptron (102k weights), a small convolutional network (207k) and a small residual network with
batch norm (78k), where the convolutions' arithmetic leaves little to save. Both results must agree to 1e-5 of the
largest entry before anything is reported. CPU time of one thread, one after the other within each repetition, after a
warm-up.

    python benchmarks fisher
"""

import numpy as np
import torch
import torch.nn.functional as F
from _ratios import cpu_seconds, row
from torch import nn

from unlearnlib import seeding
from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import flat
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.training import models

EXAMPLES, CLASSES = 256, 10
GOALS = {"mlp": 5, "cnn": 5, "resnet_bn": 1}


def data() -> Dataset:
    rng = seeding.generator(0, "fisher benchmark")
    images = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), generator=rng, dtype=torch.uint8)
    examples = Examples(images, torch.arange(EXAMPLES) % CLASSES)
    return Dataset("noise", examples, examples, tuple(map(str, range(CLASSES))), "drawn")


def by_loop(model: nn.Module, examples: Examples, kind: str) -> torch.Tensor:
    """One example at a time: what the diagonal is by definition."""
    model.eval()
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(examples)):
        logits = model(examples.pixels([i]))
        probabilities = torch.softmax(logits.detach()[0], 0)
        for y in range(CLASSES) if kind == "true" else [int(examples.labels[i])]:
            model.zero_grad()
            F.cross_entropy(logits, torch.tensor([y])).backward(retain_graph=kind == "true")
            weight = probabilities[y] if kind == "true" else 1.0
            for part, p in zip(total, parameters, strict=True):
                part += weight * p.grad.pow(2)
    model.zero_grad()
    return flat(total) / len(examples)


def run(repeats: int = 3) -> list[dict]:
    """Ratios of CPU time, loop over ours: median, lowest and highest of the repetitions."""
    ds, rows = data(), []
    for arch, goal in GOALS.items():
        model = models.build(arch, ds)
        for kind in ("empirical", "true"):
            part = ds.train if kind == "empirical" else ds.train[:64]
            exact, found = by_loop(model, part, kind), fisher_diagonal(model, part, kind)  # and warm up
            if (found - exact).abs().max() > 1e-5 * exact.max():
                raise AssertionError(f"{arch}, {kind}: the diagonals differ")
            ratios = []
            for _ in range(repeats):
                theirs = cpu_seconds(by_loop, model, part, kind)
                ours = np.median([cpu_seconds(fisher_diagonal, model, part, kind) for _ in range(3)])
                ratios.append(theirs / float(ours))
            rows.append(row(f"{kind} Fisher diagonal, {arch}, against a loop over examples", ratios, goal))
    return rows
