"""The diagonal of the Fisher matrix in one batched pass, and gradients of single examples.

    true        F_j = E_x sum_y p(y | x) (d log p(y | x) / d theta_j)^2      the model's own labels
    empirical   F_j = E_(x, y) (d log p(y | x) / d theta_j)^2                the labels of the data

The two agree where the model's predictions have the law of the labels; only the first is the diagonal of a
Gauss-Newton matrix (Kunstner et al., NeurIPS 2019, arXiv 1905.12558). Both are mean squares of pulled-back cotangents
J(x)^T v of the logits, J = d f / d theta: v = p - e_y, and v_c = sqrt(p_c) (p - e_c) for every class c.

A layer with input a_i and output gradient g_i has the example gradient sum_t g_it a_it^T over its T positions. So one
backward pass gives the squares of a whole batch: (g^2)^T a^2 for a linear layer (T = 1), a batched product with the
input's patches for a convolution, sums over positions for biases and for the scales of norms. Networks with a layer
that has no such rule, with weights that are used twice, or on which a trial with two examples finds another gradient
than autograd's go through `vmap` instead.

Gradients are taken in eval mode, example by example: never squares of a batch's mean gradient, which depend on the
batch size and order.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from unlearnlib.approximate.gradients import (
    count_pulled,
    example_gradients,
    flat,
    pixel_batches,
    pulled_back,
    trainable,
)
from unlearnlib.training.loop import Tally
from unlearnlib.training.models import evaluating
from unlearnlib.training.renewal import hooked

KINDS = ("true", "empirical")
_AT_ONCE = 2**22  # numbers that one layer's rule may hold for a batch: 16 MiB in float32
_MOST = 2**28  # numbers in a table of gradients: 1 GiB in float32

Cotangents = Callable[[Tensor, Tensor], Iterable[Tensor]]  # logits [B, C] and labels [B] -> several v [B, C]


def fisher_diagonal(
    model: nn.Module,
    examples,
    kind: str = "true",
    *,
    samples: int | None = None,
    rng: torch.Generator | None = None,
    tally: Tally | None = None,
) -> Tensor:
    """The diagonal of the Fisher matrix, a mean over `examples`: [P], in the order of `gradients.trainable`.

    kind      "true": the expectation over the model's own labels, summed over the classes (C backward passes a batch),
              or "empirical": the labels of `examples` (one backward pass)
    samples   for "true": draw this many labels an example from the model instead, with `rng`: an unbiased estimate

    The model's modes, gradients and batch-norm statistics stay as they are. Raises ValueError on another kind, and on
    samples without rng.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if samples is not None and (kind != "true" or samples < 1 or rng is None):
        raise ValueError('samples is for kind="true": a number of at least 1, together with rng, a torch.Generator')

    def cotangents(logits: Tensor, labels: Tensor) -> list[Tensor]:
        if kind == "true":
            return answers(logits, samples, rng)
        p = logits.softmax(1)
        return [p - F.one_hot(labels, p.shape[1]).to(p)]

    return mean_power(model, examples, cotangents, 2, tally=tally)


def answers(logits: Tensor, samples: int | None = None, rng: torch.Generator | None = None) -> list[Tensor]:
    """Gradients v [B, C] of -log p in the logits whose second moments sum to diag(p) - p p^T.

    One a class, sqrt(p_c) (p - e_c), or for `samples` answers drawn by `rng` (p - e_y) / sqrt(samples): in the mean.
    """
    p = logits.softmax(1)
    if samples is None:
        unit = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        return [p[:, c : c + 1].sqrt() * (p - unit[c]) for c in range(p.shape[1])]
    drawn = torch.multinomial(p.cpu(), samples, replacement=True, generator=rng).to(p.device)
    return [(p - F.one_hot(y, p.shape[1]).to(p)) / samples**0.5 for y in drawn.unbind(1)]


def per_example_gradients(model: nn.Module, examples) -> Tensor:
    """grad CE(f(x_i), y_i) of every example: [N, P]. Raises ValueError where that would be more than 2^28 numbers."""
    size = sum(p.numel() for p in trainable(model).values())
    check_size(len(examples), size, "give fewer examples")
    step = max(1, min(256, 2**22 // size))
    return torch.cat([example_gradients(model, *batch) for batch in pixel_batches(model, examples, step)])


def check_size(rows: int, columns: int, advice: str) -> None:
    """Raise ValueError where a table [rows, columns] of gradients would hold more than 2^28 numbers."""
    if rows * columns > _MOST:
        raise ValueError(f"{rows} x {columns} gradients are more than {_MOST} numbers: {advice}")


def mean_power(model: nn.Module, examples, cotangents: Cotangents, power: int, *, tally: Tally | None = None) -> Tensor:
    """E sum_v |J(x)^T v|^power, weight by weight, over `examples`: [P].

    cotangents   logits [B, classes] and labels [B] -> the v of each example, a list of [B, classes]
    power        1 or 2
    """
    parameters = trainable(model)
    first = next(iter(parameters.values()))
    total = torch.zeros(sum(p.numel() for p in parameters.values()), device=first.device, dtype=first.dtype)
    pixels = examples.pixels(slice(0, 2), device=first.device, dtype=first.dtype)
    rules = _rules_of(model)
    fit = None if rules is None else _trial(model, pixels, rules)
    size = max(1, min(256, 2**22 // len(total))) if fit is None else max(1, min(256, _AT_ONCE // fit))
    for pixels, labels in pixel_batches(model, examples, size):

        def wanted(logits, labels=labels):
            return list(cotangents(logits, labels))

        if fit is None:
            with torch.no_grad(), evaluating(model):
                several = wanted(model(pixels))
            total += sum(_power(pulled_back(model, pixels, v), power).sum(0) for v in several)
        else:
            sums, several = _by_layer(model, pixels, wanted, power, rules)
            total += flat(sums[name] for name in parameters)
        count_pulled(tally, len(pixels), len(several))
    return total / len(examples)


def _power(x: Tensor, power: int) -> Tensor:
    return x.square() if power == 2 else x.abs()


# One rule a kind of layer: input a [B, ...] and several output gradients g [B, ...] -> sum over both of
# |example gradient|^power for each of the layer's own parameters.


def _linear(layer: nn.Linear, a: Tensor, gs: list[Tensor], power: int) -> dict[str, Tensor]:
    if a.dim() == 2:
        magnitude = sum(_power(g, power) for g in gs)
        return {"weight": magnitude.T @ _power(a, power), "bias": magnitude.sum(0)}
    a, gs = a.flatten(1, -2), [g.flatten(1, -2) for g in gs]
    weight = sum(_power(g.transpose(1, 2) @ a, power).sum(0) for g in gs)
    return {"weight": weight, "bias": sum(_power(g.sum(1), power).sum(0) for g in gs)}


def _conv2d(layer: nn.Conv2d, a: Tensor, gs: list[Tensor], power: int) -> dict[str, Tensor]:
    (high, wide), (down, right), (rows, columns) = layer.padding, layer.stride, layer.dilation
    height, width = gs[0].shape[2:]
    padded = F.pad(a.permute(0, 2, 3, 1), (0, 0, wide, wide, high, high))  # channels last: slices copy whole rows
    windows = [
        padded[:, y : y + (height - 1) * down + 1 : down, x : x + (width - 1) * right + 1 : right]
        for y in range(0, layer.kernel_size[0] * rows, rows)
        for x in range(0, layer.kernel_size[1] * columns, columns)
    ]
    patches = torch.stack(windows, 3).flatten(1, 2).unflatten(3, (layer.groups, -1))  # [B, places, kernel, groups, in]
    patches = patches.permute(0, 3, 1, 2, 4).flatten(3)
    gs = [g.permute(0, 2, 3, 1).flatten(1, 2) for g in gs]  # [B, positions, out]
    each = (g.unflatten(2, (layer.groups, -1)).permute(0, 2, 3, 1) @ patches for g in gs)
    weight = sum(_power(product, power).sum(0) for product in each)
    weight = weight.reshape(layer.out_channels, *layer.kernel_size, -1).permute(0, 3, 1, 2)
    return {"weight": weight, "bias": sum(_power(g.sum(1), power).sum(0) for g in gs)}


def _norm(normalised: Callable) -> Callable:
    """The rule of y = weight * normalised(x) + bias, with the channels along dimension 1."""

    def rule(layer, a: Tensor, gs: list[Tensor], power: int) -> dict[str, Tensor]:
        a, gs = normalised(layer, a), list(gs)
        if a.dim() == 2:
            a, gs = a[:, :, None], [g[:, :, None] for g in gs]
        a, gs = a.flatten(2), [g.flatten(2) for g in gs]
        scale = sum(_power((g * a).sum(2), power).sum(0) for g in gs)
        return {"weight": scale, "bias": sum(_power(g.sum(2), power).sum(0) for g in gs)}

    return rule


def _layer_norm(layer: nn.LayerNorm, a: Tensor, gs: list[Tensor], power: int) -> dict[str, Tensor]:
    a = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    between = tuple(range(1, a.dim() - len(layer.normalized_shape)))

    def summed(x: Tensor) -> Tensor:
        return _power(x.sum(between) if between else x, power).sum(0)

    return {"weight": sum(summed(g * a) for g in gs), "bias": sum(summed(g) for g in gs)}


def _batch_normalised(layer, a: Tensor) -> Tensor:
    return F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)


def _group_normalised(layer, a: Tensor) -> Tensor:
    return F.group_norm(a, layer.num_groups, eps=layer.eps)


_RULES: Mapping[type, Callable] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _norm(_batch_normalised),
    nn.BatchNorm2d: _norm(_batch_normalised),
    nn.GroupNorm: _norm(_group_normalised),
    nn.LayerNorm: _layer_norm,
}


def _rules_of(model: nn.Module) -> dict[str, Callable] | None:
    """The rule of each module that owns trainable parameters; None where one has no rule or weights are shared."""
    owned, rules = [], {}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if type(module) not in _RULES or not _plain(module):
            return None
        owned += map(id, own)
        rules[name] = _RULES[type(module)]
    every = [p for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    return rules if len(set(owned)) == len(owned) == len(every) else None


def _plain(module: nn.Module) -> bool:
    if not set(module._parameters) <= {"weight", "bias"} or hooked(module):  # weight norm, pruning, somebody's code
        return False
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.running_mean is not None
    return True


class _Unfit(Exception):
    """The layers' rules do not describe this network."""


def _by_layer(
    model: nn.Module,
    pixels: Tensor,
    wanted: Callable,
    power: int,
    rules: Mapping[str, Callable],
    first_alone: bool = False,
):
    """sum |J^T v|^power over a batch and all v of wanted(logits), by parameter name; and the v.

    Raises _Unfit where a layer is not run exactly once, and, where only the first example has v (`first_alone`), where
    another row of a layer's output takes part: its first dimension is no batch.
    """
    seen: dict[str, tuple] = {}

    def tap(name: str) -> Callable:
        def keep(_module, inputs, output):
            if name in seen or not isinstance(output, Tensor) or not output.requires_grad:
                raise _Unfit(name)
            # The edge, not the tensor: an activation that works in place would change what the tensor stands for.
            seen[name] = inputs[0].detach(), get_gradient_edge(output)

        return keep

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(tap(name)) for name in rules]
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) < len(rules):
        raise _Unfit("a layer was not run")
    several, edges = wanted(logits.detach()), [edge for _, edge in seen.values()]
    slopes = [torch.autograd.grad(logits, edges, v, retain_graph=v is not several[-1]) for v in several]
    if first_alone and any(len(g) != len(pixels) or g[1:].any() for gs in slopes for g in gs):
        raise _Unfit("rows of a layer's output are no examples")
    sums = {}
    for (name, (a, _)), gs in zip(seen.items(), zip(*slopes, strict=True), strict=True):
        for leaf, value in rules[name](modules[name], a, list(gs), power).items():
            sums[f"{name}.{leaf}" if name else leaf] = value
    return sums, several


def _trial(model: nn.Module, pixels: Tensor, rules: Mapping[str, Callable]) -> int | None:
    """The most numbers that a rule holds for one example, or None where the rules do not give autograd's gradient.

    Only the first example has a cotangent, so that rows which are no examples show themselves.
    """
    parameters = trainable(model)

    def wanted(logits: Tensor) -> list[Tensor]:
        v = torch.zeros_like(logits)
        v[0] = torch.linspace(1, 2, logits.shape[1])
        return [v]

    widths = [0]
    modules = dict(model.named_modules())

    def measure(layer, _inputs, output) -> None:
        if isinstance(layer, nn.Conv2d):
            weights = layer.weight.numel()
            widths.append(weights + weights // layer.out_channels * layer.groups * output[0, 0].numel())
        else:
            widths.append(output[0].numel() if output.dim() != 3 else layer.weight.numel())

    handles = [modules[name].register_forward_hook(measure) for name in rules]
    try:
        sums, several = _by_layer(model, pixels, wanted, 1, rules, first_alone=True)
        with evaluating(model), torch.enable_grad():
            exact = torch.autograd.grad(model(pixels), list(parameters.values()), several[0], materialize_grads=True)
    except (_Unfit, RuntimeError):  # the latter where an output has no part in the logits
        return None
    finally:
        for handle in handles:
            handle.remove()
    found, exact = flat(sums[name] for name in parameters), flat(exact).abs()
    tolerance = 1e-3 if exact.dtype == torch.float32 else 1e-8
    return max(widths) if bool((found - exact).abs().max() <= tolerance * exact.max()) else None
