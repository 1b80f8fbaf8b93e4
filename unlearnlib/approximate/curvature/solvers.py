"""Solutions x of (C + damping I) x = b, with C a curvature matrix that may only be known by its products.

    cg       conjugate gradients, with a preconditioner M^-1 where one is given: exact after P products in exact
             arithmetic, much earlier where the spectrum is clustered or M is near C + damping I
    lissa    v <- b + (I - (C + damping I)/s) v, x = v/s: the Neumann series (LiSSA), which converges for
             s > (largest eigenvalue + damping)/2, at the rate 1 - damping/s; each product may be of a random batch
    dense    C as a matrix, factorised
    kfac     (K + damping I)^-1 b with the Kronecker-factored approximation K of the Gauss-Newton matrix, in one step
    ekfac    the same with corrected eigenvalues; see `kronecker`

Every solution carries the history of its relative residual ||b - (C + damping I) x|| / ||b||, whatever the solver.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.approximate.curvature import kronecker
from unlearnlib.approximate.curvature.products import Curvature
from unlearnlib.training.loop import Diverged, Tally

SOLVERS = ("cg", "lissa", "dense", "kfac", "ekfac")
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Solution:
    """x [P], and how it was reached.

    residuals   ||b - (C + damping I) x|| / ||b|| at x = 0 (1.0) and after each iteration; direct solvers have two
                entries. For lissa on random batches those between are estimates from a batch, the last is not
    products    products with C, those that measure a residual included
    converged   the last residual is at most the tolerance
    """

    x: Tensor
    residuals: tuple[float, ...]
    products: int
    converged: bool
    solver: str


def solve(
    matrix: Product | Tensor | nn.Module,
    rhs: Tensor,
    examples=None,
    *,
    damping: float,
    solver: str = "cg",
    kind: str = "ggn",
    iterations: int = 100,
    tolerance: float = 1e-5,
    preconditioner: Product | None = None,
    scale: float | None = None,
    draw: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    tally: Tally | None = None,
) -> Solution:
    """x with (C + damping I) x = rhs [P].

    matrix          C: a model (with `examples`; then C is its Gauss-Newton matrix, or its Hessian where kind is
                    "hessian"), a map v -> C v, or a symmetric tensor [P, P]
    preconditioner  of cg: r -> M^-1 r, such as `kronecker.ekfac(model, examples).inverse(damping)`
    scale           of lissa: s; None: twice the largest eigenvalue that 20 power iterations find, plus damping
    draw            of lissa: the size of the random batch behind each product, from `seed`; None: all examples
    batch_size      how many examples are differentiated at once, which bounds the memory and changes nothing else

    Raises ValueError where C + damping I is seen not to be positive definite (raise damping, or take the Gauss-Newton
    matrix), and training.Diverged where lissa diverges.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is one of {', '.join(SOLVERS)}, not {solver!r}")
    if damping < 0 or iterations < 1 or tolerance < 0:
        raise ValueError("solve needs damping >= 0, iterations >= 1 and tolerance >= 0")
    if isinstance(matrix, nn.Module):
        if examples is None:
            raise ValueError("give the examples over which the curvature of the model is taken")
        curvature = Curvature(matrix, examples, kind, batch_size=batch_size, tally=tally)
    elif solver in ("kfac", "ekfac"):
        raise ValueError(f"{solver} needs a model and examples, not a matrix")
    else:
        curvature = None
    product = curvature or (matrix.mv if isinstance(matrix, Tensor) else matrix)
    counted = _Counted(product, damping)
    if solver == "cg":
        x, residuals = conjugate_gradients(counted, rhs, iterations, tolerance, preconditioner)
    elif solver == "lissa":
        noisy = None if draw is None else _drawn(curvature, draw, damping, seed)
        x, residuals = lissa(counted, rhs, iterations, tolerance, scale=scale, damping=damping, noisy=noisy)
        counted.products += 0 if noisy is None else len(residuals) - 2
    else:
        if solver == "dense":
            x = direct(_formed(matrix, curvature, rhs), rhs, damping)
        else:
            x = getattr(kronecker, solver)(matrix, examples, tally=tally).inverse(damping)(rhs)
        residuals = [1.0, _relative(rhs - counted(x), rhs)]
    return Solution(x, tuple(residuals), counted.products, residuals[-1] <= tolerance, solver)


class _Counted:
    """v -> (C + damping I) v, and how often it was asked."""

    def __init__(self, product: Product, damping: float):
        self._product, self._damping, self.products = product, damping, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self._product(v) + self._damping * v


def _relative(residual: Tensor, rhs: Tensor) -> float:
    size = torch.linalg.vector_norm(rhs)
    return float(torch.linalg.vector_norm(residual) / size) if size > 0 else 0.0


def _drawn(curvature: Curvature | None, size: int, damping: float, seed: int) -> Product:
    if curvature is None:
        raise ValueError("lissa draws batches of examples: give a model and examples, or leave draw out")
    rng, n = seeding.generator(seed, "lissa"), len(curvature.examples)

    def product(v: Tensor) -> Tensor:
        return curvature.on(torch.randint(n, (min(size, n),), generator=rng))(v) + damping * v

    return product


def _formed(matrix, curvature: Curvature | None, rhs: Tensor) -> Tensor:
    if curvature is not None:
        return curvature.dense()
    if isinstance(matrix, Tensor):
        return matrix
    return torch.stack([matrix(row) for row in torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)])


def direct(matrix: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """(C + damping I)^-1 rhs for a symmetric C [P, P] and rhs [P] or [P, k], by Cholesky's factors."""
    return torch.cholesky_solve(rhs.reshape(len(rhs), -1), factor(matrix, damping)).reshape(rhs.shape)


def factor(matrix: Tensor, damping: float) -> Tensor:
    """Cholesky's factor of C + damping I. Raises ValueError where that is not positive definite."""
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    lower, failed = torch.linalg.cholesky_ex(matrix + damping * unit)
    if failed:
        raise ValueError("the damped curvature is not positive definite: raise damping, or take the ggn")
    return lower


def conjugate_gradients(
    product: Product, b: Tensor, iterations: int, tolerance: float, preconditioner: Product | None = None
) -> tuple[Tensor, list[float]]:
    """x with product(x) = b for a symmetric map without negative eigenvalues, to ||residual|| <= tolerance ||b||.

    The second result is the history of ||residual|| / ||b||, updated and not recomputed. Where rounding leaves no
    curvature the iteration stops early; ValueError where the map is seen to have a negative eigenvalue.
    """
    x, residual = torch.zeros_like(b), b.clone()
    mapped = residual if preconditioner is None else preconditioner(residual)
    direction, slope = mapped.clone(), torch.dot(residual, mapped)
    history = [_relative(b, b)]
    for _ in range(iterations):
        if history[-1] <= tolerance or slope <= 0:
            break
        image = product(direction)
        curvature = torch.dot(direction, image)
        if curvature <= 0:
            if curvature < -1e-4 * torch.linalg.vector_norm(direction) * torch.linalg.vector_norm(image):
                raise ValueError("the damped curvature is not positive definite: raise damping, or take the ggn")
            break  # rounding, once the rest of b is where the map is zero
        step = slope / curvature
        x, residual = x + step * direction, residual - step * image
        mapped = residual if preconditioner is None else preconditioner(residual)
        previous, slope = slope, torch.dot(residual, mapped)
        direction = mapped + slope / previous * direction
        history.append(_relative(residual, b))
    return x, history


def lissa(
    product: Product,
    b: Tensor,
    iterations: int,
    tolerance: float,
    *,
    scale: float | None = None,
    damping: float = 0.0,
    noisy: Product | None = None,
) -> tuple[Tensor, list[float]]:
    """x with product(x) = b by the truncated Neumann series, and the history of ||residual|| / ||b||.

    scale   s; None: twice the largest eigenvalue that 20 power iterations find, plus `damping`
    noisy   an unbiased estimate of the product, for all iterations; the last residual is then measured by `product`
    """
    if scale is None:
        scale = 2 * largest_eigenvalue(product, b) + damping
    v, residual, history = torch.zeros_like(b), b, [1.0]
    for _ in range(iterations):
        v = v + residual
        residual = b - (noisy or product)(v) / scale  # of x = v/s
        history.append(_relative(residual, b))
        if not history[-1] < 1e6:
            raise Diverged("lissa diverges: raise scale above half of the largest eigenvalue, or draw larger batches")
        if noisy is None and history[-1] <= tolerance:
            break
    if noisy is not None:
        history.append(_relative(b - product(v / scale), b))
    return v / scale, history


def largest_eigenvalue(product: Product, like: Tensor, iterations: int = 20) -> float:
    """The largest eigenvalue of a symmetric map without negative ones, from below, by power iterations from `like`."""
    v, value = like / torch.linalg.vector_norm(like), 0.0
    for _ in range(iterations):
        image = product(v)
        value = float(torch.linalg.vector_norm(image))
        if value == 0:
            return 1.0
        v = image / value
    return value
