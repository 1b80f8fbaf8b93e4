"""DLFD's inner loop against the released one, and a whole batch with its membership score.

A ResNet-18 for 64-pixel pictures (torchvision's, 11 million weights, batch norm) with 8 classes, random pictures and
weights: the work does not depend on them. *Inner loop*: 15 steps of the perturbation of a batch of 32 and the training
step on it. *Whole batch*: the same and one reading of the membership score, with the sizes of the released age
experiment (1,500 forgotten, 8,525 retained and 1,539 validation pictures).

The released loop is written anew from its description: at every step it passes the unperturbed batch, the forgotten
batch and the perturbed one through the network with gradients for all weights, solves the plan and back-propagates the
sum; after the batch it reads retain, forget and twice the validation set in parts of 32. Its passes over those are
timed on 128 pictures and scaled up. Ours: forget features once, gradient with respect to the pixels only through a
frozen copy of the network (made within the time measured), the plan held fixed, channels last, and a score that
measures 128 losses a side anew and remembers the rest. Before timing, both must agree on the direction of the
classification term's step, which they share.

CPU time of one thread; ratios are medians over repetitions within which the loops alternate.

    python benchmarks dlfd
"""

import copy

import torch
import torch.nn.functional as F
from _ratios import cpu_seconds, row

from unlearnlib import dlfd
from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.training import models

STEPS, BATCH, CLASSES, SIDE = 15, 32, 8, 64
FORGET, RETAIN, VALIDATION = 1500, 8525, 1539
REFRESH = 128  # losses a side that a reading of ours measures anew
TIMED = 128  # pictures on which the released evaluation is timed


def material(seed: int) -> tuple[torch.nn.Module, Examples]:
    """A network and pictures."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (4 * BATCH, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (4 * BATCH,), generator=rng)
    pictures = Examples(images, labels)
    ds = Dataset("timing", pictures, pictures, tuple(map(str, range(CLASSES))), "random")
    return models.build("resnet18", ds, seed=seed), pictures


def released_steps(model, images, labels, forget, steps: int) -> torch.Tensor:
    """The released inner loop: three passes a step with gradients for everything; returns the perturbed pictures."""
    noise = torch.zeros_like(images)
    for _ in range(steps):
        noise.requires_grad_(True)
        model.zero_grad()
        moved = (images + noise).clamp(0, 1)
        away = dlfd.released_transport(model(images), model(forget))
        objective = 3.0 * away - F.cross_entropy(model(moved), labels)
        objective.backward()
        noise = (noise + 2 / 255 * noise.grad.sign()).detach()
    return (images + noise).clamp(0, 1)


def our_steps(model, images, labels, forget, steps: int, precision: str, weight: float = 3.0) -> torch.Tensor:
    """Our inner loop at the same number of steps."""
    limits = torch.tensor(0.0), torch.tensor(1.0)
    with models.FeatureTap(model, images[:1]) as tap:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            features = tap(forget)[1].float()
        options = dict(steps=steps, step=2 / 255, transport_weight=weight, ce_weight=1.0, precision=precision)
        return dlfd.perturb(model, images, labels, features, tap=tap, limits=limits, **options)[0]


def train(model, images, labels, precision: str = "float32") -> None:
    """The training step on the perturbed pictures."""
    optimiser = torch.optim.SGD(model.parameters(), 8e-3, 0.9, weight_decay=5e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(images)
    optimiser.zero_grad()
    F.cross_entropy(logits.float(), labels).backward()
    optimiser.step()


@torch.no_grad()
def forward(model, pixels, batch: int, precision: str = "float32") -> None:
    for part in pixels.split(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            model(part)


def seconds(seed: int, steps: int = STEPS) -> dict[str, float]:
    """CPU seconds of each loop and each reading of the score, in one repetition."""
    model, pictures = material(seed)
    model.eval()
    images, labels = pictures.pixels(range(BATCH)), pictures.labels[:BATCH]
    forget, many = pictures.pixels(range(BATCH, 2 * BATCH)), pictures.pixels(range(TIMED))
    theirs = released_steps(model, images, labels, forget, 1)
    ours = our_steps(model, images, labels, forget, 1, "float32", weight=0.0)
    same = ((theirs - images).sign() == (ours - images).sign()).float().mean().item()
    if same < 0.99:
        raise AssertionError(f"the loops agree on {same:.2f} of the pixels of one classification step")
    out = {}

    def released() -> None:
        train(one, released_steps(one, images, labels, forget, steps), labels)

    one = copy.deepcopy(model)
    out["released"] = cpu_seconds(released)
    per_picture = cpu_seconds(lambda: forward(one, many, BATCH)) / TIMED
    out["released score"] = per_picture * (FORGET + RETAIN + 2 * VALIDATION)
    two = copy.deepcopy(model).to(memory_format=torch.channels_last)
    near = [v.to(memory_format=torch.channels_last) for v in (images, forget, many)]
    for precision in ("float32", "bfloat16"):

        def fast(precision=precision) -> None:
            moved = our_steps(two, near[0], labels, near[1], steps, precision)
            train(two, moved, labels, precision)

        fast()
        out[precision] = cpu_seconds(fast)
        each = cpu_seconds(lambda precision=precision: forward(two, near[2], TIMED, precision)) / TIMED
        out[f"{precision} score"] = each * 2 * REFRESH
    return out


def run(repeats: int = 3) -> list[dict]:
    """Ratios of CPU time, released over ours: median, lowest and highest of the repetitions."""
    made = [seconds(seed) for seed in range(repeats)]
    rows = []
    for precision, goal in (("float32", 5), ("bfloat16", 10)):
        ratios = [s["released"] / s[precision] for s in made]
        rows.append((f"inner loop of {STEPS} steps and training step, {precision}", ratios, goal))
    for precision, goal in (("float32", 10), ("bfloat16", 20)):
        whole = [(s["released"] + s["released score"]) / (s[precision] + s[f"{precision} score"]) for s in made]
        rows.append((f"whole batch with its membership score, {precision}", whole, goal))
    return [row(name, r, goal) for name, r, goal in rows]
