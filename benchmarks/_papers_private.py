"""Papers re-run, the private half: accounting, DP-SGD on MNIST, and Langevin against descent-to-delete.

Each function takes a seed and returns {name of a number: number}. The settings are those of the public files that are
named in `book/papers.md`; nothing here is tuned.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from unlearnlib import data, private, seeding
from unlearnlib.private.descent import Constants
from unlearnlib.private.langevin import langevin_steps, learning_curve
from unlearnlib.private.mechanisms import gaussian
from unlearnlib.private.networks import check_gradients, clipped_gradients
from unlearnlib.training.networks import Normalise

# --- accounting -------------------------------------------------------------------------------------------------

OPACUS = {"1.16": (1.3, 15, 0.25, 1.5), "2.91": (1.1, 60, 0.15, 1.0), "6.86": (0.7, 45, 0.25, 1.5)}
DELTA = 1e-5


def accounted(noise: float, rate: float, steps: int) -> dict[str, float]:
    """epsilon of one setting by the older conversion of Renyi DP, by today's, and by a tight accountant."""
    older = private.epsilon(noise, rate, steps, DELTA, "rdp", conversion="mironov")
    return {
        "older conversion": older,
        "today's conversion": private.epsilon(noise, rate, steps, DELTA, "rdp"),
        "tight": private.epsilon(noise, rate, steps, DELTA, "pld"),
    }


def opacus_epsilon(seed: int) -> dict[str, float]:
    """Batches of 240 of 60,000, 250 steps an epoch."""
    found = {}
    for name, (noise, epochs, _, _) in OPACUS.items():
        found |= {f"{name}, {how}": e for how, e in accounted(noise, 240 / 60_000, 250 * epochs).items()}
    return found


def tensorflow_epsilon(seed: int) -> dict[str, float]:
    """Batches of 256 of 60,000; the source counts the steps as ceil(epochs n/batch)."""
    found = {}
    for epochs in (1, 2, 60):
        steps = math.ceil(epochs * 60_000 / 256)
        found |= {f"{epochs} epochs, {how}": e for how, e in accounted(1.1, 256 / 60_000, steps).items()}
    return found


# --- DP-SGD on MNIST --------------------------------------------------------------------------------------------


def small_network(seed: int, glorot: bool) -> nn.Sequential:
    """Conv 16 8x8/2, pool, conv 32 4x4/2, pool, 32, 10: the network of both tutorials, 26,010 weights.

    `glorot` draws the weights as Keras does, uniform with zero biases; otherwise torch's own initial weights.
    """
    with seeding.isolated(seed, "papers", "network"):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
            nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip
        for layer in network if glorot else ():
            if hasattr(layer, "weight"):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
    return network


def shuffled(n: int, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
    """One epoch of full batches in a new order; what is left over is dropped, as the tutorial's step count does."""
    return iter(torch.randperm(n, generator=rng)[: n // batch * batch].split(batch))


def poisson(n: int, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
    """One epoch of n/batch batches that hold each example independently with probability batch/n."""
    for _ in range(n // batch):
        yield (torch.rand(n, generator=rng, dtype=torch.float64) < batch / n).nonzero().flatten()


def accuracy(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        hits = [(network(x).argmax(1) == y).sum() for x, y in zip(pixels.split(500), labels.split(500), strict=True)]
    return int(sum(hits)) / len(labels)


def mnist(part: str) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] and labels of one part of MNIST, in the official order."""
    examples = getattr(data.load("mnist"), part)
    return examples.images.float() / 255, examples.labels


def dp_sgd(
    network: nn.Module,
    seed: int,
    epochs: int,
    batches: Callable,
    *,
    batch: int,
    lr: float,
    clip: float,
    noise: float,
    watched: tuple[int, ...],
) -> dict[str, float]:
    """Test accuracy after the `watched` epochs of w <- w - lr (sum of clipped gradients + N(0, (z C)^2)) / batch."""
    pixels, labels = mnist("train")
    test = mnist("test")
    draw, rng = seeding.generator(seed, "papers", "batches"), seeding.generator(seed, "papers", "noise")
    rules = check_gradients(network, pixels[:2], labels[:2])
    parameters, found = dict(network.named_parameters()), {}
    for epoch in range(1, epochs + 1):
        for index in batches(len(pixels), batch, draw):
            sums, _ = clipped_gradients(network, pixels[index], labels[index], clip, chunk=128, rules=rules)
            with torch.no_grad():
                for name, total in sums.items():
                    parameters[name].sub_(lr / batch * gaussian(total, noise * clip, rng))
        if epoch in watched:
            found[f"accuracy, epoch {epoch}"] = accuracy(network, *test)
    return found


def opacus_network(seed: int) -> nn.Sequential:
    """Normalised pictures, torch's initial weights."""
    return nn.Sequential(Normalise(torch.tensor([0.1307]), torch.tensor([0.3081])), *small_network(seed, glorot=False))


def opacus_accuracy(seed: int, row: str, as_of: int = 2025) -> dict[str, float]:
    """As the script is today, Poisson batches of 240; or as in 2020, when the numbers were made: shuffled, of 250."""
    noise, epochs, lr, clip = OPACUS[row]
    batches, batch = {2025: (poisson, 240), 2020: (shuffled, 250)}[as_of]
    watched = (1, epochs)
    network = opacus_network(seed)
    return dp_sgd(network, seed, epochs, batches, batch=batch, lr=lr, clip=clip, noise=noise, watched=watched)


def opacus_plain(seed: int, as_of: int = 2025) -> dict[str, float]:
    """SGD without noise, 20 epochs, lr .1. Today's script does not shuffle; that of 2020 did, with batches of 250."""
    network, (pixels, labels) = opacus_network(seed), mnist("train")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    rng = seeding.generator(seed, "papers", "batches")
    for _ in range(20):
        in_file = iter(torch.arange(len(pixels)).split(240))
        for index in in_file if as_of == 2025 else shuffled(len(pixels), 250, rng):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(pixels[index]), labels[index]).backward()
            optimiser.step()
    return {"accuracy, epoch 20": accuracy(network, *mnist("test"))}


def tensorflow_accuracy(seed: int, epochs: int = 2, sampling: str = "shuffled") -> dict[str, float]:
    """Batches of 256, pixels in [0, 1], Keras' initial weights; `sampling` as the script does, or Poisson."""
    batches = {"shuffled": shuffled, "poisson": poisson}[sampling]
    return dp_sgd(
        small_network(seed, glorot=True), seed, epochs, batches, batch=256, lr=0.15, clip=1.0, noise=1.1,
        watched=(1, 2, 60),
    )  # fmt: skip


# --- Langevin unlearning against descent-to-delete ----------------------------------------------------------------

TRIALS = 100
EPSILONS = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0)
LISTED = {  # noise in the released script, by the number of steps k that it is listed under, at each of EPSILONS
    "MNIST": {
        1: (0.1872, 0.094, 0.019, 0.0096, 0.0049, 0.0021),
        2: (0.1871450195, 0.0936859135, 0.000189147958, 0.0095672617, 0.004888917, 0.0020690928),
        5: (0.1870993958, 0.0936401371, 0.000188690194, 0.0095214853, 0.0048522959, 0.0020324717),
    },
    "CIFAR-10": {
        1: (0.2431, 0.122, 0.025, 0.0125, 0.0064, 0.0028),
        2: (0.2430980225, 0.1216918945, 0.0245727547, 0.000124328622, 0.0063537607, 0.0027008066),
        5: (0.2430432739, 0.1216369631, 0.0245178231, 0.000123779306, 0.0063171396, 0.0026550303),
    },
}


def three_or_eight(part: str) -> tuple[Tensor, Tensor]:
    """Rows (x - 1/2) of unit length and labels +-1 [n], all threes before all eights in training."""
    pixels, labels = mnist(part)
    order = torch.cat([(labels == c).nonzero().flatten() for c in (3, 8)])
    rows = pixels[order].flatten(1) - 0.5
    return rows / rows.norm(dim=1, keepdim=True), torch.where(labels[order] == 3, 1.0, -1.0)


def clipped_gradient(w: Tensor, x: Tensor, y: Tensor, m: float, most: float = 1.0) -> tuple[Tensor, float]:
    """Mean over rows of the gradients a_i x_i + m w, each clipped to norm `most`, for weights w [d, trials].

    a_i = -y_i sigmoid(-y_i x_i.w); ||a_i x_i + m w||^2 = a_i^2 + 2 m a_i x_i.w + m^2 ||w||^2, because ||x_i|| = 1.
    Returns the mean and the share that was clipped.
    """
    scores = x @ w
    a = -y[:, None] * torch.sigmoid(-y[:, None] * scores)
    norms = (a.square() + 2 * m * a * scores + m * m * w.square().sum(0)).clamp_min(0).sqrt()
    scale = (most / norms).clamp_max(1)
    return x.T @ (scale * a) / len(x) + m * w * scale.mean(0), float((norms > most).float().mean())


def walk(w: Tensor, x: Tensor, y: Tensor, m: float, step: float, sigma: float, steps: int, rng) -> tuple[Tensor, float]:
    """`steps` steps w <- w - step gradient + sqrt(2 step sigma^2) xi; returns w and the share clipped on average."""
    cut = 0.0
    for _ in range(steps):
        gradient, share = clipped_gradient(w, x, y, m)
        cut += share / steps
        w = w - step * gradient + math.sqrt(2 * step) * sigma * torch.randn(w.shape, generator=rng)
    return w, cut


def with_one_replaced(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The released "removal": the last example gives way to a random direction with a random label."""
    new = torch.randn(1, x.shape[1], generator=rng)
    label = torch.randint(0, 2, (1,), generator=rng) * 2.0 - 1
    return torch.cat([x[:-1], new / new.norm()]), torch.cat([y[:-1], label])


def langevin_and_descent(seed: int, burn_in: int = 250) -> dict[str, float]:
    """Mean and deviation of test accuracy over 100 trials, m = 1e-6 n, M = 1, delta = 1/n, one example replaced.

    The source starts 1000 away in every coordinate and takes 10,001 steps; chains forget their start at a rate of m/L =
    1/22 a step, so that 250 steps from the law that the theory starts with leave e^-11 of it. Its loops run one step
    more than they say (`range(len_list + burn_in)`), which is repeated here.
    """
    x, y = three_or_eight("train")
    test, truth = three_or_eight("test")
    rng = seeding.generator(seed, "papers", "langevin")
    other = with_one_replaced(x, y, rng)
    n = len(x)
    m = 1e-6 * n
    smooth = 0.25 + m
    constants, found = Constants(n, m, smooth, 1.0), {"n": n}

    def told(name: str, w: Tensor) -> None:
        hits = ((test @ w > 0) == (truth > 0)[:, None]).double().mean(0)
        found[f"{name}, mean"], found[f"{name}, sd"] = float(hits.mean()), float(hits.std(correction=0))

    w = torch.zeros(x.shape[1], 1)
    for _ in range(burn_in):
        w = w - 2 / (smooth + m) * clipped_gradient(w, x, y, m)[0]
    told("without noise", w)
    for steps in (1, 2, 5):
        moved = w
        for _ in range(steps + 1):
            moved = moved - 2 / (smooth + m) * clipped_gradient(moved, *other, m)[0]
        sigma = private.descent_sigma(constants, steps, 1.0, 1 / n)
        told(f"descent-to-delete, epsilon 1, k {steps}", gaussian(moved.expand(-1, TRIALS), sigma, rng))
    for k, epsilon in ((1, 0.05), (1, 0.1), (1, 0.5), (1, 1.0), (2, 0.5)):
        sigma = LISTED["MNIST"][k][EPSILONS.index(epsilon)]
        start = math.sqrt(2 / m) * sigma * torch.randn(x.shape[1], TRIALS, generator=rng)
        learned, cut = walk(start, x, y, m, 1 / smooth, sigma, burn_in, rng)
        steps = langevin_steps(learning_curve(constants, sigma, 1), constants, 1 / smooth, epsilon, 1 / n)
        unlearned, _ = walk(learned, *other, m, 1 / smooth, sigma, min(steps, burn_in) + 1, rng)
        name = f"Langevin, epsilon {epsilon:g}, k {k}"
        told(name, unlearned)
        found |= {f"{name}, steps": steps, f"{name}, share clipped": cut}
    return found


def langevin_smoothness(seed: int, draws: int = 1000) -> dict[str, float]:
    """MNIST: what the lists need, and descent-to-delete's accuracy, for two smoothness constants.

    "as released" is L = 1/4 + m, which holds for any rows of norm 1; "of the data" is L = lambda_max(X^T X)/(4n) + m.
    """
    x, y = three_or_eight("train")
    test, truth = three_or_eight("test")
    n, m = len(x), 1e-6 * len(x)
    largest = float(torch.linalg.matrix_norm(x.T @ x / n, 2))
    w, rng = torch.zeros(x.shape[1], 1), seeding.generator(seed, "papers", "smoothness")
    for _ in range(250):
        w = w - 2 / (0.25 + 2 * m) * clipped_gradient(w, x, y, m)[0]
    found = {"lambda_max": largest}
    for name, smooth in (("as released", 0.25 + m), ("of the data", 0.25 * largest + m)):
        constants = Constants(n, m, smooth, 1.0)
        for k, listed in LISTED["MNIST"].items():
            for epsilon, sigma in zip(EPSILONS, listed, strict=True):
                place = f"{name}, k {k}, epsilon {epsilon:g}"
                curve = learning_curve(constants, sigma, 1)
                found[f"{place}, Langevin steps"] = langevin_steps(curve, constants, 1 / smooth, epsilon, 1 / n)
                noise = private.descent_sigma(constants, k, epsilon, 1 / n)
                hits = (test @ gaussian(w.expand(-1, draws), noise, rng) > 0) == (truth > 0)[:, None]
                means = hits.double().mean(0)
                found[f"{place}, descent mean"], found[f"{place}, descent sd"] = float(means.mean()), float(means.std())
    return found


def langevin_noise(seed: int) -> dict[str, float]:
    """What the released lists of noise need by the paper's own bound: least noise for k steps, steps for the noise."""
    found = {}
    for dataset, n in (("MNIST", 11_982), ("CIFAR-10", 10_000)):
        m = 1e-6 * n
        constants, step = Constants(n, m, 0.25 + m, 1.0), 1 / (0.25 + m)
        for k, listed in LISTED[dataset].items():
            beyond = []
            for epsilon, sigma in zip(EPSILONS, listed, strict=True):
                name = f"{dataset}, k {k}, epsilon {epsilon:g}"
                found[f"{name}, least"] = private.langevin_sigma(constants, k, step, epsilon, 1 / n)
                found[f"{name}, listed"] = sigma
                needed = langevin_steps(learning_curve(constants, sigma, 1), constants, step, epsilon, 1 / n)
                found[f"{name}, steps"] = needed
                beyond.append(needed - k)
            found[f"{dataset}, k {k}, steps beyond k, largest"] = max(beyond)
            found[f"{dataset}, k {k}, steps beyond k, largest but for slips"] = max(b for b in beyond if b < 100)
    return found
