"""K-FAC and EK-FAC: the Gauss-Newton matrix of a network, one Kronecker product a layer.

A linear layer with inputs a (a constant 1 appended for the bias) and output gradients g has the gradient g a^T, so

    G_layer = E[(a a^T) (x) (g g^T)]  ~  E[a a^T] (x) E[g g^T] = (Q_A (x) Q_G) diag(lambda) (Q_A (x) Q_G)^T     K-FAC

with the expectation over examples and over the model's own answers. EK-FAC keeps the basis and takes for lambda the
second moments in it, lambda_ij = E[((Q_G^T g)(Q_A^T a)^T)_ij^2], which of all diagonals is nearest to G_layer in the
Frobenius norm: never worse than K-FAC, and equal to it and to G_layer where a and g are independent. In a convolution
a and g are summed over the places of a picture, sum_t g_t a_t^T, and K-FAC takes E[sum_t a_t a_t^T] (x)
E[(1/T) sum_t g_t g_t^T]. Layers are independent of one another. Weights of other layers (norms), and those that are
shared, used several times or used by the forward pass itself, get the diagonal of G: two examples are tried, and a
layer whose inputs and output gradients do not make up the gradient of its weight is no block. A network without any
block is refused.

Both invert exactly, (K + damping I)^-1, in the eigenbasis. Martens and Grosse 2015, key martens2015; for convolutions
Grosse and Martens, ICML 2016; EK-FAC: George et al. 2018, key george2018.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from unlearnlib import seeding
from unlearnlib.approximate.curvature.products import jacobians
from unlearnlib.approximate.fisher import answers, fisher_diagonal
from unlearnlib.approximate.gradients import count_pulled, pixel_batches, shaped, trainable
from unlearnlib.training.doors import Diverged
from unlearnlib.training.loop import Tally
from unlearnlib.training.models import evaluating


@dataclass(frozen=True, eq=False)
class Block:
    """The matrix of one layer in its eigenbasis: weight [out, in], then the bias as one more column where `bias`."""

    layer: str
    weight: str
    bias: str | None
    outside: Tensor  # Q_G [out, out]
    inside: Tensor  # Q_A [in (+ 1), in (+ 1)]
    values: Tensor  # lambda [out, in (+ 1)]


@dataclass(frozen=True, eq=False)
class Kronecker:
    """A block-diagonal approximation K of the Gauss-Newton matrix: `k(v)` is K v, `k.inverse(damping)` its inverse.

    blocks     one a layer
    diagonal   by name, for the weights that no block holds
    like       the trainable parameters: names and shapes, in the order of a vector [P]
    """

    blocks: tuple[Block, ...]
    diagonal: dict[str, Tensor]
    like: dict[str, Tensor]

    def __call__(self, v: Tensor) -> Tensor:
        """K v for v [P] or rows [m, P]."""
        return self._mapped(v, lambda values: values)

    def inverse(self, damping: float) -> Callable[[Tensor], Tensor]:
        """The map v -> (K + damping I)^-1 v, for v [P] or rows [m, P]. Raises ValueError unless damping > 0."""
        if not damping > 0:
            raise ValueError("the inverse of a Kronecker approximation needs damping > 0: eigenvalues may be zero")
        return lambda v: self._mapped(v, lambda values: 1 / (values.clamp_min(0) + damping))

    def dense(self) -> Tensor:
        """K [P, P]."""
        size = sum(p.numel() for p in self.like.values())
        first = next(iter(self.like.values()))
        return self(torch.eye(size, dtype=first.dtype, device=first.device))

    def _mapped(self, v: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        rows = v.reshape(-1, v.shape[-1])
        given = {n: piece.clone() for n, piece in _shaped_rows(rows, self.like).items()}
        for block in self.blocks:
            weight = given[block.weight]
            matrix = weight.flatten(2)
            if block.bias is not None:
                matrix = torch.cat([matrix, given[block.bias][:, :, None]], dim=2)
            turned = change(block.values) * (block.outside.T @ matrix @ block.inside)
            matrix = block.outside @ turned @ block.inside.T
            if block.bias is not None:
                given[block.bias] = matrix[:, :, -1]
            given[block.weight] = matrix[:, :, : matrix.shape[2] - (block.bias is not None)].reshape(weight.shape)
        for name, values in self.diagonal.items():
            given[name] = change(values) * given[name]
        return torch.cat([given[name].flatten(1) for name in self.like], dim=1).reshape(v.shape)


def _shaped_rows(rows: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    pieces = rows.split([t.numel() for t in like.values()], dim=1)
    return {name: piece.reshape(-1, *t.shape) for (name, t), piece in zip(like.items(), pieces, strict=True)}


def kfac(
    model: nn.Module, examples, *, samples: int | None = None, seed: int = 0, tally: Tally | None = None
) -> Kronecker:
    """K-FAC over `examples`.

    samples   answers drawn from the model for each example, from `seed`; None: the exact mean over all classes, which
              takes a backward pass for each class
    """
    return _factored(model, examples, samples, seed, tally, corrected=False)


def ekfac(
    model: nn.Module, examples, *, samples: int | None = None, seed: int = 0, tally: Tally | None = None
) -> Kronecker:
    """EK-FAC over `examples`, as `kfac`; takes a second pass over the data for the eigenvalues."""
    return _factored(model, examples, samples, seed, tally, corrected=True)


def _factored(model, examples, samples: int | None, seed: int, tally: Tally | None, *, corrected: bool) -> Kronecker:
    if not len(examples):
        raise ValueError("curvature needs at least one example")
    parameters = trainable(model)
    layers = _layers(model, examples)
    seen = [seeding.generator(seed, "answers", k) for k in range(3)]
    answering = [partial(answers, samples=samples, rng=rng) for rng in seen]
    inputs, outputs = {}, {}
    for batch in _passes(model, examples, layers, answering[0], tally):
        for layer, a, gradients in batch:
            moment = torch.einsum("bti,btj->ij", a, a) / len(examples)
            inputs[layer] = inputs.get(layer, 0) + moment
            for g in gradients:
                moment = torch.einsum("bto,btp->op", g, g) / (len(examples) * a.shape[1])
                outputs[layer] = outputs.get(layer, 0) + moment
    bases = {layer: (_basis(outputs[layer], layer), _basis(inputs[layer], layer)) for layer in inputs}
    values = {layer: torch.outer(g.eigenvalues, a.eigenvalues) for layer, (g, a) in bases.items()}
    if corrected:
        values = {layer: torch.zeros_like(v) for layer, v in values.items()}
        for batch in _passes(model, examples, layers, answering[1], tally):
            for layer, a, gradients in batch:
                g_basis, a_basis = (part.eigenvectors for part in bases[layer])
                turned = a @ a_basis
                for g in gradients:
                    values[layer] += _second_moment(g @ g_basis, turned) / len(examples)
    names = {id(p): name for name, p in parameters.items()}
    blocks = []
    for layer, module in layers.items():
        bias = None if module.bias is None else names.get(id(module.bias))
        g, a = bases[layer]
        blocks.append(Block(layer, names[id(module.weight)], bias, g.eigenvectors, a.eigenvectors, values[layer]))
    held = {b.weight for b in blocks} | {b.bias for b in blocks}
    diagonal: dict[str, Tensor] = {}
    if len(parameters) > len(held - {None}):
        exact = fisher_diagonal(model, examples, samples=samples, rng=None if samples is None else seen[2], tally=tally)
        diagonal = {name: values for name, values in shaped(exact, parameters).items() if name not in held}
    return Kronecker(tuple(blocks), diagonal, {name: p.detach() for name, p in parameters.items()})


def _second_moment(g: Tensor, a: Tensor) -> Tensor:
    """sum_b ((sum_t g_bt a_bt^T)_oi)^2: g [B, T, out], a [B, T, in] -> [out, in]."""
    if a.shape[1] == 1:
        return g[:, 0].square().T @ a[:, 0].square()
    return torch.bmm(g.mT, a).square().sum(0)


def _layers(model: nn.Module, examples) -> dict[str, nn.Module]:
    """The linear and convolutional layers whose trainable weight is their own and is used once in a forward pass.

    Raises ValueError where there is none.
    """
    uses: dict[int, int] = {}
    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for module in model.modules():
            for p in module.parameters(recurse=False):
                uses[id(p)] = 0
        for module in model.modules():
            stack.callback(module.register_forward_hook(lambda m, *_: _count(m, uses)).remove)
        model(next(pixel_batches(model, examples, 1))[0])
    found = {}
    for name, module in model.named_modules():
        linear = type(module) is nn.Linear
        plain = type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        if (linear or (plain and not isinstance(module.padding, str))) and module.weight.requires_grad:
            own = [module.weight] + ([module.bias] if module.bias is not None and module.bias.requires_grad else [])
            if all(uses[id(p)] == 1 for p in own):
                found[name] = module
    kept = _explained(model, examples, found)
    if not kept:
        raise ValueError('kfac and ekfac need a linear or convolutional layer with a weight of its own: take "cg"')
    return {name: module for name, module in found.items() if name in kept}


def _count(module: nn.Module, uses: dict[int, int]) -> None:
    for p in module.parameters(recurse=False):
        uses[id(p)] += 1


def _explained(model: nn.Module, examples, layers: dict[str, nn.Module]) -> set[str]:
    """The layers in which sum_t g_t a_t^T of a single example is autograd's gradient of the weight, and no other row
    has a part: hooks see neither a weight that the forward pass uses by itself nor a first dimension that is no batch.
    """

    def first_alone(logits: Tensor) -> list[Tensor]:
        v = torch.zeros_like(logits)
        v[0] = torch.linspace(1, 2, logits.shape[1])
        return [v]

    if not layers:
        return set()
    (pixels, _), *_ = pixel_batches(model, examples[torch.arange(min(2, len(examples)))], 2)
    with evaluating(model), torch.enable_grad():
        logits = model(pixels)
        weights = [module.weight for module in layers.values()]
        (v,) = first_alone(logits)
        exact = dict(zip(layers, torch.autograd.grad(logits, weights, v, materialize_grads=True), strict=True))
    kept = set()
    for name, a, (g,) in _batch(model, pixels, layers, first_alone)[1]:
        found = (g[0].T @ a[0])[:, : exact[name][0].numel()].reshape(exact[name].shape)
        tolerance = (1e-3 if g.dtype == torch.float32 else 1e-8) * exact[name].abs().max()
        if len(g) == len(pixels) and not g[1:].any() and (found - exact[name]).abs().max() <= tolerance:
            kept.add(name)
    return kept


Rows = Iterator[
    tuple[str, Tensor, list[Tensor]]
]  # a layer, its inputs a [B, T, in (+ 1)], output gradients [B, T, out]


def _passes(
    model: nn.Module, examples, layers: dict[str, nn.Module], answering: Callable[[Tensor], list[Tensor]], tally
) -> Iterator[Rows]:
    """For each batch its layers, with one output gradient for each gradient in the logits that `answering` finds."""
    for pixels, _ in pixel_batches(model, examples, 256):
        count, rows = _batch(model, pixels, layers, answering)
        count_pulled(tally, len(pixels), count)
        yield rows


def _batch(
    model: nn.Module, pixels: Tensor, layers: dict[str, nn.Module], answering: Callable[[Tensor], list[Tensor]]
) -> tuple[int, Rows]:
    """How many gradients in the logits `answering` finds, and the rows of each layer, made when they are asked for."""
    kept: dict[str, tuple] = {}
    with ExitStack() as stack, evaluating(model), torch.enable_grad():
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(_keeper(kept, name)).remove)
        logits = model(pixels)
        edges = [edge for _, edge in kept.values()]
        found = answering(logits.detach())
        gradients = [torch.autograd.grad(logits, edges, v, retain_graph=True, materialize_grads=True) for v in found]
    rows = (
        (name, _rows(layers[name], inside), [_places(layers[name], g[k]) for g in gradients])
        for k, (name, (inside, _)) in enumerate(kept.items())
    )
    return len(found), rows


def _keeper(kept: dict, name: str):
    def keep(_module, inputs, output):
        # the edge, not the tensor: an activation that works in place would change what the tensor stands for
        kept[name] = inputs[0].detach(), get_gradient_edge(output)

    return keep


def _rows(module: nn.Module, inside: Tensor) -> Tensor:
    """The inputs of a layer as rows [B, T, in (+ 1)]; of a convolution one for each place."""
    if isinstance(module, nn.Conv2d):
        options = {"dilation": module.dilation, "padding": module.padding, "stride": module.stride}
        rows = F.unfold(inside, module.kernel_size, **options).mT
    else:
        rows = inside.reshape(len(inside), -1, inside.shape[-1])
    if module.bias is not None and module.bias.requires_grad:
        rows = torch.cat([rows, torch.ones_like(rows[:, :, :1])], dim=2)
    return rows


def _places(module: nn.Module, g: Tensor) -> Tensor:
    """The output gradients of a layer as rows [B, T, out]."""
    return g.flatten(2).mT if isinstance(module, nn.Conv2d) else g.reshape(len(g), -1, g.shape[-1])


def spread(
    approximation: Kronecker, model: nn.Module, examples, damping: float, *, tally: Tally | None = None
) -> Tensor:
    """J_i (K + damping I)^-1 J_i^T of each example, J_i the derivative of its logits: [N, C, C].

    Layer by layer from inputs and output gradients, without forming J_i (but for weights that no layer holds).
    """
    layers = {block.layer: model.get_submodule(block.layer) for block in approximation.blocks}
    blocks = {block.layer: block for block in approximation.blocks}
    batches = _passes(model, examples, layers, _unit_rows, tally)
    total = torch.cat([sum(_share(blocks[layer], a, gs, damping) for layer, a, gs in rows) for rows in batches])
    if approximation.diagonal:
        total += _diagonal_share(approximation, model, examples, damping, tally)
    return total


def _unit_rows(logits: Tensor) -> list[Tensor]:
    """One gradient in the logits [B, C] for each class c: e_c."""
    unit = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    return list(unit.expand(len(logits), -1, -1).unbind(1))


def _share(block: Block, a: Tensor, gradients: list[Tensor], damping: float) -> Tensor:
    """What one layer adds to `spread`, [B, C, C]: the products of rows Q_G^T g_c a^T Q_A over lambda + damping."""
    inverse = 1 / (block.values.clamp_min(0) + damping)
    turned, g = a @ block.inside, torch.stack(gradients, 1) @ block.outside  # [B, T, in], [B, C, T, out]
    if a.shape[1] == 1:  # the products of one place need not be formed
        g = g[:, :, 0]
        return torch.einsum("bco,bo,bdo->bcd", g, turned[:, 0].square() @ inverse.T, g)
    rows = (g.mT @ turned[:, None]).flatten(2)  # sum over the places
    return (rows * inverse.flatten()) @ rows.mT


def _diagonal_share(approximation: Kronecker, model: nn.Module, examples, damping: float, tally) -> Tensor:
    """What the weights that no layer holds add to `spread`, [N, C, C]."""
    inverse = {n: 1 / (v.clamp_min(0) + damping) for n, v in approximation.diagonal.items()}
    zero = {n: torch.zeros_like(p) for n, p in approximation.like.items()}
    weights = torch.cat([inverse.get(n, z).flatten() for n, z in zero.items()])
    batches = (jacobians(model, pixels, tally=tally) for pixels, _ in pixel_batches(model, examples, 16))
    return torch.cat([(rows * weights) @ rows.mT for rows in batches])


def _basis(moment: Tensor, layer: str):
    """Eigenvalues and eigenvectors of a symmetric matrix; Diverged where rounding leaves it none."""
    try:
        return torch.linalg.eigh(moment)
    except torch.linalg.LinAlgError:
        raise Diverged(f"a factor of layer {layer} has no eigenbasis: train the network, or take solver='cg'") from None
