"""What recording costs in training: CPU time of a plain loop without the recorder over that of the same loop with it.

One thread, a CNN of this library on 28x28 pictures in batches of 64, SGD. Both loops run in turns in one process, and
end in the same weights, which is checked. Three kinds of record: the order of the examples alone; a checkpoint twice
in an epoch as well; the updates of every step with one of sixteen chosen examples, too.

    python benchmarks recorder
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from _ratios import row, timed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.desk.recording import Recorder
from unlearnlib.training import models

N, BATCH, EPOCHS = 2048, 64, 3
IDS = [f"example {k}" for k in range(N)]
KINDS = {
    "the order": {},
    "the order, and two checkpoints an epoch": {"every": N // BATCH // 2},
    "these, and the updates of 16 examples": {"every": N // BATCH // 2, "updates": IDS[:16], "budget": 10**9},
}


def examples() -> Examples:
    rng = torch.Generator().manual_seed(0)
    return Examples(torch.rand(N, 1, 28, 28, generator=rng), torch.arange(N) % 10)


def trained(part: Examples, recorder: Recorder | None):
    """A loop as anybody writes it."""
    model = models.build("cnn", Dataset("noise", part, part[:0], tuple("0123456789"), "noise"))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rng = torch.Generator().manual_seed(0)
    if recorder is not None:
        recorder.begin(model, optimiser)
    for _ in range(EPOCHS):
        for index in torch.randperm(N, generator=rng).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(part.images[index]), part.labels[index]).backward()
            optimiser.step()
            if recorder is not None:
                recorder.step(model, index, optimiser)
    if recorder is not None:
        recorder.end(model)
    return model


def ratios(repeats: int, options: dict) -> list[float]:
    part, found = examples(), []
    trained(part, None)  # warm up
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            plain, alone = timed(trained, part, None)
            recorded, watched = timed(trained, part, Recorder(folder, IDS, **options))
        assert all(torch.equal(p, q) for p, q in zip(alone.parameters(), watched.parameters(), strict=True))
        found.append(plain / recorded)
    return found


def run(repeats: int = 3) -> list[dict]:
    """Ratios as dicts with keys name, ratio, low, high, goal and unit."""
    torch.set_num_threads(1)
    unit = "of the CPU time with the recorder"
    return [row(f"recording {what}", ratios(repeats, options), 0.95, unit) for what, options in KINDS.items()]
