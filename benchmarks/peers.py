"""One request, unlearned by this library and by loops as authors write them: CPU time and peak memory, equal results.

The loops are our own rendering: a DataLoader that turns one picture after another into a tensor, one batch at a time,
the teacher asked anew in every step, Fisher diagonals from one backward pass for each example, Hessian products from a
second backward pass for each batch, all in float32. What they print and validate between epochs is left out. Both get
the same order of examples and the same drawn labels. 2,000 digits, the default CNN (influence: softmax regression), a
tenth of the pictures or the class 3 to be forgotten.

Equal result: the two ends differ, in Euclidean norm over all weights, by at most a thousandth of the way from the
original. This is asserted before anything is timed. Peak memory is what a process of its own needs beyond what it held
before the work. SalUn runs without weight decay, which in the loop moves masked weights too, and with batches that
divide the forget set, since the loop's mask is a sum over batches and ours one over examples.

    python benchmarks peers
"""

import copy
import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from _machine import alone, peak_memory
from _ratios import cpu_seconds, row
from PIL import Image
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

import unlearnlib as ul
from unlearnlib import data, seeding, training
from unlearnlib.approximate.gradients import shaped, trainable, weights
from unlearnlib.approximate.ssd import released_order
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

SEED, TOLERANCE, PICTURES = 4, 1e-3, 2000
HEAVY_BALL = {"optimiser": "sgd", "momentum": 0.9, "nesterov": False, "schedule": "constant", "keep_last": True}
SCRUB = {"epochs": 3, "forget_epochs": 2, "alpha": 0.001, "gamma": 0.99, "temperature": 4.0}  # for a class
SCRUB |= {"batch_size": 256, "forget_batch_size": 512, "lr": 5e-3, "weight_decay": 5e-4}
SALUN = {"epochs": 3, "batch_size": 90, "lr": 0.013, "weight_decay": 0.0, "fraction": 0.5, "as_released": True}
INFLUENCE = {"damping": 0.01, "iterations": 200, "tolerance": 1e-5}


class Pictures(torch.utils.data.Dataset):
    """Examples as torchvision serves them: each picture becomes a tensor when it is asked for."""

    def __init__(self, examples):
        self.images, self.labels = examples.images[:, 0].numpy(), examples.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.images[i])), self.labels[i]


def loader(pictures: Pictures, where: Tensor, size: int, rng: torch.Generator | None = None) -> DataLoader:
    """The positions `where` in batches of `size`, shuffled where there is a generator."""
    order = where if rng is None else where[torch.randperm(len(where), generator=rng)]
    return DataLoader(pictures, batch_sampler=[part.tolist() for part in order.split(size)])


def stream(name: str) -> torch.Generator:
    return seeding.generator(SEED, name)


def sgd(model: nn.Module, given: dict) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=given["lr"], momentum=0.9, weight_decay=given["weight_decay"])


def divergence(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    found = F.kl_div(F.log_softmax(student / t, dim=1), F.softmax(teacher / t, dim=1), reduction="sum")
    return found * t**2 / len(student)


def scrub(model: nn.Module, split) -> nn.Module:
    pictures, t = Pictures(split.train), SCRUB["temperature"]
    teacher, optimiser = copy.deepcopy(model).eval(), sgd(model, SCRUB)
    order, forget = stream("order"), stream("forget")

    def epoch(batches: DataLoader, forgetting: bool) -> None:
        model.train()
        for x, y in batches:
            with torch.no_grad():
                wanted = teacher(x)
            answer = model(x)
            gap = divergence(answer, wanted, t)
            loss = -gap if forgetting else SCRUB["gamma"] * F.cross_entropy(answer, y) + SCRUB["alpha"] * gap
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    for number in range(SCRUB["epochs"]):
        if number < SCRUB["forget_epochs"]:
            epoch(loader(pictures, split.forget_index, SCRUB["forget_batch_size"], forget), True)
        epoch(loader(pictures, split.retain_index, SCRUB["batch_size"], order), False)
    return model


def salun(model: nn.Module, split) -> nn.Module:
    pictures, size = Pictures(split.train), SALUN["batch_size"]
    model.eval()
    total = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in loader(pictures, split.forget_index, size):
        model.zero_grad()
        (-F.cross_entropy(model(x), y)).backward()
        for part, p in zip(total, model.parameters(), strict=True):
            part += p.grad
    every = torch.cat([part.abs().flatten() for part in total])
    ranks = torch.argsort(torch.argsort(every, descending=True, stable=True))
    kept = (ranks < SALUN["fraction"] * len(every)).float().split([part.numel() for part in total])
    masks = [mask.view_as(part) for mask, part in zip(kept, total, strict=True)]

    optimiser, order, forget, drawn = sgd(model, SALUN), stream("order"), stream("forget"), stream("labels")
    model.train()

    def step(x: Tensor, y: Tensor) -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for mask, p in zip(masks, model.parameters(), strict=True):
            p.grad *= mask
        optimiser.step()

    for _ in range(SALUN["epochs"]):
        for x, y in loader(pictures, split.forget_index, size, forget):
            step(x, torch.randint(0, 10, y.shape, generator=drawn))
        for x, y in loader(pictures, split.retain_index, size, order):
            step(x, y)
    return model


def importance(model: nn.Module, batches: DataLoader) -> list[Tensor]:
    """The mean over batches of the squared gradient of a batch's loss: with batches of one, the Fisher diagonal."""
    model.eval()
    total = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for part, p in zip(total, model.parameters(), strict=True):
            part += p.grad.clone().pow(2)
    return [part / len(batches) for part in total]


def dampening(size: int, alpha: Callable[[object], float]) -> Callable:
    def ssd(model: nn.Module, split) -> nn.Module:
        pictures = Pictures(split.train)
        everything = torch.cat([released_order(split), split.forget_index])
        forget, full = (importance(model, loader(pictures, where, size)) for where in (split.forget_index, everything))
        with torch.no_grad():
            for p, mine, whole in zip(model.parameters(), forget, full, strict=True):
                where = mine > alpha(split) * whole
                p[where] *= (whole[where] / mine[where]).clamp(max=1)
        return model

    return ssd


def influence(model: nn.Module, split) -> nn.Module:
    pictures, n = Pictures(split.train), len(split.train)
    parameters = list(model.parameters())

    def gradients(where: Tensor, create_graph: bool) -> Iterator[tuple[float, Tensor]]:
        for x, y in loader(pictures, where, 100):
            found = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=create_graph)
            yield len(y) / n, torch.cat([g.flatten() for g in found])

    def product(v: np.ndarray) -> np.ndarray:
        vector, total = torch.from_numpy(v).float().flatten(), 0
        for share, slope in gradients(torch.arange(n), True):
            second = torch.autograd.grad(slope @ vector, parameters)
            total = total + share * torch.cat([s.flatten() for s in second])
        return (total + INFLUENCE["damping"] * vector).numpy()

    slope = sum(share * g for share, g in gradients(split.forget_index, False))
    shape = (len(slope), len(slope))
    operator = LinearOperator(shape, matvec=product, dtype=np.float32)
    solved, _ = cg(operator, slope.numpy(), rtol=INFLUENCE["tolerance"], maxiter=INFLUENCE["iterations"])
    with torch.no_grad():
        for name, move in shaped(torch.from_numpy(solved), trainable(model)).items():
            model.get_parameter(name).add_(move)
    return model


def root_of_ratio(split) -> float:
    return (len(split.train) / len(split.forget_index)) ** 0.5


# what is shown -> network, request, method, its hyper-parameters, the loop
CONTESTS: dict[str, tuple[str, str, str, dict, Callable]] = {
    "SCRUB, a class": ("cnn", "class:3", "scrub", HEAVY_BALL | SCRUB, scrub),
    "SalUn, a tenth": ("cnn", "random:0.1", "salun", HEAVY_BALL | SALUN, salun),
    "SSD as released, a class": ("cnn", "class:3", "ssd", {"alpha": 2.0, "group_size": 64}, dampening(64, lambda _: 2)),
    "SSD, example by example, a class": ("cnn", "class:3", "ssd", {}, dampening(1, root_of_ratio)),
    "influence, a tenth": ("linear", "random:0.1", "influence", INFLUENCE, influence),
}


def prepared(name: str, trained: bool) -> tuple[nn.Module, dict[str, Callable[[], nn.Module]]]:
    """The original, and both contenders as calls without arguments that leave it as it is."""
    network, request, method, given, loop = CONTESTS[name]
    ds = data.load("mnist5k", n=PICTURES)
    split = data.split(ds, forget=request, seed=0)
    model = models.build("cnn", ds, seed=0)
    if network == "linear":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if trained:
        recipe = Recipe(epochs=3, batch_size=64, optimiser="sgd", lr=0.05, weight_decay=0.0)
        model = training.fit(model, split.train, recipe, 0, progress=False)
    return model, {
        "ours": lambda: ul.unlearn(method, model, split, seed=SEED, **given).model,
        "loop": lambda: loop(copy.deepcopy(model), split),
    }


def distance(start: nn.Module, ours: nn.Module, loop: nn.Module) -> float:
    """How far the two ends are apart, as a share of the way from the original."""
    way = torch.linalg.vector_norm(weights(loop) - weights(start))
    assert way > 0, "nothing moved"
    return float(torch.linalg.vector_norm(weights(ours) - weights(loop)) / way)


def _peak(name: str, contender: str) -> float:
    call = prepared(name, trained=False)[1][contender]
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that what the work needs is seen
    return peak_memory(call)


def peak(name: str, contender: str) -> float:
    """Megabytes that the work of one contender needs, in a process of its own."""
    return alone(_peak, name, contender, start="fork")


def run(repeats: int = 3) -> list[dict]:
    """Ratios of CPU time and of peak memory, the loop's over ours: median, lowest and highest of the repetitions."""
    # processes are forked before this one has computed anything
    memory = {name: [peak(name, "loop") / peak(name, "ours") for _ in range(repeats)] for name in CONTESTS}
    rows = []
    for name in CONTESTS:
        model, calls = prepared(name, trained=True)
        gap = distance(model, calls["ours"](), calls["loop"]())
        assert gap <= TOLERANCE, f"{name}: the results differ by {gap:.2g}"
        ratios = [cpu_seconds(calls["loop"]) / cpu_seconds(calls["ours"]) for _ in range(repeats)]
        rows.append(row(f"{name}, against the authors' kind of loop", ratios, 1))
        rows.append(row(f"{name}: peak memory, against the same", memory[name], 1, "x less memory"))
    return rows
