"""Influence scores of every training example on one prediction: ours against what is usually written.

Two models on the same 4,000 random pictures: a linear head with 1,290 weights on frozen features, and a network with
one hidden layer of 8,706. Work: s = (C + damping I)^-1 grad m to a relative residual of 1e-5 by conjugate gradients,
and <s, grad l_i> for all i. Peers, on the same examples, damping and tolerance:

    autodiff    each product by forward over reverse differentiation from the start, jvp(grad)
    dense       the Hessian by torch.func.hessian, and a direct solution (head only)
    loop        <s, grad l_i> from one backward pass an example

Before anything is reported the solutions must agree to 1e-3 and the scores to 1e-4. CPU time of one thread, variants
one after the other within each repetition. No maintained influence library is among the dependencies: none is timed.

    python benchmarks influence
"""

import torch
import torch.nn.functional as F
from _ratios import row, timed
from torch import nn
from torch.func import functional_call, grad, hessian, jvp

from unlearnlib.approximate import curvature
from unlearnlib.approximate.gradients import flat, shaped, trainable
from unlearnlib.approximate.influence import effects
from unlearnlib.data.examples import Examples

N, DAMPING, TOLERANCE = 4000, 1e-2, 1e-5


def data(inputs: int) -> Examples:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 10
    centres = torch.randn(10, inputs, generator=rng)
    x = centres[labels] + 1.5 * torch.randn(N, inputs, generator=rng)
    return Examples(x[:, :, None, None], labels)


def network(inputs: int, hidden: int | None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = (
            [nn.Linear(inputs, 10)] if hidden is None else [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
        )
        return nn.Sequential(nn.Flatten(), *head)


def ours(model: nn.Module, examples: Examples, slope: torch.Tensor, kind: str) -> torch.Tensor:
    options = {"damping": DAMPING, "tolerance": TOLERANCE, "iterations": 500, "batch_size": N}
    return curvature.solve(model, slope, examples, kind=kind, **options).x


def by_autodiff(model: nn.Module, examples: Examples, slope: torch.Tensor) -> torch.Tensor:
    """Conjugate gradients with jvp(grad) as the product."""
    parameters = {name: p.detach() for name, p in trainable(model).items()}
    pixels = examples.pixels()

    def loss(values):
        return F.cross_entropy(functional_call(model, values, (pixels,)), examples.labels)

    def product(v):
        return flat(jvp(grad(loss), (parameters,), (shaped(v, parameters),))[1].values())

    return curvature.solve(product, slope, damping=DAMPING, tolerance=TOLERANCE, iterations=500).x


def by_dense(model: nn.Module, examples: Examples, slope: torch.Tensor) -> torch.Tensor:
    parameters, pixels = {name: p.detach() for name, p in trainable(model).items()}, examples.pixels()

    def loss(v):
        return F.cross_entropy(functional_call(model, shaped(v, parameters), (pixels,)), examples.labels)

    matrix = hessian(loss)(flat(parameters.values()))
    return torch.linalg.solve(matrix + DAMPING * torch.eye(len(slope)), slope)


def scores_by_loop(model: nn.Module, examples: Examples, s: torch.Tensor) -> torch.Tensor:
    weights, found = list(trainable(model).values()), []
    pixels = examples.pixels()
    for x, y in zip(pixels, examples.labels, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        found.append(flat(torch.autograd.grad(loss, weights)) @ s)
    return torch.stack(found) / len(examples)


def check(first: torch.Tensor, second: torch.Tensor, tolerance: float, what: str) -> None:
    gap = float((first - second).norm() / second.norm())
    if not gap < tolerance:
        raise AssertionError(f"{what} differ by {gap:.1e}")


def run(repeats: int = 3) -> list[dict]:
    """Ratios of CPU time, peer over ours: median, lowest and highest of the repetitions."""
    ratios: dict[str, tuple[list[float], float]] = {}

    def note(name: str, ratio: float, goal: float) -> None:
        ratios.setdefault(name, ([], goal))[0].append(ratio)

    head, net = (network(128, None), data(128)), (network(64, 116), data(64))
    for repeat in range(repeats + 1):
        for label, (model, examples) in (("head", head), ("network", net)):
            query = model(examples.pixels(slice(0, 1)))[0, 0]
            slope = flat(torch.autograd.grad(query, list(trainable(model).values())))
            # the head's Hessian is its Gauss-Newton matrix; that of a network may be indefinite
            fast, s = timed(lambda m=model, e=examples, g=slope: ours(m, e, g, "ggn"))
            counted, scores = timed(lambda m=model, e=examples, s=s: effects(m, e, s))
            looped, same = timed(lambda m=model, e=examples, s=s: scores_by_loop(m, e, s))
            check(scores, same, 1e-4, "scores")
            slow, dense = None, None
            if label == "head":
                slow, other = timed(lambda m=model, e=examples, g=slope: by_autodiff(m, e, g))
                dense, exact = timed(lambda m=model, e=examples, g=slope: by_dense(m, e, g))
                check(s, exact, 1e-3, "solutions")
                check(other, exact, 1e-3, "solutions")
            if repeat == 0:
                continue  # warm-up
            if label == "head":
                note("linear head, one solve, against jvp(grad) anew for each product", slow / fast, 3.0)
                note("linear head, one solve, against a dense Hessian", dense / fast, 15.0)
            note(f"{label}, scores of 4,000 examples, against one backward pass each", looped / counted, 20.0)
        single = _products(*net)
        if repeat:
            note("network, one Gauss-Newton product, against jvp(grad) of the Hessian", single, 1.5)
    return [row(name, r, goal) for name, (r, goal) in ratios.items()]


def _products(model: nn.Module, examples: Examples, count: int = 10) -> float:
    """CPU time of Hessian products by jvp(grad) over that of ours with G, after the first."""
    parameters, pixels = {name: p.detach() for name, p in trainable(model).items()}, examples.pixels()

    def loss(values):
        return F.cross_entropy(functional_call(model, values, (pixels,)), examples.labels)

    product = curvature.Curvature(model, examples, batch_size=N)
    v = torch.ones(product.size)
    product(v)
    fast, _ = timed(lambda: [product(v) for _ in range(count)])
    slow, _ = timed(lambda: [jvp(grad(loss), (parameters,), (shaped(v, parameters),)) for _ in range(count)])
    return slow / fast
